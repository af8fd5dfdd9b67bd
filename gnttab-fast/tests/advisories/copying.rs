//! Copies.

use crate::common::*;
use crate::watched::{
    At, WatchedHost, assert_quiet, full_page, pins, put, set_version, sub_page, transitive,
};
use crate::{GENERAL, OKAY};
use gnttab_fast::abi::{
    Copy, CopyPtr, MapGrantRef, SwapGrantRef, UnmapGrantRef, compat, gtf, map_flags::*, op,
};
use gnttab_fast::testing::{Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{COPY_BLOCK, Errno, Gfn, Gref, Limits, Outcome, Status, Width};
use std::cell::Cell;
use zerocopy::{FromBytes, Immutable, IntoBytes};

fn builder() -> MachineBuilder {
    let limits = Limits { frames: 2, maptrack_frames: 2 };
    MachineBuilder { gfns: 600, limits, spare: 4, ..MachineBuilder::default() }
}

/// One side of every kind, good and bad, with whether it can be had for reading.
fn sides() -> Vec<((CopyPtr, bool), bool)> {
    vec![
        (by_gfn(1, 8), true),
        (by_gref(1, 8, 8), true),
        (by_gref(3, 9, 8), true),
        (by_gref(1, 9, 8), true),
        (by_gref(1, 10, 8), true),
        // Another grantee's, a hole, another's passed on, no such reference, no such domain.
        (by_gref(1, 11, 8), false),
        (by_gref(1, 12, 8), false),
        (by_gref(1, 13, 8), false),
        (by_gref(1, 4096, 8), false),
        (by_gref(77, 8, 8), false),
        (by_gfn(599, 8), false),
    ]
}

#[test]
fn xsa_050_every_kind_of_copy_ends_with_what_it_began() {
    let m = builder().build(3);
    assert_eq!(set_version(&m, 1, 2), Outcome::Done);
    put(&m, 1, 8, &full_page(0, 2, 3));
    put(&m, 1, 9, &sub_page(2, 4, 8, 64));
    put(&m, 1, 10, &transitive(2, 3, 8));
    put(&m, 1, 11, &full_page(0, 3, 3));
    put(&m, 1, 12, &full_page(0, 2, 31));
    put(&m, 1, 13, &transitive(2, 3, 9));
    grant(&m, 3, 8, 0, 1, 5);
    grant(&m, 3, 9, 0, 2, 6);
    for (source, readable) in sides() {
        for (dest, writable) in sides() {
            for len in [0, 8, 64, 4096] {
                let status = copy(&m, 2, &[element(source, dest, len), element(dest, source, len)]);
                let fine = len == 0 || (len <= 64 && readable && writable);
                assert_eq!(status.iter().all(|&s| s == OKAY), fine, "{source:?} {dest:?} {len}: {status:?}");
                assert_quiet(&m);
                assert!((8..14).all(|gref| m.domain(1).status(Gref(gref)) == 0));
                assert_eq!((in_use(&m, 3, 8), in_use(&m, 3, 9)), (0, 0));
            }
        }
    }
    for d in m.domains() {
        for gfn in 0..8 {
            assert_eq!(m.ram().refs(d.mfn(Gfn(gfn))), 1);
        }
    }
}

#[test]
fn xsa_098_a_status_goes_only_where_the_guest_may_write() {
    fn refused<T: IntoBytes + Immutable>(m: &Machine, cmd: u32, arg: &T, status: usize) {
        let before = arg.as_bytes().to_vec();
        let mut memory = Flat::new(ARGS, before.clone());
        memory.protect(status);
        let outcome = m.call(2, &mut memory, Width::Bits64, cmd, ARGS, 1);
        assert_eq!(outcome, Outcome::Failed(Errno::Fault), "{cmd}");
        assert_eq!(memory.bytes(), before, "{cmd}");
    }
    let m = builder().build(3);
    grant(&m, 1, 9, 0, 2, 3);
    refused(&m, op::COPY, &element(by_gref(1, 9, 0), by_gfn(0, 0), 8), 0);
    refused(&m, op::MAP_GRANT_REF, &map_request(1, 99, HOST_MAP, 20), 0);
    refused(&m, op::UNMAP_GRANT_REF, &unmap_request(9, 20), 0);
    refused(&m, op::SWAP_GRANT_REF, &SwapGrantRef { ref_a: 8, ref_b: 9, status: 77, pad: 0 }, 0);
    refused(&m, op::SET_VERSION, &1u32, 0);
    refused(&m, op::GET_VERSION, &u64::from(SELF), 0);
    refused(&m, op::QUERY_SIZE, &[u32::from(SELF), 0, 0, 0], 0);
    refused(&m, op::GET_STATUS_FRAMES, &[0u32, u32::from(SELF), 0, 0], 0);
    assert_quiet(&m);
}

#[test]
fn xsa_316_every_error_is_negative() {
    use Status::*;
    let all = [
        GeneralError,
        BadDomain,
        BadGntref,
        BadHandle,
        BadVirtAddr,
        BadDevAddr,
        NoDeviceSpace,
        PermissionDenied,
        BadPage,
        BadCopyArg,
        AddressTooBig,
        Eagain,
        NoSpace,
    ];
    assert_eq!(all.map(Status::abi), [-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12, -13]);
    assert_eq!(Okay.abi(), 0);
    // An error of the whole is one for each caller that looks at the sign.
    for errno in [Errno::NotPermitted, Errno::Fault, Errno::NoSystem, Errno::NotSupported, Errno::Range] {
        assert!(errno.code() > 0);
    }
    let m = builder().build(2);
    let elements = [
        element(by_gref(1, 9, 0), by_gfn(0, 0), 8),
        element(by_gref(1, 9999, 0), by_gfn(0, 0), 8),
        element(by_gref(9, 9, 0), by_gfn(0, 0), 8),
        element(by_gfn(0, 4090), by_gfn(1, 0), 8),
        element(by_gfn(500, 0), by_gfn(1, 0), 8),
    ];
    assert!(copy(&m, 2, &elements).iter().all(|&s| s < 0));
}

/// Runs a batch as a whole and with a yield at every opportunity; each status is written both times and the
/// same, and each gref quiet after.
fn split<T>(cmd: u32, width: Width, args: impl Fn(&Machine) -> Vec<T>, status: impl Fn(&T) -> i16)
where
    T: IntoBytes + FromBytes + Immutable,
{
    let run = |yields: bool| {
        let m = builder().build(3);
        grant(&m, 1, 9, 0, 2, 3);
        grant(&m, 1, 10, gtf::READONLY, 2, 4);
        let args = args(&m);
        let looks = Cell::new(0);
        let hook = |at| {
            looks.set(looks.get() + usize::from(at == At::Yield));
            yields || at != At::Yield
        };
        let (outcome, done) = WatchedHost::new(&m, 2, &hook).call(width, cmd, &args);
        assert_eq!(outcome, Outcome::Done);
        assert!(args.len() <= COPY_BLOCK || looks.get() > 0, "it never looks");
        let frames: Vec<_> = (0..8).map(|gfn| m.ram().read(m.domain(1).mfn(Gfn(gfn)))).collect();
        (done.iter().map(&status).collect::<Vec<_>>(), frames)
    };
    let whole = run(false);
    assert!(whole.0.iter().all(|&s| s != 77 && s <= 0), "a status not written");
    assert_eq!(run(true), whole);
}

#[test]
fn xsa_318_a_yield_at_any_element_neither_skips_nor_repeats() {
    for count in [1u16, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200] {
        let copies = move |m: &Machine| {
            (0..count)
                .map(|n| {
                    m.ram().write(m.domain(2).mfn(Gfn(0)), 0, b"a begin");
                    // A chain: each reads what the one before wrote; some fail.
                    let gref = if n % 7 == 3 { 10 } else { 9 };
                    element(by_gref(1, 9, n * 16), by_gref(1, gref, n * 16 + 16), 8)
                })
                .collect::<Vec<Copy>>()
        };
        split(op::COPY, Width::Bits64, copies, |e| e.status);
        let narrow_copies = move |m: &Machine| copies(m).iter().map(|e| narrow(e).unwrap()).collect();
        split::<compat::Copy>(op::COPY, Width::Bits32, narrow_copies, |e| e.status);
        let maps = move |_: &Machine| {
            (0..count).map(|n| map_request(1, 9 + u32::from(n % 3), HOST_MAP, 20 + u64::from(n))).collect()
        };
        split::<MapGrantRef>(op::MAP_GRANT_REF, Width::Bits64, maps, |r| r.status);
        let unmaps = move |m: &Machine| {
            (0..count)
                .map(|n| {
                    let gfn = 20 + u64::from(n);
                    if n % 5 == 4 || n > 120 {
                        return unmap_request(n.into(), gfn);
                    }
                    unmap_request(map_ok(m, 2, 1, 9, HOST_MAP, gfn), gfn)
                })
                .collect()
        };
        split::<UnmapGrantRef>(op::UNMAP_GRANT_REF, Width::Bits64, unmaps, |r| r.status);
        let swaps = move |_: &Machine| {
            (0..count)
                .map(|n| SwapGrantRef { ref_a: u32::from(n), ref_b: u32::from(n) * 7, status: 77, pad: 0 })
                .collect()
        };
        split::<SwapGrantRef>(op::SWAP_GRANT_REF, Width::Bits64, swaps, |r| r.status);
    }
}

/// Frame 3 is read-pinned by a mapping; then the guest makes the entry one of frame 4. No copy may write frame
/// 4 for it, nor frame 3.
#[test]
fn xsa_500_a_pinned_entry_keeps_its_frame_or_fails() {
    for version in [1, 2] {
        let m = builder().build(3);
        assert_eq!(set_version(&m, 1, version), Outcome::Done);
        let name = |frame: u16| {
            if version == 2 {
                put(&m, 1, 9, &full_page(0, 2, frame.into()));
            } else {
                let now = m.domain(1).read_entry(Gref(9));
                m.domain(1).write_entry(Gref(9), entry(now.flags | gtf::PERMIT_ACCESS, 2, frame.into()));
            }
        };
        name(3);
        let handle = map_ok(&m, 2, 1, 9, HOST_MAP | READONLY, 20);
        name(4);
        m.ram().write(m.domain(2).mfn(Gfn(0)), 0, b"not here");
        let write = element(by_gfn(0, 0), by_gref(1, 9, 0), 8);
        assert_eq!(copy(&m, 2, &[write]), [GENERAL]);
        for gfn in [3, 4] {
            assert_eq!(m.ram().read(m.domain(1).mfn(Gfn(gfn)))[..8], [0; 8]);
        }
        assert_eq!(pins(&m, 1, 9), (1, 0));
        name(3);
        assert_eq!(copy(&m, 2, &[write]), [OKAY]);
        // The same at the moment between the look at the entry and the look at its frame.
        let hook = |at| {
            if at == At::Ram(1) {
                name(4);
            }
            true
        };
        assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
        let (_, done) = WatchedHost::new(&m, 2, &hook).call(
            Width::Bits64,
            op::MAP_GRANT_REF,
            &[map_request(1, 9, HOST_MAP | READONLY, 20)],
        );
        assert_eq!(done[0].status, OKAY);
        assert_eq!(m.domain(2).at(Gfn(20)), (Kind::GrantRo, m.domain(1).mfn(Gfn(3))));
        assert_eq!(copy(&m, 2, &[write]), [GENERAL]);
        assert_eq!(unmap(&m, 2, &[unmap_request(done[0].handle, 20)]), [OKAY]);
        assert_eq!(m.ram().refs(m.domain(1).mfn(Gfn(3))), 1);
        assert_quiet(&m);
    }
}
