//! `GNTTABOP_copy`: a batch is planned, not looped over.
//!
//! Elements are taken in blocks: as many as name the same domains in the same way, lie in place in one page of
//! arguments, and have nothing unusual about them, [`BLOCK`] at most. A block goes through its elements in
//! passes, each of which does one thing with little at hand: lengths and offsets; the frames of the sources,
//! pinned or translated; those of the dests; all bytes, in the order of the elements; the pins dropped; the
//! statuses written. So a guest sees `GTF_reading` and `GTF_writing` for as long as a block takes, and never a
//! status before its bytes.
//!
//! Every element of a block succeeds. Where a pass meets one that it will not or cannot do, the block ends
//! before it, and that element is done [`alone`], with nothing else pinned, by code that goes through it step by
//! step as Xen does and finds its status. So which error wins is decided in one place, and what a block holds
//! for the sake of speed refuses nothing that one element after the other would get.
//!
//! A reference that comes back after another is pinned once more, which is one exchange: a table of what the
//! block has pinned costs each element more than that costs the few that repeat (measured; such a table was
//! here before).
//!
//! Between blocks the hypercall may yield. Since no block depends on another, the batch split anywhere gives
//! the result of the whole. (Elements that write their own argument array are outside that promise, as they
//! are in Xen.) Each field of an element is read once by a block, and once more, as if for the first time, if
//! the element is then done alone.
//!
//! # What keeps a frame in place
//! The caller's epoch, see [`active`](crate::active): no reference is taken to a page or a domain.
//!
//! # Speculation
//! Offset and length are the caller's. After the checks the length is masked with the room there is, and the
//! offsets are cut to a frame, so that a mispredicted check does not copy a byte beyond the range granted
//! (Spectre v1).

use crate::abi::{self, copy_flags};
use crate::active::{Frame, Pin};
use crate::args::Args;
use crate::cells::{CopyArg, Side};
use crate::grant::{Grant, granter};
use crate::host::{Batch, Domain, Fault, GuestMemory, Host};
use crate::op::Progress;
use crate::policy::Version;
use crate::status::Status;
use crate::table::Entry;
use crate::transitive::{self, Passed};
use crate::types::{DomId, Gfn, Gref, Mfn, PAGE_SIZE};
use arrayvec::ArrayVec;
use copy_engine::Segment;
use core::ptr;
use maptrack::index_nospec;

/// Elements in a block.
pub const BLOCK: usize = 64;
/// [`BLOCK`] as the ABI counts.
const BLOCK_U32: u32 = 64;
const _: () = assert!(BLOCK_U32 as usize == BLOCK);

/// Whose memory one side of an element is: of the sources, or of the dests, which are written.
struct End<'h, D, const WRITES: bool> {
    /// Whose table, or whose memory.
    domain: &'h D,
    /// The domain as the element names it.
    by_gref: bool,
}

/// A pin that is held.
#[derive(Clone, Copy)]
struct Held<'h> {
    entry: Entry<'h>,
    gref: Gref,
}

impl<'h, D: Domain, const WRITES: bool> End<'h, D, WRITES> {
    const PIN: Pin = Pin::for_access(WRITES);

    #[inline]
    fn new<H: Host<Domain = D>>(host: &'h H, side: Side, by_gref: bool) -> Result<Self, Status> {
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
        held: &mut ArrayVec<Held<'h>, N>,
    ) -> Result<Frame, Status> {
        let frame = entry.active.pin(me, Self::PIN, Grant::<_, false>::new(self.domain, gref, entry))?;
        held.push(Held { entry, gref });
        Ok(frame)
    }

    /// The frame of an element that is done alone.
    fn frame<H: Host<Domain = D>>(
        &self,
        host: &'h H,
        u: u64,
        held: &mut ArrayVec<Held<'h>, 1>,
        passed: &mut ArrayVec<Passed<'h, D>, 2>,
    ) -> Result<Frame, Status> {
        if !self.by_gref {
            return self.own(u).map(Frame::whole);
        }
        // A reference is the low half of the union; the rest of it may be anything.
        let gref = Gref(abi::low32(u));
        let entry = self.domain.grants().entry(gref).ok_or(Status::BadGntref)?;
        match self.pin(host.caller().id(), gref, entry, held) {
            Ok(frame) => Ok(frame),
            Err(status) if cfg!(feature = "only-v1") => Err(status),
            // Perhaps it passes another one on.
            Err(status) => {
                let (frame, other) = transitive::pin(host, self.domain, gref, entry, Self::PIN, status)?;
                passed.push(other);
                held.push(Held { entry, gref });
                Ok(frame)
            }
        }
    }

    /// Gives one side of the segments of a block its place. Returns how many from the first on could be given
    /// one.
    #[inline(always)]
    fn place<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut [Segment],
        cells: &[T],
        held: &mut ArrayVec<Held<'h>, BLOCK>,
    ) -> usize {
        if self.by_gref {
            self.place_granted(host, segments, cells, held)
        } else {
            self.place_own(host, segments, cells)
        }
    }

    #[inline(never)]
    fn place_own<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut [Segment],
        cells: &[T],
    ) -> usize {
        let all = segments.len();
        let mut rest = segments.iter_mut().zip(cells);
        while let Some((segment, cell)) = rest.next() {
            let Ok(mfn) = self.own(Self::named(cell)) else { return all - rest.len() - 1 };
            Self::set(segment, host.frame(mfn));
        }
        all
    }

    #[inline(never)]
    fn place_granted<H: Host<Domain = D>, T: CopyArg>(
        &self,
        host: &'h H,
        segments: &mut [Segment],
        cells: &[T],
        held: &mut ArrayVec<Held<'h>, BLOCK>,
    ) -> usize {
        let me = host.caller().id();
        let table = self.domain.grants();
        let all = segments.len();
        let mut rest = segments.iter_mut().zip(cells);
        // There is always a first frame.
        let Some(mut window) = table.window(Gref(0)) else { return 0 };
        // What the last element named, and what it came to. No reference is as large.
        let mut last = u64::MAX;
        let mut frame = Frame::whole(Mfn(0));
        while let Some((segment, cell)) = rest.next() {
            let undone = rest.len() + 1;
            let gref = Gref(abi::low32(Self::named(cell)));
            if u64::from(gref.0) != last {
                let entry = match window.entry(gref) {
                    Some(entry) => entry,
                    None => {
                        window = table.window(gref).unwrap_or(window);
                        let Some(entry) = table.entry(gref) else { return all - undone };
                        entry
                    }
                };
                let Ok(pinned) = self.pin(me, gref, entry, held) else { return all - undone };
                last = gref.0.into();
                frame = pinned;
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
    fn set(segment: &mut Segment, frame: *mut u8) {
        let at = frame.wrapping_add(Self::offset(segment));
        if WRITES {
            segment.dst = at;
        } else {
            segment.src = at;
        }
    }

    /// Drops pins.
    #[inline(always)]
    fn release(&self, held: &[Held<'h>]) {
        let table = self.domain.grants();
        for held in held {
            held.entry.active.unpin(Self::PIN, |version, bits| match version {
                Version::V1 => held.entry.shared.unmark(bits),
                Version::V2 => table.unmark_v2(held.gref, bits),
            });
        }
    }
}

/// Whether `len` bytes from `offset` lie in the range granted.
#[cold]
#[inline(never)]
fn within(frame: Frame, offset: usize, len: usize) -> Result<(), Status> {
    let inside = offset >= frame.start() && offset + len <= frame.last() + 1;
    if inside { Ok(()) } else { Err(Status::GeneralError) }
}

/// `len` bytes from and to the offsets, in frames not known yet. `None` for no bytes at all, and for more than
/// there is room for in a frame.
#[inline(always)]
fn unplaced(source: Side, dest: Side, len: u16) -> Option<Segment> {
    let room = PAGE_SIZE.saturating_sub(usize::from(source.offset.max(dest.offset)));
    // For no bytes it wraps.
    let last = usize::from(len).wrapping_sub(1);
    if last >= room {
        return None;
    }
    // Speculation: not a byte behind the frames, see the module's text.
    let len = index_nospec(last, room) + 1;
    let at = |side: Side| ptr::without_provenance_mut(usize::from(side.offset) % PAGE_SIZE);
    Some(Segment { dst: at(dest), src: at(source), len })
}

/// The operation on `count` elements at the start of `args`.
pub(crate) fn copy<H: Host, M: GuestMemory, T: CopyArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
    count: u32,
) -> Result<Progress, Fault> {
    let mut done = 0;
    while done < count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        let cells = args.in_place(done, (count - done).min(BLOCK_U32))?;
        let copied = block(host, cells);
        for cell in copied {
            cell.set_status(Status::Okay.abi());
            done += 1;
        }
        if copied.is_empty() || copied.len() < cells.len() {
            let cell = args.read(done)?;
            let status = alone(host, &cell).err().unwrap_or(Status::Okay);
            args.write_status(done, T::STATUS, status)?;
            done += 1;
        }
    }
    Ok(Progress::Done)
}

/// Copies for as many of `cells` as go together, from the first on, and returns these.
#[inline(never)]
fn block<'c, H: Host, T: CopyArg>(host: &H, cells: &'c [T]) -> &'c [T] {
    let Some(first) = cells.first() else { return cells };
    let (_, flags) = first.len_and_flags();
    let (source, dest) = (first.source(), first.dest());
    let ends = (
        End::<_, false>::new(host, source, flags & copy_flags::SOURCE_GREF != 0),
        End::<_, true>::new(host, dest, flags & copy_flags::DEST_GREF != 0),
    );
    let (Ok(sources), Ok(dests)) = ends else { return &[] };

    let mut segments = ArrayVec::<Segment, BLOCK>::new_const();
    for cell in cells {
        let (len, its_flags) = cell.len_and_flags();
        let (its_source, its_dest) = (cell.source(), cell.dest());
        let alike = its_flags == flags && its_source.domid == source.domid && its_dest.domid == dest.domid;
        match unplaced(its_source, its_dest, len) {
            Some(segment) if alike => segments.push(segment),
            _ => break,
        }
    }
    let mut read = ArrayVec::new_const();
    let mut written = ArrayVec::new_const();
    let placed = sources.place(host, &mut segments, cells, &mut read);
    segments.truncate(placed);
    let placed = dests.place(host, &mut segments, cells, &mut written);
    segments.truncate(placed);
    if placed != 0 {
        host.copy(Batch::new(&segments));
    }
    sources.release(&read);
    dests.release(&written);
    cells.get(..placed).unwrap_or_default()
}

/// Copies for one element. The order of the checks, and so which error wins, is Xen's.
#[cold]
#[inline(never)]
fn alone<H: Host, T: CopyArg>(host: &H, cell: &T) -> Result<(), Status> {
    let (len, flags) = cell.len_and_flags();
    // Nothing is looked at, not even the domains.
    if len == 0 {
        return Ok(());
    }
    let (source, dest) = (cell.source(), cell.dest());
    let from = End::<_, false>::new(host, source, flags & copy_flags::SOURCE_GREF != 0)?;
    let to = End::<_, true>::new(host, dest, flags & copy_flags::DEST_GREF != 0)?;
    let mut read = ArrayVec::new_const();
    let mut written = ArrayVec::new_const();
    let mut passed = ArrayVec::new_const();
    let result = (|| {
        let source_frame = from.frame(host, cell.source_name(), &mut read, &mut passed)?;
        let dest_frame = to.frame(host, cell.dest_name(), &mut written, &mut passed)?;
        let mut segment = unplaced(source, dest, len).ok_or(Status::BadCopyArg)?;
        within(source_frame, usize::from(source.offset), segment.len)?;
        within(dest_frame, usize::from(dest.offset), segment.len)?;
        End::<H::Domain, false>::set(&mut segment, host.frame(source_frame.mfn()));
        End::<H::Domain, true>::set(&mut segment, host.frame(dest_frame.mfn()));
        host.copy(Batch::new(&[segment]));
        Ok(())
    })();
    from.release(&read);
    to.release(&written);
    for other in &passed {
        other.release();
    }
    result
}
