//! `GNTTABOP_copy`: a batch is planned, not looped over.
//!
//! Elements are taken in blocks: as many as name the same domains in the same way and have nothing unusual about
//! them, [`BLOCK`] at most. A block goes through its elements in passes, each of which does one thing with little
//! at hand: lengths, offsets, and frames of the caller's own; the granted frames of the sources; those of the
//! dests; all bytes, in the order of the elements; the entries given back; the statuses written. So a guest sees
//! `GTF_reading` and `GTF_writing` for as long as a block takes, and never a status before its bytes. Locked
//! instructions wait for the stores before them; here they stand apart from the bytes, whose misses overlap.
//!
//! A block goes on behind the end of a page of arguments. What lies in place in one page goes through the passes
//! up to the bytes together; then the element across the end, which is read into one of our own; then what lies
//! in the next page. A single element is no block, though its entries are held as in one
//! ([`one`](block::one)): with nothing to remember it is done sooner.
//!
//! Every element of a block succeeds. Where a pass meets one that it will not or cannot do, the block ends
//! before it, and that element is done [`alone`], with nothing else pinned, by code that goes through it step by
//! step as Xen does and finds its status. So which error wins is decided in one place, and what a block holds
//! for the sake of speed refuses nothing that one element after the other would get.
//!
//! # Entries of a block
//! Where a block has little to copy, [`HELD_BYTES`](keep::HELD_BYTES), it does not pin its entries but keeps them
//! busy until it is done: nothing is to be written into them then, and giving one back is a store. It takes only
//! entries that are idle, in one attempt, and waits for none
//! ([`Active::try_lock_v1`](crate::active::Active::try_lock_v1)), so two blocks that want each other's entries
//! cannot deadlock. Others may wait for it: about as long as the copying of a few KiB takes, and only who uses the
//! same grants, be it the granter or the grantee. An element that names the entry of the one before it shares it.
//! At an entry that others pin, or that came earlier in the block, the block ends; from then on the hypercall
//! pins. It pins from the start where source and dest are of one table, and where a table is of version 2.
//!
//! A block that pins may do so twice: a reference that comes back after another is pinned once more, which is
//! one exchange. A table of what the block has pinned costs each element more than that costs the few that
//! repeat (measured; such a table was here before).
//!
//! Between blocks the hypercall may yield. Since no block depends on another, the batch split anywhere gives
//! the result of the whole. (Elements that write their own argument array are outside that promise, as they
//! are in Xen.) Each field of an element is read once by a block that takes it, and once more, as if for the first
//! time, by whoever takes the element after a block has not; so are those of a block's first, which say what the
//! others must have in common with it.
//!
//! # What keeps a frame in place
//! The caller's epoch, see [`active`](crate::active): no reference is taken to a page or a domain. For as long
//! a translation may be kept, so the large page found last answers for all of its frames ([`Large`](end::Large)).
//!
//! # Speculation
//! Offset and length are the caller's. After the checks the length is masked with the room there is, and the
//! offsets are cut to a frame, so that a mispredicted check does not copy a byte beyond the range granted
//! (Spectre v1).

mod block;
mod end;
mod keep;

use crate::abi::copy_flags;
use crate::active::Frame;
use crate::args::Args;
use crate::cells::CopyArg;
use crate::host::{Batch, Fault, GuestMemory, Host};
use crate::op::Progress;
use crate::status::Status;
use arrayvec::ArrayVec;
use block::Common;
use end::{End, set};

/// Elements in a block.
pub const BLOCK: usize = 64;
/// [`BLOCK`] as the ABI counts.
const BLOCK_U32: u32 = 64;
const _: () = assert!(BLOCK_U32 as usize == BLOCK);

/// Whether `len` bytes from `offset` lie in the range granted.
#[cold]
#[inline(never)]
fn within(frame: Frame, offset: usize, len: usize) -> Result<(), Status> {
    let inside = offset >= frame.start() && offset + len <= frame.last() + 1;
    if inside { Ok(()) } else { Err(Status::GeneralError) }
}

/// The operation on `count` elements at the start of `args`.
pub(crate) fn copy<H: Host, M: GuestMemory, T: CopyArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
    count: u32,
) -> Result<Progress, Fault> {
    let (mut done, mut hold) = (0, true);
    while done < count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        let most = (count - done).min(BLOCK_U32);
        // A block of one is more work than the element.
        let copied = if most == 1 { 0 } else { block::block(host, args, (done, most), &mut hold)? };
        done += copied;
        if copied < most {
            let cell = args.read(done)?;
            let held = most == 1 && block::one(host, &cell).is_some();
            let status = if held { Ok(()) } else { alone(host, &cell) };
            let status = status.err().unwrap_or(Status::Okay);
            args.write_status(done, T::STATUS, status)?;
            done += 1;
        }
    }
    Ok(Progress::Done)
}

/// Copies for one element. The order of the checks, and so which error wins, is Xen's.
#[inline(never)]
fn alone<H: Host, T: CopyArg>(host: &H, cell: &T) -> Result<(), Status> {
    let words = cell.words();
    let (len, flags) = words.len_and_flags();
    // Nothing is looked at, not even the domains.
    if len == 0 {
        return Ok(());
    }
    let (source, dest) = (words.source(), words.dest());
    let from = End::<_, false>::new(host, source, flags & copy_flags::SOURCE_GREF != 0)?;
    let to = End::<_, true>::new(host, dest, flags & copy_flags::DEST_GREF != 0)?;
    let mut read = ArrayVec::new_const();
    let mut written = ArrayVec::new_const();
    let mut passed = ArrayVec::new_const();
    let result = (|| {
        let source_frame = from.frame(host, cell.source_name(), &mut read, &mut passed)?;
        let dest_frame = to.frame(host, cell.dest_name(), &mut written, &mut passed)?;
        let mut segment = Common::of(words).unplaced(words).ok_or(Status::BadCopyArg)?;
        within(source_frame, usize::from(source.offset), segment.len)?;
        within(dest_frame, usize::from(dest.offset), segment.len)?;
        set::<false>(&mut segment, host.frame(source_frame.mfn()));
        set::<true>(&mut segment, host.frame(dest_frame.mfn()));
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
