//! A block from its first element to the last: which elements go together, and the passes over them.

use super::BLOCK;
use super::end::{End, Large, gref, name, set};
use super::keep::{HELD_BYTES, Holding, Keep, Pinning, Planned};
use crate::abi::{copy_flags, low32};
use crate::args::Args;
use crate::cells::{CopyArg, Words};
use crate::host::{Batch, Domain, Fault, GuestMemory, Host};
use crate::status::Status;
use crate::types::PAGE_SIZE;
use arrayvec::ArrayVec;
use copy_engine::Segment;
use core::{ptr, slice};
use maptrack::mask_nospec;

/// What the elements of a block have in common, each in the upper half of a word.
#[derive(Clone, Copy)]
pub(super) struct Common {
    source: u32,
    dest: u32,
    flags: u32,
}

impl Common {
    /// What an element has of it.
    #[inline(always)]
    pub(super) fn of(words: Words) -> Self {
        Self { source: words.source << 16, dest: words.dest << 16, flags: words.len_and_flags & 0xffff_0000 }
    }

    /// Bytes from and to the offsets of an element that has it all, in frames not known yet. `None` for no bytes
    /// at all, and for more than there is room for in a frame.
    #[inline(always)]
    pub(super) fn unplaced(self, words: Words) -> Option<Segment> {
        // Where a word differs in more than offset or length, it comes out as too large for any frame.
        let source = words.source.rotate_left(16) ^ self.source;
        let dest = words.dest.rotate_left(16) ^ self.dest;
        let len = words.len_and_flags ^ self.flags;
        // Where the last byte of each side is, in its frame. A frame has a power of two of bytes, so the union of
        // both is in it if each of them is.
        let before_last = len.wrapping_sub(1) as usize;
        let last = (before_last + source as usize) | (before_last + dest as usize);
        // Speculation: not a byte if there is no room, and the offsets are cut, see the text of `copy`.
        let len = len as usize & mask_nospec::<PAGE_SIZE>(last);
        if len == 0 {
            return None;
        }
        let at = |offset: u32| ptr::without_provenance_mut(offset as usize % PAGE_SIZE);
        Some(Segment { dst: at(dest), src: at(source), len })
    }
}

/// The elements of a block.
struct Plan<'h, const HELD: usize> {
    common: Common,
    elements: ArrayVec<Planned<'h, HELD>, BLOCK>,
    /// Their lengths together.
    bytes: usize,
    /// Where the caller's own memory was found last.
    read: Large<0>,
    written: Large<0>,
}

impl<const HELD: usize> Plan<'_, HELD> {
    /// Goes on with as many of `cells` as go with the elements before. Sides in the caller's own memory get
    /// their places.
    #[inline(always)]
    fn extend<H: Host, T: CopyArg, const READS_OWN: bool, const WRITES_OWN: bool>(
        &mut self,
        host: &H,
        cells: &[T],
    ) {
        let Self { common, elements, bytes, read, written } = self;
        let (common, me) = (*common, host.caller());
        elements.extend(cells.iter().map_while(|cell| {
            let mut segment = common.unplaced(cell.words())?;
            if READS_OWN {
                set::<false>(&mut segment, read.find::<H, false>(host, me, cell.source_name())?);
            }
            if WRITES_OWN {
                set::<true>(&mut segment, written.find::<H, true>(host, me, cell.dest_name())?);
            }
            *bytes += segment.len;
            Some(Planned { segment, held: [None; HELD] })
        }));
    }
}

/// A block as far as it has come. A side without entries is in the caller's own memory.
struct Block<'h, H: Host, S: Keep<'h, H>, D: Keep<'h, H>, const HELD: usize> {
    host: &'h H,
    plan: Plan<'h, HELD>,
    sources: Option<S>,
    read: ArrayVec<S::Kept, BLOCK>,
    dests: Option<D>,
    written: ArrayVec<D::Kept, BLOCK>,
    /// Elements, from the first on, that have both places.
    placed: usize,
    /// It came to something that cannot be kept so.
    refused: bool,
}

impl<'h, H: Host, S: Keep<'h, H>, D: Keep<'h, H>, const HELD: usize> Block<'h, H, S, D, HELD> {
    #[inline(always)]
    fn new(host: &'h H, common: Common, sources: Option<S>, dests: Option<D>) -> Self {
        let elements = ArrayVec::new_const();
        let plan = Plan { common, elements, bytes: 0, read: Large::NONE, written: Large::NONE };
        let (read, written) = (ArrayVec::new_const(), ArrayVec::new_const());
        Self { host, plan, sources, read, dests, written, placed: 0, refused: false }
    }

    /// Goes on with as many of `cells` as go with the elements before, and returns whether these are all.
    #[inline(never)]
    fn take<T: CopyArg>(&mut self, cells: &[T]) -> bool {
        let Self { host, plan, sources, read, dests, written, placed, refused } = self;
        match (&sources, &dests) {
            (None, None) => plan.extend::<H, T, true, true>(host, cells),
            (None, Some(_)) => plan.extend::<H, T, true, false>(host, cells),
            (Some(_), None) => plan.extend::<H, T, false, true>(host, cells),
            (Some(_), Some(_)) => plan.extend::<H, T, false, false>(host, cells),
        }
        let mut new = plan.elements.get_mut(*placed..).unwrap_or_default();
        let planned = new.len();
        // It was not seen to be so much when it began.
        if plan.bytes >= S::BELOW {
            new = &mut [];
        }
        if let Some(sources) = sources {
            let found = sources.place(host, new, cells, read);
            new = new.get_mut(..found).unwrap_or_default();
        }
        let mut found = new.len();
        if let Some(dests) = dests {
            found = dests.place(host, new, cells, written);
        }
        *placed += found;
        *refused = found < planned;
        found == cells.len()
    }

    /// Goes on behind the last element of a page of arguments, up to `most` elements in all from `first` on: with
    /// the one across its end, and those in the next page.
    #[inline(always)]
    fn take_behind<M: GuestMemory, T: CopyArg>(
        &mut self,
        args: &mut Args<'_, M, T>,
        (first, most): (u32, u32),
    ) {
        let across = low32(self.placed as u64);
        // A fault is found again by who begins there.
        if let Ok(cell) = args.read(first + across)
            && self.take(slice::from_ref(&cell))
            && across + 1 < most
            && let Ok(cells) = args.in_place(first + across + 1, most - across - 1)
        {
            self.take(cells);
        }
    }

    /// Copies for what was taken, which is of `cells`, and says so there.
    #[inline(always)]
    fn finish<T: CopyArg>(&self, cells: &[T]) -> Copied {
        let copied = self.copy();
        let done = cells.get(..copied.elements as usize).unwrap_or_default();
        done.iter().for_each(|cell| cell.set_status(Status::Okay.abi()));
        copied
    }

    /// [`take_behind`](Self::take_behind), then as [`finish`](Self::finish).
    #[cold]
    #[inline(never)]
    fn finish_behind<M: GuestMemory, T: CopyArg>(
        &mut self,
        args: &mut Args<'_, M, T>,
        (first, most): (u32, u32),
    ) -> Result<Copied, Fault> {
        self.take_behind(args, (first, most));
        let copied = self.copy();
        let mut done = 0;
        while done < copied.elements {
            let cells = args.in_place(first + done, copied.elements - done)?;
            cells.iter().for_each(|cell| cell.set_status(Status::Okay.abi()));
            done += low32(cells.len() as u64);
            if done < copied.elements {
                args.write_status(first + done, T::STATUS, Status::Okay)?;
                done += 1;
            }
        }
        Ok(copied)
    }

    /// Copies, and lets go of the entries.
    #[inline(always)]
    fn copy(&self) -> Copied {
        let elements = self.plan.elements.as_slice();
        let (mut placed, mut bytes) = (elements, self.plan.bytes);
        if self.refused {
            placed = elements.get(..self.placed).unwrap_or_default();
            bytes = placed.iter().map(|planned| planned.segment.len).sum();
        }
        if !placed.is_empty() {
            self.host.copy(Batch::new(placed, bytes));
        }
        if let Some(sources) = &self.sources {
            sources.let_go(elements, &self.read);
        }
        if let Some(dests) = &self.dests {
            dests.let_go(elements, &self.written);
        }
        Copied { elements: low32(placed.len() as u64), refused: self.refused }
    }
}

/// What a block came to.
struct Copied {
    /// Elements copied for.
    elements: u32,
    refused: bool,
}

/// Both sides of a block.
type Ends<'h, D> = (End<'h, D, false>, End<'h, D, true>);

/// Copies for at most `most` elements from `first` on, at most [`BLOCK`], as many as go together, says so of them,
/// and returns how many these are. `hold` is for the blocks of one hypercall to say to the next.
#[inline(never)]
pub(super) fn block<H: Host, M: GuestMemory, T: CopyArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
    (first, most): (u32, u32),
    hold: &mut bool,
) -> Result<u32, Fault> {
    let cells = args.in_place(first, most)?;
    let Some(cell) = cells.first() else { return Ok(0) };
    let words = cell.words();
    let (len, flags) = words.len_and_flags();
    let common = Common::of(words);
    let ends = (
        End::<_, false>::new(host, words.source(), flags & copy_flags::SOURCE_GREF != 0),
        End::<_, true>::new(host, words.dest(), flags & copy_flags::DEST_GREF != 0),
    );
    let (Ok(from), Ok(to)) = ends else { return Ok(0) };
    // As if the others were as long.
    let little = usize::from(len) * (most as usize) < HELD_BYTES;
    if *hold
        && little
        && may_hold(&from, &to)
        && let (Some(sources), Some(dests)) = (Holding::of(&from, cell), Holding::of(&to, cell))
    {
        let copied = if from.by_gref && to.by_gref {
            let mut block = Block::<_, _, _, 2>::new(host, common, sources, dests);
            if block.take(cells) && cells.len() < most as usize {
                block.finish_behind(args, (first, most))?
            } else {
                block.finish(cells)
            }
        } else {
            let mut block = Block::<_, _, _, 1>::new(host, common, sources, dests);
            if block.take(cells) && cells.len() < most as usize {
                block.finish_behind(args, (first, most))?
            } else {
                block.finish(cells)
            }
        };
        *hold = !copied.refused;
        // An element that is refused is done alone: who waits for its entry waits until all of them are given back,
        // not for each.
        return Ok(copied.elements);
    }
    pinned(host, args, (first, most), common, (from, to))
}

/// Whether entries of both sides may be held.
#[inline(always)]
fn may_hold<D: Domain>(from: &End<'_, D, false>, to: &End<'_, D, true>) -> bool {
    // Of one table, an entry may be source and dest.
    let one_table = from.by_gref && to.by_gref && ptr::eq(from.domain, to.domain);
    !one_table && from.may_hold() && to.may_hold()
}

/// Copies for one element as a block would that holds its entries, without what a block has to remember. `None`, and
/// nothing done, if it cannot be done so.
#[inline(never)]
pub(super) fn one<H: Host, T: CopyArg>(host: &H, cell: &T) -> Option<()> {
    let words = cell.words();
    let (_, flags) = words.len_and_flags();
    let from = End::<_, false>::new(host, words.source(), flags & copy_flags::SOURCE_GREF != 0).ok()?;
    let to = End::<_, true>::new(host, words.dest(), flags & copy_flags::DEST_GREF != 0).ok()?;
    if !may_hold(&from, &to) {
        return None;
    }
    let segment = Common::of(words).unplaced(words)?;
    let mut planned = Planned { segment, held: [None; 2] };
    let placed =
        place_one(host, &from, cell, &mut planned).and_then(|()| place_one(host, &to, cell, &mut planned));
    if placed.is_some() {
        host.copy(Batch::new(slice::from_ref(&planned), planned.segment.len));
    }
    let [read, written] = planned.held;
    read.into_iter().for_each(Holding::<H::Domain, false>::give_back);
    written.into_iter().for_each(Holding::<H::Domain, true>::give_back);
    placed
}

/// Gives one side of a single element its place.
#[inline(always)]
fn place_one<'h, H: Host, T: CopyArg, const WRITES: bool>(
    host: &'h H,
    end: &End<'h, H::Domain, WRITES>,
    cell: &T,
    planned: &mut Planned<'h, 2>,
) -> Option<()> {
    let at = match Holding::of(end, cell)? {
        Some(mut side) => {
            let (at, held) = side.frame(host, host.caller().id(), gref::<T, WRITES>(cell))?;
            planned.held[usize::from(WRITES)] = held;
            at
        }
        None => {
            let mut large = Large::<0>::NONE;
            large.find::<H, WRITES>(host, host.caller(), name::<T, WRITES>(cell))?
        }
    };
    set::<WRITES>(&mut planned.segment, at);
    Some(())
}

/// As [`block`], with entries pinned.
#[inline(never)]
fn pinned<H: Host, M: GuestMemory, T: CopyArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
    (first, most): (u32, u32),
    common: Common,
    (from, to): Ends<'_, H::Domain>,
) -> Result<u32, Fault> {
    let cells = args.in_place(first, most)?;
    let (sources, dests) = (from.by_gref.then_some(Pinning(from)), to.by_gref.then_some(Pinning(to)));
    let mut block = Block::<_, _, _, 0>::new(host, common, sources, dests);
    let copied = if block.take(cells) && cells.len() < most as usize {
        block.finish_behind(args, (first, most))?
    } else {
        block.finish(cells)
    };
    Ok(copied.elements)
}
