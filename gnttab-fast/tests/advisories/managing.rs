//! The operations around the table.

use crate::common::*;
use crate::watched::ends;
use crate::{GENERAL, OKAY};
use gnttab_fast::abi::{
    CacheFlush, GetStatusFrames, SetVersion, SetupTable, SwapGrantRef, Transfer, cache_flags, compat, gtf, op,
};
use gnttab_fast::testing::{Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{Domain, Errno, Gfn, Gref, Limits, NotGrown, Outcome, Status, Width};

const WIDTHS: [Width; 2] = [Width::Bits64, Width::Bits32];

fn machine() -> Machine {
    let limits = Limits { frames: 9, maptrack_frames: 1 };
    MachineBuilder { limits, ..MachineBuilder::default() }.build(2)
}

fn swap(m: &Machine, ref_a: u32, ref_b: u32) -> i16 {
    call(m, 1, op::SWAP_GRANT_REF, &[SwapGrantRef { ref_a, ref_b, status: 77, pad: 0 }])[0].status
}

#[test]
fn xsa_018_a_swap_outside_the_table_changes_nothing() {
    ends(|| {
        let m = machine();
        let entries = m.domain(1).grants().entries();
        for gref in [0, 8, entries - 1] {
            grant(&m, 1, gref, 0, 2, gref % 8);
        }
        let all = |m: &Machine| (0..entries).map(|n| m.domain(1).read_entry(Gref(n))).collect::<Vec<_>>();
        let before = all(&m);
        for outside in [entries, entries + 1, 0x8000_0000, u32::MAX] {
            for inside in [0, 8, entries - 1, outside] {
                assert_eq!(swap(&m, inside, outside), Status::BadGntref.abi());
                assert_eq!(swap(&m, outside, inside), Status::BadGntref.abi());
            }
        }
        assert_eq!(all(&m), before);
    });
}

#[test]
fn xsa_024_a_32_bit_get_status_frames_takes_one_element() {
    for version in [1, 2] {
        let m = machine();
        call(&m, 1, op::SET_VERSION, &[SetVersion { version }]);
        for count in [0, 2, 3, 0x7fff_ffff] {
            let request = compat::GetStatusFrames {
                nr_frames: 1,
                dom: SELF,
                status: 77,
                frame_list: u32::try_from(ARGS).unwrap(),
            };
            let before = bytes_of(&[request; 3]);
            let mut memory = Flat::new(ARGS, before.clone());
            let outcome = m.call(1, &mut memory, Width::Bits32, op::GET_STATUS_FRAMES, ARGS, count);
            assert_eq!(outcome, Outcome::Failed(Errno::Invalid), "{count}");
            assert_eq!(memory.bytes(), before);
        }
    }
}

#[test]
fn xsa_101_a_list_of_frames_never_placed_is_all_ones() {
    let m = machine();
    for width in WIDTHS {
        let (size, args, frame) = match width {
            Width::Bits64 => {
                let request = SetupTable {
                    dom: SELF,
                    nr_frames: 3,
                    status: 77,
                    frame_list: ARGS + 24,
                    ..SetupTable::default()
                };
                (24, bytes_of(&[request]), 8)
            }
            Width::Bits32 => {
                let frame_list = u32::try_from(ARGS + 16).unwrap();
                let request = compat::SetupTable {
                    dom: SELF,
                    nr_frames: 3,
                    status: 77,
                    frame_list,
                    ..compat::SetupTable::default()
                };
                (16, bytes_of(&[request]), 4)
            }
        };
        let mut bytes = args;
        bytes.resize(size + 4 * frame, 0x11);
        let mut memory = Flat::new(ARGS, bytes);
        assert_eq!(m.call(1, &mut memory, width, op::SETUP_TABLE, ARGS, 1), Outcome::Done);
        assert_eq!(memory.bytes()[8..10], [0, 0]);
        assert!(memory.bytes()[size..size + 3 * frame].iter().all(|&b| b == 0xff));
        assert!(memory.bytes()[size + 3 * frame..].iter().all(|&b| b == 0x11), "what was not asked for");
    }
}

#[test]
fn xsa_134_every_operation_on_a_table_nobody_has_used() {
    for width in WIDTHS {
        for cmd in 0..16 {
            for fill in [0, 1, 0xff] {
                let m = machine();
                let mut memory = Flat::new(ARGS, vec![fill; 64]);
                m.call(1, &mut memory, width, cmd, ARGS, 1);
                // Whatever it was: the table is as it was, or in version 2.
                assert_ne!(m.domain(1).grants().entries(), 0);
            }
        }
    }
    // The one that was the fault, and the first and last entry there are.
    let m = machine();
    assert_eq!((swap(&m, 0, 511), swap(&m, 8, 9)), (OKAY, OKAY));
}

#[test]
fn xsa_217_a_transfer_is_refused_and_the_frame_stays() {
    let m = machine();
    let mfn = m.domain(1).mfn(Gfn(3));
    m.domain(2).write_entry(Gref(9), entry(gtf::ACCEPT_TRANSFER, 1, 20));
    let request = Transfer { mfn: 3, domid: 2, gref: 9, status: 77, ..Transfer::default() };
    for width in WIDTHS {
        let mut memory = Flat::new(ARGS, bytes_of(&[request]));
        let outcome = m.call(1, &mut memory, width, op::TRANSFER, ARGS, 1);
        assert_eq!(outcome, Outcome::Failed(Errno::NotSupported));
        assert_eq!(memory.bytes(), bytes_of(&[request]));
    }
    assert_eq!((m.domain(1).at(Gfn(3)), m.ram().refs(mfn)), ((Kind::Ram, mfn), 1));
    assert_eq!(m.domain(2).read_entry(Gref(9)), entry(gtf::ACCEPT_TRANSFER, 1, 20));
    // And an entry that accepts one is nothing to map or to copy.
    assert_eq!(map(&m, 1, map_request(2, 9, 2, 20)).status, GENERAL);
    assert_eq!(copy(&m, 1, &[element(by_gref(2, 9, 0), by_gfn(0, 0), 8)]), [GENERAL]);
}

#[test]
fn xsa_232_cache_flush_is_not_there() {
    let m = machine();
    for (a, op_bits) in [(0, cache_flags::CLEAN), (9, cache_flags::SOURCE_GREF), (u64::MAX, u32::MAX)] {
        let request = CacheFlush { a, offset: 0, length: 64, op: op_bits };
        for cmd in [op::CACHE_FLUSH, op::CACHE_FLUSH | 1 << 12, op::CACHE_FLUSH | 0xffff_f000] {
            let mut memory = Flat::new(ARGS, bytes_of(&[request]));
            let outcome = m.call(1, &mut memory, Width::Bits64, cmd, ARGS, 1);
            assert_eq!(outcome, Outcome::Failed(Errno::NoSystem));
        }
    }
}

#[test]
fn xsa_235_what_is_refused_leaves_nothing_locked() {
    ends(|| {
        let m = machine();
        let table = m.domain(1).grants();
        assert_eq!(table.shared_frame(9), Err(NotGrown::Limit));
        assert_eq!(table.status_frame(0), Err(NotGrown::Version));
        assert_eq!(call(&m, 1, op::SET_VERSION, &[SetVersion { version: 2 }])[0].version, 2);
        assert_eq!(table.status_frame(2), Err(NotGrown::Limit));
        assert_eq!(call(&m, 1, op::SET_VERSION, &[SetVersion { version: 1 }])[0].version, 1);
        assert!(table.shared_frame(1).is_ok());
        // A swap that finds one of the two in use lets the other go.
        grant(&m, 1, 9, 0, 2, 3);
        map_ok(&m, 2, 1, 9, 2, 20);
        for (a, b) in [(8, 9), (9, 8), (9, 10), (10, 9)] {
            assert_eq!(swap(&m, a, b), Status::Eagain.abi());
        }
        // Each entry touched can still be pinned, and the table switched or grown.
        for gref in [8, 9, 10] {
            grant(&m, 1, gref, 0, 2, 3);
            assert_eq!(copy(&m, 2, &[element(by_gref(1, gref, 0), by_gfn(0, 0), 8)]), [OKAY]);
        }
        assert!(table.shared_frame(2).is_ok());
    });
}

#[test]
fn xsa_385_numbers_near_2_to_the_32() {
    let m = machine();
    let table = m.domain(1).grants();
    for frames in [10, 0x7fff_ffff, 0x8000_0000, 0x8000_0009, u32::MAX - 1, u32::MAX] {
        assert_eq!(table.grow_to(frames), Err(NotGrown::Limit));
        assert_eq!(table.shared_frame(frames), Err(NotGrown::Limit));
        assert_eq!(table.shared_frame(frames - 1), Err(NotGrown::Limit));
        let request = SetupTable {
            dom: SELF,
            nr_frames: frames,
            status: 77,
            frame_list: ARGS,
            ..SetupTable::default()
        };
        assert_eq!(call(&m, 1, op::SETUP_TABLE, &[request])[0].status, GENERAL);
    }
    call(&m, 1, op::SET_VERSION, &[SetVersion { version: 2 }]);
    for index in [2, 0x1fff_ffff, 0x2000_0000, u32::MAX] {
        assert_eq!(table.status_frame(index), Err(NotGrown::Limit));
        let request = GetStatusFrames { nr_frames: index, dom: SELF, status: 77, frame_list: ARGS };
        assert_eq!(call(&m, 1, op::GET_STATUS_FRAMES, &[request])[0].status, GENERAL);
    }
    assert_eq!((table.frames(), table.status_frames()), (1, 1));
}
