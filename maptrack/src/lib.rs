//! Grant handles of one domain: the allocator and the record of what each handle maps (Xen's "maptrack").
//!
//! # What it owns
//! A [`Maptrack`] owns the 16-byte entries of one mapping domain, in pages that come from a [`PageSource`]
//! one at a time up to the domain's limit (`gnttab_max_maptrack_frames`, 256 handles a page). Which half of
//! a mapping is live, and which unmap may take it down, is decided here; translating, pinning and flushing
//! is the caller's.
//!
//! # The path of a handle
//! [`alloc`](Maptrack::alloc) reserves it, [`publish`](Maptrack::publish) makes it live with its
//! [`MapInfo`]; [`begin_unmap`](Maptrack::begin_unmap) claims halves of it, for exactly one of any number of
//! racing unmaps; after the TLB flush [`finish_unmap`](Maptrack::finish_unmap) drops them and frees the
//! handle with the last one, or [`rollback`](Maptrack::rollback) gives them back. The reserved and claimed
//! states are values ([`Reserved`], [`Claim`]) that cannot be copied, so a second finish does not compile.
//!
//! # Where free handles are
//! Each is in exactly one place: in a CPU's magazine, in the depot, never used yet, or in the hands of a
//! CPU that holds its own magazine's lock (module `magazine`). Frees go to the freeing CPU: a thread that
//! unmaps what another mapped pushes lists to the depot, from which the other takes them, 64 handles to an
//! atomic exchange. [`NoSpace`] is returned only after all magazines were held at once and found empty.
//!
//! # Costs
//! Allocation and free touch the entry, the magazine's line and, for a single handle, its lock; all are the
//! CPU's own. No path depends on the number of handles. Stealing is bounded by the number of CPUs and
//! happens only at the limit, at the expense of the domain that is there: magazines belong to one domain.
//!
//! # Handles
//! 22 bits of index and 10 of generation. Limits above 16,384 frames (4,194,304 handles) are cut to that;
//! [`Maptrack::limit`] tells what is in force. A freed handle is bad at once, and stays so for 1,020 lives
//! of its entry. No handle is 0 or `!0`.
#![no_std]

extern crate alloc;

mod entry;
mod handle;
mod list;
mod magazine;
mod primitive;
mod store;

use alloc::boxed::Box;
use crossbeam_utils::CachePadded;
use list::Depot;
use magazine::Magazine;
use primitive::{AtomicU32, Ordering};
use store::Store;

pub use handle::{BadHandle, Claim, Granted, Halves, Handle, MapInfo, NoSpace, Reserved, Taken, Vacant};
pub use magazine::Local;
pub use store::{ENTRIES_PER_PAGE, HeapPages, MAX_PAGES, Page, PageSource, index_nospec, mask_nospec};

/// The grant handles of one domain.
pub struct Maptrack<S: PageSource> {
    store: Store<S>,
    depot: CachePadded<Depot>,
    /// Lowest index that was never on a list.
    fresh: CachePadded<AtomicU32>,
    magazines: Box<[CachePadded<Magazine>]>,
}

impl<S: PageSource> Maptrack<S> {
    /// An empty table of up to `max_pages` pages (cut to [`MAX_PAGES`]), used by CPUs `0..cpus`. Takes no
    /// page from the source yet.
    #[must_use]
    pub fn new(source: S, max_pages: u32, cpus: u32) -> Self {
        Self {
            store: Store::new(source, max_pages),
            depot: CachePadded::new(Depot::new()),
            fresh: CachePadded::new(AtomicU32::new(0)),
            magazines: (0..cpus).map(|_| CachePadded::new(Magazine::new())).collect(),
        }
    }

    /// Holds the magazine of `cpu`, which must be the calling CPU, for a batch of operations.
    ///
    /// # Panics
    /// If `cpu` is not below the number of CPUs, or if the calling CPU holds its magazine already.
    #[inline]
    pub fn local(&self, cpu: u32) -> Local<'_, S> {
        Local::new(self, cpu)
    }

    /// [`Local::alloc`] for a single handle.
    ///
    /// # Errors
    /// [`NoSpace`] if no handle is free.
    #[inline]
    pub fn alloc(&self, cpu: u32) -> Result<Reserved, NoSpace> {
        self.local(cpu).alloc()
    }

    /// Takes back, on `cpu`, a handle that was never published.
    #[inline]
    pub fn free(&self, cpu: u32, reserved: Reserved) {
        self.local(cpu).free(reserved);
    }

    /// Makes a reserved handle live. With no halves in `info` it would be neither live nor free.
    #[inline]
    pub fn publish(&self, reserved: Reserved, info: &MapInfo) -> Handle {
        debug_assert!(!info.halves.is_empty());
        let Reserved(handle) = reserved;
        self.store.own_entry(handle.index()).publish(handle, info);
        handle
    }

    /// Claims those of the halves `asked` that `handle` has mapped, for taking them down. If it has none of
    /// them the claim is empty: finishing it changes nothing (XSA-394).
    ///
    /// # Errors
    /// [`BadHandle`] if the handle is not live (never was, freed, of an older generation, or not published
    /// yet), or if another unmap holds one of these halves.
    #[inline]
    pub fn begin_unmap(&self, handle: Handle, asked: Halves) -> Result<Claim, BadHandle> {
        let taken = self.take(handle, asked)?;
        // A mapped half keeps the second word as it is. If nothing was taken it may move on, but then nobody acts on it.
        let gfn = taken.entry.aux().load(Ordering::Relaxed);
        Ok(Claim { handle, info: entry::info(taken.word, gfn, taken.halves()) })
    }

    /// [`begin_unmap`](Self::begin_unmap) for a batch.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn take(&self, handle: Handle, asked: Halves) -> Result<Taken<'_>, BadHandle> {
        let entry = self.store.entry(handle.index()).ok_or(BadHandle)?;
        Ok(Taken { handle, entry, word: entry.claim(handle, asked)? })
    }

    /// Drops the claimed halves, once nothing reaches the frame through them any more, and frees the handle
    /// to `cpu` if they were the last. True if it was freed.
    #[inline]
    pub fn finish_unmap(&self, cpu: u32, claim: Claim) -> bool {
        self.local(cpu).finish_unmap(claim)
    }

    /// Gives the claimed halves back: they are mapped as before.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the claim ends here")]
    pub fn rollback(&self, claim: Claim) {
        self.store.own_entry(claim.handle().index()).unclaim(claim.halves());
    }

    /// What a live handle records: one consistent snapshot, perhaps past by now.
    #[must_use]
    pub fn get(&self, handle: Handle) -> Option<MapInfo> {
        let (now, info) = self.store.entry(handle.index())?.snapshot(handle.index())?;
        (now == handle).then_some(info)
    }

    /// Shows the live handles among the next `budget` entries from index `from` on. Returns where to go on,
    /// `None` at the end. For a domain's death, in bounded steps; handles made behind the walk are missed,
    /// so the caller stops new maps first.
    pub fn walk(&self, from: u32, budget: u32, mut show: impl FnMut(Handle, MapInfo)) -> Option<u32> {
        let end = self.store.published();
        let stop = from.saturating_add(budget).min(end);
        for index in from..stop {
            if let Some((handle, info)) = self.store.entry(index).and_then(|e| e.snapshot(index)) {
                show(handle, info);
            }
        }
        (stop < end).then_some(stop)
    }

    /// Handles given out and not yet freed. Exact when no operation is under way and no batch held.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        let free = self.magazines.iter().map(|m| m.free()).sum::<u64>() + self.depot.free();
        u64::from(self.fresh.load(Ordering::Relaxed)).saturating_sub(free)
    }

    /// Handles there may be at most.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.store.limit()
    }

    /// Handles for which there are pages now.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.store.published()
    }
}
