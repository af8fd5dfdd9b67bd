//! The entries that a block uses, and how it keeps them: held busy, or pinned.

use super::end::{End, Entries, Large, Pinned, gref, offset, set};
use super::{BLOCK, within};
use crate::active::{Frame, Pin};
use crate::cells::CopyArg;
use crate::host::{Domain, Host};
use crate::policy::Version;
use crate::primitive::AtomicU64;
use crate::shared::WordV1;
use crate::table::Entry;
use crate::types::{DomId, Gref, Mfn};
use arrayvec::ArrayVec;
use copy_engine::Segment;
use core::hint::cold_path;
use core::ptr;

/// An element of a block: its bytes, to be given places or with them, and the entries that it holds, the source's
/// first. None for one that the element before it holds.
pub(super) struct Planned<'h, const HELD: usize> {
    pub(super) segment: Segment,
    pub(super) held: [Option<Entry<'h>>; HELD],
}

impl<const HELD: usize> AsRef<Segment> for Planned<'_, HELD> {
    #[inline(always)]
    fn as_ref(&self) -> &Segment {
        &self.segment
    }
}

/// One side of a block, granted.
pub(super) trait Keep<'h, H: Host> {
    /// Blocks have fewer bytes.
    const BELOW: usize;

    /// What is kept of an entry beside the plan.
    type Kept;

    /// Gives this side of elements, made of `cells`, their places. Returns how many from the first on could be
    /// given one.
    fn place<T: CopyArg, const HELD: usize>(
        &mut self,
        host: &'h H,
        elements: &mut [Planned<'h, HELD>],
        cells: &[T],
        kept: &mut ArrayVec<Self::Kept, BLOCK>,
    ) -> usize;

    /// Gives entries back.
    fn let_go<const HELD: usize>(&self, elements: &[Planned<'h, HELD>], kept: &[Self::Kept]);
}

/// Entries held busy.
pub(super) struct Holding<'h, D: Domain, const WRITES: bool> {
    domain: &'h D,
    entries: Entries<'h, D::Frames>,
    large: Large<{ WordV1::GFN_SHIFT }>,
    /// The entry of the last element, and where its frame is.
    last: *const [AtomicU64; 2],
    at: *mut u8,
}

/// Bytes of a block below which its entries are held busy. So much copies in 1 to 10 microseconds, from cache or
/// memory, which is how long others may wait; and for more the exchange saved is next to nothing.
pub(super) const HELD_BYTES: usize = 8192;

impl<'h, D: Domain, const WRITES: bool> Holding<'h, D, WRITES> {
    const PIN: Pin = Pin::for_access(WRITES);

    /// Which of the entries that an element holds is of this side.
    #[inline(always)]
    const fn slot<const HELD: usize>() -> usize {
        const { if WRITES { HELD - 1 } else { 0 } }
    }

    /// For a side by reference, of which `cell` is the first element. `None` if what it names cannot be held.
    #[inline(always)]
    pub(super) fn of<T: CopyArg>(end: &End<'h, D, WRITES>, cell: &T) -> Option<Option<Self>> {
        if !end.by_gref {
            return Some(None);
        }
        let domain = end.domain;
        let entries = Entries::new(domain.grants(), gref::<T, WRITES>(cell))?;
        let (large, last, at) = (Large::NONE, ptr::null(), ptr::null_mut());
        Some(Some(Self { domain, entries, large, last, at }))
    }

    /// Makes an idle entry that grants a frame to the caller busy, and says where the frame is. `None` if it is
    /// not so.
    #[inline(always)]
    fn hold<H: Host<Domain = D>>(&mut self, host: &H, me: DomId, entry: Entry<'h>) -> Option<*mut u8> {
        if !entry.active.try_lock_v1() {
            return None;
        }
        let Some(word) = entry.shared.mark_once(me, Self::PIN) else {
            entry.active.unlock_idle(Version::V1);
            return None;
        };
        let at = self.large.find::<H, WRITES>(host, self.domain, word.0);
        if at.is_none() {
            Self::give_back(entry);
        }
        at
    }

    /// Where the frame of an element is, and the entry held for it: none if it names what the one before it does.
    #[inline(always)]
    pub(super) fn frame<H: Host<Domain = D>>(
        &mut self,
        host: &H,
        me: DomId,
        gref: Gref,
    ) -> Option<(*mut u8, Option<Entry<'h>>)> {
        let entry = self.entries.find(gref)?;
        if entry.active.is_at(self.last) {
            cold_path();
            return Some((self.at, None));
        }
        let at = self.hold(host, me, entry)?;
        (self.last, self.at) = (entry.active.place(), at);
        Some((at, Some(entry)))
    }

    #[inline(always)]
    pub(super) fn give_back(entry: Entry<'h>) {
        entry.shared.unmark(Self::PIN.bits());
        entry.active.unlock_idle(Version::V1);
    }
}

impl<'h, H: Host, const WRITES: bool> Keep<'h, H> for Holding<'h, H::Domain, WRITES> {
    const BELOW: usize = HELD_BYTES;

    type Kept = ();

    #[inline(never)]
    fn place<T: CopyArg, const HELD: usize>(
        &mut self,
        host: &'h H,
        elements: &mut [Planned<'h, HELD>],
        cells: &[T],
        _: &mut ArrayVec<(), BLOCK>,
    ) -> usize {
        let me = host.caller().id();
        let refused = elements.iter_mut().zip(cells).position(|(planned, cell)| {
            let Some((at, held)) = self.frame(host, me, gref::<T, WRITES>(cell)) else {
                return true;
            };
            planned.held[Self::slot::<HELD>()] = held;
            set::<WRITES>(&mut planned.segment, at);
            false
        });
        refused.unwrap_or(elements.len())
    }

    #[inline(always)]
    fn let_go<const HELD: usize>(&self, elements: &[Planned<'h, HELD>], _: &[()]) {
        let give_back = |planned: &Planned<'h, HELD>| {
            if let Some(entry) = planned.held[Self::slot::<HELD>()] {
                Self::give_back(entry);
            }
        };
        // So that the loop's own steps are few beside the body's.
        let (fours, rest) = elements.as_chunks::<4>();
        for four in fours {
            four.iter().for_each(give_back);
        }
        rest.iter().for_each(give_back);
    }
}

/// Entries pinned.
pub(super) struct Pinning<'h, D, const WRITES: bool>(pub(super) End<'h, D, WRITES>);

impl<'h, H: Host, const WRITES: bool> Keep<'h, H> for Pinning<'h, H::Domain, WRITES> {
    const BELOW: usize = usize::MAX;

    type Kept = Pinned<'h>;

    #[inline(never)]
    fn place<T: CopyArg, const HELD: usize>(
        &mut self,
        host: &'h H,
        elements: &mut [Planned<'h, HELD>],
        cells: &[T],
        pinned: &mut ArrayVec<Pinned<'h>, BLOCK>,
    ) -> usize {
        let Self(end) = self;
        let me = host.caller().id();
        let first = cells.first().map(gref::<T, WRITES>);
        let Some(mut entries) = first.and_then(|first| Entries::new(end.domain.grants(), first)) else {
            return 0;
        };
        // What the last element named, and what it came to. No reference is as large.
        let mut last = u64::MAX;
        let mut frame = Frame::whole(Mfn(0));
        let refused = elements.iter_mut().zip(cells).position(|(planned, cell)| {
            let segment = &mut planned.segment;
            let gref = gref::<T, WRITES>(cell);
            if u64::from(gref.0) != last {
                let Some(entry) = entries.find(gref) else { return true };
                let Ok(found) = end.pin(me, gref, entry, pinned) else { return true };
                last = gref.0.into();
                frame = found;
            }
            if !frame.is_whole() && within(frame, offset::<WRITES>(segment), segment.len).is_err() {
                return true;
            }
            set::<WRITES>(segment, host.frame(frame.mfn()));
            false
        });
        refused.unwrap_or(elements.len())
    }

    #[inline(always)]
    fn let_go<const HELD: usize>(&self, _: &[Planned<'h, HELD>], pinned: &[Pinned<'h>]) {
        let Self(end) = self;
        end.unpin(pinned);
    }
}
