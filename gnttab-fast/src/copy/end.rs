//! One side of copies: whose memory it is, how its frames are found, and how long its entries are in use.

use super::{BLOCK, Segments, within};
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
use core::ptr;

/// Whose memory one side of an element is: of the sources, or of the dests, which are written.
pub(super) struct End<'h, D, const WRITES: bool> {
    /// Whose table, or whose memory.
    pub(super) domain: &'h D,
    /// The domain as the element names it.
    pub(super) by_gref: bool,
}

/// A pinned entry.
#[derive(Clone, Copy)]
pub(super) struct Pinned<'h> {
    entry: Entry<'h>,
    gref: Gref,
}

/// The entries of a table, with those among which one was found last.
struct Entries<'h, F: Frames> {
    table: &'h Table<F>,
    window: Window<'h>,
}

impl<'h, F: Frames> Entries<'h, F> {
    /// There always are some.
    #[inline(always)]
    fn new(table: &'h Table<F>) -> Option<Self> {
        Some(Self { table, window: table.window(Gref(0))? })
    }

    #[inline(always)]
    fn find(&mut self, gref: Gref) -> Option<Entry<'h>> {
        match self.window.entry(gref) {
            Some(entry) => Some(entry),
            None => self.look_up(gref),
        }
    }

    #[cold]
    #[inline(never)]
    fn look_up(&mut self, gref: Gref) -> Option<Entry<'h>> {
        self.window = self.table.window(gref).unwrap_or(self.window);
        self.table.entry(gref)
    }
}

/// The large page of a domain's memory in which a frame was found last.
struct Large {
    /// Guest frame numbers of it, without their low 9 bits. No number is as large as the one of none at all.
    number: u64,
    /// Where it begins.
    at: *mut u8,
}

impl Large {
    const FRAMES_BITS: u32 = 9;
    const NONE: Self = Self { number: u64::MAX, at: ptr::null_mut() };

    /// Where a frame of the domain's own memory is, which may be written if that is what it is for. The place in
    /// the page is masked into it, whatever is predicted of the comparison (Spectre v1).
    #[inline(always)]
    fn find<H: Host, const WRITES: bool>(
        &mut self,
        host: &H,
        domain: &H::Domain,
        gfn: Gfn,
    ) -> Option<*mut u8> {
        let place = abi::low32(gfn.0 & ((1 << Self::FRAMES_BITS) - 1)) as usize * PAGE_SIZE;
        if gfn.0 >> Self::FRAMES_BITS != self.number {
            let ram = domain.ram(gfn).filter(|ram| ram.writable || !WRITES)?;
            let at = host.frame(ram.mfn);
            if !ram.large {
                return Some(at);
            }
            *self = Self { number: gfn.0 >> Self::FRAMES_BITS, at: at.wrapping_sub(place) };
        }
        Some(self.at.wrapping_add(place))
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
    fn pin<const N: usize>(
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

    /// Makes an idle entry that grants a frame to the caller, who is `me`, busy, and says where the frame is.
    /// `None` if it is not so.
    #[inline(always)]
    fn hold<H: Host<Domain = D>>(
        &self,
        host: &H,
        me: DomId,
        entry: Entry<'h>,
        large: &mut Large,
    ) -> Option<*mut u8> {
        if !entry.active.try_lock_v1() {
            return None;
        }
        let at = entry.shared.mark(Some(me), Self::PIN, false).ok().and_then(|word| {
            let at = large.find::<H, WRITES>(host, self.domain, word.gfn());
            at.or_else(|| {
                entry.shared.unmark(Self::PIN.bits());
                None
            })
        });
        if at.is_none() {
            entry.active.unlock_idle(Version::V1);
        }
        at
    }

    /// Gives this side of segments its place, in the caller's own memory. Returns how many from the first on
    /// could be given one.
    #[inline(never)]
    fn place_own<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut [Segment],
        cells: &[T],
    ) -> usize {
        let all = segments.len();
        let mut rest = segments.iter_mut().zip(cells);
        let mut large = Large::NONE;
        while let Some((segment, cell)) = rest.next() {
            let found = large.find::<H, WRITES>(host, self.domain, Gfn(Self::named(cell)));
            let Some(at) = found else { return all - rest.len() - 1 };
            Self::set(segment, at);
        }
        all
    }

    /// Gives this side of the segments of a block its place, and keeps entries busy, `None` for an element that
    /// names what the one before it does. From the first on that cannot be given a place segments are dropped.
    #[inline(always)]
    pub(super) fn hold_all<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut Segments,
        cells: &[T],
        held: &mut ArrayVec<Option<Entry<'h>>, BLOCK>,
    ) {
        let placed = if self.by_gref {
            self.hold_granted(host, segments, cells, held)
        } else {
            self.place_own(host, segments, cells)
        };
        segments.truncate(placed);
    }

    #[inline(never)]
    fn hold_granted<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut [Segment],
        cells: &[T],
        held: &mut ArrayVec<Option<Entry<'h>>, BLOCK>,
    ) -> usize {
        let me = host.caller().id();
        let Some(mut entries) = Entries::new(self.domain.grants()) else { return 0 };
        let mut large = Large::NONE;
        // What the last element named, and where that is. No reference is as large.
        let mut last = u64::MAX;
        let mut at = ptr::null_mut();
        held.extend(segments.iter_mut().zip(cells).map_while(|(segment, cell)| {
            let gref = Gref(abi::low32(Self::named(cell)));
            let mut new = None;
            if u64::from(gref.0) != last {
                let entry = entries.find(gref)?;
                at = self.hold(host, me, entry, &mut large)?;
                last = gref.0.into();
                new = Some(entry);
            }
            Self::set(segment, at);
            Some(new)
        }));
        held.len()
    }

    /// Gives back what [`hold_all`](Self::hold_all) has taken.
    #[inline(always)]
    pub(super) fn let_go(held: &[Option<Entry<'h>>]) {
        for entry in held.iter().flatten() {
            entry.shared.unmark(Self::PIN.bits());
            entry.active.unlock_idle(Version::V1);
        }
    }

    /// As [`hold_all`](Self::hold_all), with pins.
    #[inline(always)]
    pub(super) fn pin_all<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut Segments,
        cells: &[T],
        pinned: &mut ArrayVec<Pinned<'h>, BLOCK>,
    ) {
        let placed = if self.by_gref {
            self.pin_granted(host, segments, cells, pinned)
        } else {
            self.place_own(host, segments, cells)
        };
        segments.truncate(placed);
    }

    #[inline(never)]
    fn pin_granted<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut [Segment],
        cells: &[T],
        pinned: &mut ArrayVec<Pinned<'h>, BLOCK>,
    ) -> usize {
        let me = host.caller().id();
        let all = segments.len();
        let mut rest = segments.iter_mut().zip(cells);
        let Some(mut entries) = Entries::new(self.domain.grants()) else { return 0 };
        // What the last element named, and what it came to. No reference is as large.
        let mut last = u64::MAX;
        let mut frame = Frame::whole(Mfn(0));
        while let Some((segment, cell)) = rest.next() {
            let undone = rest.len() + 1;
            let gref = Gref(abi::low32(Self::named(cell)));
            if u64::from(gref.0) != last {
                let Some(entry) = entries.find(gref) else { return all - undone };
                let Ok(found) = self.pin(me, gref, entry, pinned) else { return all - undone };
                last = gref.0.into();
                frame = found;
            }
            if !frame.is_whole() && within(frame, Self::offset(segment), segment.len).is_err() {
                return all - undone;
            }
            Self::set(segment, host.frame(frame.mfn()));
        }
        all
    }

    /// What an element names on this side.
    #[inline(always)]
    fn named<T: CopyArg>(cell: &T) -> u64 {
        if WRITES { cell.dest_name() } else { cell.source_name() }
    }

    /// Where in its frame this side of a segment without a place is.
    #[inline(always)]
    fn offset(segment: &Segment) -> usize {
        if WRITES { segment.dst.addr() } else { segment.src.addr() }
    }

    #[inline(always)]
    pub(super) fn set(segment: &mut Segment, frame: *mut u8) {
        let at = frame.wrapping_add(Self::offset(segment));
        if WRITES {
            segment.dst = at;
        } else {
            segment.src = at;
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
