//! An engine, its machine and a workload in one value, as the callgrind benches want it.

use crate::baseline::Xen;
use crate::engine::{self, Engine};
use crate::machine::Machine;
use crate::ours::Ours;
use crate::workload::{self, Player, Seat, Workload};
use copy_engine::Choice;

/// A workload about to be played. Its machine is leaked: callgrind's benches are a process each.
pub struct Stage<E> {
    engine: E,
    player: Player,
}

impl<E: Engine> Stage<E> {
    /// Builds the stage and plays one round, so that pages are there and lists are filled.
    ///
    /// # Panics
    /// If the workload does not fit the machine or a status is not okay.
    #[must_use]
    pub fn new(workload: &Workload, make: impl FnOnce(&'static Machine) -> E) -> Self {
        let machine: &'static Machine = Box::leak(Box::new(engine::machine(workload.shape())));
        let player = Player::new(workload, Seat::ALONE, machine).expect("definitions fit the machine");
        let mut stage = Self { engine: make(machine), player };
        stage.round();
        stage.player.statuses_good::<E>().unwrap_or_else(|wrong| panic!("{wrong}"));
        stage
    }

    /// Plays a round.
    #[inline]
    pub fn round(&mut self) {
        self.player.round(&self.engine);
    }
}

/// The workload of that name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn named(name: &str) -> Workload {
    let all = workload::all().expect("definitions parse");
    all.into_iter().find(|w| w.name == name).unwrap_or_else(|| panic!("no workload {name}"))
}

/// Our grant tables with a given copy kernel.
#[must_use]
pub fn ours(workload: &Workload, kernel: Choice) -> Stage<Ours<'static>> {
    Stage::new(workload, |m| Ours::new(m, kernel))
}

/// The baseline.
#[must_use]
pub fn xen(workload: &Workload) -> Stage<Xen<'static>> {
    Stage::new(workload, Xen::new)
}
