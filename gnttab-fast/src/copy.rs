//! `GNTTABOP_copy`: a batch is planned, not looped over.
//!
//! Elements are taken in blocks. For a block, each domain is looked up once per run, each reference is
//! pinned once and each frame translated once, however many elements use them; then all bytes are copied,
//! in the order of the elements; then the pins are dropped; then the statuses are written. So a guest sees
//! `GTF_reading` and `GTF_writing` for as long as a block takes, and never a status before its bytes.
//!
//! A block ends after [`BLOCK`] elements. Between blocks the hypercall may yield. Since no block depends on
//! another, the batch split anywhere gives the result of the whole. (Elements that write their own argument
//! array are outside that promise, as they are in Xen.)
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
use crate::host::{Batch, Domain, Fault, GuestMemory, Host};
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
/// Claims a block can need: both sides of each element.
const CLAIMS: usize = 2 * BLOCK;
/// Slots of the table that finds a claim by its key: twice the claims, so that probes stay short.
const SLOTS: usize = 2 * CLAIMS;

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

/// What a claim is of: `write:1 | own:1 | ..` and a gfn, or domid and gref. Equal keys, equal claims.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(u64);

impl Key {
    const WRITE: u64 = 1 << 63;
    const OWN: u64 = 1 << 62;
    const DOMID_SHIFT: u32 = 32;

    #[inline]
    fn gref(domid: DomId, gref: Gref, pin: Pin) -> Self {
        Self(u64::from(gref.0) | u64::from(domid.0) << Self::DOMID_SHIFT | Self::write(pin))
    }

    /// Of an own frame. No domain has gfns of more than 40 bits: those of more than 62 may share a key.
    #[inline]
    fn own(gfn: Gfn, pin: Pin) -> Self {
        Self(gfn.0.min(Self::OWN - 1) | Self::OWN | Self::write(pin))
    }

    #[inline]
    fn write(pin: Pin) -> u64 {
        if pin.writes() { Self::WRITE } else { 0 }
    }

    #[inline]
    fn pin(self) -> Pin {
        Pin::for_access(self.0 & Self::WRITE != 0)
    }

    /// The reference a key made by [`gref`](Self::gref) is of.
    fn reference(self) -> (DomId, Gref) {
        let [.., low, high, _, _] = self.0.to_le_bytes();
        (DomId(u16::from_le_bytes([low, high])), Gref(abi::low32(self.0)))
    }

    /// Where the search for a claim begins. Multiplicative hashing by the golden ratio.
    #[inline]
    fn slot(self) -> usize {
        let [.., top] = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        usize::from(top) % SLOTS
    }
}

/// What is known of a reference or a frame: with [`Status::Okay`] the frame may be used.
#[derive(Clone, Copy)]
struct Known {
    status: Status,
    frame: Frame,
}

/// A reference pinned, or a frame translated, or the refusal of it.
struct Claim<'h> {
    key: Key,
    known: Known,
    /// The entry that is pinned.
    entry: Option<Entry<'h>>,
}

/// What a side of an element names.
#[derive(Clone, Copy)]
enum Named<'h, D> {
    /// A frame of the caller's.
    Own(Gfn),
    /// A grant of that domain.
    Grant(&'h D, Gref),
}

/// A block in the making.
struct Plan<'h, H: Host> {
    host: &'h H,
    /// The caller's number.
    caller: DomId,
    /// Index of a claim plus one, 0 for an empty slot.
    slots: [u8; SLOTS],
    claims: ArrayVec<Claim<'h>, CLAIMS>,
    /// Pins that go with pins of transitive entries.
    passed: ArrayVec<Passed<'h, H::Domain>, CLAIMS>,
    segments: ArrayVec<Segment, BLOCK>,
    statuses: ArrayVec<Status, BLOCK>,
}

impl<'h, H: Host> Plan<'h, H> {
    #[inline]
    fn new(host: &'h H) -> Self {
        Self {
            host,
            caller: host.caller().id(),
            slots: [0; SLOTS],
            claims: ArrayVec::new(),
            passed: ArrayVec::new(),
            segments: ArrayVec::new(),
            statuses: ArrayVec::new(),
        }
    }

    /// Plans one element. The order of the checks, and so which error wins, is Xen's.
    #[inline(always)]
    fn add<T: CopyArg>(&mut self, arg: &T, domains: &mut [Granter<'h, H>; 2]) {
        let status = self.plan(arg, domains).err().unwrap_or(Status::Okay);
        self.statuses.push(status);
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
        let (source, dest) = (arg.source(), arg.dest());
        let source_named = self.named(&source, flags & copy_flags::SOURCE_GREF != 0, sources)?;
        let dest_named = self.named(&dest, flags & copy_flags::DEST_GREF != 0, dests)?;
        let source_frame = self.claim(source_named, Pin::Read)?;
        let dest_frame = self.claim(dest_named, Pin::Write)?;

        let (len, from, to) = (usize::from(len), usize::from(source.offset), usize::from(dest.offset));
        if !within(source_frame, from, len) || !within(dest_frame, to, len) {
            let crosses = from + len > PAGE_SIZE || to + len > PAGE_SIZE;
            return Err(if crosses { Status::BadCopyArg } else { Status::GeneralError });
        }
        // Bytes from the offsets to the nearer end of the two ranges.
        let left = |frame: Frame, offset: usize| (frame.last() + 1).saturating_sub(offset);
        let room = left(source_frame, from).min(left(dest_frame, to));
        let at = |frame: Frame, offset: usize| self.host.frame(frame.mfn()).wrapping_add(offset % PAGE_SIZE);
        let (src, dst) = (at(source_frame, from), at(dest_frame, to));
        self.segments.push(Segment { dst, src, len: index_nospec(len, room + 1) });
        Ok(())
    }

    /// What a side names.
    #[inline(always)]
    fn named(
        &self,
        side: &Side,
        by_gref: bool,
        domains: &mut Granter<'h, H>,
    ) -> Result<Named<'h, H::Domain>, Status> {
        let own = side.domid == DomId::SELF.0;
        if by_gref {
            // A reference is the low half of the union; the rest of it may be anything.
            let gref = Gref(abi::low32(side.u));
            let granter =
                if own { self.host.caller() } else { domains.find(self.host, DomId(side.domid))? };
            Ok(Named::Grant(granter, gref))
        } else if own {
            Ok(Named::Own(Gfn(side.u)))
        } else {
            // Only the caller's own memory goes by frame.
            Err(Status::PermissionDenied)
        }
    }

    #[inline(always)]
    fn claim(&mut self, named: Named<'h, H::Domain>, pin: Pin) -> Result<Frame, Status> {
        let key = match named {
            Named::Grant(granter, gref) => Key::gref(granter.id(), gref, pin),
            Named::Own(gfn) => Key::own(gfn, pin),
        };
        let mut slot = key.slot();
        // There are fewer claims than slots, so the search meets an empty one.
        let known = loop {
            let Some(at) = usize::from(self.slots[slot]).checked_sub(1) else {
                break self.claim_new(slot, key, named, pin);
            };
            let claim = &self.claims[at];
            if claim.key == key {
                break claim.known;
            }
            slot = (slot + 1) % SLOTS;
        };
        if known.status == Status::Okay { Ok(known.frame) } else { Err(known.status) }
    }

    #[inline(never)]
    fn claim_new(&mut self, slot: usize, key: Key, named: Named<'h, H::Domain>, pin: Pin) -> Known {
        let (result, entry) = match named {
            Named::Own(gfn) => (self.translate_own(gfn, pin), None),
            Named::Grant(granter, gref) => match granter.grants().entry(gref) {
                None => (Err(Status::BadGntref), None),
                Some(entry) => {
                    let grant = Grant::<_, false>::new(granter, gref, entry);
                    let result = entry
                        .active
                        .pin(self.caller, pin, &grant)
                        .or_else(|status| self.claim_passed(granter, gref, entry, pin, status));
                    (result, result.is_ok().then_some(entry))
                }
            },
        };
        let known = match result {
            Ok(frame) => Known { status: Status::Okay, frame },
            Err(status) => Known { status, frame: NO_FRAME },
        };
        self.claims.push(Claim { key, known, entry });
        self.slots[slot] = u8::try_from(self.claims.len()).unwrap_or(0);
        known
    }

    /// A reference that could not be pinned for what it is: perhaps it passes another one on.
    #[cold]
    #[inline(never)]
    fn claim_passed(
        &mut self,
        granter: &'h H::Domain,
        gref: Gref,
        entry: Entry<'h>,
        pin: Pin,
        status: Status,
    ) -> Result<Frame, Status> {
        let (frame, passed) = transitive::pin(self.host, granter, gref, entry, pin, status)?;
        self.passed.push(passed);
        Ok(frame)
    }

    #[inline(always)]
    fn translate_own(&self, gfn: Gfn, pin: Pin) -> Result<Frame, Status> {
        match self.host.caller().ram(gfn) {
            Some(ram) if ram.writable || !pin.writes() => Ok(Frame::whole(ram.mfn)),
            _ => Err(Status::BadPage),
        }
    }

    /// Copies, and drops the pins.
    #[inline]
    fn run(&mut self) {
        if !self.segments.is_empty() {
            self.host.copy(Batch::new(&self.segments));
        }
        for claim in &self.claims {
            if let Some(entry) = claim.entry {
                entry.active.unpin(claim.key.pin(), |version, bits| match version {
                    Version::V1 => entry.shared.unmark(bits),
                    Version::V2 => self.unmark_v2(claim.key, bits),
                });
            }
        }
        for passed in &self.passed {
            passed.release();
        }
    }

    #[cold]
    #[inline(never)]
    fn unmark_v2(&self, key: Key, bits: u16) {
        let (domid, gref) = key.reference();
        if let Some(granter) = self.host.domain(domid) {
            granter.grants().unmark_v2(gref, bits);
        }
    }
}

/// The frame of a claim that failed; never used.
const NO_FRAME: Frame = Frame::whole(Mfn(0));

/// Whether `len` bytes from `offset` lie in the range granted.
#[inline]
fn within(frame: Frame, offset: usize, len: usize) -> bool {
    offset >= frame.start() && offset + len <= frame.last() + 1
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
    for index in first..first + left.min(BLOCK_U32) {
        match args.read(index) {
            Ok(arg) => plan.add(&arg, domains),
            // What was read before is done.
            Err(at) => {
                fault = Err(at);
                break;
            }
        }
    }
    plan.run();
    let mut index = first;
    for status in &plan.statuses {
        args.write_status(index, T::STATUS, *status)?;
        index += 1;
    }
    fault.map(|()| index - first)
}
