//! One side of copies: whose memory it is, how its frames are found, and how long its entries are in use.

use crate::abi;
use crate::active::{Frame, Pin};
use crate::cells::{CopyArg, Side};
use crate::grant::{Grant, granter};
use crate::host::{Domain, Frames, Host};
use crate::policy::Version;
use crate::status::Status;
use crate::table::{Entry, Table, Window};
use crate::transitive::{self, Passed};
use crate::types::{DomId, Gfn, Gref, Mfn, PAGE_SIZE};
use arrayvec::ArrayVec;
use copy_engine::Segment;
use core::hint::cold_path;
use core::ptr;

/// Whose memory one side of an element is: of the sources, or of the dests, which are written.
pub(super) struct End<'h, D, const WRITES: bool> {
    /// Whose table, or whose memory.
    pub(super) domain: &'h D,
    /// By reference, not by a frame of the caller's own.
    pub(super) by_gref: bool,
}

/// A pinned entry.
#[derive(Clone, Copy)]
pub(super) struct Pinned<'h> {
    entry: Entry<'h>,
    gref: Gref,
}

/// The entries of a table, with those among which one was found last.
pub(super) struct Entries<'h, F: Frames> {
    table: &'h Table<F>,
    window: Window<'h>,
}

impl<'h, F: Frames> Entries<'h, F> {
    /// Looks where `first` is, which is to be found first. `None` if it is not there.
    #[inline(always)]
    pub(super) fn new(table: &'h Table<F>, first: Gref) -> Option<Self> {
        Some(Self { table, window: table.window(first)? })
    }

    #[inline(always)]
    pub(super) fn find(&mut self, gref: Gref) -> Option<Entry<'h>> {
        Some(if self.window.holds(gref) { self.window.masked(gref) } else { self.look_up(gref)? })
    }

    /// Not by the window just stored: parts of it are read otherwise than they are written, so such a read waits
    /// until memory has the stores before it, a miss each where all is cold (425 ns an element became 580).
    #[cold]
    #[inline(never)]
    fn look_up(&mut self, gref: Gref) -> Option<Entry<'h>> {
        self.window = self.table.window(gref).unwrap_or(self.window);
        self.table.entry(gref)
    }
}

/// The large page of a domain's memory in which a frame was found last. Frames are named by words, with their
/// number from bit `SHIFT` on.
pub(super) struct Large<const SHIFT: u32> {
    /// The first of its guest frames.
    first: u64,
    /// How many: 0 before the first find.
    frames: u64,
    /// Where it begins.
    at: *mut u8,
}

impl<const SHIFT: u32> Large<SHIFT> {
    const FRAMES: u64 = 512;
    pub(super) const NONE: Self = Self { first: 0, frames: 0, at: ptr::null_mut() };

    /// Where a frame of the domain's own memory is, which may be written if that is what it is for. The place in
    /// the page is masked into it, whatever is predicted of the comparison (Spectre v1).
    #[inline(always)]
    pub(super) fn find<H: Host, const WRITES: bool>(
        &mut self,
        host: &H,
        domain: &H::Domain,
        word: u64,
    ) -> Option<*mut u8> {
        let place = |gfn: u64| abi::low32(gfn % Self::FRAMES) as usize * PAGE_SIZE;
        let number = (word ^ self.first) >> SHIFT;
        if number < self.frames {
            return Some(self.at.wrapping_add(place(number)));
        }
        cold_path();
        let gfn = word >> SHIFT;
        let ram = domain.ram(Gfn(gfn)).filter(|ram| ram.writable || !WRITES)?;
        let at = host.frame(ram.mfn);
        if ram.large {
            let first = (gfn - gfn % Self::FRAMES) << SHIFT;
            *self = Self { first, frames: Self::FRAMES, at: at.wrapping_sub(place(gfn)) };
        }
        Some(at)
    }
}

/// The reference in what an element names on one side: the low half, whatever the rest is.
#[inline(always)]
pub(super) fn gref<T: CopyArg, const WRITES: bool>(cell: &T) -> Gref {
    Gref(abi::low32(name::<T, WRITES>(cell)))
}

/// What an element names on one side.
#[inline(always)]
pub(super) fn name<T: CopyArg, const WRITES: bool>(cell: &T) -> u64 {
    if WRITES { cell.dest_name() } else { cell.source_name() }
}

/// Where in its frame one side of a segment without a place is.
#[inline(always)]
pub(super) fn offset<const WRITES: bool>(segment: &Segment) -> usize {
    if WRITES { segment.dst.addr() } else { segment.src.addr() }
}

/// Gives one side of a segment its place.
#[inline(always)]
pub(super) fn set<const WRITES: bool>(segment: &mut Segment, frame: *mut u8) {
    let at = frame.wrapping_add(offset::<WRITES>(segment));
    if WRITES {
        segment.dst = at;
    } else {
        segment.src = at;
    }
}

impl<'h, D: Domain, const WRITES: bool> End<'h, D, WRITES> {
    const PIN: Pin = Pin::for_access(WRITES);

    #[inline]
    pub(super) fn new<H: Host<Domain = D>>(host: &'h H, side: Side, by_gref: bool) -> Result<Self, Status> {
        let domain = if side.domid == DomId::SELF.0 {
            host.caller()
        } else if by_gref {
            granter(host, DomId(side.domid))?
        } else {
            // Only the caller's own memory goes by frame.
            return Err(Status::PermissionDenied);
        };
        Ok(Self { domain, by_gref })
    }

    /// Whether entries there may be kept busy: those of version 2 are pinned.
    #[inline(always)]
    pub(super) fn may_hold(&self) -> bool {
        !self.by_gref || self.domain.grants().version() == Version::V1
    }

    /// The frame of the caller's own memory at gfn `u`.
    #[inline(always)]
    fn own(&self, u: u64) -> Result<Mfn, Status> {
        match self.domain.ram(Gfn(u)) {
            Some(ram) if ram.writable || !WRITES => Ok(ram.mfn),
            _ => Err(Status::BadPage),
        }
    }

    /// The frame that a reference names, pinned for the caller, who is `me`.
    #[inline(always)]
    pub(super) fn pin<const N: usize>(
        &self,
        me: DomId,
        gref: Gref,
        entry: Entry<'h>,
        pinned: &mut ArrayVec<Pinned<'h>, N>,
    ) -> Result<Frame, Status> {
        let frame = entry.active.pin(me, Self::PIN, Grant::<_, false>::new(self.domain, gref, entry))?;
        pinned.push(Pinned { entry, gref });
        Ok(frame)
    }

    /// The frame of an element that is done alone.
    pub(super) fn frame<H: Host<Domain = D>>(
        &self,
        host: &'h H,
        u: u64,
        pinned: &mut ArrayVec<Pinned<'h>, 1>,
        passed: &mut ArrayVec<Passed<'h, D>, 2>,
    ) -> Result<Frame, Status> {
        if !self.by_gref {
            return self.own(u).map(Frame::whole);
        }
        // A reference is the low half of the union; the rest of it may be anything.
        let gref = Gref(abi::low32(u));
        let entry = self.domain.grants().entry(gref).ok_or(Status::BadGntref)?;
        match self.pin(host.caller().id(), gref, entry, pinned) {
            Ok(frame) => Ok(frame),
            Err(status) if cfg!(feature = "only-v1") => Err(status),
            // Perhaps it passes another one on.
            Err(status) => {
                let (frame, other) = transitive::pin(host, self.domain, gref, entry, Self::PIN, status)?;
                passed.push(other);
                pinned.push(Pinned { entry, gref });
                Ok(frame)
            }
        }
    }

    /// Drops pins.
    #[inline(always)]
    pub(super) fn unpin(&self, pinned: &[Pinned<'h>]) {
        let table = self.domain.grants();
        for one in pinned {
            one.entry.active.unpin(Self::PIN, |version, bits| match version {
                Version::V1 => one.entry.shared.unmark(bits),
                Version::V2 => table.unmark_v2(one.gref, bits),
            });
        }
    }
}
