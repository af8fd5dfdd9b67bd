//! Transitive grants.

use crate::common::*;
use crate::watched::{At, WatchedHost, assert_quiet, ends, full_page, pins, put, set_version, transitive};
use crate::{GENERAL, OKAY};
use gnttab_fast::abi::{EntryV2FullPage, map_flags::*, op};
use gnttab_fast::testing::{Kind, Machine, MachineBuilder};
use gnttab_fast::{Gfn, Gref, Limits, Outcome, Policy, Version, Width};
use std::cell::Cell;
use std::sync::Arc;
use std::thread;

/// All in version 2.
fn machine(domains: u16) -> Machine {
    let limits = Limits { frames: 2, maptrack_frames: 2 };
    let m = MachineBuilder { limits, spare: 4, ..MachineBuilder::default() }.build(domains);
    for d in 1..=domains {
        assert_eq!(set_version(&m, d, 2), Outcome::Done);
    }
    m
}

fn read(m: &Machine) -> i16 {
    copy(m, 2, &[element(by_gref(1, 8, 0), by_gfn(0, 0), 8)])[0]
}

fn write(m: &Machine) -> i16 {
    copy(m, 2, &[element(by_gfn(0, 0), by_gref(1, 8, 0), 8)])[0]
}

#[test]
fn xsa_226_one_hop_and_both_ends_balanced() {
    let m = machine(6);
    put(&m, 6, 8, &full_page(0, 5, 3));
    // 1 -> 3 -> 4 -> 5 -> 6: no chain is followed, at whatever end one begins.
    for (d, next) in [(1, 3), (3, 4), (4, 5), (5, 6)] {
        put(&m, d, 8, &transitive(if d == 1 { 2 } else { d - if d == 3 { 2 } else { 1 } }, next, 8));
    }
    assert_eq!((read(&m), write(&m)), (GENERAL, GENERAL));
    assert_quiet(&m);
    // An entry that passes itself on, and a ring of two.
    put(&m, 1, 8, &transitive(2, 1, 8));
    assert_eq!(read(&m), GENERAL);
    put(&m, 1, 8, &transitive(2, 3, 8));
    put(&m, 3, 8, &transitive(1, 1, 8));
    assert_eq!(read(&m), GENERAL);
    assert_quiet(&m);
    // Exactly one works, and never as a mapping.
    put(&m, 3, 8, &full_page(0, 1, 3));
    assert_eq!((read(&m), write(&m)), (OKAY, OKAY));
    for flags in [HOST_MAP, HOST_MAP | READONLY] {
        assert_eq!(map(&m, 2, map_request(1, 8, flags, 20)).status, GENERAL);
    }
    assert_quiet(&m);
}

/// The guest changes what it passes on each time after the other end has been pinned.
#[test]
fn xsa_226_an_entry_that_changes_all_the_time_is_given_up() {
    let m = machine(3);
    put(&m, 3, 8, &full_page(0, 1, 3));
    put(&m, 3, 9, &full_page(0, 1, 4));
    put(&m, 1, 8, &transitive(2, 3, 8));
    let looks = Cell::new(0u32);
    let hook = |at| {
        if at == At::Ram(3) {
            looks.set(looks.get() + 1);
            put(&m, 1, 8, &transitive(2, 3, 8 + looks.get() % 2));
        }
        true
    };
    let batch = [element(by_gref(1, 8, 0), by_gfn(0, 0), 8)];
    let (_, done) = WatchedHost::new(&m, 2, &hook).call(Width::Bits64, op::COPY, &batch);
    assert_eq!((done[0].status, looks.get()), (GENERAL, 5));
    assert_quiet(&m);
    assert_eq!(
        (m.domain(3).status(Gref(8)), m.domain(3).status(Gref(9)), m.domain(1).status(Gref(8))),
        (0, 0, 0)
    );
    // Once is no harm.
    looks.set(0);
    let once = |at| {
        if at == At::Ram(3) && looks.replace(1) == 0 {
            put(&m, 1, 8, &transitive(2, 3, 9));
        }
        true
    };
    put(&m, 1, 8, &transitive(2, 3, 8));
    m.ram().write(m.domain(3).mfn(Gfn(4)), 0, b"the new ");
    let (_, done) = WatchedHost::new(&m, 2, &once).call(Width::Bits64, op::COPY, &batch);
    assert_eq!(
        (done[0].status, m.ram().read(m.domain(2).mfn(Gfn(0)))[..8].to_vec()),
        (OKAY, b"the new ".to_vec())
    );
    assert_quiet(&m);
}

#[test]
fn xsa_226_where_it_is_not_allowed_the_other_end_is_not_looked_at() {
    for who in 1..=3 {
        let limits = Limits { frames: 2, maptrack_frames: 2 };
        let m = MachineBuilder { limits, ..MachineBuilder::default() }
            .build_with(3, |d| Policy::new(Version::V2, d != who));
        assert_eq!(set_version(&m, 1, 2), Outcome::Done);
        grant(&m, 3, 8, 0, 1, 3);
        put(&m, 1, 8, &transitive(2, 3, 8));
        let hook = |at| {
            assert!(!matches!(at, At::Ram(3) | At::Owns(3)));
            true
        };
        let batch = [element(by_gref(1, 8, 0), by_gfn(0, 0), 8)];
        let (_, done) = WatchedHost::new(&m, 2, &hook).call(Width::Bits64, op::COPY, &batch);
        assert_eq!(done[0].status, GENERAL);
        assert_quiet(&m);
    }
}

/// While the bytes are copied both ends are pinned; the other end's pin goes last.
#[test]
fn xsa_226_both_ends_are_pinned_while_bytes_are_copied() {
    let m = machine(3);
    put(&m, 3, 8, &full_page(0, 1, 3));
    put(&m, 1, 8, &transitive(2, 3, 8));
    let copied = Cell::new(0);
    let hook = |at| {
        if at == At::Copy {
            copied.set(copied.get() + 1);
            assert_eq!(pins(&m, 1, 8), pins(&m, 3, 8));
            assert_ne!(pins(&m, 1, 8), (0, 0));
            assert_eq!(set_version(&m, 3, 1), Outcome::Failed(gnttab_fast::Errno::Busy));
        }
        true
    };
    let batch = [
        element(by_gref(1, 8, 0), by_gfn(0, 0), 8),
        element(by_gfn(0, 0), by_gref(1, 8, 64), 8),
        element(by_gref(1, 8, 0), by_gfn(1, 0), 8),
    ];
    let (_, done) = WatchedHost::new(&m, 2, &hook).call(Width::Bits64, op::COPY, &batch);
    assert!(done.iter().all(|e| e.status == OKAY));
    assert_eq!(copied.get(), 3);
    assert_quiet(&m);
}

/// Two domains that pass each other's entries on, both copying, the entries and frames changing all the time.
#[test]
fn xsa_411_crossed_transitive_copies_end_and_balance() {
    const ROUNDS: u32 = 3000;
    ends(|| {
        let m = Arc::new(machine(2));
        // Entry 8 of each passes entry 8 or 9 of the other on; entry 9 is a page, sometimes of a hole.
        let worker = |who: u16, copies: bool| {
            let m = Arc::clone(&m);
            move || {
                let other = 3 - who;
                let mut good = 0;
                for round in 0..ROUNDS {
                    if copies {
                        let through = by_gref(other, 8, 0);
                        let batch = [element(through, by_gfn(0, 0), 8), element(by_gfn(0, 0), through, 8)];
                        good += copy(&m, who, &batch).iter().filter(|&&s| s == OKAY).count();
                        continue;
                    }
                    put(&m, who, 8, &transitive(other, other, 8 + round % 4 % 3));
                    let frame = if round % 5 == 0 { 31 } else { 3 };
                    put(&m, who, 9, &EntryV2FullPage { frame, ..full_page(0, other, 3) });
                    put(&m, who, 10, &full_page(0, other, 4));
                }
                good
            }
        };
        let threads: Vec<_> = [(1, true), (2, true), (1, false), (2, false)]
            .map(|(who, copies)| thread::spawn(worker(who, copies)))
            .into();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_quiet(&m);
        for d in [1, 2] {
            assert!((8..11).all(|gref| m.domain(d).status(Gref(gref)) == 0));
            assert!((0..8).all(|gfn| m.domain(d).at(Gfn(gfn)).0 == Kind::Ram));
        }
    });
}
