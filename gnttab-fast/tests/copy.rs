//! Copy, line by line of what the interface promises.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use gnttab_fast::abi::{Copy, compat, gtf, map_flags::*, op};
use gnttab_fast::testing::{Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{Domain, Errno, Gfn, Gref, Outcome, Scan, Status, Width};

const OKAY: i16 = Status::Okay as i16;
const GENERAL: i16 = Status::GeneralError as i16;
const BAD_PAGE: i16 = Status::BadPage as i16;

/// Frame g of domain d begins with bytes that say so.
fn machine() -> Machine {
    let m = MachineBuilder { gfns: 600, spare: 4, ..MachineBuilder::default() }.build(3);
    for (d, domain) in (1u8..).zip(m.domains()) {
        for g in 0..8u8 {
            let bytes = machine_frame(d, g);
            m.ram().write(domain.mfn(Gfn(g.into())), 0, &bytes);
        }
    }
    m
}

fn bytes(m: &Machine, d: u16, g: u64) -> [u8; 4096] {
    m.ram().read(m.domain(d).mfn(Gfn(g)))
}

/// No copy leaves anything behind.
fn assert_quiet(m: &Machine) {
    for d in m.domains() {
        assert_eq!(d.grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
    }
}

#[test]
fn from_a_grant_to_an_own_frame_and_back() {
    let m = machine();
    grant(&m, 1, 9, gtf::READONLY, 2, 3);
    grant(&m, 1, 10, 0, 2, 4);
    let (theirs, mut want) = (bytes(&m, 1, 3), bytes(&m, 2, 5));
    let elements =
        [element(by_gref(1, 9, 100), by_gfn(5, 1000), 300), element(by_gfn(5, 1000), by_gref(1, 10, 0), 300)];
    assert_eq!(copy(&m, 2, &elements), [OKAY; 2]);
    want[1000..1300].copy_from_slice(&theirs[100..400]);
    assert_eq!(bytes(&m, 2, 5), want);
    let mut back = machine_frame(1, 4);
    back[..300].copy_from_slice(&theirs[100..400]);
    assert_eq!(bytes(&m, 1, 4), back);
    assert_eq!((in_use(&m, 1, 9), in_use(&m, 1, 10)), (0, 0));
    assert_eq!(m.ram().refs(m.domain(1).mfn(Gfn(3))), 1);
    assert_quiet(&m);
}

/// One translation serves the frames of a large page, on both sides: as far as the page goes, for as long as all of
/// it is there, and with its access.
#[test]
fn frames_of_large_pages() {
    let m = MachineBuilder { memory: 1100, gfns: 1100, ..MachineBuilder::default() }.build(2);
    let mark = |d: u16, g: u64| u8::try_from((g * 7 + u64::from(d)) % 251).unwrap();
    for d in [1, 2] {
        for g in 0..1100 {
            m.ram().write(m.domain(d).mfn(Gfn(g)), 0, &[mark(d, g); 64]);
        }
    }
    // Of the granter's second large page a frame is gone, so it has none there.
    m.domain(1).balloon_out(Gfn(700));
    let frames = [0, 511, 1, 512, 510, 1023, 699, 701, 1024, 0, 1099, 511];
    for (gref, frame) in (9..).zip(frames) {
        grant(&m, 1, gref, 0, 2, frame);
    }
    for (gref, frame) in (40..).zip([511, 700, 1100, u32::MAX]) {
        grant(&m, 1, gref, 0, 2, frame);
    }

    // From the granter's frames to frames of the caller's, whose pages change in other places.
    let own = |n: usize| [1024, 511, 512, 0, 1, 1023, 2, 513, 1025, 3, 1026, 514][n];
    let batch: Vec<_> =
        (0..12).map(|n| element(by_gref(1, 9 + n, 0), by_gfn(own(n as usize), 64), 64)).collect();
    assert_eq!(copy(&m, 2, &batch), [OKAY; 12]);
    for (n, frame) in frames.into_iter().enumerate() {
        let now = bytes(&m, 2, own(n));
        assert_eq!(now[..64], [mark(2, own(n)); 64]);
        assert_eq!(now[64..128], [mark(1, frame.into()); 64], "{n}");
        assert_eq!(now[128..], [0; 3968]);
    }
    // Back, to the granter's.
    let batch: Vec<_> =
        (0..12).map(|n| element(by_gfn(own(n as usize), 0), by_gref(1, 9 + n, 128), 64)).collect();
    assert_eq!(copy(&m, 2, &batch), [OKAY; 12]);
    for (n, frame) in frames.into_iter().enumerate() {
        let last = frames.iter().rposition(|&other| other == frame).unwrap();
        assert_eq!(bytes(&m, 1, frame.into())[128..192], [mark(2, own(last)); 64], "{n}");
    }

    // After a frame of the page was found, what is not there is not.
    let batch: Vec<_> = (40..44).map(|gref| element(by_gref(1, gref, 0), by_gfn(5, 0), 8)).collect();
    assert_eq!(copy(&m, 2, &batch), [OKAY, BAD_PAGE, BAD_PAGE, BAD_PAGE]);
    let batch = [0, 1100, u64::MAX, 1 << 52].map(|gfn| element(by_gref(1, 9, 0), by_gfn(gfn, 0), 8));
    assert_eq!(copy(&m, 2, &batch), [OKAY, BAD_PAGE, BAD_PAGE, BAD_PAGE]);
    // A page that may only be read is found for reading, and not for writing.
    for g in 512..1024 {
        let (kind, mfn) = m.domain(2).at(Gfn(g));
        assert_eq!(kind, Kind::Ram);
        m.domain(2).set(Gfn(g), Kind::RamRo, mfn);
    }
    let batch = [512, 1023, 511].map(|gfn| element(by_gfn(gfn, 0), by_gref(1, 9, 0), 8));
    assert_eq!(copy(&m, 2, &batch), [OKAY; 3]);
    let batch = [511, 512, 1023].map(|gfn| element(by_gref(1, 9, 0), by_gfn(gfn, 0), 8));
    assert_eq!(copy(&m, 2, &batch), [OKAY, BAD_PAGE, BAD_PAGE]);
    assert_quiet(&m);
}

/// An entry in use elsewhere in the block, or by a mapping, ends what a block keeps busy and nothing else.
#[test]
fn entries_that_come_again_and_entries_in_use() {
    let m = machine();
    for gref in 9..13 {
        grant(&m, 1, gref, 0, 2, gref - 8);
    }
    let handle = map_ok(&m, 2, 1, 11, HOST_MAP | READONLY, 550);
    let order = [9, 10, 9, 9, 11, 11, 12, 9, 10, 12];
    let own = |n: u16| by_gfn(7, n * 64);
    let batch: Vec<_> = (0..).zip(order).map(|(n, gref)| element(by_gref(1, gref, 0), own(n), 64)).collect();
    assert_eq!(copy(&m, 2, &batch), [OKAY; 10]);
    let now = bytes(&m, 2, 7);
    for (n, gref) in order.into_iter().enumerate() {
        assert_eq!(now[n * 64..][..64], bytes(&m, 1, u64::from(gref) - 8)[..64], "{n}");
    }
    assert_eq!([9, 10, 11, 12].map(|gref| in_use(&m, 1, gref)), [0, 0, gtf::READING, 0]);
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 550)]), [OKAY]);
    // The same entry read and written.
    let batch =
        [element(by_gref(1, 9, 0), by_gref(1, 10, 0), 8), element(by_gref(1, 10, 0), by_gref(1, 9, 8), 8)];
    assert_eq!(copy(&m, 2, &batch), [OKAY; 2]);
    assert_eq!([9, 10].map(|gref| in_use(&m, 1, gref)), [0, 0]);
    assert_quiet(&m);
}

/// What [`machine`] puts into a frame.
fn machine_frame(d: u8, g: u8) -> [u8; 4096] {
    core::array::from_fn(|i| (d * 64 + g * 8).wrapping_add(u8::try_from(i % 251).unwrap()))
}

#[test]
fn between_third_parties_and_within_one_frame() {
    let m = machine();
    grant(&m, 1, 9, gtf::READONLY, 2, 3);
    grant(&m, 3, 9, 0, 2, 6);
    // One's own grants may be used by oneself, under either name.
    grant(&m, 2, 1, 0, 2, 7);
    let elements = [
        element(by_gref(1, 9, 0), by_gref(3, 9, 0), 4096),
        element(by_gref(SELF, 1, 0), by_gref(2, 1, 2048), 2048),
        // Overlapping: as if through a buffer.
        element(by_gfn(0, 0), by_gfn(0, 1), 4095),
    ];
    assert_eq!(copy(&m, 2, &elements), [OKAY; 3]);
    assert_eq!(bytes(&m, 3, 6), machine_frame(1, 3));
    assert_eq!(bytes(&m, 2, 7)[2048..], machine_frame(2, 7)[..2048]);
    assert_eq!(bytes(&m, 2, 0)[1..], machine_frame(2, 0)[..4095]);
    assert_quiet(&m);
}

#[test]
fn of_nothing_looks_at_nothing() {
    let m = machine();
    let elements = [
        element(by_gref(99, 5000, 5000), by_gref(77, u32::MAX, 0xffff), 0),
        element(by_gfn(u64::MAX, 5000), by_gfn(u64::MAX, 0xffff), 0),
    ];
    assert_eq!(copy(&m, 2, &elements), [OKAY; 2]);
}

#[test]
fn over_the_end_of_a_frame() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    for (from, to, len, want) in [
        (0, 0, 4096, OKAY),
        (4095, 4095, 1, OKAY),
        (1, 0, 4096, Status::BadCopyArg.abi()),
        (0, 1, 4096, Status::BadCopyArg.abi()),
        (4096, 0, 1, Status::BadCopyArg.abi()),
        (0, 4095, 2, Status::BadCopyArg.abi()),
        (0xffff, 0xffff, 0xffff, Status::BadCopyArg.abi()),
        (0, 0, 4097, Status::BadCopyArg.abi()),
    ] {
        for e in [
            element(by_gref(1, 9, from), by_gfn(5, to), len),
            element(by_gfn(5, from), by_gref(1, 9, to), len),
            element(by_gfn(5, from), by_gfn(6, to), len),
        ] {
            assert_eq!(copy(&m, 2, &[e]), [want], "{from} {to} {len}");
        }
    }
    assert_quiet(&m);
}

#[test]
fn frames_go_by_the_name_of_self_only() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    for dom in [1, 2, 99] {
        let mut own = by_gfn(5, 0);
        own.0.domid = dom;
        let denied = Status::PermissionDenied.abi();
        assert_eq!(copy(&m, 2, &[element(own, by_gref(1, 9, 0), 8)]), [denied]);
        assert_eq!(copy(&m, 2, &[element(by_gref(1, 9, 0), own, 8)]), [denied]);
        // The source's domain is looked at first, then the destination's, then references.
        assert_eq!(copy(&m, 2, &[element(own, by_gref(99, 9, 0), 8)]), [denied]);
        let bad = Status::BadDomain.abi();
        assert_eq!(copy(&m, 2, &[element(by_gref(99, 9, 0), own, 8)]), [bad]);
        assert_eq!(copy(&m, 2, &[element(by_gref(1, 5000, 0), by_gref(99, 9, 0), 8)]), [bad]);
    }
}

#[test]
fn sides_that_cannot_be_had() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    grant(&m, 1, 10, gtf::READONLY, 2, 3);
    grant(&m, 1, 11, 0, 3, 3);
    grant(&m, 1, 12, 0, 2, 30);
    m.domain(2).set(Gfn(20), Kind::Special, m.domain(2).mfn(Gfn(4)));
    let own = by_gfn(5, 0);
    for (e, want) in [
        (element(by_gref(1, 512, 0), own, 8), Status::BadGntref),
        (element(own, by_gref(1, u32::MAX, 0), 8), Status::BadGntref),
        (element(own, by_gref(1, 10, 0), 8), Status::GeneralError),
        (element(by_gref(1, 11, 0), own, 8), Status::GeneralError),
        (element(by_gref(1, 100, 0), own, 8), Status::GeneralError),
        (element(by_gref(1, 12, 0), own, 8), Status::BadPage),
        (element(by_gfn(30, 0), by_gref(1, 9, 0), 8), Status::BadPage),
        (element(by_gref(1, 9, 0), by_gfn(20, 0), 8), Status::BadPage),
        (element(by_gfn(u64::MAX, 0), own, 8), Status::BadPage),
        (element(by_gfn(1 << 62, 0), own, 8), Status::BadPage),
        // The source's fault is told before the destination's, and both before a bad length.
        (element(by_gref(1, 512, 0), by_gfn(30, 0), 5000), Status::BadGntref),
    ] {
        assert_eq!(copy(&m, 2, &[e]), [want.abi()], "{e:?}");
        // A failure is the same when asked for twice in a block, and stays with its element.
        let good = element(by_gref(1, 9, 0), own, 8);
        assert_eq!(copy(&m, 2, &[e, good, e]), [want.abi(), OKAY, want.abi()], "{e:?}");
    }
    // Frame numbers too large for any domain are none of those that share their low bits.
    let wide = [5, 1 << 62 | 5, 1 << 63 | 5, 5].map(|gfn| element(by_gref(1, 9, 0), by_gfn(gfn, 0), 8));
    assert_eq!(copy(&m, 2, &wide), [OKAY, Status::BadPage.abi(), Status::BadPage.abi(), OKAY]);
    assert_quiet(&m);
    m.domain(1).die();
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 9, 0), own, 8)]), [Status::BadDomain.abi()]);
}

#[test]
fn a_frame_the_guest_may_not_write() {
    let m = machine();
    let ro = m.ram().alloc(m.domain(2).id()).unwrap();
    m.domain(2).set(Gfn(20), Kind::RamRo, ro);
    assert_eq!(copy(&m, 2, &[element(by_gfn(0, 0), by_gfn(20, 0), 8)]), [Status::BadPage.abi()]);
    assert_eq!(copy(&m, 2, &[element(by_gfn(20, 0), by_gfn(0, 0), 8)]), [OKAY]);
    grant(&m, 2, 1, 0, 3, 20);
    assert_eq!(copy(&m, 3, &[element(by_gfn(0, 0), by_gref(2, 1, 0), 8)]), [Status::BadPage.abi()]);
    assert_eq!(in_use(&m, 2, 1), 0);
    assert_eq!(copy(&m, 3, &[element(by_gref(2, 1, 0), by_gfn(0, 0), 8)]), [OKAY]);
}

#[test]
fn a_mapped_frame_of_another_domain_is_no_own_frame() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    map_ok(&m, 2, 1, 9, HOST_MAP, 20);
    assert_eq!(copy(&m, 2, &[element(by_gfn(20, 0), by_gfn(0, 0), 8)]), [Status::BadPage.abi()]);
}

#[test]
fn a_sub_page_flag_means_nothing_to_a_version_1_copy() {
    let m = machine();
    grant(&m, 1, 9, gtf::SUB_PAGE, 2, 3);
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 9, 0), by_gfn(0, 0), 4096)]), [OKAY]);
}

#[test]
fn the_frame_on_record_or_none() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 20);
    let held = m.domain(1).read_entry(Gref(9));
    assert!(m.domain(1).exchange_entry(Gref(9), held, entry(held.flags, 2, 4)));
    // Reading joins the pin and takes the frame it records; writing looks at the entry again and finds that
    // it has changed (XSA-500).
    let elements =
        [element(by_gref(1, 9, 0), by_gfn(0, 0), 4096), element(by_gfn(1, 0), by_gref(1, 9, 0), 8)];
    assert_eq!(copy(&m, 2, &elements), [OKAY, GENERAL]);
    assert_eq!(bytes(&m, 2, 0), machine_frame(1, 3));
    assert_eq!(bytes(&m, 1, 4), machine_frame(1, 4));
    assert_eq!(in_use(&m, 1, 9), gtf::READING);
}

#[test]
fn a_recorded_frame_that_its_granter_gave_up_is_not_joined() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 20);
    m.domain(1).balloon_out(Gfn(3));
    // The mapping still holds it.
    assert_eq!(copy(&m, 2, &[element(by_gref(1, 9, 0), by_gfn(0, 0), 8)]), [OKAY]);
}

#[test]
fn a_full_counter_refuses_copies_of_its_kind() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    for gfn in 100..228 {
        map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, gfn);
    }
    let read = element(by_gref(1, 9, 0), by_gfn(0, 0), 8);
    let write = element(by_gfn(0, 0), by_gref(1, 9, 0), 8);
    assert_eq!(copy(&m, 2, &[read, write, read]), [GENERAL, OKAY, GENERAL]);
    assert_eq!(in_use(&m, 1, 9), gtf::READING);
}

#[test]
fn order_is_kept_where_elements_overlap() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    // A chain through 130 elements: each copies what the one before wrote.
    let mut elements = vec![element(by_gfn(7, 0), by_gref(1, 9, 0), 8)];
    for n in 1..130u16 {
        elements.push(element(by_gref(1, 9, (n - 1) * 8), by_gref(1, 9, n * 8), 8));
    }
    elements.push(element(by_gref(1, 9, 129 * 8), by_gfn(0, 0), 8));
    for yields in [false, true] {
        let m = machine();
        grant(&m, 1, 9, 0, 2, 3);
        let mut host = m.host(2, 0);
        host.yields = yields;
        let (outcome, done) = call_on(&host, Width::Bits64, op::COPY, &elements);
        assert_eq!(outcome, Outcome::Done);
        assert!(done.iter().all(|e| e.status == OKAY));
        assert_eq!(bytes(&m, 2, 0)[..8], machine_frame(2, 7)[..8]);
        assert_quiet(&m);
    }
}

#[test]
fn many_references_in_a_block() {
    let m = MachineBuilder { memory: 140, gfns: 140, ..MachineBuilder::default() }.build(3);
    for n in 0..140u16 {
        grant(&m, 1, n.into(), gtf::READONLY, 3, n.into());
        grant(&m, 2, n.into(), 0, 3, n.into());
        m.ram().write(m.domain(1).mfn(Gfn(n.into())), 0, &n.to_le_bytes());
    }
    let elements: Vec<_> =
        (0..140u32).map(|n| element(by_gref(1, n, 0), by_gref(2, 139 - n, 0), 2)).collect();
    assert!(copy(&m, 3, &elements).iter().all(|&s| s == OKAY));
    for n in 0..140u16 {
        assert_eq!(m.ram().read(m.domain(2).mfn(Gfn((139 - n).into())))[..2], n.to_le_bytes());
    }
    assert_quiet(&m);
}

#[test]
fn elements_before_a_fault_are_done() {
    for (width, size, status_at) in [(Width::Bits64, 40, 36), (Width::Bits32, 24, 20)] {
        for cut in [1, 70] {
            let m = machine();
            grant(&m, 1, 9, 0, 2, 3);
            let elements: Vec<_> =
                (0..80u16).map(|n| element(by_gref(1, 9, n * 2), by_gfn(0, n * 2), 2)).collect();
            let mut args = match width {
                Width::Bits64 => bytes_of(&elements),
                Width::Bits32 => {
                    bytes_of::<compat::Copy>(&elements.iter().map(|e| narrow(e).unwrap()).collect::<Vec<_>>())
                }
            };
            args.truncate(cut * size + size - 1);
            let mut memory = Flat::new(ARGS, args);
            let outcome = m.call(2, &mut memory, width, op::COPY, ARGS, 80);
            assert_eq!(outcome, Outcome::Failed(Errno::Fault));
            for n in 0..cut {
                assert_eq!(memory.bytes()[n * size + status_at..][..2], [0, 0], "{n}");
            }
            let got = bytes(&m, 2, 0);
            assert_eq!(got[..cut * 2], machine_frame(1, 3)[..cut * 2]);
            assert_eq!(got[cut * 2..], machine_frame(2, 0)[cut * 2..]);
            assert_quiet(&m);
        }
    }
}

#[test]
fn statuses_that_cannot_be_written_fault() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let elements = [element(by_gref(1, 9, 0), by_gfn(0, 0), 8); 3];
    let mut memory = Flat::new(ARGS, bytes_of(&elements));
    memory.protect(40);
    let outcome = m.call(2, &mut memory, Width::Bits64, op::COPY, ARGS, 3);
    assert_eq!(outcome, Outcome::Failed(Errno::Fault));
    assert_quiet(&m);
}

#[test]
fn arrays_at_the_end_of_the_address_space() {
    let m = machine();
    for (args, count) in
        [(u64::MAX, 1), (u64::MAX - 39, 2), (u64::MAX - 20, 1), (0, i32::MAX.cast_unsigned())]
    {
        let mut memory = Flat::new(ARGS, vec![0; 400]);
        let outcome = m.call(2, &mut memory, Width::Bits64, op::COPY, args, count);
        assert_eq!(outcome, Outcome::Failed(Errno::Fault));
    }
}

#[test]
fn only_the_status_is_written() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let e = element(by_gref(1, 9, 1), by_gfn(0, 2), 8);
    let done = call(&m, 2, op::COPY, &[e]);
    assert_eq!(done, [Copy { status: OKAY, ..e }]);
    let small = narrow(&e).unwrap();
    let (_, done) = call_on(&m.host(2, 0), Width::Bits32, op::COPY, &[small]);
    assert_eq!(done, [compat::Copy { status: OKAY, ..small }]);
}
