//! `GNTTABOP_copy`: a batch is planned, not looped over.
//!
//! Elements are taken in blocks. For a block, domains are looked up once per run of elements that name the
//! same, references pinned and frames translated once per run; then all bytes are copied, in the order of
//! the elements; then the pins are dropped; then the statuses are written. So a guest sees `GTF_reading` and
//! `GTF_writing` for as long as a block takes, and never a status before its bytes.
//!
//! A reference that comes back after another is pinned once more, which is one exchange: a table of what the
//! block has pinned costs each element more than that costs the few that repeat (measured; such a table was
//! here before).
//!
//! A block ends after [`BLOCK`] elements, and before an element that finds no pin to be had while the block
//! holds some: the next block tries it again with none held, so that what a block holds for the sake of speed
//! refuses nothing that one element after the other would get. Between blocks the hypercall may yield. Since
//! no block depends on another, the batch split anywhere gives the result of the whole. (Elements that write
//! their own argument array are outside that promise, as they are in Xen.)
//!
//! # What keeps a frame in place
//! The caller's epoch, see [`active`](crate::active): no reference is taken to a page or a domain.
//!
//! # Speculation
//! Offset and length are the caller's. After the checks the length is masked with the room there is, and the
//! offsets are cut to a frame, so that a mispredicted check does not copy a byte beyond the range granted
//! (Spectre v1).

use crate::abi::{self, compat, copy_flags};
use crate::active::{Frame, Pin};
use crate::args::Args;
use crate::grant::{Grant, Granter};
use crate::host::{Batch, Domain, Domains, Fault, GuestMemory, Host};
use crate::op::Progress;
use crate::policy::Version;
use crate::status::Status;
use crate::table::Entry;
use crate::transitive::{self, Passed};
use crate::types::{DomId, Gfn, Gref, Mfn, PAGE_SIZE};
use arrayvec::ArrayVec;
use copy_engine::Segment;
use maptrack::index_nospec;
use zerocopy::{FromBytes, IntoBytes};

/// Elements in a block.
pub const BLOCK: usize = 64;
/// [`BLOCK`] as the ABI counts.
const BLOCK_U32: u32 = 64;
const _: () = assert!(BLOCK_U32 as usize == BLOCK);

/// One side of an element, in either width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Side {
    /// A gfn, or a reference in the low 32 bits.
    u: u64,
    domid: u16,
    offset: u16,
}

/// The structure of a width.
pub(crate) trait CopyArg: FromBytes + IntoBytes {
    /// Where its status is.
    const STATUS: usize;

    /// From.
    fn source(&self) -> Side;

    /// To.
    fn dest(&self) -> Side;

    /// Bytes, and `GNTCOPY_*`.
    fn len_and_flags(&self) -> (u16, u16);
}

macro_rules! copy_arg {
    ($width:ty) => {
        impl CopyArg for $width {
            const STATUS: usize = core::mem::offset_of!(Self, status);

            #[inline(always)]
            fn source(&self) -> Side {
                let p = &self.source;
                Side { u: p.u.into(), domid: p.domid, offset: p.offset }
            }

            #[inline(always)]
            fn dest(&self) -> Side {
                let p = &self.dest;
                Side { u: p.u.into(), domid: p.domid, offset: p.offset }
            }

            #[inline(always)]
            fn len_and_flags(&self) -> (u16, u16) {
                (self.len, self.flags)
            }
        }
    };
}

copy_arg!(abi::Copy);
copy_arg!(compat::Copy);

/// A pin of a block.
#[derive(Clone, Copy)]
struct Held<'h> {
    entry: Entry<'h>,
    key: Key,
}

/// What a side named: `gref:1 | domid | gref`, or an own gfn. Equal keys, equal frames, within a block.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(u64);

impl Key {
    /// No gfn has it, and no reference: domids have 16 bits.
    const NONE: Self = Self(u64::MAX);
    const GREF: u64 = 1 << 63;
    const DOMID_SHIFT: u32 = 32;

    #[inline(always)]
    fn gref(domid: u16, gref: Gref) -> Self {
        Self(u64::from(gref.0) | u64::from(domid) << Self::DOMID_SHIFT | Self::GREF)
    }

    fn reference(self) -> (DomId, Gref) {
        let [.., low, high, _, _] = self.0.to_le_bytes();
        (DomId(u16::from_le_bytes([low, high])), Gref(abi::low32(self.0)))
    }
}

/// One side of the elements of a block: the sources, or the dests, which are written.
struct Claims<'h, H: Host, const WRITES: bool> {
    /// What the last element named, and what it came to.
    last: Key,
    frame: Frame,
    held: ArrayVec<Held<'h>, BLOCK>,
    host: &'h H,
}

/// Pins that go with pins of transitive entries, of both sides.
type PassedPins<'h, H> = ArrayVec<Passed<'h, <H as Domains>::Domain>, { 2 * BLOCK }>;

impl<'h, H: Host, const WRITES: bool> Claims<'h, H, WRITES> {
    const PIN: Pin = Pin::for_access(WRITES);

    #[inline(always)]
    fn new(host: &'h H) -> Self {
        Self { last: Key::NONE, frame: Frame::whole(Mfn(0)), held: ArrayVec::new_const(), host }
    }

    /// The domain whose reference a side names, or `None` if it names a frame of the caller's.
    #[inline(always)]
    fn granter(
        host: &'h H,
        side: &Side,
        by_gref: bool,
        domains: &mut Granter<'h, H>,
    ) -> Result<Option<&'h H::Domain>, Status> {
        if by_gref {
            domains.find_or_self(host, DomId(side.domid)).map(Some)
        } else if side.domid == DomId::SELF.0 {
            Ok(None)
        } else {
            // Only the caller's own memory goes by frame.
            Err(Status::PermissionDenied)
        }
    }

    /// The frame of a side, pinned or translated.
    #[inline(always)]
    fn claim(
        &mut self,
        granter: Option<&'h H::Domain>,
        side: &Side,
        passed: &mut PassedPins<'h, H>,
    ) -> Result<Frame, Status> {
        let key = match granter {
            // A reference is the low half of the union; the rest of it may be anything.
            Some(_) => Key::gref(side.domid, Gref(abi::low32(side.u))),
            // No domain has so many gfns.
            None if side.u >= Key::GREF => return Err(Status::BadPage),
            None => Key(side.u),
        };
        if key == self.last {
            return Ok(self.frame);
        }
        let frame = match granter {
            None => Self::own_frame(self.host, Gfn(side.u))?,
            Some(granter) => self.pin(granter, key, passed)?,
        };
        self.last = key;
        self.frame = frame;
        Ok(frame)
    }

    #[inline(always)]
    fn own_frame(host: &'h H, gfn: Gfn) -> Result<Frame, Status> {
        match host.caller().ram(gfn) {
            Some(ram) if ram.writable || !WRITES => Ok(Frame::whole(ram.mfn)),
            _ => Err(Status::BadPage),
        }
    }

    #[inline(always)]
    fn pin(
        &mut self,
        granter: &'h H::Domain,
        key: Key,
        passed: &mut PassedPins<'h, H>,
    ) -> Result<Frame, Status> {
        let gref = Gref(abi::low32(key.0));
        let entry = granter.grants().entry(gref).ok_or(Status::BadGntref)?;
        let grant = Grant::<_, false>::new(granter, gref, entry);
        let frame = match entry.active.pin(self.host.caller().id(), Self::PIN, &grant) {
            Ok(frame) => frame,
            Err(status) if cfg!(feature = "only-v1") => return Err(status),
            Err(status) => Self::pin_passed(self.host, granter, gref, entry, status, passed)?,
        };
        self.held.push(Held { entry, key });
        Ok(frame)
    }

    /// A reference that could not be pinned for what it is: perhaps it passes another one on.
    #[cold]
    #[inline(never)]
    fn pin_passed(
        host: &'h H,
        granter: &'h H::Domain,
        gref: Gref,
        entry: Entry<'h>,
        status: Status,
        passed: &mut PassedPins<'h, H>,
    ) -> Result<Frame, Status> {
        let (frame, pin) = transitive::pin(host, granter, gref, entry, Self::PIN, status)?;
        passed.push(pin);
        Ok(frame)
    }

    #[inline(always)]
    fn release(&self) {
        for held in &self.held {
            held.entry.active.unpin(Self::PIN, |version, bits| match version {
                Version::V1 => held.entry.shared.unmark(bits),
                Version::V2 => unmark_v2(self.host, held.key, bits),
            });
        }
    }
}

#[cold]
#[inline(never)]
fn unmark_v2<H: Host>(host: &H, key: Key, bits: u16) {
    let (domid, gref) = key.reference();
    let granter = if domid == DomId::SELF { Some(host.caller()) } else { host.domain(domid) };
    if let Some(granter) = granter {
        granter.grants().unmark_v2(gref, bits);
    }
}

/// Why an element is not in the block.
enum Left {
    /// It has failed.
    Failed(Status),
    /// It is to be tried again when the block's pins are dropped.
    Again,
}

/// A block in the making.
struct Plan<'h, H: Host> {
    host: &'h H,
    sources: Claims<'h, H, false>,
    dests: Claims<'h, H, true>,
    passed: PassedPins<'h, H>,
    segments: ArrayVec<Segment, BLOCK>,
    /// Of the elements that were planned; what lies behind them is okay.
    statuses: [Status; BLOCK],
}

impl<'h, H: Host> Plan<'h, H> {
    #[inline(always)]
    fn new(host: &'h H) -> Self {
        Self {
            host,
            sources: Claims::new(host),
            dests: Claims::new(host),
            passed: ArrayVec::new_const(),
            segments: ArrayVec::new_const(),
            statuses: [Status::Okay; BLOCK],
        }
    }

    /// Plans one element. The order of the checks, and so which error wins, is Xen's.
    #[inline(always)]
    fn add<T: CopyArg>(&mut self, arg: &T, domains: &mut [Granter<'h, H>; 2]) -> Result<(), Left> {
        let held = (self.sources.held.len(), self.dests.held.len());
        self.plan(arg, domains).map_err(|status| Self::left(status, held))
    }

    /// Pins are refused by a general error.
    #[cold]
    fn left(status: Status, held: (usize, usize)) -> Left {
        if status == Status::GeneralError && held != (0, 0) { Left::Again } else { Left::Failed(status) }
    }

    #[inline(always)]
    fn plan<T: CopyArg>(
        &mut self,
        arg: &T,
        [sources, dests]: &mut [Granter<'h, H>; 2],
    ) -> Result<(), Status> {
        let (len, flags) = arg.len_and_flags();
        // Nothing is looked at, not even the domains.
        if len == 0 {
            return Ok(());
        }
        let host = self.host;
        let (source, dest) = (arg.source(), arg.dest());
        let from_gref = flags & copy_flags::SOURCE_GREF != 0;
        let to_gref = flags & copy_flags::DEST_GREF != 0;
        let granter = Claims::<'h, H, false>::granter(host, &source, from_gref, sources)?;
        let receiver = Claims::<'h, H, true>::granter(host, &dest, to_gref, dests)?;
        let source_frame = self.sources.claim(granter, &source, &mut self.passed)?;
        let dest_frame = self.dests.claim(receiver, &dest, &mut self.passed)?;

        let (len, from, to) = (usize::from(len), usize::from(source.offset), usize::from(dest.offset));
        let far = from.max(to);
        if far + len > PAGE_SIZE {
            return Err(Status::BadCopyArg);
        }
        if !(source_frame.is_whole() && dest_frame.is_whole()) {
            within(source_frame, from, len)?;
            within(dest_frame, to, len)?;
        }
        // Speculation: not a byte behind the frames, see the module's text.
        let len = index_nospec(len, (PAGE_SIZE + 1).wrapping_sub(far));
        let at = |frame: Frame, offset: usize| host.frame(frame.mfn()).wrapping_add(offset % PAGE_SIZE);
        self.segments.push(Segment { dst: at(dest_frame, to), src: at(source_frame, from), len });
        Ok(())
    }

    /// Copies, and drops the pins.
    #[inline(always)]
    fn run(&mut self) {
        if !self.segments.is_empty() {
            self.host.copy(Batch::new(&self.segments));
        }
        self.sources.release();
        self.dests.release();
        if !cfg!(feature = "only-v1") && !self.passed.is_empty() {
            self.release_passed();
        }
    }
}

impl<H: Host> Plan<'_, H> {
    #[cold]
    #[inline(never)]
    fn release_passed(&mut self) {
        for passed in &self.passed {
            passed.release();
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

/// The operation on `count` elements at the start of `args`.
pub(crate) fn copy<H: Host, M: GuestMemory, T: CopyArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
    count: u32,
) -> Result<Progress, Fault> {
    let mut done = 0;
    let mut domains = [Granter::new(), Granter::new()];
    while done < count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        done += block(host, args, done, count - done, &mut domains)?;
    }
    Ok(Progress::Done)
}

/// One block from element `first` on, of at most `left` elements. Returns how many it did.
#[inline]
fn block<'h, H: Host, M: GuestMemory, T: CopyArg>(
    host: &'h H,
    args: &mut Args<'_, M, T>,
    first: u32,
    left: u32,
    domains: &mut [Granter<'h, H>; 2],
) -> Result<u32, Fault> {
    let mut plan = Plan::new(host);
    let mut fault = Ok(());
    let mut planned = 0;
    let left = left.min(BLOCK_U32) as usize;
    for (index, status) in (first..).zip(0..left) {
        let arg = match args.read(index) {
            Ok(arg) => arg,
            // What was read before is done.
            Err(at) => {
                fault = Err(at);
                break;
            }
        };
        match plan.add(&arg, domains) {
            Ok(()) => (),
            Err(Left::Failed(why)) => plan.statuses[status] = why,
            Err(Left::Again) => break,
        }
        planned = status + 1;
    }
    plan.run();
    let mut index = first;
    for status in plan.statuses.iter().take(planned) {
        args.write_status(index, T::STATUS, *status)?;
        index += 1;
    }
    fault.map(|()| index - first)
}
