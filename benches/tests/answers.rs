//! Both engines give the right answer to every workload, twice over.

use benches::baseline::Xen;
use benches::engine::{self, Engine, SHAPE};
use benches::machine::Machine;
use benches::ours::Ours;
use benches::workload::{self, Player, Seat, Workload};
use copy_engine::Choice;

/// The workloads that fit the usual machine.
fn all() -> impl Iterator<Item = Workload> {
    workload::all().expect("definitions parse").into_iter().filter(|w| w.pages == SHAPE.data_frames)
}

fn plays_all<'m, E: Engine>(machine: &'m Machine, make: impl Fn(&'m Machine) -> E) {
    assert!(all().count() >= 100);
    let engine = make(machine);
    for w in all() {
        let mut player = Player::new(&w, Seat::ALONE, machine).expect("definitions fit the machine");
        for seed in 1..3 {
            player.verified_round(&engine, machine, seed).unwrap_or_else(|e| panic!("{}: {e}", w.name));
        }
    }
}

#[test]
fn the_baseline_does_what_is_asked() {
    plays_all(&engine::machine(SHAPE), Xen::new);
}

#[test]
fn ours_does_what_is_asked() {
    plays_all(&engine::machine(SHAPE), |m| Ours::new(m, Choice::Auto));
}

/// The checks themselves: an engine that copies nothing is found out.
#[test]
fn an_idle_engine_is_found_out() {
    use gnttab_fast::abi::{Copy, MapGrantRef, UnmapGrantRef};
    struct Idle;
    impl Engine for Idle {
        const NAME: &'static str = "idle";
        fn copy(&self, _: usize, ops: &mut [Copy]) {
            ops.iter_mut().for_each(|o| o.status = 0);
        }
        fn map(&self, _: usize, ops: &mut [MapGrantRef]) {
            ops.iter_mut().for_each(|o| o.status = 0);
        }
        fn unmap(&self, _: usize, ops: &mut [UnmapGrantRef]) {
            ops.iter_mut().for_each(|o| o.status = 0);
        }
        fn mapped_at(&self, _: u32) -> Option<u32> {
            None
        }
        fn at_rest(&self) -> bool {
            true
        }
    }
    let machine = engine::machine(SHAPE);
    for w in all() {
        let mut player = Player::new(&w, Seat::ALONE, &machine).expect("definitions fit the machine");
        assert!(player.verified_round(&Idle, &machine, 1).is_err(), "{}", w.name);
    }
}
