//! Version 2: switches, full-page and sub-page entries, status words.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use gnttab_fast::abi::{
    EntryV2FullPage, EntryV2SubPage, EntryV2Transitive, GetStatusFrames, SetVersion, SwapGrantRef, gtf,
    map_flags::*, op,
};
use gnttab_fast::testing::{Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{
    Domain, Errno, Gfn, Gref, Limits, NotGrown, Outcome, Policy, Status, TableFrame, Version, Width,
};

const OKAY: i16 = Status::Okay as i16;
const GENERAL: i16 = Status::GeneralError as i16;

fn builder() -> MachineBuilder {
    MachineBuilder {
        limits: Limits { frames: 9, maptrack_frames: 1 },
        spare: 16,
        ..MachineBuilder::default()
    }
}

/// Three domains, the first two of them in version 2.
fn machine() -> Machine {
    let m = builder().build(3);
    assert_eq!(set_version(&m, 1, 2), (Outcome::Done, 2));
    assert_eq!(set_version(&m, 2, 2), (Outcome::Done, 2));
    m
}

fn set_version(m: &Machine, d: u16, version: u32) -> (Outcome, u32) {
    let (outcome, done) = call_on(&m.host(d, 0), Width::Bits64, op::SET_VERSION, &[SetVersion { version }]);
    (outcome, done[0].version)
}

fn full_page(flags: u16, domid: u16, frame: u64) -> EntryV2FullPage {
    EntryV2FullPage { flags: gtf::PERMIT_ACCESS | flags, domid, pad0: 0, frame }
}

fn sub_page(flags: u16, domid: u16, frame: u64, page_off: u16, length: u16) -> EntryV2SubPage {
    EntryV2SubPage { flags: gtf::PERMIT_ACCESS | gtf::SUB_PAGE | flags, domid, page_off, length, frame }
}

fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(m: &Machine, d: u16, gref: u32, entry: &T) {
    m.domain(d).write_entry_v2(Gref(gref), entry);
}

fn pinned(m: &Machine, d: u16, gref: u32) -> (u8, u8) {
    let pins = m.domain(d).grants().pins(Gref(gref)).unwrap();
    (pins.host_read, pins.host_write)
}

#[test]
fn a_full_page_entry_is_copied_and_mapped() {
    let m = machine();
    put(&m, 1, 8, &full_page(0, 2, 3));
    m.ram().write(m.domain(1).mfn(Gfn(3)), 100, b"twelve bytes");
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 8, 100), by_gfn(1, 7), 12)]), [OKAY]);
    assert_eq!(m.ram().read(m.domain(2).mfn(Gfn(1)))[7..19], *b"twelve bytes");
    assert_eq!((m.domain(1).status(Gref(8)), pinned(&m, 1, 8)), (0, (0, 0)));

    let readonly = map_ok(&m, 2, 1, 8, HOST_MAP | READONLY, 20);
    assert_eq!((m.domain(1).status(Gref(8)), pinned(&m, 1, 8)), (gtf::READING, (1, 0)));
    let writable = map_ok(&m, 2, 1, 8, HOST_MAP, 21);
    assert_eq!((m.domain(1).status(Gref(8)), pinned(&m, 1, 8)), (gtf::READING | gtf::WRITING, (1, 1)));
    // The header stays the guest's.
    assert_eq!(m.domain(1).read_entry_v2(Gref(8)), full_page(0, 2, 3));
    assert_eq!(unmap(&m, 2, &[unmap_request(writable, 21)]), [OKAY]);
    assert_eq!(m.domain(1).status(Gref(8)), gtf::READING);
    assert_eq!(unmap(&m, 2, &[unmap_request(readonly, 20)]), [OKAY]);
    assert_eq!((m.domain(1).status(Gref(8)), pinned(&m, 1, 8)), (0, (0, 0)));
    // Neighbours in the status word are left alone.
    put(&m, 1, 9, &full_page(0, 2, 4));
    let first = map_ok(&m, 2, 1, 8, HOST_MAP, 20);
    let second = map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 21);
    assert_eq!(unmap(&m, 2, &[unmap_request(first, 20)]), [OKAY]);
    assert_eq!((m.domain(1).status(Gref(8)), m.domain(1).status(Gref(9))), (0, gtf::READING));
    assert_eq!(unmap(&m, 2, &[unmap_request(second, 21)]), [OKAY]);
}

#[test]
fn what_does_not_fit_is_refused_without_a_trace() {
    let m = machine();
    for (entry, write, want) in [
        (full_page(0, 3, 3), false, GENERAL),
        (full_page(gtf::READONLY, 2, 3), true, GENERAL),
        (EntryV2FullPage { flags: gtf::INVALID, ..full_page(0, 2, 3) }, false, GENERAL),
        (EntryV2FullPage { flags: gtf::ACCEPT_TRANSFER, ..full_page(0, 2, 3) }, false, GENERAL),
        (full_page(0, 2, 31), false, Status::BadPage.abi()),
        (full_page(0, 2, u64::MAX), false, Status::BadPage.abi()),
    ] {
        put(&m, 1, 8, &entry);
        let (gref, own) = (by_gref(1, 8, 0), by_gfn(1, 0));
        let (source, dest) = if write { (own, gref) } else { (gref, own) };
        assert_eq!(copy(&m, 2, &[element(source, dest, 8)]), [want], "{entry:?}");
        let flags = if write { HOST_MAP } else { HOST_MAP | READONLY };
        assert_eq!(map(&m, 2, map_request(1, 8, flags, 20)).status, want);
        assert_eq!((m.domain(1).status(Gref(8)), pinned(&m, 1, 8)), (0, (0, 0)));
    }
    // Version 2 has half as many entries in a frame.
    assert_eq!(m.domain(1).grants().entries(), 256);
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 256, 0), by_gfn(1, 0), 8)]), [Status::BadGntref.abi()]);
}

#[test]
fn a_sub_page_entry_grants_its_range_to_copies_alone() {
    let m = machine();
    put(&m, 1, 8, &sub_page(0, 2, 3, 100, 50));
    assert_eq!(map(&m, 2, map_request(1, 8, HOST_MAP | READONLY, 20)).status, GENERAL);
    for (offset, len, want) in [
        (100, 50, OKAY),
        (149, 1, OKAY),
        (99, 2, GENERAL),
        (150, 1, GENERAL),
        (149, 2, GENERAL),
        (0, 4096, GENERAL),
        (4000, 200, Status::BadCopyArg.abi()),
    ] {
        assert_eq!(
            copy(&m, 2, &[element(by_gref(1, 8, offset), by_gfn(1, 0), len)]),
            [want],
            "{offset}+{len}"
        );
        assert_eq!(copy(&m, 2, &[element(by_gfn(1, 0), by_gref(1, 8, offset), len)]), [want]);
    }
    // Nothing outside was written, and ranges that are none grant nothing.
    let frame = m.ram().read(m.domain(1).mfn(Gfn(3)));
    assert!(frame[..100].iter().chain(&frame[150..]).all(|&b| b == 0));
    for (page_off, length) in [(0, 0), (4096, 1), (u16::MAX, u16::MAX)] {
        put(&m, 1, 8, &sub_page(0, 2, 3, page_off, length));
        assert_eq!(copy(&m, 2, &[element(by_gref(1, 8, 0), by_gfn(1, 0), 1)]), [GENERAL]);
    }
    // One that reaches over the end grants what there is.
    put(&m, 1, 8, &sub_page(0, 2, 3, 4000, u16::MAX));
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 8, 4000), by_gfn(1, 0), 96)]), [OKAY]);
    assert_eq!(pinned(&m, 1, 8), (0, 0));
}

#[test]
fn a_pinned_full_page_entry_keeps_its_record() {
    let m = machine();
    put(&m, 1, 8, &full_page(0, 2, 3));
    let handle = map_ok(&m, 2, 1, 8, HOST_MAP | READONLY, 20);
    m.ram().write(m.domain(1).mfn(Gfn(3)), 0, b"old");
    m.ram().write(m.domain(1).mfn(Gfn(4)), 0, b"new");
    put(&m, 1, 8, &full_page(0, 2, 4));
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 8, 0), by_gfn(1, 0), 3)]), [OKAY]);
    assert_eq!(m.ram().read(m.domain(2).mfn(Gfn(1)))[..3], *b"old");
    // XSA-500: a first writer may use neither the new frame nor, for a copy, the old one.
    assert_eq!(copy(&m, 2, &[element(by_gfn(1, 0), by_gref(1, 8, 0), 3)]), [GENERAL]);
    assert_eq!((m.domain(1).status(Gref(8)), pinned(&m, 1, 8)), (gtf::READING, (1, 0)));
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
}

#[test]
fn a_switch_keeps_the_reserved_entries_only() {
    let m = builder().build(2);
    grant(&m, 1, 0, 0, 2, 5);
    grant(&m, 1, 8, 0, 2, 6);
    let handle = map_ok(&m, 2, 1, 0, HOST_MAP, 20);
    assert_eq!(set_version(&m, 1, 2), (Outcome::Done, 2));
    assert_eq!(m.domain(1).read_entry_v2(Gref(0)), full_page(0, 2, 5));
    assert_eq!(m.domain(1).status(Gref(0)), gtf::READING | gtf::WRITING);
    assert_eq!(m.domain(1).read_entry_v2(Gref(8)).flags, gtf::INVALID);
    // Pins of reserved entries go over, both ways.
    assert_eq!(pinned(&m, 1, 0), (0, 1));
    assert_eq!(set_version(&m, 1, 1), (Outcome::Done, 1));
    assert_eq!(m.domain(1).read_entry(Gref(0)).flags, gtf::PERMIT_ACCESS | gtf::READING | gtf::WRITING);
    assert_eq!(set_version(&m, 1, 2), (Outcome::Done, 2));
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
    assert_eq!((m.domain(1).status(Gref(0)), pinned(&m, 1, 0)), (0, (0, 0)));
}

#[test]
fn a_switch_fails_while_an_entry_is_in_use() {
    let m = machine();
    for version in [1, 2] {
        let other = 3 - version;
        assert_eq!(set_version(&m, 1, version).0, Outcome::Done);
        match version {
            1 => grant(&m, 1, 200, 0, 2, 3),
            _ => put(&m, 1, 200, &full_page(0, 2, 3)),
        }
        let handle = map_ok(&m, 2, 1, 200, HOST_MAP, 20);
        assert_eq!(set_version(&m, 1, other), (Outcome::Failed(Errno::Busy), version));
        assert_eq!(m.domain(1).grants().status_frames(), version - 1);
        // Everything works on as before.
        assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
        assert_eq!(set_version(&m, 1, other), (Outcome::Done, other));
    }
}

#[test]
fn a_reserved_entry_that_version_1_cannot_say_keeps_version_2() {
    let m = machine();
    let transitive =
        EntryV2Transitive { flags: gtf::TRANSITIVE, domid: 2, trans_domid: 3, pad0: 0, gref: 9, pad1: 0 };
    put(&m, 1, 7, &transitive);
    assert_eq!(set_version(&m, 1, 1), (Outcome::Failed(Errno::Range), 2));
    put(&m, 1, 7, &full_page(0, 2, 1 << 32));
    assert_eq!(set_version(&m, 1, 1), (Outcome::Failed(Errno::Range), 2));
    put(&m, 1, 7, &full_page(gtf::READONLY, 2, u64::from(u32::MAX)));
    put(&m, 1, 6, &EntryV2FullPage { flags: gtf::ACCEPT_TRANSFER, ..full_page(0, 2, 1 << 40) });
    assert_eq!(set_version(&m, 1, 1), (Outcome::Done, 1));
    assert_eq!(m.domain(1).read_entry(Gref(7)), entry(gtf::PERMIT_ACCESS | gtf::READONLY, 2, u32::MAX));
    assert_eq!(m.domain(1).read_entry(Gref(6)), entry(0, 0, 0));
}

#[test]
fn status_frames_come_and_go() {
    let m = builder().build(1);
    let table = m.domain(1).grants();
    assert_eq!((table.status_frames(), table.status_frame(0)), (0, Err(NotGrown::Version)));
    assert_eq!(set_version(&m, 1, 2).0, Outcome::Done);
    let first = table.status_frame(0).unwrap();
    assert_eq!((table.frames(), table.status_frames(), m.ram().refs(first)), (1, 1, 1));
    // The second serves the ninth frame, so the table must grow to sixteen, which is too much; to nine by
    // itself it may.
    assert_eq!(table.status_frame(1), Err(NotGrown::Limit));
    table.grow_to(9).unwrap();
    assert_eq!((table.entries(), table.status_frames()), (9 * 256, 2));
    let second = table.status_frame(1).unwrap();
    m.domain(1).set(Gfn(30), Kind::Special, second);
    assert_eq!(table.place(TableFrame::Status(1), Gfn(30)), None);
    let ask = |nr_frames| {
        let request = GetStatusFrames { nr_frames, dom: SELF, status: 77, frame_list: ARGS + 24 };
        let mut memory = Flat::new(ARGS, [bytes_of(&[request]), vec![0; 32]].concat());
        let outcome = m.call(1, &mut memory, Width::Bits64, op::GET_STATUS_FRAMES, ARGS, 1);
        assert_eq!(outcome, Outcome::Done);
        let done: GetStatusFrames = read_all(&memory.bytes()[..24])[0];
        (done.status, read_all::<u64>(&memory.bytes()[24..40]))
    };
    assert_eq!(ask(2), (OKAY, vec![u64::MAX, 30]));
    assert_eq!(ask(3).0, GENERAL);
    // Back to version 1: gone from the physical map, and given back.
    assert_eq!(set_version(&m, 1, 1), (Outcome::Done, 1));
    assert_eq!(m.domain(1).at(Gfn(30)).0, Kind::None);
    assert_eq!((m.ram().refs(first), m.ram().refs(second)), (0, 0));
    assert_eq!(ask(1).0, GENERAL);
    assert_eq!(ask(0).0, OKAY);
}

#[test]
fn no_memory_for_status_frames_keeps_version_1() {
    let m = builder().build(1);
    while m.ram().alloc(m.domain(1).id()).is_some() {}
    grant(&m, 1, 8, 0, 1, 3);
    assert_eq!(set_version(&m, 1, 2), (Outcome::Failed(Errno::NoMemory), 1));
    assert_eq!(copy(&m, 1, &[element(by_gref(1, 8, 0), by_gfn(1, 0), 8)]), [OKAY]);
}

#[test]
fn growth_keeps_the_version() {
    let m = machine();
    m.domain(1).grants().grow_to(3).unwrap();
    put(&m, 1, 700, &full_page(0, 2, 3));
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 700, 0), by_gfn(1, 0), 8)]), [OKAY]);
    assert_eq!(set_version(&m, 1, 1), (Outcome::Done, 1));
    grant(&m, 1, 1500, 0, 2, 3);
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 1500, 0), by_gfn(1, 0), 8)]), [OKAY]);
}

#[test]
fn swapped_entries_swap_their_status() {
    let m = machine();
    put(&m, 1, 8, &full_page(0, 2, 3));
    put(&m, 1, 9, &sub_page(0, 2, 4, 10, 20));
    let swap = |ref_a, ref_b| {
        call(&m, 1, op::SWAP_GRANT_REF, &[SwapGrantRef { ref_a, ref_b, status: 77, pad: 0 }])[0].status
    };
    assert_eq!(swap(8, 9), OKAY);
    assert_eq!(m.domain(1).read_entry_v2(Gref(9)), full_page(0, 2, 3));
    let handle = map_ok(&m, 2, 1, 9, HOST_MAP, 20);
    assert_eq!(swap(9, 8), Status::Eagain.abi());
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
    assert_eq!(swap(8, 256), Status::BadGntref.abi());
}

/// Domain 3 grants to 1, which passes it on to 2.
fn chain(m: &Machine, flags: u16, inner: u16) {
    grant(m, 3, 9, inner, 1, 4);
    let passing = EntryV2Transitive {
        flags: gtf::TRANSITIVE | flags,
        domid: 2,
        trans_domid: 3,
        pad0: 0,
        gref: 9,
        pad1: 0,
    };
    put(m, 1, 8, &passing);
}

fn read_through(m: &Machine) -> i16 {
    copy(m, 2, &[element(by_gref(1, 8, 5), by_gfn(1, 0), 8)])[0]
}

fn write_through(m: &Machine) -> i16 {
    copy(m, 2, &[element(by_gfn(1, 0), by_gref(1, 8, 5), 8)])[0]
}

fn nothing_is_pinned(m: &Machine) {
    assert_eq!((pinned(m, 1, 8), pinned(m, 3, 9)), ((0, 0), (0, 0)));
    assert_eq!((m.domain(1).status(Gref(8)), in_use(m, 3, 9)), (0, 0));
}

#[test]
fn a_transitive_grant_is_copied_both_ways_and_never_mapped() {
    let m = machine();
    chain(&m, 0, 0);
    m.ram().write(m.domain(3).mfn(Gfn(4)), 5, b"from 3  ");
    assert_eq!(read_through(&m), OKAY);
    assert_eq!(m.ram().read(m.domain(2).mfn(Gfn(1)))[..8], *b"from 3  ");
    nothing_is_pinned(&m);
    m.ram().write(m.domain(2).mfn(Gfn(1)), 0, b"from 2  ");
    assert_eq!(write_through(&m), OKAY);
    assert_eq!(m.ram().read(m.domain(3).mfn(Gfn(4)))[5..13], *b"from 2  ");
    nothing_is_pinned(&m);
    assert_eq!(map(&m, 2, map_request(1, 8, HOST_MAP | READONLY, 20)).status, GENERAL);
    // Read and written in one block, where both claims pin both ends.
    let both = [
        element(by_gref(1, 8, 0), by_gfn(1, 0), 8),
        element(by_gfn(2, 0), by_gref(1, 8, 0), 8),
        element(by_gref(1, 8, 0), by_gref(1, 8, 100), 8),
    ];
    assert_eq!(copy(&m, 2, &both), [OKAY; 3]);
    nothing_is_pinned(&m);
}

#[test]
fn either_end_may_refuse() {
    let m = machine();
    for (outer, inner, read, write) in [
        (gtf::READONLY, 0, OKAY, GENERAL),
        (0, gtf::READONLY, OKAY, GENERAL),
        // The flag is for version 2 only, and has no range here.
        (gtf::SUB_PAGE, 0, OKAY, OKAY),
    ] {
        chain(&m, outer, inner);
        assert_eq!((read_through(&m), write_through(&m)), (read, write));
        nothing_is_pinned(&m);
    }
    // Granted to others, at either end.
    chain(&m, 0, 0);
    grant(&m, 3, 9, 0, 2, 4);
    assert_eq!(read_through(&m), GENERAL);
    chain(&m, 0, 0);
    assert_eq!(copy(&m, 3, &[element(by_gref(1, 8, 0), by_gfn(1, 0), 8)]), [GENERAL]);
    // The other end leads nowhere: no such reference, no such domain, oneself, a frame that is none.
    let passing = |trans_domid, gref| {
        let entry =
            EntryV2Transitive { flags: gtf::TRANSITIVE, domid: 2, trans_domid, pad0: 0, gref, pad1: 0 };
        put(&m, 1, 8, &entry);
        read_through(&m)
    };
    assert_eq!(passing(3, 512), Status::BadGntref.abi());
    assert_eq!(passing(7, 9), GENERAL);
    assert_eq!(passing(SELF, 9), GENERAL);
    assert_eq!(passing(1, 9), GENERAL);
    grant(&m, 3, 9, 0, 1, 31);
    assert_eq!(passing(3, 9), Status::BadPage.abi());
    nothing_is_pinned(&m);
}

#[test]
fn the_copier_may_be_the_owner_and_one_hop_is_all() {
    let m = machine();
    // 2 granted to 1, which passes it back.
    put(&m, 2, 9, &full_page(0, 1, 4));
    let back =
        EntryV2Transitive { flags: gtf::TRANSITIVE, domid: 2, trans_domid: 2, pad0: 0, gref: 9, pad1: 0 };
    put(&m, 1, 8, &back);
    assert_eq!((read_through(&m), write_through(&m)), (OKAY, OKAY));
    assert_eq!(pinned(&m, 2, 9), (0, 0));
    // XSA-226: passing on what is passed on is refused, however long the chain would be.
    grant(&m, 3, 9, 0, 2, 4);
    let hop =
        EntryV2Transitive { flags: gtf::TRANSITIVE, domid: 1, trans_domid: 3, pad0: 0, gref: 9, pad1: 0 };
    put(&m, 2, 9, &hop);
    assert_eq!(read_through(&m), GENERAL);
    put(&m, 2, 9, &EntryV2Transitive { trans_domid: 1, gref: 8, ..hop });
    assert_eq!(read_through(&m), GENERAL);
    assert_eq!((pinned(&m, 1, 8), pinned(&m, 2, 9), pinned(&m, 3, 9)), ((0, 0), (0, 0), (0, 0)));
}

#[test]
fn a_range_passed_on_stays_a_range() {
    let m = machine();
    assert_eq!(set_version(&m, 3, 2).0, Outcome::Done);
    put(&m, 3, 9, &sub_page(0, 1, 4, 64, 32));
    let passing =
        EntryV2Transitive { flags: gtf::TRANSITIVE, domid: 2, trans_domid: 3, pad0: 0, gref: 9, pad1: 0 };
    put(&m, 1, 8, &passing);
    let at = |offset, len| copy(&m, 2, &[element(by_gref(1, 8, offset), by_gfn(1, 0), len)])[0];
    assert_eq!((at(64, 32), at(63, 2), at(95, 2)), (OKAY, GENERAL, GENERAL));
}

#[test]
fn policy_is_asked_of_all_three() {
    let none = Policy::new(Version::V2, false);
    for who in 1..=3 {
        let m = builder().build_with(3, |id| if id == who { none } else { Policy::HOST_DEFAULT });
        assert_eq!(set_version(&m, 1, 2).0, Outcome::Done);
        chain(&m, 0, 0);
        assert_eq!((read_through(&m), write_through(&m)), (GENERAL, GENERAL), "{who}");
        nothing_is_pinned(&m);
        // Ordinary grants of the same domains are as ever.
        put(&m, 1, 10, &full_page(0, 2, 3));
        assert_eq!(copy(&m, 2, &[element(by_gref(1, 10, 0), by_gfn(1, 0), 8)]), [OKAY]);
    }
}

#[test]
fn a_mapping_of_the_other_end_is_no_obstacle() {
    let m = machine();
    chain(&m, 0, 0);
    let handle = map_ok(&m, 1, 3, 9, HOST_MAP, 20);
    assert_eq!((read_through(&m), write_through(&m)), (OKAY, OKAY));
    assert_eq!(pinned(&m, 3, 9), (0, 1));
    // The owner's death ends it, not the mapping.
    m.domain(3).die();
    assert_eq!((read_through(&m), write_through(&m)), (GENERAL, GENERAL));
    assert_eq!(unmap(&m, 1, &[unmap_request(handle, 20)]), [OKAY]);
    nothing_is_pinned(&m);
}
