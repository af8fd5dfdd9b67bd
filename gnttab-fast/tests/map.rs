//! Map and unmap, line by line of what the interface promises.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use gnttab_fast::abi::{MapGrantRef, UnmapAndReplace, gtf, map_flags::*, op};
use gnttab_fast::testing::{Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{Domain, Errno, Gfn, Gref, Limits, Outcome, Scan, Status, Width, teardown_step};

const OKAY: i16 = Status::Okay as i16;
const GENERAL: i16 = Status::GeneralError as i16;

/// Granter 1, grantee 2, bystander 3.
fn machine() -> Machine {
    let limits = Limits { frames: 2, maptrack_frames: 2 };
    MachineBuilder { gfns: 600, limits, spare: 4, ..MachineBuilder::default() }.build(3)
}

fn status(m: &Machine, caller: u16, request: MapGrantRef) -> i16 {
    map(m, caller, request).status
}

#[test]
fn a_writable_grant_is_mapped_and_unmapped() {
    let m = machine();
    let mfn = m.domain(1).mfn(Gfn(3));
    grant(&m, 1, 9, 0, 2, 3);
    let done = map(&m, 2, map_request(1, 9, HOST_MAP, 100));
    assert_eq!((done.status, done.dev_bus_addr), (OKAY, mfn.0 << 12));
    assert_ne!(done.handle, 0xdead);
    assert_eq!(m.domain(2).at(Gfn(100)), (Kind::GrantRw, mfn));
    assert_eq!(in_use(&m, 1, 9), gtf::READING | gtf::WRITING);
    assert_eq!(m.ram().refs(mfn), 2);
    assert_eq!(m.domain(2).grants().maptrack().in_use(), 1);

    assert_eq!(unmap(&m, 2, &[unmap_request(done.handle, 100)]), [OKAY]);
    assert_eq!(m.domain(2).at(Gfn(100)).0, Kind::None);
    assert_eq!(in_use(&m, 1, 9), 0);
    assert_eq!(m.ram().refs(mfn), 1);
    assert_eq!(m.domain(2).grants().maptrack().in_use(), 0);
    assert_eq!(m.domain(1).grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
}

#[test]
fn a_readonly_mapping_sets_reading_only() {
    let m = machine();
    grant(&m, 1, 9, gtf::READONLY, 2, 3);
    assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP, 100)), GENERAL);
    assert_eq!(in_use(&m, 1, 9), 0);
    map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 100);
    assert_eq!(m.domain(2).at(Gfn(100)).0, Kind::GrantRo);
    assert_eq!(in_use(&m, 1, 9), gtf::READING);
}

#[test]
fn requests_that_name_no_half_or_a_half_translated_guests_lack() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    for flags in [0, READONLY, APPLICATION_MAP, 1 << 16] {
        assert_eq!(status(&m, 2, map_request(1, 9, flags, 100)), Status::BadGntref.abi(), "{flags:#x}");
    }
    for flags in [DEVICE_MAP, DEVICE_MAP | HOST_MAP, HOST_MAP | APPLICATION_MAP, HOST_MAP | CONTAINS_PTE] {
        // The granter is not even looked at.
        assert_eq!(status(&m, 2, map_request(99, 9, flags, 100)), GENERAL, "{flags:#x}");
    }
    assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP | 1 << 16, 100)), GENERAL);
    assert_eq!((in_use(&m, 1, 9), m.ram().refs(m.domain(1).mfn(Gfn(3)))), (0, 1));
}

#[test]
fn domains_that_are_not_there() {
    let m = machine();
    for dom in [0, 4, SELF, 0x7fff, 0xffff] {
        assert_eq!(status(&m, 2, map_request(dom, 9, HOST_MAP, 100)), Status::BadDomain.abi());
    }
    grant(&m, 1, 9, 0, 2, 3);
    m.domain(1).die();
    assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP, 100)), Status::BadDomain.abi());
}

#[test]
fn references_outside_the_table() {
    let m = machine();
    assert_eq!(m.domain(1).grants().entries(), 512);
    for gref in [512, 1024, 0x8000_0000, u32::MAX] {
        assert_eq!(status(&m, 2, map_request(1, gref, HOST_MAP, 100)), Status::BadGntref.abi());
    }
    assert_eq!(status(&m, 2, map_request(1, 511, HOST_MAP, 100)), GENERAL);
    m.domain(1).grants().grow_to(2).unwrap();
    grant(&m, 1, 1023, 0, 2, 3);
    map_ok(&m, 2, 1, 1023, HOST_MAP, 100);
}

#[test]
fn entries_that_do_not_fit_the_request() {
    let m = machine();
    for (flags, domid) in [
        (gtf::INVALID, 2),
        (gtf::ACCEPT_TRANSFER, 2),
        (gtf::TRANSITIVE, 2),
        (gtf::PERMIT_ACCESS, 3),
        (gtf::PERMIT_ACCESS, SELF),
        // Version 1 has no sub-pages; an entry that says so is refused all the same.
        (gtf::PERMIT_ACCESS | gtf::SUB_PAGE, 2),
    ] {
        m.domain(1).write_entry(Gref(9), entry(flags, domid, 3));
        assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP, 100)), GENERAL, "{flags:#x} {domid}");
        assert_eq!(m.domain(1).read_entry(Gref(9)), entry(flags, domid, 3));
    }
    assert_eq!(m.domain(2).grants().maptrack().in_use(), 0);
}

#[test]
fn frames_that_are_no_memory_of_the_granter() {
    let m = machine();
    grant(&m, 3, 1, 0, 1, 3);
    map_ok(&m, 1, 3, 1, HOST_MAP, 20);
    m.domain(1).set(Gfn(21), Kind::Special, m.domain(1).mfn(Gfn(4)));
    let ro = m.ram().alloc(m.domain(1).id()).unwrap();
    m.domain(1).set(Gfn(22), Kind::RamRo, ro);
    for frame in [8, 20, 21, 599, 600, u32::MAX] {
        grant(&m, 1, 9, 0, 2, frame);
        for flags in [HOST_MAP, HOST_MAP | READONLY] {
            let done = map(&m, 2, map_request(1, 9, flags, 100));
            assert_eq!(done.status, Status::BadPage.abi(), "{frame}");
            assert_eq!((done.handle, done.dev_bus_addr), (0xdead, 0xbad));
            assert_eq!(in_use(&m, 1, 9), 0);
        }
    }
    grant(&m, 1, 9, 0, 2, 22);
    assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP, 100)), Status::BadPage.abi());
    map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 100);
    // What was found read-only cannot be had for writing later either.
    assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP, 101)), Status::BadPage.abi());
    assert_eq!((in_use(&m, 1, 9), m.ram().refs(ro)), (gtf::READING, 2));
}

#[test]
fn places_that_cannot_be_mapped_to_change_nothing() {
    let m = machine();
    let mfn = m.domain(1).mfn(Gfn(3));
    grant(&m, 1, 9, 0, 2, 3);
    let handle = map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 100);
    for gfn in [100, 600, (1 << 52) - 1] {
        assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP, gfn)), GENERAL);
        assert_eq!((in_use(&m, 1, 9), m.ram().refs(mfn)), (gtf::READING, 2));
        assert_eq!(m.domain(2).grants().maptrack().in_use(), 1);
    }
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 100)]), [OKAY]);
    assert_eq!((in_use(&m, 1, 9), m.ram().refs(mfn)), (0, 1));
}

#[test]
fn a_mapping_over_own_memory_takes_its_place() {
    let m = machine();
    let own = m.domain(2).mfn(Gfn(5));
    grant(&m, 1, 9, 0, 2, 3);
    map_ok(&m, 2, 1, 9, HOST_MAP, 5);
    assert_eq!(m.ram().refs(own), 0);
}

#[test]
fn a_pinned_entry_is_one_grantee_s() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 100);
    // The guest names another grantee while the first one holds it.
    let held = m.domain(1).read_entry(Gref(9));
    assert!(m.domain(1).exchange_entry(Gref(9), held, entry(held.flags, 3, 3)));
    assert_eq!(status(&m, 3, map_request(1, 9, HOST_MAP | READONLY, 100)), GENERAL);
    assert_eq!(status(&m, 2, map_request(1, 9, HOST_MAP | READONLY, 101)), OKAY);
}

#[test]
fn the_frame_on_record_is_used_whatever_the_entry_says_later() {
    let m = machine();
    let mfn = m.domain(1).mfn(Gfn(3));
    grant(&m, 1, 9, 0, 2, 3);
    map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 100);
    let held = m.domain(1).read_entry(Gref(9));
    assert!(m.domain(1).exchange_entry(Gref(9), held, entry(held.flags, 2, 4)));
    for (gfn, flags) in [(101, HOST_MAP | READONLY), (102, HOST_MAP)] {
        map_ok(&m, 2, 1, 9, flags, gfn);
        assert_eq!(m.domain(2).at(Gfn(gfn)).1, mfn);
    }
    assert_eq!(m.ram().refs(mfn), 4);
}

#[test]
fn pins_of_a_kind_end_at_128() {
    for (flags, other) in [(HOST_MAP, HOST_MAP | READONLY), (HOST_MAP | READONLY, HOST_MAP)] {
        let m = machine();
        let mfn = m.domain(1).mfn(Gfn(3));
        grant(&m, 1, 9, 0, 2, 3);
        for gfn in 100..228 {
            map_ok(&m, 2, 1, 9, flags, gfn);
        }
        assert_eq!(status(&m, 2, map_request(1, 9, flags, 300)), GENERAL);
        assert_eq!((m.ram().refs(mfn), m.domain(2).grants().maptrack().in_use()), (129, 128));
        // The other kind has a counter of its own.
        assert_eq!(status(&m, 2, map_request(1, 9, other, 300)), OKAY);
    }
}

#[test]
fn handles_run_out_and_come_back() {
    let m = machine();
    for gref in 8..12 {
        grant(&m, 1, gref, 0, 2, 3);
    }
    let mut handles = Vec::new();
    for n in 0..512u32 {
        let gfn = 40 + u64::from(n);
        handles.push((map_ok(&m, 2, 1, 8 + n / 128, HOST_MAP, gfn), gfn));
    }
    grant(&m, 1, 20, 0, 2, 4);
    assert_eq!(status(&m, 2, map_request(1, 20, HOST_MAP, 590)), Status::NoSpace.abi());
    assert_eq!(in_use(&m, 1, 20), 0);
    assert_eq!(unmap(&m, 2, &[unmap_request(handles[7].0, handles[7].1)]), [OKAY]);
    map_ok(&m, 2, 1, 20, HOST_MAP, 590);
}

#[test]
fn handles_that_are_not_live() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let handle = map_ok(&m, 2, 1, 9, HOST_MAP, 100);
    for bad in [0, handle ^ 1, handle ^ (1 << 22), handle ^ (1 << 31), u32::MAX] {
        assert_eq!(unmap(&m, 2, &[unmap_request(bad, 100)]), [Status::BadHandle.abi()], "{bad:#x}");
    }
    // Another domain's handle is nothing to this one.
    assert_eq!(unmap(&m, 3, &[unmap_request(handle, 100)]), [Status::BadHandle.abi()]);
    let twice = [unmap_request(handle, 100), unmap_request(handle, 100)];
    assert_eq!(unmap(&m, 2, &twice), [OKAY, Status::BadHandle.abi()]);
    assert_eq!(unmap(&m, 2, &twice), [Status::BadHandle.abi(); 2]);
    // Also for an unmap that asks for nothing, in the same chunk.
    let handle = map_ok(&m, 2, 1, 9, HOST_MAP, 100);
    let requests = [unmap_request(handle, 0), unmap_request(handle, 100), unmap_request(handle, 0)];
    assert_eq!(unmap(&m, 2, &requests), [OKAY, OKAY, Status::BadHandle.abi()]);
    assert_eq!(m.ram().refs(m.domain(1).mfn(Gfn(3))), 1);
}

#[test]
fn an_unmap_that_names_no_half_changes_nothing() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let handle = map_ok(&m, 2, 1, 9, HOST_MAP, 100);
    let flushes = m.domain(2).flushes();
    for _ in 0..3 {
        let mut request = unmap_request(handle, 0);
        assert_eq!(unmap(&m, 2, &[request]), [OKAY]);
        // There is no device half either, whatever its address.
        request.dev_bus_addr = 0x1234;
        assert_eq!(unmap(&m, 2, &[request]), [OKAY]);
    }
    assert_eq!(m.domain(2).flushes(), flushes);
    assert_eq!(in_use(&m, 1, 9), gtf::READING | gtf::WRITING);
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 100)]), [OKAY]);
    assert_eq!(m.ram().refs(m.domain(1).mfn(Gfn(3))), 1);
}

#[test]
fn the_place_must_hold_this_frame_with_these_rights() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    grant(&m, 1, 10, 0, 2, 4);
    let a = map_ok(&m, 2, 1, 9, HOST_MAP, 100);
    let b = map_ok(&m, 2, 1, 9, HOST_MAP, 101);
    let ro = map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 102);
    let other = map_ok(&m, 2, 1, 10, HOST_MAP, 103);
    // Own memory, nothing, another frame, other rights (XSA-234).
    for gfn in [5, 200, 103, 102, 600] {
        assert_eq!(unmap(&m, 2, &[unmap_request(a, gfn)]), [GENERAL], "{gfn}");
    }
    assert_eq!(unmap(&m, 2, &[unmap_request(ro, 100)]), [GENERAL]);
    // Two mappings of one frame with equal rights may be taken down crosswise, as with Xen.
    assert_eq!(unmap(&m, 2, &[unmap_request(a, 101), unmap_request(b, 100)]), [OKAY; 2]);
    assert_eq!(in_use(&m, 1, 9), gtf::READING);
    assert_eq!(unmap(&m, 2, &[unmap_request(ro, 102), unmap_request(other, 103)]), [OKAY; 2]);
    assert_eq!(m.domain(1).grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
}

#[test]
fn writing_falls_with_the_last_writer_and_reading_with_the_last_pin() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let rw = map_ok(&m, 2, 1, 9, HOST_MAP, 100);
    let ro = map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 101);
    let rw2 = map_ok(&m, 2, 1, 9, HOST_MAP, 102);
    unmap(&m, 2, &[unmap_request(rw, 100)]);
    assert_eq!(in_use(&m, 1, 9), gtf::READING | gtf::WRITING);
    unmap(&m, 2, &[unmap_request(rw2, 102)]);
    assert_eq!(in_use(&m, 1, 9), gtf::READING);
    unmap(&m, 2, &[unmap_request(ro, 101)]);
    assert_eq!(in_use(&m, 1, 9), 0);
}

#[test]
fn one_flush_for_each_64() {
    for (count, flushes) in [(1u32, 1), (64, 1), (65, 2), (200, 4)] {
        let m = machine();
        let mut requests = Vec::new();
        for n in 0..count {
            let gref = 8 + n / 100;
            grant(&m, 1, gref, 0, 2, 3);
            let gfn = 40 + u64::from(n);
            requests.push(unmap_request(map_ok(&m, 2, 1, gref, HOST_MAP, gfn), gfn));
        }
        assert!(unmap(&m, 2, &requests).iter().all(|&s| s == OKAY));
        assert_eq!(m.domain(2).flushes(), flushes, "{count}");
    }
}

#[test]
fn what_was_unmapped_before_a_fault_is_completed() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let handles: Vec<u32> = (0..3).map(|n| map_ok(&m, 2, 1, 9, HOST_MAP, 100 + n)).collect();
    let requests: Vec<_> =
        handles.iter().zip(100..).map(|(&handle, gfn)| unmap_request(handle, gfn)).collect();
    let mut bytes = bytes_of(&requests);
    bytes.truncate(2 * 24 + 10);
    let mut memory = Flat::new(ARGS, bytes);
    let host = m.host(2, 0);
    let outcome = host.call(&mut memory, Width::Bits64, op::UNMAP_GRANT_REF, ARGS, 3);
    assert_eq!(outcome, Outcome::Failed(Errno::Fault));
    assert_eq!(m.ram().refs(m.domain(1).mfn(Gfn(3))), 2);
    assert_eq!(m.domain(2).flushes(), 1);
    assert_eq!(m.domain(2).grants().maptrack().in_use(), 1);
    assert_eq!(unmap(&m, 2, &[unmap_request(handles[2], 102)]), [OKAY]);
}

#[test]
fn maps_before_a_fault_stay() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let mut bytes = bytes_of(&[map_request(1, 9, HOST_MAP, 100), map_request(1, 9, HOST_MAP, 101)]);
    bytes.truncate(40);
    let mut memory = Flat::new(ARGS, bytes);
    let outcome = m.call(2, &mut memory, Width::Bits64, op::MAP_GRANT_REF, ARGS, 2);
    assert_eq!(outcome, Outcome::Failed(Errno::Fault));
    let first = read_all::<MapGrantRef>(memory.bytes())[0];
    assert_eq!(first.status, OKAY);
    assert_eq!(unmap(&m, 2, &[unmap_request(first.handle, 100)]), [OKAY]);
}

#[test]
fn a_mapping_cannot_be_replaced() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let handle = map_ok(&m, 2, 1, 9, HOST_MAP, 100);
    let request = UnmapAndReplace { host_addr: 100 << 12, new_addr: 101 << 12, handle, status: 77, pad: 0 };
    let run = |request: UnmapAndReplace| call(&m, 2, op::UNMAP_AND_REPLACE, &[request])[0].status;
    assert_eq!(run(request), GENERAL);
    assert_eq!(run(UnmapAndReplace { handle: 5, ..request }), Status::BadHandle.abi());
    assert_eq!(run(UnmapAndReplace { new_addr: 0, ..request }), OKAY);
    assert_eq!(run(UnmapAndReplace { new_addr: 0, ..request }), Status::BadHandle.abi());
}

#[test]
fn long_batches_yield_and_go_on() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let mut host = m.host(2, 0);
    host.yields = true;
    let requests: Vec<_> = (0..100).map(|n| map_request(1, 9, HOST_MAP, 100 + n)).collect();
    let (outcome, done) = call_on(&host, Width::Bits32, op::MAP_GRANT_REF, &requests);
    assert_eq!(outcome, Outcome::Done);
    assert!(done.iter().all(|r| r.status == OKAY));
    let requests: Vec<_> = done.iter().map(|r| unmap_request(r.handle, r.host_addr >> 12)).collect();
    let (outcome, done) = call_on(&host, Width::Bits32, op::UNMAP_GRANT_REF, &requests);
    assert_eq!(outcome, Outcome::Done);
    assert!(done.iter().all(|r| r.status == OKAY));
}

#[test]
fn a_dead_domain_s_mappings_are_given_back_in_steps() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    grant(&m, 3, 9, gtf::READONLY, 2, 3);
    for n in 0..40 {
        map_ok(&m, 2, 1, 9, HOST_MAP, 100 + n);
        map_ok(&m, 2, 3, 9, HOST_MAP | READONLY, 200 + n);
    }
    assert_eq!(m.domain(1).grants().find_pinned(Gref(0), 4), Scan::More(Gref(4)));
    assert_eq!(m.domain(1).grants().find_pinned(Gref(4), 100), Scan::Pinned(Gref(9)));
    m.domain(2).die();
    let host = m.host(2, 0);
    let (mut from, mut steps) = (0, 0);
    while let Some(next) = teardown_step(&host, m.domain(2), 0, from, 16) {
        from = next;
        steps += 1;
    }
    assert!(steps >= 5);
    assert_eq!(m.domain(2).grants().maptrack().in_use(), 0);
    for granter in [1, 3] {
        assert_eq!(m.domain(granter).grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
        assert_eq!((in_use(&m, granter, 9), m.ram().refs(m.domain(granter).mfn(Gfn(3)))), (0, 1));
    }
}
