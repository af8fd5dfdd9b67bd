//! Version switches and status frames.

use crate::common::*;
use crate::watched::{At, WatchedHost, assert_quiet, ends, full_page, put, set_version};
use crate::{GENERAL, OKAY};
use gnttab_fast::abi::{GetStatusFrames, SetVersion, compat, gtf, map_flags::*, op};
use gnttab_fast::testing::{FIRST_MFN, Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{Domain, Errno, Gfn, Gref, Limits, Mfn, Outcome, TableFrame, Version, Width};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const LIMITS: Limits = Limits { frames: 9, maptrack_frames: 1 };
const BUSY: Outcome = Outcome::Failed(Errno::Busy);

fn builder(spare: usize) -> MachineBuilder {
    MachineBuilder { limits: LIMITS, spare, ..MachineBuilder::default() }
}

/// Machine frames that somebody has.
fn frames_in_use(m: &Machine) -> usize {
    (0..10_000).filter(|n| m.ram().refs(Mfn(FIRST_MFN + n)) != 0).count()
}

#[test]
fn xsa_026_switches_to_and_fro_lose_no_frame() {
    let m = builder(600).build(1);
    m.domain(1).grants().grow_to(9).unwrap();
    let before = frames_in_use(&m);
    let mut switches = 0;
    loop {
        match set_version(&m, 1, 2) {
            Outcome::Done => assert_eq!(frames_in_use(&m), before + 2),
            Outcome::Failed(Errno::NoMemory) => break,
            other => panic!("{other:?}"),
        }
        assert_eq!(set_version(&m, 1, 1), Outcome::Done);
        assert_eq!(frames_in_use(&m), before);
        switches += 1;
    }
    assert!(switches > 300);
    // Where memory ran out half way, what had been taken went back, and the table works.
    for _ in 0..3 {
        assert_eq!(set_version(&m, 1, 2), Outcome::Failed(Errno::NoMemory));
        assert_eq!((frames_in_use(&m), m.domain(1).grants().version()), (before, Version::V1));
    }
    grant(&m, 1, 9, 0, 1, 3);
    assert_eq!(copy(&m, 1, &[element(by_gref(1, 9, 0), by_gfn(0, 0), 8)]), [OKAY]);
}

/// Puts a frame of the table into the physical map, as `XENMEM_add_to_physmap` does.
fn place(m: &Machine, frame: TableFrame, gfn: u64) -> Mfn {
    let table = m.domain(1).grants();
    let mfn = match frame {
        TableFrame::Shared(index) => table.shared_frame(index),
        TableFrame::Status(index) => table.status_frame(index),
    }
    .unwrap();
    if let Some(old) = table.place(frame, Gfn(gfn)) {
        m.domain(1).set(old, Kind::None, Mfn(0));
    }
    m.domain(1).set(Gfn(gfn), Kind::Special, mfn);
    mfn
}

/// No frame that is free is anywhere in the physical map.
fn assert_mapped_frames_live(m: &Machine) {
    for gfn in 0..32 {
        let (kind, mfn) = m.domain(1).at(Gfn(gfn));
        assert!(kind == Kind::None || m.ram().refs(mfn) != 0, "a free frame is mapped at {gfn}");
    }
}

#[test]
fn xsa_255_a_mapped_status_frame_leaves_the_guest_before_it_is_freed() {
    let m = builder(8).build(1);
    let flushes = m.domain(1).flushes();
    assert_eq!(set_version(&m, 1, 2), Outcome::Done);
    let mfn = place(&m, TableFrame::Status(0), 20);
    let removed = Cell::new(0);
    let hook = |at| {
        if let At::RemoveTableFrame(1, gfn) = at {
            assert_eq!((gfn, m.ram().refs(mfn)), (Gfn(20), 1), "freed before it was taken out");
            removed.set(removed.get() + 1);
        }
        true
    };
    let host = WatchedHost::new(&m, 1, &hook);
    let (outcome, done) = host.call(Width::Bits64, op::SET_VERSION, &[SetVersion { version: 1 }]);
    assert_eq!((outcome, done[0].version, removed.get()), (Outcome::Done, 1, 1));
    assert_eq!((m.domain(1).at(Gfn(20)).0, m.ram().refs(mfn)), (Kind::None, 0));
    assert!(m.domain(1).flushes() > flushes, "a CPU may still have it in its TLB");
    assert_mapped_frames_live(&m);
}

#[test]
fn xsa_379_each_status_frame_leaves_wherever_it_was_moved() {
    let m = builder(8).build(1);
    m.domain(1).grants().grow_to(9).unwrap();
    for round in 0..3 {
        assert_eq!(set_version(&m, 1, 2), Outcome::Done);
        // Each is in one place at a time.
        for gfn in [20, 21, 22] {
            place(&m, TableFrame::Status(0), gfn);
            place(&m, TableFrame::Status(1), gfn + 4);
            assert_mapped_frames_live(&m);
        }
        place(&m, TableFrame::Shared(0), 28);
        if round == 1 {
            // The guest takes one out itself and puts memory of its own there.
            assert!(m.domain(1).grants().displace(Gfn(22)));
            m.domain(1).set(Gfn(22), Kind::Ram, m.domain(1).mfn(Gfn(3)));
        }
        assert_eq!(set_version(&m, 1, 1), Outcome::Done);
        assert_mapped_frames_live(&m);
        let kinds: Vec<_> = (20..29).map(|gfn| m.domain(1).at(Gfn(gfn)).0).collect();
        let own = if round == 1 { Kind::Ram } else { Kind::None };
        use Kind::{None, Special};
        assert_eq!(kinds, [None, None, own, None, None, None, None, None, Special]);
        m.domain(1).set(Gfn(22), None, Mfn(0));
        assert_eq!(m.domain(1).grants().status_frame(0), Err(gnttab_fast::NotGrown::Version));
    }
}

#[test]
fn xsa_382_no_more_status_frames_than_there_are() {
    let m = builder(8).build(1);
    assert_eq!(set_version(&m, 1, 2), Outcome::Done);
    for (frames, statuses) in [(1, 1), (8, 1), (9, 2)] {
        m.domain(1).grants().grow_to(frames).unwrap();
        for asked in 0..=8 * statuses + 1 {
            let untouched = [0x11; 256];
            let list = |bytes: Vec<u8>, width, status_at: usize, list_at: usize| {
                let mut bytes = bytes;
                bytes.extend(untouched);
                let mut memory = Flat::new(ARGS, bytes);
                assert_eq!(m.call(1, &mut memory, width, op::GET_STATUS_FRAMES, ARGS, 1), Outcome::Done);
                let written = memory.bytes()[list_at..].iter().take_while(|&&b| b != 0x11).count();
                let status = i16::from_le_bytes([memory.bytes()[status_at], memory.bytes()[status_at + 1]]);
                (status, written)
            };
            let wide = GetStatusFrames { nr_frames: asked, dom: SELF, status: 77, frame_list: ARGS + 16 };
            let small = compat::GetStatusFrames {
                nr_frames: asked,
                dom: SELF,
                status: 77,
                frame_list: u32::try_from(ARGS + 12).unwrap(),
            };
            let want = if asked <= statuses { (OKAY, 8 * asked as usize) } else { (GENERAL, 0) };
            assert_eq!(list(bytes_of(&[wide]), Width::Bits64, 6, 16), want, "{asked}");
            assert_eq!(list(bytes_of(&[small]), Width::Bits32, 6, 12), want, "{asked}");
        }
    }
}

/// The version is asked for while bytes are copied and while mappings stand, both ways. There is so much to copy
/// that the block pins: of one that keeps its entries busy, a switch waits for the end.
#[test]
fn xsa_501_no_switch_while_an_operation_is_in_flight() {
    for (now, wanted) in [(1, 2), (2, 1)] {
        let m = builder(16).build(2);
        assert_eq!(set_version(&m, 1, now), Outcome::Done);
        let name = |gref| match now {
            1 => grant(&m, 1, gref, 0, 2, 3),
            _ => put(&m, 1, gref, &full_page(0, 2, 3)),
        };
        name(9);
        let copies = Cell::new(0);
        let hook = |at| {
            if at == At::Copy {
                copies.set(copies.get() + 1);
                assert_eq!(set_version(&m, 1, wanted), BUSY);
                // The one in force is no switch.
                assert_eq!(set_version(&m, 1, now), Outcome::Done);
            }
            true
        };
        let read = element(by_gref(1, 9, 0), by_gfn(0, 0), 4096);
        let written = element(by_gfn(0, 0), by_gref(1, 9, 0), 4096);
        let batch = [read, read, read, written, written, written];
        let (_, done) = WatchedHost::new(&m, 2, &hook).call(Width::Bits64, op::COPY, &batch);
        assert!(done.iter().all(|e| e.status == OKAY));
        // Where the page of arguments ends, a block does.
        assert_eq!(copies.get(), 3);
        let handle = map_ok(&m, 2, 1, 9, HOST_MAP, 20);
        assert_eq!(set_version(&m, 1, wanted), BUSY);
        assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
        assert_eq!(set_version(&m, 1, wanted), Outcome::Done);
        assert_quiet(&m);
        // What was granted is granted no more, under either reading of the bytes.
        for gref in [4, 9, 18] {
            assert_eq!(copy(&m, 2, &[element(by_gref(1, gref, 0), by_gfn(0, 0), 8)]), [GENERAL]);
        }
    }
}

/// A reserved entry may be in use across a switch: its bits go where the new version has them.
#[test]
fn xsa_501_a_reserved_entry_in_use_is_unmarked_in_the_version_of_now() {
    let m = builder(16).build(2);
    grant(&m, 1, 1, 0, 2, 3);
    let handle = map_ok(&m, 2, 1, 1, HOST_MAP, 20);
    assert_eq!(set_version(&m, 1, 2), Outcome::Done);
    assert_eq!(m.domain(1).status(Gref(1)), gtf::READING | gtf::WRITING);
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
    assert_eq!((m.domain(1).status(Gref(1)), m.domain(1).read_entry_v2(Gref(1))), (0, full_page(0, 2, 3)));
    let switched = Cell::new(false);
    let hook = |at| {
        if at == At::Copy && !switched.replace(true) {
            assert_eq!(set_version(&m, 1, 1), Outcome::Done);
            assert_eq!(in_use(&m, 1, 1), gtf::READING);
        }
        true
    };
    let batch = [element(by_gref(1, 1, 0), by_gfn(0, 0), 8)];
    let (_, done) = WatchedHost::new(&m, 2, &hook).call(Width::Bits64, op::COPY, &batch);
    assert_eq!((done[0].status, in_use(&m, 1, 1)), (OKAY, 0));
    assert_eq!(m.domain(1).read_entry(Gref(1)), entry(gtf::PERMIT_ACCESS, 2, 3));
    assert_quiet(&m);
}

/// Two domains copy and map all over a table whose owner switches to and fro.
#[test]
fn xsa_501_references_of_the_other_version_are_never_followed() {
    ends(|| {
        let m = Arc::new(builder(40_000).build(3));
        m.domain(1).grants().grow_to(2).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = [2u16, 3]
            .into_iter()
            .map(|who| {
                let (m, stop) = (Arc::clone(&m), Arc::clone(&stop));
                thread::spawn(move || {
                    let mut gref = 8u32;
                    while !stop.load(Ordering::Relaxed) {
                        gref = (gref * 5 + 1) % 1024;
                        let batch = [
                            element(by_gref(1, gref, 0), by_gfn(0, 0), 8),
                            element(by_gfn(0, 0), by_gref(1, gref, 0), 8),
                            element(by_gref(1, 1, 0), by_gfn(0, 0), 8),
                        ];
                        copy(&m, who, &batch);
                        let done = map(&m, who, map_request(1, gref, HOST_MAP, 20));
                        if done.status == OKAY {
                            assert_eq!(m.domain(who).at(Gfn(20)).1, m.domain(1).mfn(Gfn(3)));
                            assert_eq!(unmap(&m, who, &[unmap_request(done.handle, 20)]), [OKAY]);
                        }
                    }
                })
            })
            .collect();
        let mut switched = 0;
        for round in 0..600u32 {
            for gref in [1, 9, 300, 511] {
                grant(&m, 1, gref, 0, 2 + u16::from(round % 2 == 0), 3);
            }
            let done = set_version(&m, 1, 2);
            assert!(done == Outcome::Done || done == BUSY);
            if done == Outcome::Done {
                switched += 1;
                for gref in [1, 9, 300, 511] {
                    put(&m, 1, gref, &full_page(0, 2, 3));
                }
                while set_version(&m, 1, 1) != Outcome::Done {}
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_ne!(switched, 0);
        assert_quiet(&m);
        assert!((0..1024).all(|gref| in_use(&m, 1, gref) == 0));
        assert_eq!(m.ram().refs(m.domain(1).mfn(Gfn(3))), 1);
    });
}
