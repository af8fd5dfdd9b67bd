//! Models of whole hypercalls against each other, run on the shipped code:
//! `RUSTFLAGS="--cfg loom" cargo test -p gnttab-fast --release --test loom_table`. A frame of the table has four
//! references in version 1, two in version 2, and one entry is reserved; what a hypercall does is done in full.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use gnttab_fast::abi::{Copy, MapGrantRef, SetVersion, UnmapGrantRef, gtf, map_flags::HOST_MAP, op};
use gnttab_fast::active::Pin;
use gnttab_fast::{DomId, Domain, EntryV1, Gref, NotGrown, Outcome, Scan, Status, Version};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use std::sync::atomic::AtomicUsize;
use world::{MUCH, World, copy_from, v1, v2_full, v2_transitive};

const OKAY: i16 = Status::Okay as i16;

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// Whoever reads the size of a table finds the pages of its last entry.
#[test]
fn xsa_218_growth_publishes_pages_before_the_size() {
    model(3, || {
        let world = World::new(1);
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.domain(1).grants().grow_to(2))
        };
        let table = world.domain(1).grants();
        let entries = table.entries();
        assert!(entries == 4 || entries == 8);
        assert!(table.pins(Gref(entries - 1)).is_some(), "the size ran ahead of the pages");
        assert!(!matches!(table.find_pinned(Gref(0), u32::MAX), Scan::Pinned(_)));
        assert_eq!(other.join().unwrap(), Ok(()));
        assert_eq!((table.frames(), table.entries()), (2, 8));
    });
}

/// Growth and a switch at once: the size and the pages are those of one version.
#[test]
fn growth_against_a_switch() {
    model(2, || {
        let world = World::new(1);
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.domain(1).grants().grow_to(2))
        };
        assert_eq!(world.set_version(1, 2), Outcome::Done);
        assert_eq!(other.join().unwrap(), Ok(()));
        let table = world.domain(1).grants();
        assert_eq!((table.version(), table.frames(), table.entries()), (Version::V2, 2, 4));
        assert_eq!(table.status_frame(1), Err(NotGrown::Limit));
        // Each entry is of the version of now, so it can be used.
        for gref in 1..4 {
            world.write_v2(1, gref, v2_full(2, 0));
        }
        assert!(table.pins(Gref(3)).is_some() && table.pins(Gref(4)).is_none());
    });
}

/// A guest that changes its entry between any two steps: five attempts, then an error, and no bit of ours set.
#[test]
fn xsa_295_a_guest_that_never_stops_writing_is_given_up() {
    static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);
    let mut builder = loom::model::Builder::new();
    // Each attempt that fails is two preemptions.
    builder.preemption_bound = None;
    builder.check(|| {
        let word = Arc::new(AtomicU64::new(v1(2, 0)));
        let guest = {
            let word = Arc::clone(&word);
            thread::spawn(move || {
                // Each is a good grant, of another frame.
                for frame in 1..8 {
                    word.store(v1(2, frame), Ordering::Relaxed);
                }
            })
        };
        let result = EntryV1::new(&word).mark(Some(DomId(2)), Pin::Read, false);
        guest.join().unwrap();
        if result.is_err() {
            GIVEN_UP.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(word.load(Ordering::Relaxed), v1(2, 7));
        }
    });
    assert_ne!(
        GIVEN_UP.load(std::sync::atomic::Ordering::Relaxed),
        0,
        "it went on for as long as the guest did"
    );
}

/// The granter dies while its frame is copied. Its frames are used anew when nobody can have seen it alive.
fn death_against_a_copy(len: u16) {
    model(3, move || {
        let world = World::new(2);
        world.write_v1(1, 1, v1(2, 0));
        let reaper = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.domain(1).die();
                world.grace_period();
                assert_eq!(world.domain(1).grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
                world.reuse(1, 0);
            })
        };
        let one = Copy { len, ..copy_from(1, 1, false) };
        let (_, done) = world.batch(0, 2, op::COPY, [one, one]);
        let status = done.map(|one| one.status);
        let gone = Status::BadDomain.abi();
        assert!([[OKAY, OKAY], [OKAY, gone], [gone, gone]].contains(&status), "{status:?}");
        reaper.join().unwrap();
        assert_eq!(world.read_v1(1, 1), v1(2, 0));
    });
}

#[test]
fn death_against_a_copy_that_holds() {
    death_against_a_copy(8);
}

#[test]
fn death_against_a_copy_that_pins() {
    death_against_a_copy(MUCH);
}

/// Two blocks want each other's entries. Neither waits while it holds one, so both end.
#[test]
fn blocks_that_cross() {
    model(2, || {
        let world = World::new(2);
        world.write_v1(1, 1, v1(2, 0));
        world.write_v1(1, 2, v1(2, 1));
        let both_to = |own, grefs: [u32; 2]| {
            grefs.map(|gref| {
                let mut one = copy_from(1, gref, false);
                one.dest.u = own;
                one
            })
        };
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.batch(1, 2, op::COPY, both_to(1, [2, 1])).1.map(|one| one.status))
        };
        let (_, here) = world.batch(0, 2, op::COPY, both_to(0, [1, 2]));
        assert_eq!(here.map(|one| one.status), [OKAY, OKAY]);
        assert_eq!(other.join().unwrap(), [OKAY, OKAY]);
        world.assert_quiet();
        assert_eq!([1, 2].map(|gref| world.read_v1(1, gref)), [v1(2, 0), v1(2, 1)]);
    });
}

fn map_request(gref: u32) -> MapGrantRef {
    MapGrantRef { host_addr: 4 << 12, flags: HOST_MAP, gref, dom: 1, status: 77, ..MapGrantRef::default() }
}

/// One handle unmapped by two CPUs: once, and what it held is let go once.
#[test]
fn xsa_218_two_unmaps_of_one_handle() {
    model(2, || {
        let world = World::new(2);
        world.write_v1(1, 1, v1(2, 0));
        let handle = world.one(2, op::MAP_GRANT_REF, map_request(1)).handle;
        let unmap = UnmapGrantRef { host_addr: 4 << 12, handle, status: 77, ..UnmapGrantRef::default() };
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.on(1, 2, op::UNMAP_GRANT_REF, unmap).1.status)
        };
        let here = world.one(2, op::UNMAP_GRANT_REF, unmap).status;
        let there = other.join().unwrap();
        let mut both = [here, there];
        both.sort_unstable();
        assert_eq!(both, [Status::BadHandle.abi(), OKAY]);
        assert_eq!((world.refs(1, 0), world.read_v1(1, 1)), (1, v1(2, 0)));
        world.assert_quiet();
    });
}

fn switch_against_a_copy(from: u32, to: u32, writes: bool, len: u16) {
    model(2, move || {
        let world = World::new(2);
        assert_eq!(world.set_version(1, from), Outcome::Done);
        match from {
            1 => world.write_v1(1, 1, v1(2, 0)),
            _ => world.write_v2(1, 1, v2_full(2, 0)),
        }
        let switch = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let done = world.on(1, 1, op::SET_VERSION, SetVersion { version: to });
                if done.0 == Outcome::Done {
                    // What was granted is the guest's alone now: the switch has waited for who had it.
                    world.reuse(1, 0);
                }
                done
            })
        };
        let one = Copy { len, ..copy_from(1, 1, writes) };
        let (_, [first, second]) = world.batch(0, 2, op::COPY, [one, one]);
        let (outcome, switched) = switch.join().unwrap();
        let busy = Outcome::Failed(gnttab_fast::Errno::Busy);
        match first.status {
            OKAY => assert!(outcome == Outcome::Done || outcome == busy),
            _ => assert_eq!((outcome, first.status), (Outcome::Done, Status::GeneralError.abi())),
        }
        // One block, that succeeds as a whole, or both one by one.
        assert_eq!(second.status, first.status);
        let now = if outcome == Outcome::Done { to } else { from };
        assert_eq!(switched.version, now);
        world.assert_quiet();
        assert_eq!(world.status_bits(1, 1), 0, "a bit of ours is left");
    });
}

#[test]
fn xsa_501_a_switch_to_version_2_against_a_copy() {
    switch_against_a_copy(1, 2, true, 8);
}

#[test]
fn xsa_501_a_switch_to_version_2_against_a_copy_that_pins() {
    switch_against_a_copy(1, 2, true, MUCH);
}

#[test]
fn xsa_501_a_switch_to_version_1_against_a_copy() {
    switch_against_a_copy(2, 1, false, 8);
}

#[test]
fn xsa_501_a_switch_against_a_map() {
    model(2, || {
        let world = World::new(2);
        world.write_v1(1, 1, v1(2, 0));
        let switch = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.on(1, 1, op::SET_VERSION, SetVersion { version: 2 }).0)
        };
        let mapped = world.one(2, op::MAP_GRANT_REF, map_request(1));
        let outcome = switch.join().unwrap();
        // One of the two, never both.
        assert_eq!(outcome == Outcome::Done, mapped.status != OKAY, "{outcome:?} {}", mapped.status);
        if mapped.status == OKAY {
            let unmap = UnmapGrantRef {
                host_addr: 4 << 12,
                handle: mapped.handle,
                status: 77,
                ..UnmapGrantRef::default()
            };
            assert_eq!(world.one(2, op::UNMAP_GRANT_REF, unmap).status, OKAY);
        }
        assert_eq!(world.refs(1, 0), 1);
        world.assert_quiet();
    });
}

/// A reserved entry may be in use across a switch; its bits end where the version of now has them.
#[test]
fn xsa_501_a_switch_against_a_copy_of_a_reserved_entry() {
    model(2, || {
        let world = World::new(2);
        world.write_v1(1, 0, v1(2, 0));
        let switch = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.on(1, 1, op::SET_VERSION, SetVersion { version: 2 }).0)
        };
        let copied: Copy = world.one(2, op::COPY, copy_from(1, 0, false));
        assert_eq!((switch.join().unwrap(), copied.status), (Outcome::Done, OKAY));
        world.assert_quiet();
        assert_eq!(world.status_bits(1, 0), 0);
        assert_eq!(world.read_v2(1, 0), v2_full(2, 0));
    });
}

/// Each passes an entry of the other's on, and each copies through the other.
#[test]
fn xsa_411_crossed_transitive_copies() {
    model(2, || {
        let world = World::new(2);
        for d in [1, 2] {
            assert_eq!(world.set_version(d, 2), Outcome::Done);
            world.domain(d).grants().grow_to(2).unwrap();
            let other = 3 - d;
            world.write_v2(d, 1, v2_transitive(other, other, 2));
            world.write_v2(d, 2, v2_full(other, 0));
        }
        let there = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.on::<Copy>(1, 2, op::COPY, copy_from(1, 1, false)).1.status)
        };
        let here: Copy = world.one(1, op::COPY, copy_from(2, 1, false));
        assert_eq!((here.status, there.join().unwrap()), (OKAY, OKAY));
        world.assert_quiet();
        for d in [1, 2] {
            assert_eq!((world.status_bits(d, 1), world.status_bits(d, 2)), (0, 0));
        }
    });
}

/// What is passed on is taken back at its owner's while it is copied: both ends or none.
#[test]
fn xsa_226_a_transitive_copy_against_a_revoke_of_the_other_end() {
    model(2, || {
        let world = World::new(3);
        assert_eq!(world.set_version(1, 2), Outcome::Done);
        world.write_v2(1, 1, v2_transitive(2, 3, 1));
        world.write_v1(3, 1, v1(1, 0));
        let owner = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if world.revoke_v1(3, 1) {
                    world.reuse(3, 0);
                }
            })
        };
        let done: Copy = world.one(2, op::COPY, copy_from(1, 1, true));
        owner.join().unwrap();
        assert!(done.status == OKAY || done.status == Status::GeneralError.abi());
        assert_eq!(world.read_v1(3, 1) & u64::from(gtf::READING | gtf::WRITING), 0);
        world.assert_quiet();
    });
}
