//! `memory_op` (public/memory.h): a guest's own physical address space.
//!
//! Reservations are here; what else a guest sees in its map is in [`physmap`], frames of other domains' grant
//! tables in [`resource`]. A domain manages itself; the control domain manages others too ([`Call::target`]).
//!
//! Extents are worked through one at a time with a look at the clock between them; how many are done stands in
//! the bits of the command above the operation, as the ABI has it, and at the end in the result. Frames that
//! leave the guest are collected, and given back only after one flush for all of them.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use gnttab_fast::types::{Gfn, Mfn};
use spin::MutexGuard;

use super::{Call, Outcome, grant_table};
use crate::{
    abi::{
        errno::Errno,
        memory::{self as abi, E820Entry, compat, op},
    },
    domain::{Domain, layout},
    mm::{
        frames::{self, Owner},
        p2m::{MAX_GFN, ORDER_2M, P2mEntry, P2mKind},
        tlb,
    },
    sched,
    vt::Width,
};

mod physmap;
mod resource;

/// Frames given back with one flush.
const BATCH: usize = 64;

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, arg, ..] = call.args();
    let Ok(cmd) = u32::try_from(cmd) else { return Outcome::Done(Errno::ENOSYS.ret()) };
    let done = u64::from(cmd >> op::EXTENT_SHIFT);
    let outcome = match cmd & op::MASK {
        which @ (op::INCREASE_RESERVATION | op::DECREASE_RESERVATION | op::POPULATE_PHYSMAP) => {
            reservation(call, which, arg, done)
        }
        op::ADD_TO_PHYSMAP_BATCH => physmap::add_batch(call, arg, done),
        op::ADD_TO_PHYSMAP => physmap::add(call, arg, done).map(|()| Outcome::Done(0)),
        op::ACQUIRE_RESOURCE => resource::acquire(call, arg, done),
        // The others are short: no bits above the operation.
        _ if done != 0 => Err(Errno::EINVAL),
        which => short(call, which, arg).map(Outcome::Done),
    };
    outcome.unwrap_or_else(|error| Outcome::Done(error.ret()))
}

fn short(call: &Call<'_>, which: u32, arg: u64) -> Result<i64, Errno> {
    let count = |frames: u64| i64::try_from(frames).map_err(|_| Errno::EOVERFLOW);
    match which {
        op::MAXIMUM_RAM_PAGE => count(frames::stats().total),
        op::CURRENT_RESERVATION | op::MAXIMUM_RESERVATION | op::MAXIMUM_GPFN => {
            let domain = call.target(call.read::<u16>(arg)?)?;
            count(match which {
                op::CURRENT_RESERVATION => domain.pages.load(Ordering::Relaxed),
                op::MAXIMUM_RESERVATION => domain.max_frames,
                _ => layout::map(domain.ram_end, domain.acpi_pages, domain.kept_pages)
                    .last()
                    .map_or(0, |range| (range.end >> 12) - 1),
            })
        }
        op::MEMORY_MAP => memory_map(call, arg).map(|()| 0),
        op::REMOVE_FROM_PHYSMAP => physmap::remove(call, arg).map(|()| 0),
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
    let map = layout::map(call.domain.ram_end, call.domain.acpi_pages, call.domain.kept_pages);
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

/// Goes through the extents. The result is how many are done: an error ends it there, and is not told, as the
/// ABI has it.
fn reservation(call: &mut Call<'_>, which: u32, arg: u64, mut done: u64) -> Result<Outcome, Errno> {
    let so_far = |done| Ok(Outcome::Done(i64::try_from(done).unwrap_or(0)));
    let Ok(request) = reservation_request(call, arg) else { return so_far(done) };
    // What the continuation bits of a 32-bit command can count.
    if request.nr_extents > u64::from(u32::MAX >> op::EXTENT_SHIFT) || done >= request.nr_extents {
        return so_far(done);
    }
    let Ok(domain) = call.target(request.domid) else { return so_far(done) };
    // A translated guest's frames have no name but their gfn: to get more it populates its physmap.
    if request.extent_order > u32::from(ORDER_2M) || which == op::INCREASE_RESERVATION {
        return so_far(done);
    }
    let first = done;
    let Ok(_changes) = changes(domain) else { return so_far(done) };
    let mut leaving = Leaving { domain, frames: ArrayVec::new() };
    while done < request.nr_extents {
        if done > first && sched::should_yield() {
            let [_, arg, ..] = call.args();
            return Ok(call.again([u64::from(which) | done << op::EXTENT_SHIFT, arg, 0, 0, 0, 0]));
        }
        let Ok(gfn) = call.read_word(request.extent_start, done) else { break };
        let extent = if which == op::POPULATE_PHYSMAP {
            populate(domain, gfn, request.extent_order, &mut leaving)
        } else {
            decrease(domain, gfn, request.extent_order, &mut leaving)
        };
        if extent.is_err() {
            break;
        }
        done += 1;
    }
    so_far(done)
}

/// The right to change a domain's physical map, for as long as it is held.
///
/// # Errors
/// `ESRCH` for a domain that is dying: its map is being taken apart. Who got the right before that has ended
/// when it begins, since a grace period lies between ([`grant_table::release_step`]).
fn changes(domain: &Domain) -> Result<MutexGuard<'_, ()>, Errno> {
    let guard = domain.memory_lock.lock();
    if domain.is_dying() { Err(Errno::ESRCH) } else { Ok(guard) }
}

/// Frames that have left a guest's p2m but may stand in a TLB. Given back when full and at the end.
struct Leaving<'a> {
    domain: &'a Domain,
    frames: ArrayVec<P2mEntry, BATCH>,
}

impl Leaving<'_> {
    /// `entry` stood at `gfn`. It is no grant mapping: those go by their handles only.
    fn add(&mut self, gfn: Gfn, entry: P2mEntry) {
        if self.frames.is_full() {
            self.flush();
        }
        match entry.kind {
            P2mKind::Foreign => {}
            kind if kind.is_ram() => {
                self.domain.pages.fetch_sub(1, Ordering::Relaxed);
            }
            _ => grant_table::physmap_removed(self.domain, gfn),
        }
        self.frames.push(entry);
    }

    fn flush(&mut self) {
        if self.frames.is_empty() {
            return;
        }
        tlb::flush_domain(&self.domain.tlb);
        for entry in self.frames.drain(..) {
            if entry.kind == P2mKind::Foreign {
                grant_table::foreign_removed(entry.mfn);
            } else {
                frames::put_ref(entry.mfn);
            }
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
