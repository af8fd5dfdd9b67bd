//! What the tests share: hypercalls of a mock machine, as a guest would write them.
#![allow(dead_code, reason = "each test file uses its part")]

use gnttab_fast::abi::{Copy, CopyPtr, EntryV1, MapGrantRef, UnmapGrantRef, compat, copy_flags, gtf, op};
use gnttab_fast::testing::{Flat, Machine, MockHost};
use gnttab_fast::{Gref, Outcome, Status, Width};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where arguments are.
pub const ARGS: u64 = 0x7fff_0000;
/// `DOMID_SELF`.
pub const SELF: u16 = 0x7ff0;

/// The bytes of structures.
pub fn bytes_of<T: IntoBytes + Immutable>(args: &[T]) -> Vec<u8> {
    args.as_bytes().to_vec()
}

/// The structures in bytes.
pub fn read_all<T: FromBytes>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(|c| T::read_from_bytes(c).unwrap()).collect()
}

/// One hypercall through `host`; the arguments as it left them.
pub fn call_on<T: IntoBytes + FromBytes + Immutable>(
    host: &MockHost<'_>,
    width: Width,
    cmd: u32,
    args: &[T],
) -> (Outcome, Vec<T>) {
    let mut memory = Flat::new(ARGS, bytes_of(args));
    let outcome = host.call(&mut memory, width, cmd, ARGS, u32::try_from(args.len()).unwrap());
    (outcome, read_all(memory.bytes()))
}

/// One hypercall that must return 0.
pub fn call<T: IntoBytes + FromBytes + Immutable>(
    machine: &Machine,
    caller: u16,
    cmd: u32,
    args: &[T],
) -> Vec<T> {
    let (outcome, args) = call_on(&machine.host(caller, 0), Width::Bits64, cmd, args);
    assert_eq!(outcome, Outcome::Done);
    args
}

/// A grant of `frame` to `domid`.
pub fn entry(flags: u16, domid: u16, frame: u32) -> EntryV1 {
    EntryV1 { flags, domid, frame }
}

/// Writes an entry as its guest.
pub fn grant(machine: &Machine, granter: u16, gref: u32, flags: u16, grantee: u16, frame: u32) {
    machine.domain(granter).write_entry(Gref(gref), entry(gtf::PERMIT_ACCESS | flags, grantee, frame));
}

/// The bits of an entry that the hypervisor writes.
pub fn in_use(machine: &Machine, granter: u16, gref: u32) -> u16 {
    machine.domain(granter).read_entry(Gref(gref)).flags & (gtf::READING | gtf::WRITING)
}

/// A request to map at `gfn`.
pub fn map_request(dom: u16, gref: u32, flags: u32, gfn: u64) -> MapGrantRef {
    MapGrantRef { host_addr: gfn << 12, flags, gref, dom, status: 77, handle: 0xdead, dev_bus_addr: 0xbad }
}

/// Maps one grant.
pub fn map(machine: &Machine, caller: u16, request: MapGrantRef) -> MapGrantRef {
    call(machine, caller, op::MAP_GRANT_REF, &[request])[0]
}

/// Maps one grant, which must work. Returns the handle.
pub fn map_ok(machine: &Machine, caller: u16, dom: u16, gref: u32, flags: u32, gfn: u64) -> u32 {
    let done = map(machine, caller, map_request(dom, gref, flags, gfn));
    assert_eq!(done.status, Status::Okay.abi());
    done.handle
}

/// A request to unmap the host half.
pub fn unmap_request(handle: u32, gfn: u64) -> UnmapGrantRef {
    UnmapGrantRef { host_addr: gfn << 12, dev_bus_addr: 0, handle, status: 77, pad: 0 }
}

/// Unmaps.
pub fn unmap(machine: &Machine, caller: u16, requests: &[UnmapGrantRef]) -> Vec<i16> {
    call(machine, caller, op::UNMAP_GRANT_REF, requests).iter().map(|r| r.status).collect()
}

/// A side of a copy by reference.
pub fn by_gref(domid: u16, gref: u32, offset: u16) -> (CopyPtr, bool) {
    // The upper half of the union is whatever the guest's stack held.
    (CopyPtr { u: 0x5555_0000_0000_0000 | u64::from(gref), domid, offset, pad: 9 }, true)
}

/// A side of a copy by own frame.
pub fn by_gfn(gfn: u64, offset: u16) -> (CopyPtr, bool) {
    (CopyPtr { u: gfn, domid: SELF, offset, pad: 9 }, false)
}

/// An element of a copy.
pub fn element(source: (CopyPtr, bool), dest: (CopyPtr, bool), len: u16) -> Copy {
    let flags =
        if source.1 { copy_flags::SOURCE_GREF } else { 0 } | if dest.1 { copy_flags::DEST_GREF } else { 0 };
    Copy { source: source.0, dest: dest.0, len, flags, status: 77, pad: 3 }
}

/// Copies; the statuses.
pub fn copy(machine: &Machine, caller: u16, elements: &[Copy]) -> Vec<i16> {
    call(machine, caller, op::COPY, elements).iter().map(|e| e.status).collect()
}

/// The same element for a 32-bit guest, if it can say so.
pub fn narrow(wide: &Copy) -> Option<compat::Copy> {
    let side = |p: &CopyPtr, gref: bool| {
        let u = if gref { p.u & 0xffff_ffff } else { p.u };
        Some(compat::CopyPtr { u: u32::try_from(u).ok()?, domid: p.domid, offset: p.offset })
    };
    Some(compat::Copy {
        source: side(&wide.source, wide.flags & copy_flags::SOURCE_GREF != 0)?,
        dest: side(&wide.dest, wide.flags & copy_flags::DEST_GREF != 0)?,
        len: wide.len,
        flags: wide.flags,
        status: wide.status,
        pad: wide.pad,
    })
}
