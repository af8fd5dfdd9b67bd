//! `GNTTABOP_map_grant_ref`.
//!
//! Each element pins an entry of the granter, takes a reference to its frame, puts the frame into the
//! caller's physical map and records it under a handle; whatever fails takes back what was done before it.
//! The handle becomes known to the guest, and live, last.
//!
//! Callers are translated guests: a device half, an application mapping or a page-table entry as the place
//! to map to are refused, as Xen refuses them to such callers.

use crate::abi::{MapGrantRef, map_flags};
use crate::active::{Pin, Pins};
use crate::args::Args;
use crate::cells::MapCells;
use crate::grant::{Grant, Granter};
use crate::host::{Domain, Fault, GuestMemory, Host, OwnPages, RanOut};
use crate::op::Progress;
use crate::status::Status;
use crate::types::{DomId, Gfn, Gref, PAGE_SHIFT};
use core::mem::offset_of;
use maptrack::{Halves, Local, MapInfo};

/// Elements between two looks at the clock.
const CHUNK: u32 = 32;

/// What a successful map tells the guest.
struct Mapped {
    handle: u32,
    dev_bus_addr: u64,
}

/// The operation on `count` elements at the start of `args`.
pub(crate) fn map<H: Host, M: GuestMemory>(
    host: &H,
    args: &mut Args<'_, M, MapCells>,
    count: u32,
) -> Result<Progress, Fault> {
    let mut granters = Granter::new();
    let mut done = 0;
    while done < count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        let mut handles = host.caller().grants().maptrack().local(host.cpu());
        let cells = args.in_place(done, (count - done).min(CHUNK))?;
        for cell in cells {
            element(host, &mut granters, &mut handles, cell);
            done += 1;
        }
        if cells.is_empty() {
            let cell = args.read(done)?;
            let okay = element(host, &mut granters, &mut handles, &cell);
            let (handle, dev_bus_addr, status) = cell.results();
            if okay {
                args.write(done, offset_of!(MapGrantRef, handle), &handle)?;
                args.write(done, offset_of!(MapGrantRef, dev_bus_addr), &dev_bus_addr)?;
            }
            args.write(done, offset_of!(MapGrantRef, status), &status)?;
            done += 1;
        }
    }
    Ok(Progress::Done)
}

/// One element, with its results. True if it has mapped something.
#[inline(always)]
fn element<'h, H: Host>(
    host: &'h H,
    granters: &mut Granter<'h, H>,
    handles: &mut Local<'_, OwnPages<H>>,
    cell: &MapCells,
) -> bool {
    let request = cell.request();
    let status = match map_one(host, granters, handles, &request) {
        Ok(mapped) => {
            cell.set_mapping(mapped.handle, mapped.dev_bus_addr);
            Status::Okay
        }
        Err(status) => {
            look_for_limit(host, DomId(request.dom), Gref(request.gref), request.flags, status);
            status
        }
    };
    cell.set_status(status.abi());
    status == Status::Okay
}

/// One element. The order of the checks, and so which error wins, is Xen's.
#[inline(always)]
fn map_one<'h, H: Host>(
    host: &'h H,
    granters: &mut Granter<'h, H>,
    handles: &mut Local<'_, OwnPages<H>>,
    request: &MapGrantRef,
) -> Result<Mapped, Status> {
    let halves = map_flags::HOST_MAP | map_flags::DEVICE_MAP;
    if request.flags & halves == 0 {
        return Err(Status::BadGntref);
    }
    let refused = map_flags::DEVICE_MAP | map_flags::APPLICATION_MAP | map_flags::CONTAINS_PTE;
    if request.flags & refused != 0 {
        return Err(Status::GeneralError);
    }
    // DOMID_SELF is no domain's number, and map knows no other name for the caller than its own.
    let granter = granters.find(host, DomId(request.dom))?;
    let vacant = handles.alloc_vacant().map_err(|_| Status::NoSpace)?;
    let result = pin_and_map(host, granters, granter, request);
    let (frame_address, info) = match result {
        Ok(done) => done,
        Err(status) => {
            handles.free_vacant(vacant);
            return Err(status);
        }
    };
    let handle = vacant.publish(&info);
    Ok(Mapped { handle: handle.raw(), dev_bus_addr: frame_address })
}

/// Tells if it was for want of handles or of pins that an element failed.
#[cold]
#[inline(never)]
fn look_for_limit<H: Host>(host: &H, granter: DomId, gref: Gref, flags: u32, status: Status) {
    let caller = host.caller();
    match status {
        Status::NoSpace => host.ran_out(caller, RanOut::Handles),
        Status::GeneralError => {
            let Some(granter) = host.domain(granter) else { return };
            let pin = Pin::for_access(flags & map_flags::READONLY == 0);
            let full = |pins: Pins| pins.grantee == caller.id().0 && pins.at_limit(pin);
            if granter.grants().pins(gref).is_some_and(full) {
                host.ran_out(granter, RanOut::Pins(gref));
            }
        }
        _ => {}
    }
}

#[inline(always)]
fn pin_and_map<'h, H: Host>(
    host: &'h H,
    granters: &mut Granter<'h, H>,
    granter: &'h H::Domain,
    request: &MapGrantRef,
) -> Result<(u64, MapInfo), Status> {
    let caller = host.caller();
    let readonly = request.flags & map_flags::READONLY != 0;
    let pin = Pin::for_access(!readonly);
    let gref = Gref(request.gref);
    let entry = granters.entry(granter, gref).ok_or(Status::BadGntref)?;
    let frame = entry.active.pin(caller.id(), pin, Grant::<_, true>::new(granter, gref, entry))?;
    let gfn = Gfn(request.host_addr >> PAGE_SHIFT);
    // Other flags, those for bits of page-table entries, have no place to go in a physical map.
    let flags_known = request.flags & !(map_flags::HOST_MAP | map_flags::READONLY) == 0;
    if !flags_known || caller.map_frame(gfn, frame.mfn(), !readonly).is_err() {
        entry.unpin(pin, granter.grants(), gref);
        granter.put_frame(frame.mfn());
        return Err(Status::GeneralError);
    }
    let info =
        MapInfo { domid: granter.id().0, gref: request.gref, halves: Halves::HOST, readonly, gfn: gfn.0 };
    Ok((frame.mfn().0 << PAGE_SHIFT, info))
}
