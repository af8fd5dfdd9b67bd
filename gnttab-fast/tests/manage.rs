//! The hypercall's frame, and the operations on the table itself.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use gnttab_fast::abi::{
    CacheFlush, DumpTable, GetStatusFrames, GetVersion, QuerySize, SetVersion, SetupTable, SwapGrantRef,
    Transfer, compat, gtf, map_flags::*, op,
};
use gnttab_fast::testing::{Flat, Machine, MachineBuilder};
use gnttab_fast::{
    Domain, Errno, Gfn, Gref, Limits, NotGrown, Outcome, Policy, Status, TableFrame, Version, Width,
};

const OKAY: i16 = Status::Okay as i16;

fn machine() -> Machine {
    let limits = Limits { frames: 4, maptrack_frames: 1 };
    MachineBuilder { limits, ..MachineBuilder::default() }.build(3)
}

fn setup(dom: u16, nr_frames: u32, frame_list: u64) -> SetupTable {
    SetupTable { dom, pad0: 0, nr_frames, status: 77, pad1: [0; 3], frame_list }
}

fn setup_compat(dom: u16, nr_frames: u32, frame_list: u32) -> compat::SetupTable {
    compat::SetupTable { dom, pad0: 0, nr_frames, status: 77, pad1: 0, frame_list }
}

/// A setup_table whose list is behind its argument. Status and list.
fn run_setup(m: &Machine, caller: u16, dom: u16, frames: u32, controls: bool) -> (i16, Vec<u64>) {
    let mut bytes = bytes_of(&[setup(dom, frames, ARGS + 24)]);
    bytes.extend([0x55; 64]);
    let mut memory = Flat::new(ARGS, bytes);
    let mut host = m.host(caller, 0);
    host.controls = controls;
    assert_eq!(host.call(&mut memory, Width::Bits64, op::SETUP_TABLE, ARGS, 1), Outcome::Done);
    let status = read_all::<SetupTable>(&memory.bytes()[..24])[0].status;
    (status, read_all(&memory.bytes()[24..]))
}

#[test]
fn setup_table_grows_and_tells_where_frames_are() {
    let m = machine();
    let table = m.domain(1).grants();
    assert_eq!(table.place(TableFrame::Shared(0), Gfn(0x1_2345_6789)), None);
    let (status, list) = run_setup(&m, 1, SELF, 3, false);
    assert_eq!((status, table.frames()), (OKAY, 3));
    // Frames that were never put anywhere are told as all ones (XSA-101), and no more than asked for is told.
    assert_eq!(list[..4], [0x1_2345_6789, u64::MAX, u64::MAX, 0x5555_5555_5555_5555]);
    assert_eq!(run_setup(&m, 1, 1, 1, false).0, OKAY);
    assert_eq!(table.frames(), 3, "a table never shrinks");
    assert_eq!(
        run_setup(&m, 1, SELF, 5, false),
        (Status::GeneralError.abi(), vec![0x5555_5555_5555_5555; 8])
    );
    assert_eq!(run_setup(&m, 1, SELF, u32::MAX, false).0, Status::GeneralError.abi());
    assert_eq!(table.frames(), 3);
    assert_eq!(run_setup(&m, 1, 2, 1, false).0, Status::PermissionDenied.abi());
    assert_eq!(run_setup(&m, 1, 9, 1, false).0, Status::BadDomain.abi());
    assert_eq!(run_setup(&m, 1, 2, 2, true).0, OKAY);
    assert_eq!(m.domain(2).grants().frames(), 2);
}

#[test]
fn a_list_that_cannot_be_written() {
    let m = machine();
    for list in [0, ARGS + 20, u64::MAX - 3] {
        let done = call(&m, 1, op::SETUP_TABLE, &[setup(SELF, 2, list)]);
        assert_eq!(done[0].status, Status::BadVirtAddr.abi());
    }
}

#[test]
fn a_32_bit_list_never_holds_a_truncated_frame() {
    let m = machine();
    m.domain(1).grants().place(TableFrame::Shared(0), Gfn(0xffff_fffe));
    let run = |frames| {
        let mut bytes = bytes_of(&[setup_compat(SELF, frames, u32::try_from(ARGS + 16).unwrap())]);
        bytes.extend([0x55; 16]);
        let mut memory = Flat::new(ARGS, bytes);
        let outcome = m.call(1, &mut memory, Width::Bits32, op::SETUP_TABLE, ARGS, 1);
        assert_eq!(outcome, Outcome::Done);
        let status = read_all::<compat::SetupTable>(&memory.bytes()[..16])[0].status;
        (status, read_all::<u32>(&memory.bytes()[16..]))
    };
    assert_eq!(run(2), (OKAY, vec![0xffff_fffe, u32::MAX, 0x5555_5555, 0x5555_5555]));
    m.domain(1).grants().place(TableFrame::Shared(1), Gfn(0x1_0000_0000));
    assert_eq!(run(2).0, Status::AddressTooBig.abi());
    assert_eq!(run(1).0, OKAY);
}

#[test]
fn query_size_tells_frames_and_limit() {
    let m = machine();
    let query = |dom| QuerySize { dom, pad0: 0, nr_frames: 9, max_nr_frames: 9, status: 77, pad1: 0 };
    let run = |dom| call(&m, 1, op::QUERY_SIZE, &[query(dom)])[0];
    let mine = QuerySize { nr_frames: 1, max_nr_frames: 4, status: OKAY, ..query(SELF) };
    assert_eq!(run(SELF), mine);
    m.domain(1).grants().grow_to(2).unwrap();
    assert_eq!((run(1).nr_frames, run(1).status), (2, OKAY));
    assert_eq!(run(2), QuerySize { status: Status::PermissionDenied.abi(), ..query(2) });
    assert_eq!(run(7), QuerySize { status: Status::BadDomain.abi(), ..query(7) });
}

#[test]
fn versions_where_only_the_first_is_allowed() {
    let policy = Policy::new(Version::V1, true);
    let m = MachineBuilder { policy, ..MachineBuilder::default() }.build(3);
    let host = m.host(1, 0);
    let set = |version| call_on(&host, Width::Bits64, op::SET_VERSION, &[SetVersion { version }]);
    assert_eq!(set(1), (Outcome::Done, vec![SetVersion { version: 1 }]));
    assert_eq!(set(2), (Outcome::Failed(Errno::NoSystem), vec![SetVersion { version: 1 }]));
    for bad in [0, 3, u32::MAX] {
        assert_eq!(set(bad), (Outcome::Failed(Errno::Invalid), vec![SetVersion { version: 1 }]));
    }
    let get = |dom| call_on(&host, Width::Bits32, op::GET_VERSION, &[GetVersion { dom, pad: 5, version: 9 }]);
    assert_eq!(get(SELF), (Outcome::Done, vec![GetVersion { dom: SELF, pad: 5, version: 1 }]));
    assert_eq!(get(1).0, Outcome::Done);
    assert_eq!(
        get(2),
        (Outcome::Failed(Errno::NotPermitted), vec![GetVersion { dom: 2, pad: 5, version: 9 }])
    );
    assert_eq!(get(9).0, Outcome::Failed(Errno::NoDomain));
}

#[test]
fn a_version_1_table_has_no_status_frames() {
    let m = machine();
    let ask = |dom, nr_frames| {
        let wide = GetStatusFrames { nr_frames, dom, status: 77, frame_list: 0 };
        let narrow = compat::GetStatusFrames { nr_frames, dom, status: 77, frame_list: 0 };
        let (o, done) = call_on(&m.host(1, 0), Width::Bits32, op::GET_STATUS_FRAMES, &[narrow]);
        assert_eq!(o, Outcome::Done);
        let status = call(&m, 1, op::GET_STATUS_FRAMES, &[wide])[0].status;
        assert_eq!(done[0].status, status);
        status
    };
    assert_eq!(ask(SELF, 0), OKAY);
    assert_eq!(ask(SELF, 1), Status::GeneralError.abi());
    assert_eq!(ask(2, 0), Status::PermissionDenied.abi());
    assert_eq!(ask(9, 0), Status::BadDomain.abi());
}

#[test]
fn swap_exchanges_idle_entries() {
    let m = machine();
    let (a, b) = (entry(gtf::PERMIT_ACCESS, 2, 3), entry(gtf::PERMIT_ACCESS | gtf::READONLY, 3, 4));
    m.domain(1).write_entry(Gref(9), a);
    m.domain(1).write_entry(Gref(200), b);
    let swap = |ref_a, ref_b| {
        call(&m, 1, op::SWAP_GRANT_REF, &[SwapGrantRef { ref_a, ref_b, status: 77, pad: 0 }])[0].status
    };
    let now = || (m.domain(1).read_entry(Gref(9)), m.domain(1).read_entry(Gref(200)));
    assert_eq!(swap(200, 9), OKAY);
    assert_eq!(now(), (b, a));
    for (x, y) in [(9, 512), (512, 9), (u32::MAX, 9), (9, u32::MAX), (u32::MAX, u32::MAX)] {
        assert_eq!(swap(x, y), Status::BadGntref.abi());
    }
    assert_eq!(swap(9, 9), OKAY);
    assert_eq!(now(), (b, a));
    map_ok(&m, 2, 1, 200, HOST_MAP | READONLY, 20);
    assert_eq!(
        (swap(9, 200), swap(200, 9), swap(200, 200)),
        (Status::Eagain.abi(), Status::Eagain.abi(), OKAY)
    );
    assert_eq!((swap(9, 10), swap(9, 10)), (OKAY, OKAY));
}

#[test]
fn single_operations_want_one_element() {
    let m = machine();
    let mut memory = Flat::new(ARGS, vec![0; 256]);
    for cmd in [op::SETUP_TABLE, op::QUERY_SIZE, op::GET_STATUS_FRAMES] {
        for count in [0, 2, 3] {
            for width in [Width::Bits32, Width::Bits64] {
                let outcome = m.call(1, &mut memory, width, cmd, ARGS, count);
                assert_eq!(outcome, Outcome::Failed(Errno::Invalid), "{cmd} {count}");
            }
        }
    }
    assert!(memory.bytes().iter().all(|&b| b == 0));
}

#[test]
fn commands_and_counts() {
    let m = machine();
    let mut memory = Flat::new(ARGS, vec![0; 256]);
    let mut run = |cmd, count| m.call(1, &mut memory, Width::Bits64, cmd, ARGS, count);
    for cmd in 0..=13 {
        assert_eq!(run(cmd, 0x8000_0000), Outcome::Failed(Errno::Invalid), "{cmd}");
        let stray = run(cmd | 1 << 12, 0);
        if cmd == op::CACHE_FLUSH {
            assert_eq!(stray, Outcome::Failed(Errno::NoSystem));
        } else {
            assert_eq!(stray, Outcome::Failed(Errno::Invalid), "{cmd}");
        }
    }
    for cmd in [op::MAP_GRANT_REF, op::UNMAP_GRANT_REF, op::COPY, op::UNMAP_AND_REPLACE, op::SWAP_GRANT_REF] {
        assert_eq!(run(cmd, 0), Outcome::Done);
    }
    assert_eq!(run(op::TRANSFER, 0), Outcome::Failed(Errno::NotSupported));
    for cmd in [op::DUMP_TABLE, op::CACHE_FLUSH, 13, 0xfff] {
        assert_eq!(run(cmd, 1), Outcome::Failed(Errno::NoSystem));
    }
    // What the refused operations would read has a layout all the same.
    assert_eq!((size_of::<DumpTable>(), size_of::<Transfer>(), size_of::<CacheFlush>()), (4, 24, 16));
}

#[test]
fn frames_for_the_physical_map() {
    let m = machine();
    let table = m.domain(1).grants();
    let first = table.shared_frame(0).unwrap();
    let last = table.shared_frame(3).unwrap();
    assert_eq!(table.frames(), 4);
    assert_ne!(first, last);
    assert!(m.ram().owns(m.domain(1).id(), last));
    assert_eq!(table.shared_frame(4), Err(NotGrown::Limit));
    assert_eq!(table.shared_frame(u32::MAX), Err(NotGrown::Limit));
    assert_eq!(table.place(TableFrame::Shared(2), Gfn(30)), None);
    assert_eq!(table.place(TableFrame::Shared(2), Gfn(31)), Some(Gfn(30)));
    assert!(!table.displace(Gfn(30)));
    assert!(table.displace(Gfn(31)));
    assert_eq!(table.place(TableFrame::Shared(2), Gfn(30)), None);
    assert!(!table.displace(Gfn(u64::MAX)));
}

#[test]
fn growth_stops_where_memory_does() {
    // Room for the first frames of the two domains' tables and one more.
    let mut b =
        MachineBuilder { limits: Limits { frames: 1, maptrack_frames: 1 }, ..MachineBuilder::default() };
    b.policy = Policy::new(Version::V1, false);
    let m = b.build(1);
    assert_eq!(m.domain(1).grants().grow_to(1), Ok(()));
    assert_eq!(m.domain(1).grants().grow_to(2), Err(NotGrown::Limit));
    assert_eq!(m.domain(1).grants().policy().max_version(), Version::V1);

    let m = MachineBuilder { limits: Limits { frames: 3, maptrack_frames: 1 }, ..MachineBuilder::default() }
        .build(1);
    while m.ram().alloc(m.domain(1).id()).is_some() {}
    assert_eq!(run_setup(&m, 1, SELF, 2, false).0, Status::GeneralError.abi());
    assert_eq!(m.domain(1).grants().frames(), 1);
}
