//! One domain's grant table: shared frames, active entries, handles, policy and limits.
//!
//! # What it owns
//! The frames the guest maps, two pages of active entries for each of them, and the domain's handles for
//! other domains' grants. All of it is created with one frame and grows up to the limits; it shrinks at the
//! domain's death only.
//!
//! # Who races what
//! Nothing here takes a lock. Growth fills directory slots and then raises the number of frames; lookups
//! read the number first. Entries are used through [`active`](crate::active). The table lives as long as
//! its domain, and domains are freed after a grace period, so a reference found under an epoch guard is good
//! until the guard goes.
//!
//! # Death
//! Operations look whether the granter is dying ([`Domain::is_dying`](crate::Domain::is_dying)) when they look
//! it up, and make no new pins then. Those that looked before end within a grace period. After it
//! [`crate::teardown_step`] gives back what the domain had mapped, and [`Table::find_pinned`] says whether
//! others still map its frames: until they do not, the domain must be found by its number.

use crate::abi::V1_PER_FRAME;
use crate::active::{Active, Pins};
use crate::host::Frames;
use crate::policy::{Policy, Version};
use crate::primitive::{AtomicU32, AtomicU64, Ordering};
use crate::shared::{Directory, EntryV1, SharedSource};
use crate::types::{Gfn, Gref, Mfn};
use alloc::boxed::Box;
use maptrack::{Maptrack, index_nospec};

/// Active entries in a page.
const ACTIVE_PER_PAGE: usize = 256;
/// Pages of active entries for a shared frame: a version-1 frame holds 512 entries.
const ACTIVE_PAGES: usize = 2;
/// `gfns` of a frame the guest has not put anywhere: what Xen calls `INVALID_GFN`.
const NOWHERE: u64 = u64::MAX;

/// How large a table may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `gnttab_max_frames`.
    pub frames: u32,
    /// `gnttab_max_maptrack_frames`.
    pub maptrack_frames: u32,
}

/// Why a table did not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotGrown {
    /// The domain's limit is reached.
    Limit,
    /// No memory. Frames added before it ran out stay.
    NoMemory,
}

/// Result of one step of [`Table::find_pinned`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// This entry is pinned.
    Pinned(Gref),
    /// None so far: go on from here.
    More(Gref),
    /// None at all.
    Clear,
}

/// The grant table of a domain.
pub struct Table<F: Frames> {
    shared: Directory<F::Shared>,
    active: Directory<F::Own>,
    /// Shared frames that exist.
    frames: AtomicU32,
    /// Where the guest has put each shared frame.
    gfns: Box<[AtomicU64]>,
    maptrack: Maptrack<F::Own>,
    limits: Limits,
    policy: Policy,
}

/// A grant entry, both sides of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) active: Active<'a>,
    pub(crate) shared: EntryV1<'a>,
}

impl<F: Frames> Table<F> {
    /// A table of one frame. `cpus` is the number of CPUs that will ever use it.
    ///
    /// # Errors
    /// If there is no memory for the first frame, or the limit forbids it.
    pub fn new(
        own: F::Own,
        shared: F::Shared,
        limits: Limits,
        policy: Policy,
        cpus: u32,
    ) -> Result<Self, NotGrown> {
        let frames = limits.frames as usize;
        let table = Self {
            shared: Directory::new(shared, frames),
            active: Directory::new(own.clone(), frames.saturating_mul(ACTIVE_PAGES)),
            frames: AtomicU32::new(0),
            gfns: (0..frames).map(|_| AtomicU64::new(NOWHERE)).collect(),
            maptrack: Maptrack::new(own, limits.maptrack_frames, cpus),
            limits,
            policy,
        };
        table.grow_to(1)?;
        Ok(table)
    }

    /// The entry of a reference, or `None` outside the table. A mispredicted bounds check reaches entry 0 at
    /// most (Spectre v1).
    #[inline]
    pub(crate) fn entry(&self, gref: Gref) -> Option<Entry<'_>> {
        let entries = self.entries() as usize;
        let index = gref.0 as usize;
        if index >= entries {
            return None;
        }
        let index = index_nospec(index, entries);
        let per_frame = V1_PER_FRAME as usize;
        let shared = self.shared.page(index / per_frame)?.get(index % per_frame)?;
        let (active, _) = self.active.page(index / ACTIVE_PER_PAGE)?.as_chunks::<2>();
        let active = active.get(index % ACTIVE_PER_PAGE)?;
        Some(Entry { active: Active::new(active), shared: EntryV1::new(shared) })
    }

    /// References there are now.
    #[must_use]
    #[inline]
    pub fn entries(&self) -> u32 {
        self.frames() * V1_PER_FRAME
    }

    /// Shared frames there are now.
    #[must_use]
    #[inline]
    pub fn frames(&self) -> u32 {
        self.frames.load(Ordering::Acquire)
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the domain may do.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The version in force.
    #[must_use]
    pub fn version(&self) -> Version {
        Version::V1
    }

    /// The highest version a guest is given: the policy's, as far as it is built. Version 2 is not yet.
    #[must_use]
    pub fn max_version(&self) -> Version {
        self.policy.max_version().min(Version::V1)
    }

    /// The domain's handles.
    #[inline]
    pub fn maptrack(&self) -> &Maptrack<F::Own> {
        &self.maptrack
    }

    /// Makes the table at least `frames` frames large. Pages are in place before the number says so.
    ///
    /// # Errors
    /// See [`NotGrown`].
    pub fn grow_to(&self, frames: u32) -> Result<(), NotGrown> {
        if frames <= self.frames() {
            return Ok(());
        }
        if frames > self.limits.frames {
            return Err(NotGrown::Limit);
        }
        for frame in self.frames()..frames {
            let first = frame as usize * ACTIVE_PAGES;
            if !(first..first + ACTIVE_PAGES).all(|page| self.active.fill(page))
                || !self.shared.fill(frame as usize)
            {
                return Err(NotGrown::NoMemory);
            }
            // Release: the three pages are seen by who sees the number (XSA-218).
            self.frames.fetch_max(frame + 1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// The machine frame of shared frame `index`, growing the table if need be: for
    /// `XENMEM_add_to_physmap`.
    ///
    /// # Errors
    /// See [`NotGrown`].
    pub fn shared_frame(&self, index: u32) -> Result<Mfn, NotGrown> {
        self.grow_to(index.checked_add(1).ok_or(NotGrown::Limit)?)?;
        let page = self.shared.raw(index as usize).ok_or(NotGrown::Limit)?;
        Ok(self.shared.source().mfn(page))
    }

    /// Records that the guest has put shared frame `index` at `gfn`. Returns where it was before, for the
    /// caller to take it out there. The caller serialises changes of one domain's physical map.
    pub fn place(&self, index: u32, gfn: Gfn) -> Option<Gfn> {
        let old = self.gfns.get(index as usize)?.swap(gfn.0, Ordering::AcqRel);
        (old != NOWHERE).then_some(Gfn(old))
    }

    /// Records that the guest has removed what was at `gfn`. True if a shared frame was there.
    pub fn displace(&self, gfn: Gfn) -> bool {
        gfn.0 != NOWHERE
            && self
                .gfns
                .iter()
                .take(self.frames() as usize)
                .any(|at| at.compare_exchange(gfn.0, NOWHERE, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Where shared frame `index` is in the guest's physical map, all ones if nowhere.
    pub(crate) fn gfn_or_ones(&self, index: u32) -> u64 {
        self.gfns.get(index as usize).map_or(NOWHERE, |at| at.load(Ordering::Acquire))
    }

    /// The pins of an entry at this moment.
    #[must_use]
    pub fn pins(&self, gref: Gref) -> Option<Pins> {
        Some(self.entry(gref)?.active.pins())
    }

    /// Looks for a pinned entry among `budget` entries from `from` on.
    #[must_use]
    pub fn find_pinned(&self, from: Gref, budget: u32) -> Scan {
        let stop = from.0.saturating_add(budget).min(self.entries());
        for gref in (from.0..stop).map(Gref) {
            if self.entry(gref).is_some_and(|e| !e.active.is_idle()) {
                return Scan::Pinned(gref);
            }
        }
        if stop < self.entries() { Scan::More(Gref(stop)) } else { Scan::Clear }
    }
}
