//! Where an array of arguments lies, in its page or across two, aligned or not, makes no difference.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use gnttab_fast::abi::{MapGrantRef, UnmapGrantRef, compat, map_flags::*, op};
use gnttab_fast::testing::{Flat, Machine, MachineBuilder};
use gnttab_fast::{Domain, Gfn, Gref, Outcome, Scan, Width};
use zerocopy::FromBytes;

const PAGE: u64 = 4096;

/// Domain 1 grants gfns 0 to 7 to domain 2 as entries 8 to 15.
fn machine() -> Machine {
    let m = MachineBuilder { gfns: 200, ..MachineBuilder::default() }.build(2);
    for n in 0..8 {
        grant(&m, 1, 8 + n, 0, 2, n);
        m.ram().write(m.domain(1).mfn(Gfn(u64::from(n))), 0, &[u8::try_from(n).unwrap() + 1; 4096]);
    }
    m
}

/// The array, and domain 2's first frames, after one hypercall of domain 2 on it.
fn after(
    m: &Machine,
    width: Width,
    cmd: u32,
    args: &[u8],
    count: u32,
    at: u64,
) -> (Vec<u8>, Vec<[u8; 4096]>) {
    let mut memory = Flat::new(at, args.to_vec());
    assert_eq!(m.host(2, 0).call(&mut memory, width, cmd, at, count), Outcome::Done);
    let frames = (0..8).map(|g| m.ram().read(m.domain(2).mfn(Gfn(g)))).collect();
    (memory.bytes().to_vec(), frames)
}

/// Where an array of `len` bytes may begin: all over the end of a page, and unaligned.
fn places(len: usize) -> impl Iterator<Item = u64> {
    let last = ARGS + PAGE;
    (0..=len as u64 + 8).map(move |before| last - before).chain([ARGS + 1, ARGS + 2, ARGS + 4])
}

fn same_everywhere(width: Width, args: &[u8], count: u32) {
    let wanted = after(&machine(), width, op::COPY, args, count, ARGS);
    for at in places(args.len()) {
        let m = machine();
        assert!(after(&m, width, op::COPY, args, count, at) == wanted, "{width:?} {at:#x}");
        assert_eq!(m.domain(1).grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
    }
}

/// Elements that go together, and between them some that do not or fail.
#[test]
fn copies() {
    let mut elements = Vec::new();
    for n in 0..8 {
        elements.push(element(by_gref(1, 8 + n, 16), by_gfn(u64::from(n), 100), 200));
    }
    elements.push(element(by_gref(1, 5000, 0), by_gfn(0, 0), 8));
    elements.push(element(by_gref(1, 8, 0), by_gfn(0, 0), 0));
    elements.push(element(by_gref(1, 8, 4000), by_gfn(0, 0), 97));
    elements.push(element(by_gref(1, 8, 4000), by_gfn(0, 0), 96));
    elements.push(element(by_gfn(1, 0), by_gref(1, 9, 8), 8));
    elements.push(element(by_gref(9, 9, 0), by_gfn(1, 8), 8));
    elements.push(element(by_gref(1, 9, 0), by_gfn(1, 8), 64));
    elements.push(element(by_gref(1, 9, 0), by_gfn(2, 8), 64));
    let count = u32::try_from(elements.len()).unwrap();
    same_everywhere(Width::Bits64, &bytes_of(&elements), count);
    let small: Vec<compat::Copy> = elements.iter().map(|e| narrow(e).unwrap()).collect();
    same_everywhere(Width::Bits32, &bytes_of(&small), count);
}

#[test]
fn maps_and_unmaps() {
    let mut requests: Vec<_> = (0..8).map(|n| map_request(1, 8 + n, HOST_MAP, 40 + u64::from(n))).collect();
    requests.insert(3, map_request(1, 5000, HOST_MAP, 60));
    requests.insert(5, map_request(1, 8, HOST_MAP, 40));
    let count = u32::try_from(requests.len()).unwrap();
    let args = bytes_of(&requests);
    let wanted = after(&machine(), Width::Bits64, op::MAP_GRANT_REF, &args, count, ARGS).0;
    for at in places(args.len()) {
        let m = machine();
        let done = after(&m, Width::Bits64, op::MAP_GRANT_REF, &args, count, at).0;
        // Machine addresses and handles are those of any machine: it hands out the same in the same order.
        assert!(done == wanted, "map {at:#x}");
        let mapped: Vec<MapGrantRef> = read_all(&done);
        let mut unmaps: Vec<UnmapGrantRef> = mapped
            .iter()
            .filter(|r| r.status == 0)
            .map(|r| unmap_request(r.handle, r.host_addr / PAGE))
            .collect();
        unmaps.insert(2, unmap_request(7777, 40));
        unmaps.push(unmaps[0]);
        let flushes = m.domain(2).flushes();
        let bytes = bytes_of(&unmaps);
        let count = u32::try_from(unmaps.len()).unwrap();
        let done = after(&m, Width::Bits64, op::UNMAP_GRANT_REF, &bytes, count, at + 7 * 24).0;
        let statuses: Vec<i16> =
            done.chunks_exact(24).map(|e| UnmapGrantRef::read_from_bytes(e).unwrap().status).collect();
        assert_eq!(statuses, [0, 0, -4, 0, 0, 0, 0, 0, 0, -4], "unmap {at:#x}");
        assert_eq!(m.domain(2).flushes() - flushes, 1, "unmap {at:#x}");
        assert_eq!(m.domain(1).grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
        assert_eq!(m.domain(2).grants().maptrack().in_use(), 0);
    }
}
