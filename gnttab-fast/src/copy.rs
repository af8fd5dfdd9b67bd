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
use crate::status::Status;
use crate::table::Entry;
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
    /// Gref or gfn.
    name: u64,
    domid: DomId,
    offset: u16,
    by_gref: bool,
}

/// One element, in either width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Element {
    source: Side,
    dest: Side,
    len: u16,
}

/// The structure of a width.
pub(crate) trait CopyArg: FromBytes + IntoBytes {
    /// Where its status is.
    const STATUS: usize;

    /// What it asks for.
    fn element(&self) -> Element;
}

impl CopyArg for abi::Copy {
    const STATUS: usize = core::mem::offset_of!(Self, status);

    #[inline]
    fn element(&self) -> Element {
        let side = |p: &abi::CopyPtr, flag| {
            let by_gref = self.flags & flag != 0;
            // A reference is the low half of the union; the rest of it may be anything.
            let name = if by_gref { u64::from(abi::low32(p.u)) } else { p.u };
            Side { name, domid: DomId(p.domid), offset: p.offset, by_gref }
        };
        Element {
            source: side(&self.source, copy_flags::SOURCE_GREF),
            dest: side(&self.dest, copy_flags::DEST_GREF),
            len: self.len,
        }
    }
}

impl CopyArg for compat::Copy {
    const STATUS: usize = core::mem::offset_of!(Self, status);

    #[inline]
    fn element(&self) -> Element {
        let side = |p: &compat::CopyPtr, flag| Side {
            name: u64::from(p.u),
            domid: DomId(p.domid),
            offset: p.offset,
            by_gref: self.flags & flag != 0,
        };
        Element {
            source: side(&self.source, copy_flags::SOURCE_GREF),
            dest: side(&self.dest, copy_flags::DEST_GREF),
            len: self.len,
        }
    }
}

/// What a claim is of: `write:1 | own:1 | ..` and a gfn, or domid and gref. Equal keys, equal claims.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(u64);

impl Key {
    const WRITE: u64 = 1 << 63;
    const OWN: u64 = 1 << 62;
    const DOMID_SHIFT: u32 = 32;

    #[inline]
    fn gref(domid: DomId, gref: u64, pin: Pin) -> Self {
        Self(gref | u64::from(domid.0) << Self::DOMID_SHIFT | Self::write(pin))
    }

    /// `None` if no domain has such a gfn: 52-bit addresses have 40-bit frames.
    #[inline]
    fn own(gfn: u64, pin: Pin) -> Option<Self> {
        (gfn < Self::OWN).then_some(Self(gfn | Self::OWN | Self::write(pin)))
    }

    #[inline]
    fn write(pin: Pin) -> u64 {
        if pin.writes() { Self::WRITE } else { 0 }
    }

    #[inline]
    fn pin(self) -> Pin {
        Pin::for_access(self.0 & Self::WRITE != 0)
    }

    /// Where the search for a claim begins. Multiplicative hashing by the golden ratio.
    #[inline]
    fn slot(self) -> usize {
        let [.., top] = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        usize::from(top) % SLOTS
    }
}

/// A reference pinned, or a frame translated, or the refusal of it.
struct Claim<'h> {
    key: Key,
    frame: Frame,
    status: Status,
    /// The entry that is pinned.
    entry: Option<Entry<'h>>,
}

/// A block in the making.
struct Plan<'h, H: Host> {
    host: &'h H,
    /// Index of a claim plus one, 0 for an empty slot.
    slots: [u8; SLOTS],
    claims: ArrayVec<Claim<'h>, CLAIMS>,
    segments: ArrayVec<Segment, BLOCK>,
    statuses: ArrayVec<Status, BLOCK>,
}

impl<'h, H: Host> Plan<'h, H> {
    #[inline]
    fn new(host: &'h H) -> Self {
        Self {
            host,
            slots: [0; SLOTS],
            claims: ArrayVec::new(),
            segments: ArrayVec::new(),
            statuses: ArrayVec::new(),
        }
    }

    /// Plans one element. The order of the checks, and so which error wins, is Xen's.
    #[inline]
    fn add(&mut self, element: &Element, domains: &mut [Granter<'h, H>; 2]) {
        let status = match self.plan(element, domains) {
            Ok(segment) => {
                self.segments.extend(segment);
                Status::Okay
            }
            Err(status) => status,
        };
        self.statuses.push(status);
    }

    #[inline]
    fn plan(
        &mut self,
        element: &Element,
        [sources, dests]: &mut [Granter<'h, H>; 2],
    ) -> Result<Option<Segment>, Status> {
        // Nothing is looked at, not even the domains.
        if element.len == 0 {
            return Ok(None);
        }
        let source_domain = self.domain(&element.source, sources)?;
        let dest_domain = self.domain(&element.dest, dests)?;
        let source = self.claim(&element.source, source_domain, Pin::Read)?;
        let dest = self.claim(&element.dest, dest_domain, Pin::Write)?;

        let len = usize::from(element.len);
        let (from, to) = (usize::from(element.source.offset), usize::from(element.dest.offset));
        if !within(source, from, len) || !within(dest, to, len) {
            let crosses = from + len > PAGE_SIZE || to + len > PAGE_SIZE;
            return Err(if crosses { Status::BadCopyArg } else { Status::GeneralError });
        }
        // Bytes from the offsets to the nearer end of the two ranges.
        let room = (source.last() + 1).saturating_sub(from).min((dest.last() + 1).saturating_sub(to));
        let at = |frame: Frame, offset: usize| self.host.frame(frame.mfn()).wrapping_add(offset % PAGE_SIZE);
        Ok(Some(Segment { dst: at(dest, to), src: at(source, from), len: index_nospec(len, room + 1) }))
    }

    /// The domain a side names; `None` for the caller's own frames.
    #[inline]
    fn domain(&self, side: &Side, domains: &mut Granter<'h, H>) -> Result<Option<&'h H::Domain>, Status> {
        if !side.by_gref {
            // Only the caller's own memory goes by frame.
            return if side.domid == DomId::SELF { Ok(None) } else { Err(Status::PermissionDenied) };
        }
        if side.domid == DomId::SELF {
            return Ok(Some(self.host.caller()));
        }
        domains.find(self.host, side.domid).map(Some)
    }

    #[inline]
    fn claim(&mut self, side: &Side, granter: Option<&'h H::Domain>, pin: Pin) -> Result<Frame, Status> {
        let key = match granter {
            Some(granter) => Key::gref(granter.id(), side.name, pin),
            None => Key::own(side.name, pin).ok_or(Status::BadPage)?,
        };
        let mut slot = key.slot();
        // There are fewer claims than slots, so the search meets an empty one.
        while let Some(at) = usize::from(self.slots[slot]).checked_sub(1) {
            let claim = &self.claims[at];
            if claim.key == key {
                return if claim.status == Status::Okay { Ok(claim.frame) } else { Err(claim.status) };
            }
            slot = (slot + 1) % SLOTS;
        }
        let (result, entry) = match granter {
            Some(granter) => self.claim_gref(granter, side.name, pin),
            None => (self.claim_own(Gfn(side.name), pin), None),
        };
        let status = result.err().unwrap_or(Status::Okay);
        self.claims.push(Claim { key, frame: result.unwrap_or(NO_FRAME), status, entry });
        self.slots[slot] = u8::try_from(self.claims.len()).unwrap_or(0);
        result
    }

    #[inline]
    fn claim_gref(
        &self,
        granter: &'h H::Domain,
        gref: u64,
        pin: Pin,
    ) -> (Result<Frame, Status>, Option<Entry<'h>>) {
        let Some(entry) = granter.grants().entry(Gref(abi::low32(gref))) else {
            return (Err(Status::BadGntref), None);
        };
        let result = entry.active.pin(self.host.caller().id(), pin, &Grant::<_, false>::new(granter, entry));
        (result, result.is_ok().then_some(entry))
    }

    #[inline]
    fn claim_own(&self, gfn: Gfn, pin: Pin) -> Result<Frame, Status> {
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
                entry.active.unpin(claim.key.pin(), |bits| entry.shared.unmark(bits));
            }
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
            Ok(arg) => plan.add(&arg.element(), domains),
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
