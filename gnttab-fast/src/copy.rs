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
//! # Entries of a block
//! Where a block has little to copy, [`HELD_BYTES`], it does not pin its entries but keeps them busy until it is
//! done: nothing is to be written into them then, and giving one back is a store. It takes only entries that are
//! idle and waits for none ([`Active::try_lock_v1`](crate::active::Active::try_lock_v1)), so two blocks that
//! want each other's entries cannot deadlock. Others may wait for it: about as long as the copying of a few KiB
//! takes, and only who uses the same grants, be it the granter or the grantee. At an entry that others pin, or
//! that came before in the block, the block ends; from then on the hypercall pins.
//!
//! A block that pins may do so twice: a reference that comes back after another is pinned once more, which is
//! one exchange. A table of what the block has pinned costs each element more than that costs the few that
//! repeat (measured; such a table was here before).
//!
//! Between blocks the hypercall may yield. Since no block depends on another, the batch split anywhere gives
//! the result of the whole. (Elements that write their own argument array are outside that promise, as they
//! are in Xen.) Each field of an element is read once by a block, and once more, as if for the first time, if
//! the element is then done alone.
//!
//! # What keeps a frame in place
//! The caller's epoch, see [`active`](crate::active): no reference is taken to a page or a domain. For as long
//! a translation may be kept, so the large page found last answers for all of its frames ([`Large`]).
//!
//! # Speculation
//! Offset and length are the caller's. After the checks the length is masked with the room there is, and the
//! offsets are cut to a frame, so that a mispredicted check does not copy a byte beyond the range granted
//! (Spectre v1).

mod end;

use crate::abi::{copy_flags, low32};
use crate::active::Frame;
use crate::args::Args;
use crate::cells::{CopyArg, Side};
use crate::host::{Batch, Fault, GuestMemory, Host};
use crate::op::Progress;
use crate::status::Status;
use crate::types::PAGE_SIZE;
use arrayvec::ArrayVec;
use copy_engine::Segment;
use core::ptr;
use end::End;
use maptrack::min_nospec;

/// Elements in a block.
pub const BLOCK: usize = 64;
/// Bytes of a block below which its entries are held busy. So much copies in 1 to 10 microseconds, from cache or
/// memory, which is how long others may wait; and for more the exchange saved is next to nothing.
const HELD_BYTES: usize = 8192;
/// [`BLOCK`] as the ABI counts.
const BLOCK_U32: u32 = 64;
const _: () = assert!(BLOCK_U32 as usize == BLOCK);

/// The bytes of a block: to be given places, or with them.
type Segments = ArrayVec<Segment, BLOCK>;

/// How a block uses entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Keeps them busy from the first to the last.
    Held,
    /// Pins them.
    Pinned,
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
    let (offset, len) = (usize::from(source.offset.max(dest.offset)), usize::from(len));
    if len == 0 || offset + len > PAGE_SIZE {
        return None;
    }
    // Speculation: not a byte behind the frames, see the module's text.
    let len = min_nospec(len, PAGE_SIZE - offset % PAGE_SIZE);
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
    let mut how = Use::Held;
    while done < count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        let cells = args.in_place(done, (count - done).min(BLOCK_U32))?;
        let copied = block(host, &mut how, cells);
        for cell in copied {
            cell.set_status(Status::Okay.abi());
        }
        done += low32(copied.len() as u64);
        if copied.is_empty() || copied.len() < cells.len() {
            let cell = args.read(done)?;
            let status = alone(host, &cell).err().unwrap_or(Status::Okay);
            args.write_status(done, T::STATUS, status)?;
            done += 1;
        }
    }
    Ok(Progress::Done)
}

/// Copies for as many of `cells` as go together, from the first on, and returns these. `how` entries are to be
/// used is for the blocks of one hypercall to say to the next.
#[inline(never)]
fn block<'c, H: Host, T: CopyArg>(host: &H, how: &mut Use, cells: &'c [T]) -> &'c [T] {
    let Some(first) = cells.first() else { return cells };
    let (_, flags) = first.len_and_flags();
    let (source, dest) = (first.source(), first.dest());
    let ends = (
        End::<_, false>::new(host, source, flags & copy_flags::SOURCE_GREF != 0),
        End::<_, true>::new(host, dest, flags & copy_flags::DEST_GREF != 0),
    );
    let (Ok(sources), Ok(dests)) = ends else { return &[] };

    let mut bytes = 0;
    let mut segments = Segments::new_const();
    let cells = cells.get(..BLOCK).unwrap_or(cells);
    segments.extend(cells.iter().map_while(|cell| {
        let (len, its_flags) = cell.len_and_flags();
        let (its_source, its_dest) = (cell.source(), cell.dest());
        if its_flags != flags || its_source.domid != source.domid || its_dest.domid != dest.domid {
            return None;
        }
        let segment = unplaced(its_source, its_dest, len)?;
        bytes += segment.len;
        Some(segment)
    }));
    // Of one table, an entry may be source and dest.
    let one_table = sources.by_gref && dests.by_gref && source.domid == dest.domid;
    let may_hold = bytes < HELD_BYTES && !one_table && sources.may_hold() && dests.may_hold();
    let placed = if may_hold && *how == Use::Held {
        let planned = segments.len();
        let placed = held(host, (&sources, &dests), &mut segments, bytes, cells);
        if placed < planned {
            *how = Use::Pinned;
        }
        placed
    } else {
        pinned(host, (&sources, &dests), &mut segments, bytes, cells)
    };
    cells.get(..placed).unwrap_or_default()
}

/// Both sides of a block.
type Ends<'e, 'h, D> = (&'e End<'h, D, false>, &'e End<'h, D, true>);

/// Gives the segments, of so many `bytes`, their places, copies for those that have two, and returns how many
/// these are. Entries are kept busy meanwhile.
#[inline(always)]
fn held<'h, H: Host, T: CopyArg>(
    host: &'h H,
    (sources, dests): Ends<'_, 'h, H::Domain>,
    segments: &mut Segments,
    bytes: usize,
    cells: &[T],
) -> usize {
    let (mut read, mut written) = (ArrayVec::new_const(), ArrayVec::new_const());
    let planned = segments.len();
    sources.hold_all(host, segments, cells, &mut read);
    dests.hold_all(host, segments, cells, &mut written);
    copy_placed(host, segments, bytes, planned);
    End::<H::Domain, false>::let_go(&read);
    End::<H::Domain, true>::let_go(&written);
    segments.len()
}

/// As [`held`], with pins.
#[inline(never)]
fn pinned<'h, H: Host, T: CopyArg>(
    host: &'h H,
    (sources, dests): Ends<'_, 'h, H::Domain>,
    segments: &mut Segments,
    bytes: usize,
    cells: &[T],
) -> usize {
    let (mut read, mut written) = (ArrayVec::new_const(), ArrayVec::new_const());
    let planned = segments.len();
    sources.pin_all(host, segments, cells, &mut read);
    dests.pin_all(host, segments, cells, &mut written);
    copy_placed(host, segments, bytes, planned);
    sources.unpin(&read);
    dests.unpin(&written);
    segments.len()
}

/// Copies segments that have both places: of `planned` ones with so many `bytes`, perhaps fewer.
#[inline(always)]
fn copy_placed<H: Host>(host: &H, segments: &[Segment], bytes: usize, planned: usize) {
    if segments.is_empty() {
        return;
    }
    let all = segments.len() == planned;
    let bytes = if all { bytes } else { segments.iter().map(|segment| segment.len).sum() };
    host.copy(Batch::new(segments, bytes));
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
        host.copy(Batch::new(&[segment], segment.len));
        Ok(())
    })();
    from.unpin(&read);
    to.unpin(&written);
    for other in &passed {
        other.release();
    }
    result
}
