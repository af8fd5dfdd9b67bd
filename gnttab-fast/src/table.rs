//! One domain's grant table: shared frames, active entries, handles, policy and limits.
//!
//! # What it owns
//! The frames the guest maps, two pages of active entries for each of them, and the domain's handles for
//! other domains' grants. All of it is created with one frame and grows up to the limits; it shrinks at the
//! domain's death only.
//!
//! # Who races what
//! Lookups take no lock. Growth fills directory slots and then raises the numbers of frames and entries;
//! lookups read the number first. Entries are used through [`active`](crate::active). The table lives as
//! long as its domain, and domains are freed after a grace period, so a reference found under an epoch guard
//! is good until the guard goes. Growth and version switches, both rare and bounded by the limits, exclude each
//! other by a lock of the table; map, unmap and copy never see it.
//!
//! # Versions
//! A table begins in version 1. [`version`](crate::version) tells how it changes. A lookup takes an entry for
//! one of version 1; whoever then has it busy knows by its word whether it is, see [`active`](crate::active).
//!
//! # Death
//! Operations look whether the granter is dying ([`Domain::is_dying`](crate::Domain::is_dying)) when they look
//! it up, and make no new pins then. Those that looked before end within a grace period. After it
//! [`crate::teardown_step`] gives back what the domain had mapped, and [`Table::find_pinned`] says whether
//! others still map its frames: until they do not, the domain must be found by its number.

use crate::abi::{STATUS_PER_FRAME, V1_PER_FRAME, V2_PER_FRAME, gtf};
use crate::active::{Active, Pin, Pins};
use crate::host::Frames;
use crate::pages::Directory;
use crate::policy::{Policy, Version};
use crate::primitive::{AtomicU32, AtomicU64, Ordering, spin_loop};
use crate::shared::v2::{EntryV2, STATUSES, WordsV2};
use crate::shared::{EntryV1, WordV1};
use crate::types::{DomId, Gfn, Gref, Mfn};
use alloc::boxed::Box;
use maptrack::{Maptrack, index_nospec};

/// Active entries in a page: two words each.
const ACTIVE_PER_PAGE: usize = if cfg!(loom) { 2 } else { 256 };
/// Pages of active entries for a shared frame: a version-1 frame holds 512 entries.
const ACTIVE_PAGES: usize = 2;
/// Active entries of a shared frame.
pub(crate) const ACTIVE_PER_FRAME: u32 = V1_PER_FRAME;
/// Shared frames that a status frame serves.
const FRAMES_PER_STATUS: u32 = STATUS_PER_FRAME / V2_PER_FRAME;
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
    /// A version-1 table has no status frames.
    Version,
}

/// A frame of the table that its guest may map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableFrame {
    /// Shared frame of that index.
    Shared(u32),
    /// Status frame of that index.
    Status(u32),
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
    /// Slots of the shared frames, and after them those of the status frames.
    pages: Directory<F::Shared>,
    active: Directory<F::Own>,
    /// References that exist: frames times the entries of a frame in this version.
    entries: AtomicU32,
    /// Shared frames that exist.
    frames: AtomicU32,
    /// [`Version::number`] of the version in force.
    version: AtomicU32,
    /// 1 while somebody grows the table or switches its version.
    managing: AtomicU32,
    /// Where the guest has put each frame, numbered as the slots of `pages`.
    gfns: Box<[AtomicU64]>,
    maptrack: Maptrack<F::Own>,
    limits: Limits,
    policy: Policy,
}

/// A grant entry, both sides of it, the shared one as a version-1 table has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) active: Active<'a>,
    pub(crate) shared: EntryV1<'a>,
}

impl Entry<'_> {
    /// Drops a pin of this entry, which is `gref` of `table`.
    #[inline(always)]
    pub(crate) fn unpin<F: Frames>(self, pin: Pin, table: &Table<F>, gref: Gref) {
        // Its own copies: the common case need not put them into memory.
        let shared = self.shared;
        self.active.unpin(pin, move |version, bits| match version {
            Version::V1 => shared.unmark(bits),
            Version::V2 => table.unmark_v2(gref, bits),
        });
    }
}

/// Neighbouring entries, those of a page of active ones, all of which exist: grants of a batch are often
/// neighbours.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    /// Which of the pages.
    number: usize,
    shared: &'a [AtomicU64; ACTIVE_PER_PAGE],
    active: &'a [[AtomicU64; 2]; ACTIVE_PER_PAGE],
}

impl<'a> Window<'a> {
    /// Whether the entry of a reference is among them.
    #[inline(always)]
    pub(crate) fn holds(&self, gref: Gref) -> bool {
        gref.0 as usize / ACTIVE_PER_PAGE == self.number
    }

    /// The entry of a reference, if it is among them. Its place is masked, whatever is predicted of the
    /// comparison (Spectre v1).
    #[inline(always)]
    pub(crate) fn entry(&self, gref: Gref) -> Option<Entry<'a>> {
        self.holds(gref).then(|| self.masked(gref))
    }

    /// The entry of a reference that is among them; of another, one of them.
    #[inline(always)]
    pub(crate) fn masked(&self, gref: Gref) -> Entry<'a> {
        let at = gref.0 as usize % ACTIVE_PER_PAGE;
        Entry { active: Active::new(&self.active[at]), shared: EntryV1::new(&self.shared[at]) }
    }
}

/// Excludes growth and switches of one table.
pub(crate) struct Managing<'a>(&'a AtomicU32);

impl Drop for Managing<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

const fn per_frame(version: Version) -> u32 {
    match version {
        Version::V1 => V1_PER_FRAME,
        Version::V2 => V2_PER_FRAME,
    }
}

impl<F: Frames> Table<F> {
    /// A table of one frame, of version 1. `cpus` is the number of CPUs that will ever use it.
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
        let slots = frames.saturating_add(limits.frames.div_ceil(FRAMES_PER_STATUS) as usize);
        let table = Self {
            pages: Directory::new(shared, slots),
            active: Directory::new(own.clone(), frames.saturating_mul(ACTIVE_PAGES)),
            entries: AtomicU32::new(0),
            frames: AtomicU32::new(0),
            version: AtomicU32::new(Version::V1.number()),
            managing: AtomicU32::new(0),
            gfns: (0..slots).map(|_| AtomicU64::new(NOWHERE)).collect(),
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
        // In version 2 this is a word of the table, but not that of the entry.
        let shared = self.pages.page(index / per_frame)?.get(index % per_frame)?;
        Some(Entry { active: self.active_at(index)?, shared: EntryV1::new(shared) })
    }

    /// The entry of a reference with its neighbours, placed as version 1 places them. `None` outside the table.
    #[inline(always)]
    pub(crate) fn window(&self, gref: Gref) -> Option<Window<'_>> {
        let (entries, index) = (self.entries() as usize, gref.0 as usize);
        let number = index_nospec(index, entries) / ACTIVE_PER_PAGE;
        if index >= entries || (number + 1) * ACTIVE_PER_PAGE > entries {
            return None;
        }
        let (active, _) = self.active.page(number)?.as_chunks::<2>();
        let (shared, _) = self.pages.page(number / ACTIVE_PAGES)?.as_chunks::<ACTIVE_PER_PAGE>();
        Some(Window { number, shared: shared.get(number % ACTIVE_PAGES)?, active: active.try_into().ok()? })
    }

    /// The active entry of an index below [`ACTIVE_PER_FRAME`] for each frame.
    #[inline]
    pub(crate) fn active_at(&self, index: usize) -> Option<Active<'_>> {
        let (active, _) = self.active.page(index / ACTIVE_PER_PAGE)?.as_chunks::<2>();
        Some(Active::new(active.get(index % ACTIVE_PER_PAGE)?))
    }

    /// The two words of a version-2 entry.
    fn words_v2(&self, gref: Gref) -> Option<(usize, &[AtomicU64; 2])> {
        let entries = self.entries() as usize;
        let index = gref.0 as usize;
        if index >= entries {
            return None;
        }
        let index = index_nospec(index, entries);
        let per_frame = V2_PER_FRAME as usize;
        let (page, _) = self.pages.page(index / per_frame)?.as_chunks::<2>();
        Some((index, page.get(index % per_frame)?))
    }

    /// The shared side of a version-2 entry. Only for who has the entry busy and found it to be one.
    pub(crate) fn entry_v2(&self, gref: Gref) -> Option<EntryV2<'_>> {
        let (index, words) = self.words_v2(gref)?;
        let per_frame = STATUS_PER_FRAME as usize;
        let status = self.pages.page(self.status_slot(index / per_frame))?;
        let at = index % per_frame;
        Some(EntryV2::new(words, status.get(at / STATUSES)?, at % STATUSES))
    }

    /// A version-2 entry of this moment, for who does not have it busy: perhaps no longer one.
    pub(crate) fn peek_v2(&self, gref: Gref) -> Option<WordsV2> {
        if self.version() == Version::V1 {
            return None;
        }
        let (_, [header, body]) = self.words_v2(gref)?;
        let header = header.load(Ordering::Acquire);
        Some(WordsV2 { header, body: body.load(Ordering::Acquire) })
    }

    /// Clears status bits of an entry that the caller has busy.
    #[cold]
    #[inline(never)]
    pub(crate) fn unmark_v2(&self, gref: Gref, bits: u16) {
        if let Some(entry) = self.entry_v2(gref) {
            entry.unmark(bits);
        }
    }

    /// Writes an entry in the guest's place, as a toolstack does for the reserved ones of a domain that does
    /// not run yet: `grantee` may read and write `gfn`. Nothing happens for a reference the table does not
    /// have, a frame number over 32 bits, or a table that is not of version 1.
    pub fn preset(&self, gref: Gref, grantee: DomId, gfn: Gfn) {
        if self.version() == Version::V1
            && let Some(entry) = self.entry(gref)
            && gfn.0 <= u64::from(u32::MAX)
        {
            let word = gfn.0 << 32 | u64::from(grantee.0) << 16 | u64::from(gtf::PERMIT_ACCESS);
            entry.shared.store(WordV1(word));
        }
    }

    /// References there are now.
    #[must_use]
    #[inline]
    pub fn entries(&self) -> u32 {
        self.entries.load(Ordering::Acquire)
    }

    /// Shared frames there are now.
    #[must_use]
    #[inline]
    pub fn frames(&self) -> u32 {
        self.frames.load(Ordering::Acquire)
    }

    /// Status frames there are now: none in version 1.
    #[must_use]
    pub fn status_frames(&self) -> u32 {
        match self.version() {
            Version::V1 => 0,
            Version::V2 => status_frames_for(self.frames()),
        }
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
        if self.version.load(Ordering::Acquire) == Version::V2.number() { Version::V2 } else { Version::V1 }
    }

    /// The domain's handles.
    #[inline]
    pub fn maptrack(&self) -> &Maptrack<F::Own> {
        &self.maptrack
    }

    pub(crate) fn manage(&self) -> Managing<'_> {
        // Who has it is bounded by the table's limits and waits for busy entries only.
        while self.managing.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            spin_loop();
        }
        Managing(&self.managing)
    }

    /// Makes the table at least `frames` frames large. Pages are in place before the numbers say so.
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
        let _managing = self.manage();
        let version = self.version();
        for frame in self.frames()..frames {
            if !self.fill_frame(frame, version) {
                return Err(NotGrown::NoMemory);
            }
            self.set_size(frame + 1, version);
        }
        Ok(())
    }

    /// Puts the pages of a frame to be in place.
    fn fill_frame(&self, frame: u32, version: Version) -> bool {
        let first = frame as usize * ACTIVE_PAGES;
        if !(first..first + ACTIVE_PAGES).all(|page| self.active.fill(page)) {
            return false;
        }
        let first = frame * ACTIVE_PER_FRAME;
        for active in (first..first + ACTIVE_PER_FRAME).filter_map(|index| self.active_at(index as usize)) {
            active.unlock_idle(version);
        }
        self.pages.fill(frame as usize)
            && (version == Version::V1
                || self.pages.fill(self.status_slot((frame / FRAMES_PER_STATUS) as usize)))
    }

    /// Publishes frames, and entries, that are in place. With the lock of [`manage`](Self::manage).
    pub(crate) fn set_size(&self, frames: u32, version: Version) {
        self.version.store(version.number(), Ordering::Release);
        // Release: the pages are seen by who sees the numbers (XSA-218).
        self.frames.store(frames, Ordering::Release);
        self.entries.store(frames * per_frame(version), Ordering::Release);
    }

    fn status_slot(&self, index: usize) -> usize {
        self.limits.frames as usize + index
    }

    fn slot(&self, frame: TableFrame) -> usize {
        match frame {
            TableFrame::Shared(index) => index as usize,
            TableFrame::Status(index) => self.status_slot(index as usize),
        }
    }

    /// Puts status frame `index` in place. With the lock of [`manage`](Self::manage).
    pub(crate) fn fill_status(&self, index: u32) -> bool {
        self.pages.fill(self.status_slot(index as usize))
    }

    /// Takes status frame `index` away, out of the guest's physical map too, where `unplace` does it. With
    /// the lock of [`manage`](Self::manage).
    pub(crate) fn remove_status(&self, index: u32, unplace: &mut impl FnMut(Gfn, Mfn)) {
        let slot = self.status_slot(index as usize);
        let gfn = self.gfns.get(slot).map_or(NOWHERE, |at| at.swap(NOWHERE, Ordering::AcqRel));
        if let (true, Some(mfn)) = (gfn != NOWHERE, self.pages.mfn(slot)) {
            unplace(Gfn(gfn), mfn);
        }
        self.pages.remove(slot);
    }

    /// The words of shared frame `index`.
    pub(crate) fn shared_words(&self, index: u32) -> &[AtomicU64] {
        self.pages.page(index as usize).map_or(&[], |page| page.as_slice())
    }

    /// The machine frame of shared frame `index`, growing the table if need be: for
    /// `XENMEM_add_to_physmap`.
    ///
    /// # Errors
    /// See [`NotGrown`].
    pub fn shared_frame(&self, index: u32) -> Result<Mfn, NotGrown> {
        self.grow_to(index.checked_add(1).ok_or(NotGrown::Limit)?)?;
        self.pages.mfn(index as usize).ok_or(NotGrown::Limit)
    }

    /// The machine frame of status frame `index`, growing a version-2 table if need be. The caller keeps
    /// `set_version` out until it has called [`place`](Self::place).
    ///
    /// # Errors
    /// See [`NotGrown`].
    pub fn status_frame(&self, index: u32) -> Result<Mfn, NotGrown> {
        if self.version() == Version::V1 {
            return Err(NotGrown::Version);
        }
        if index >= self.status_frames() {
            let wanted = index.checked_add(1).and_then(|n| n.checked_mul(FRAMES_PER_STATUS));
            self.grow_to(wanted.ok_or(NotGrown::Limit)?)?;
        }
        self.pages.mfn(self.status_slot(index as usize)).ok_or(NotGrown::Limit)
    }

    /// Records that the guest has put a frame of the table at `gfn`. Returns where it was before, for the
    /// caller to take it out there. The caller serialises changes of one domain's physical map.
    pub fn place(&self, frame: TableFrame, gfn: Gfn) -> Option<Gfn> {
        let old = self.gfns.get(self.slot(frame))?.swap(gfn.0, Ordering::AcqRel);
        (old != NOWHERE).then_some(Gfn(old))
    }

    /// Records that the guest has removed what was at `gfn`. True if a frame of the table was there.
    pub fn displace(&self, gfn: Gfn) -> bool {
        gfn.0 != NOWHERE
            && self
                .gfns
                .iter()
                .any(|at| at.compare_exchange(gfn.0, NOWHERE, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Where a frame of the table is in the guest's physical map, all ones if nowhere.
    pub(crate) fn gfn_or_ones(&self, frame: TableFrame) -> u64 {
        self.gfns.get(self.slot(frame)).map_or(NOWHERE, |at| at.load(Ordering::Acquire))
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

/// Status frames of a version-2 table of `frames` shared frames.
pub(crate) const fn status_frames_for(frames: u32) -> u32 {
    frames.div_ceil(FRAMES_PER_STATUS)
}
