//! `memory_op` (public/memory.h): a guest's own physical address space.
//!
//! Extents are worked through one at a time with a look at the clock between them; how many are done stands in
//! the bits of the command above the operation, as the ABI has it, and at the end in the result. Frames that
//! leave the guest are collected, and given back only after one flush for all of them.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use gnttab_fast::types::{Gfn, Mfn};

use super::{Call, Outcome, grant_table};
use crate::{
    abi::{
        errno::Errno,
        memory::{self as abi, E820Entry, MAPSPACE_GRANT_TABLE, MAPSPACE_SHARED_INFO, compat, op},
    },
    domain::{Domain, layout},
    mm::{
        frames::{self, Owner},
        p2m::{MAX_GFN, ORDER_2M, P2mEntry, P2mError, P2mKind},
        tlb,
    },
    sched,
    vt::Width,
};

/// Frames given back with one flush.
const BATCH: usize = 64;

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, arg, ..] = call.args;
    let Ok(cmd) = u32::try_from(cmd) else { return Outcome::Done(Errno::ENOSYS.ret()) };
    let done = u64::from(cmd >> op::EXTENT_SHIFT);
    let outcome = match cmd & op::MASK {
        which @ (op::INCREASE_RESERVATION | op::DECREASE_RESERVATION | op::POPULATE_PHYSMAP) => {
            reservation(call, which, arg, done)
        }
        op::ADD_TO_PHYSMAP_BATCH => add_batch(call, arg, done),
        // The others are short: no bits above the operation.
        _ if done != 0 => Err(Errno::EINVAL),
        which => short(call, which, arg).map(Outcome::Done),
    };
    outcome.unwrap_or_else(|error| Outcome::Done(error.ret()))
}

fn short(call: &Call<'_>, which: u32, arg: u64) -> Result<i64, Errno> {
    let domain = call.domain;
    let count = |frames: u64| i64::try_from(frames).map_err(|_| Errno::EOVERFLOW);
    match which {
        op::MAXIMUM_RAM_PAGE => count(frames::stats().total),
        op::CURRENT_RESERVATION => {
            call.only_self(call.read::<u16>(arg)?)?;
            count(domain.pages.load(Ordering::Relaxed))
        }
        op::MAXIMUM_RESERVATION => {
            call.only_self(call.read::<u16>(arg)?)?;
            count(domain.max_frames)
        }
        op::MAXIMUM_GPFN => {
            call.only_self(call.read::<u16>(arg)?)?;
            count(layout::map(domain.ram_end).last().map_or(0, |range| (range.end >> 12) - 1))
        }
        op::MEMORY_MAP => memory_map(call, arg).map(|()| 0),
        op::ADD_TO_PHYSMAP => {
            let request = add_request(call, arg)?;
            call.only_self(request.domid)?;
            add_one(call, request.space, request.idx, Gfn(request.gpfn)).map(|()| 0)
        }
        op::REMOVE_FROM_PHYSMAP => {
            let (domid, gpfn) = match call.width {
                Width::Bits64 => {
                    let request: abi::RemoveFromPhysmap = call.read(arg)?;
                    (request.domid, request.gpfn)
                }
                Width::Bits32 => {
                    let request: compat::RemoveFromPhysmap = call.read(arg)?;
                    (request.domid, u64::from(request.gpfn))
                }
            };
            call.only_self(domid)?;
            remove_one(domain, Gfn(gpfn)).map(|()| 0)
        }
        other => {
            call.refuse("memory_op", u64::from(other));
            Err(Errno::ENOSYS)
        }
    }
}

fn memory_map(call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let (room, buffer) = match call.width {
        Width::Bits64 => {
            let request: abi::MemoryMap = call.read(arg)?;
            (request.nr_entries, request.buffer)
        }
        Width::Bits32 => {
            let request: compat::MemoryMap = call.read(arg)?;
            (request.nr_entries, u64::from(request.buffer))
        }
    };
    let map = layout::map(call.domain.ram_end);
    let count = u32::try_from(map.len()).map_err(|_| Errno::E2BIG)?;
    if room < count {
        return Err(Errno::EINVAL);
    }
    for (index, range) in (0u64..).zip(&map) {
        let entry = E820Entry { addr: range.start, size: range.end - range.start, kind: range.kind };
        call.write(buffer.wrapping_add(index * size_of::<E820Entry>() as u64), &entry)?;
    }
    // The count is the first field in both widths.
    call.write(arg, &count)
}

/// A reservation request in the 64-bit layout.
fn reservation_request(call: &Call<'_>, arg: u64) -> Result<abi::Reservation, Errno> {
    Ok(match call.width {
        Width::Bits64 => call.read(arg)?,
        Width::Bits32 => {
            let request: compat::Reservation = call.read(arg)?;
            abi::Reservation {
                extent_start: request.extent_start.into(),
                nr_extents: request.nr_extents.into(),
                extent_order: request.extent_order,
                mem_flags: request.mem_flags,
                domid: request.domid,
                pad: [0; 3],
            }
        }
    })
}

/// Goes through the extents. The result is how many are done: an error ends it there, as the ABI has it.
fn reservation(call: &Call<'_>, which: u32, arg: u64, mut done: u64) -> Result<Outcome, Errno> {
    let request = reservation_request(call, arg)?;
    call.only_self(request.domid)?;
    // What the continuation bits of a 32-bit command can count.
    if request.nr_extents > u64::from(u32::MAX >> op::EXTENT_SHIFT) || done > request.nr_extents {
        return Ok(Outcome::Done(0));
    }
    // A translated guest's frames have no name but their gfn: to get more it populates its physmap.
    if request.extent_order > u32::from(ORDER_2M) || which == op::INCREASE_RESERVATION {
        return Ok(Outcome::Done(i64::try_from(done).unwrap_or(0)));
    }
    let first = done;
    let _changes = call.domain.memory_lock.lock();
    let mut leaving = Leaving { domain: call.domain, frames: ArrayVec::new() };
    while done < request.nr_extents {
        if done > first && sched::should_yield() {
            let [_, arg, ..] = call.args;
            return Ok(Outcome::Again([u64::from(which) | done << op::EXTENT_SHIFT, arg, 0, 0, 0, 0]));
        }
        let Ok(gfn) = call.read_word(request.extent_start, done) else { break };
        let extent = if which == op::POPULATE_PHYSMAP {
            populate(call.domain, gfn, request.extent_order, &mut leaving)
        } else {
            decrease(call.domain, gfn, request.extent_order, &mut leaving)
        };
        if extent.is_err() {
            break;
        }
        done += 1;
    }
    Ok(Outcome::Done(i64::try_from(done).unwrap_or(0)))
}

/// Frames that have left a guest's p2m but may stand in a TLB. Given back when full and at the end.
struct Leaving<'a> {
    domain: &'a Domain,
    frames: ArrayVec<Mfn, BATCH>,
}

impl Leaving<'_> {
    /// `entry` stood at `gfn`. It is no grant mapping: those go by their handles only.
    fn add(&mut self, gfn: Gfn, entry: P2mEntry) {
        if self.frames.is_full() {
            self.flush();
        }
        if entry.kind.is_ram() {
            self.domain.pages.fetch_sub(1, Ordering::Relaxed);
        } else {
            grant_table::physmap_removed(self.domain, gfn);
        }
        self.frames.push(entry.mfn);
    }

    fn flush(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        tlb::flush_domain(&self.domain.tlb);
        for mfn in self.frames.drain(..) {
            frames::put_ref(mfn);
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The gfns of an extent; `EINVAL` when they are not aligned or beyond the address space.
fn extent(gfn: u64, order: u32) -> Result<core::ops::Range<u64>, Errno> {
    let count = 1u64 << order;
    let end = gfn.checked_add(count).ok_or(Errno::EINVAL)?;
    if end > MAX_GFN { Err(Errno::EINVAL) } else { Ok(gfn..end) }
}

/// A grant mapping stays until it is unmapped by its handle; anything else gives way.
fn may_replace(old: Option<P2mEntry>) -> bool {
    !old.is_some_and(|old| matches!(old.kind, P2mKind::GrantRo | P2mKind::GrantRw))
}

fn populate(domain: &Domain, gfn: u64, order: u32, leaving: &mut Leaving<'_>) -> Result<(), Errno> {
    let range = extent(gfn, order)?;
    // Under the domain's memory lock: nobody else counts meanwhile.
    if domain.pages.load(Ordering::Relaxed) + (1 << order) > domain.max_frames {
        return Err(Errno::ENOMEM);
    }
    let owner = Owner::Domain(domain.id);
    if order == u32::from(ORDER_2M)
        && gfn.is_multiple_of(1 << ORDER_2M)
        && let Some(mfn) = frames::alloc(ORDER_2M, owner)
    {
        if domain.p2m.set(Gfn(gfn), mfn, ORDER_2M, P2mKind::RamRw).is_ok() {
            domain.pages.fetch_add(1 << ORDER_2M, Ordering::Relaxed);
            return Ok(());
        }
        // Something is mapped in the range: frame by frame, then.
        for frame in 0..1 << ORDER_2M {
            frames::put_ref(Mfn(mfn.0 + frame));
        }
    }
    for gfn in range {
        let mfn = frames::alloc(0, owner).ok_or(Errno::ENOMEM)?;
        match domain.p2m.set_if(Gfn(gfn), mfn, P2mKind::RamRw, may_replace) {
            Ok(old) => {
                domain.pages.fetch_add(1, Ordering::Relaxed);
                old.into_iter().for_each(|old| leaving.add(Gfn(gfn), old));
            }
            Err(_) => {
                frames::put_ref(mfn);
                return Err(Errno::ENOMEM);
            }
        }
    }
    Ok(())
}

fn decrease(domain: &Domain, gfn: u64, order: u32, leaving: &mut Leaving<'_>) -> Result<(), Errno> {
    for gfn in extent(gfn, order)? {
        let old = domain.p2m.clear_if(Gfn(gfn), |entry| entry.kind.is_ram()).map_err(|_| Errno::ENOMEM)?;
        leaving.add(Gfn(gfn), old.ok_or(Errno::EINVAL)?);
    }
    Ok(())
}

/// An add request in the 64-bit layout.
fn add_request(call: &Call<'_>, arg: u64) -> Result<abi::AddToPhysmap, Errno> {
    Ok(match call.width {
        Width::Bits64 => call.read(arg)?,
        Width::Bits32 => {
            let request: compat::AddToPhysmap = call.read(arg)?;
            abi::AddToPhysmap {
                domid: request.domid,
                size: request.size,
                space: request.space,
                idx: request.idx.into(),
                gpfn: request.gpfn.into(),
            }
        }
    })
}

/// Maps a frame of the shared info or the grant table into the guest. What stood there is given back.
fn add_one(call: &Call<'_>, space: u32, index: u64, gfn: Gfn) -> Result<(), Errno> {
    let domain = call.domain;
    if gfn.0 >= MAX_GFN {
        return Err(Errno::EINVAL);
    }
    let mfn = match space {
        MAPSPACE_SHARED_INFO if index == 0 => domain.shared_info.mfn(),
        MAPSPACE_SHARED_INFO => return Err(Errno::EINVAL),
        MAPSPACE_GRANT_TABLE => grant_table::physmap_frame(domain, index)?,
        other => {
            // Frames of other domains, devices, or a second name for an own frame: nobody here may have them.
            call.refuse("XENMAPSPACE", u64::from(other));
            return Err(Errno::ENOSYS);
        }
    };
    let _changes = domain.memory_lock.lock();
    // The p2m's entry holds a reference of its own.
    if !frames::get_ref(mfn, domain.id) {
        return Err(Errno::EINVAL);
    }
    let old = domain.p2m.set_if(gfn, mfn, P2mKind::Shared, may_replace).map_err(|why| {
        frames::put_ref(mfn);
        if why == P2mError::NoMemory { Errno::ENOMEM } else { Errno::EINVAL }
    })?;
    let mut leaving = Leaving { domain, frames: ArrayVec::new() };
    if let Some(old) = old {
        leaving.add(gfn, old);
    }
    if space == MAPSPACE_SHARED_INFO {
        domain.latch_width(call.width);
    } else if let Some(before) = grant_table::physmap_placed(domain, index, gfn) {
        // A frame stands in one place: it has moved.
        let same = |entry: P2mEntry| entry.mfn == mfn && entry.kind == P2mKind::Shared;
        // Not split from anything, so nothing to be short of; should it fail, it just stays there too.
        if let Ok(Some(entry)) = domain.p2m.clear_if(before, same) {
            leaving.add(before, entry);
        }
    }
    Ok(())
}

fn remove_one(domain: &Domain, gfn: Gfn) -> Result<(), Errno> {
    if gfn.0 >= MAX_GFN {
        return Err(Errno::EINVAL);
    }
    let _changes = domain.memory_lock.lock();
    let ours = |entry: P2mEntry| may_replace(Some(entry));
    let old = domain.p2m.clear_if(gfn, ours).map_err(|_| Errno::ENOMEM)?.ok_or(Errno::ENOENT)?;
    let mut leaving = Leaving { domain, frames: ArrayVec::new() };
    leaving.add(gfn, old);
    Ok(())
}

/// `XENMEM_add_to_physmap_batch`: each element has its own result.
fn add_batch(call: &Call<'_>, arg: u64, first: u64) -> Result<Outcome, Errno> {
    let request: abi::AddToPhysmapBatch = match call.width {
        Width::Bits64 => call.read(arg)?,
        Width::Bits32 => {
            let request: compat::AddToPhysmapBatch = call.read(arg)?;
            abi::AddToPhysmapBatch {
                domid: request.domid,
                space: request.space,
                size: request.size,
                u: request.u,
                idxs: request.idxs.into(),
                gpfns: request.gpfns.into(),
                errs: request.errs.into(),
            }
        }
    };
    call.only_self(request.domid)?;
    if request.u != 0 {
        return Err(Errno::EINVAL);
    }
    for index in first..u64::from(request.size) {
        if index > first && sched::should_yield() {
            let [_, arg, ..] = call.args;
            let cmd = u64::from(op::ADD_TO_PHYSMAP_BATCH) | index << op::EXTENT_SHIFT;
            return Ok(Outcome::Again([cmd, arg, 0, 0, 0, 0]));
        }
        let idx = call.read_word(request.idxs, index)?;
        let gfn = call.read_word(request.gpfns, index)?;
        let result = match add_one(call, u32::from(request.space), idx, Gfn(gfn)) {
            Ok(()) => 0,
            Err(error) => -(error as i32),
        };
        call.write(request.errs.wrapping_add(index * 4), &result)?;
    }
    Ok(Outcome::Done(0))
}
