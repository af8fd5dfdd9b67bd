//! The backend's half of the receive ring: what the frontend receives.
//!
//! Everything is copied, in batches of [`BATCH`] elements. A slot is filled to the end of its page before
//! the next is taken; extra info has a slot of its own after the first. Frames of our own come in buffers
//! as a network card would leave them ([`rx_buffers`]); what another guest sends stays in its pages.

use hv::abi::grant_table::Copy;
use hv::abi::io::netif::{
    ExtraGso, RXF_CSUM_BLANK, RXF_DATA_VALIDATED, RXF_EXTRA_INFO, RXF_MORE_DATA, RxRequest, RxResponse,
};

use super::tally::Tally;
use crate::cut::{PAGE, SEGMENT, rx_buffers};
use crate::ring::Back;
use crate::rt::grants::{self, Side};
use crate::rt::{memory, wide};

/// Elements of a copy batch (netback's `COPY_BATCH_SIZE`).
const BATCH: usize = 64;
/// Halves of pages in the card's buffer pool. More than a batch and the buffers of one frame together, so
/// that none is reused before its copy was made.
const POOL: usize = 256;
const HALF: usize = PAGE / 2;

/// The receive side of one frontend.
#[derive(Debug)]
pub struct Rx {
    domid: u16,
    ring: Back<RxRequest, RxResponse>,
    copies: [Copy; BATCH],
    copy_count: usize,
    /// The packet under way: bytes left, and its slot.
    left: usize,
    first: bool,
    slot: Option<Slot>,
    gso: Option<ExtraGso>,
    pool: u64,
    pool_next: usize,
    /// What it cost.
    pub tally: Tally,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    request: RxRequest,
    filled: usize,
}

impl Rx {
    /// Attaches to the ring in the page at `ring`.
    #[must_use]
    pub fn new(domid: u16, ring: u64) -> Self {
        Self {
            domid,
            // SAFETY: the page was mapped for this and stays until the device is closed, after us.
            ring: unsafe { Back::new(memory::pointer(ring)) },
            copies: [Copy::default(); BATCH],
            copy_count: 0,
            left: 0,
            first: false,
            slot: None,
            gso: None,
            pool: memory::pages(wide(POOL * HALF / PAGE)),
            pool_next: 0,
            tally: Tally::default(),
        }
    }

    /// Slots a packet takes.
    #[must_use]
    pub fn slots(length: usize, gso: bool) -> u32 {
        u32::try_from(length.div_ceil(PAGE)).expect("16-bit lengths") + u32::from(gso)
    }

    /// Slots the frontend has posted.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.ring.ready().unwrap_or_else(|_| crate::fail!("rx: the ring's index overruns it"))
    }

    /// Too few slots: asks for an event when there are `slots`; whether there are after all.
    pub fn idle(&mut self, slots: u32) -> bool {
        self.ring.wait_for(slots)
    }

    /// Sends a frame of our own: puts it into the card's buffers, then on.
    pub fn send(&mut self, frame: &[u8], gso: Option<ExtraGso>) {
        self.begin(frame.len(), gso);
        let mut at = 0;
        for length in rx_buffers(frame) {
            debug_assert!(length <= SEGMENT);
            let buffer = self.pool + wide(self.pool_next * HALF);
            self.pool_next = (self.pool_next + 1) % POOL;
            let part = &frame[at..at + length];
            // SAFETY: a half page of our own, and no copy from it is under way: the pool is larger than
            // what a batch and a frame can hold.
            unsafe { memory::pointer(buffer).copy_from_nonoverlapping(part.as_ptr(), length) };
            self.put(Side::Own(buffer), length);
            at += length;
        }
        self.end();
    }

    /// Starts a packet; the ring has room for it.
    pub fn begin(&mut self, length: usize, gso: Option<ExtraGso>) {
        self.tally.start();
        self.left = length;
        self.first = true;
        self.gso = gso;
        self.tally.packets(1, wide(length));
    }

    /// Adds bytes that lie in one page.
    pub fn put(&mut self, source: Side, length: usize) {
        let mut source = source;
        let mut length = length;
        while length > 0 {
            let slot = self.slot.get_or_insert_with(|| Slot { request: self.ring.take(), filled: 0 });
            let part = length.min(PAGE - slot.filled);
            let offset = u16::try_from(slot.filled).expect("below a page");
            let dest = Side::Granted { dom: self.domid, gref: slot.request.gref, offset };
            let bytes = u16::try_from(part).expect("at most a page");
            self.copies[self.copy_count] = grants::copy_request(source, dest, bytes);
            self.copy_count += 1;
            slot.filled += part;
            let full = slot.filled == PAGE;
            self.left -= part;
            length -= part;
            if length > 0 {
                source = source.plus(bytes);
            }
            if full || self.left == 0 {
                self.answer();
            }
            if self.copy_count == BATCH {
                self.flush();
            }
        }
    }

    /// Answers the slot under way, and after the first one the extra info's.
    fn answer(&mut self) {
        let Some(Slot { request, filled }) = self.slot.take() else { return };
        let gso = self.gso.take_if(|_| self.first);
        let flags = RXF_DATA_VALIDATED
            | RXF_CSUM_BLANK
            | if self.left > 0 { RXF_MORE_DATA } else { 0 }
            | if gso.is_some() { RXF_EXTRA_INFO } else { 0 };
        let status = i16::try_from(filled).expect("at most a page");
        self.ring.put(RxResponse { id: request.id, offset: 0, flags, status });
        if let Some(gso) = gso {
            self.ring.take();
            self.ring.put_other(gso);
        }
        self.first = false;
    }

    /// Ends a packet.
    pub fn end(&mut self) {
        if self.left != 0 || self.slot.is_some() {
            crate::fail!("rx: {} bytes of a packet are missing", self.left);
        }
    }

    /// Makes the copies gathered so far.
    pub fn flush(&mut self) {
        let copies = &mut self.copies[..self.copy_count];
        if copies.is_empty() {
            return;
        }
        self.tally.copy.time(copies.len(), || grants::copy(copies));
        if let Some(bad) = copies.iter().find(|copy| copy.status != 0) {
            crate::fail!("rx: copying to reference {} ends with status {}", bad.dest.u, bad.status);
        }
        self.copy_count = 0;
        self.tally.end();
    }

    /// Gives the finished packets to the frontend; whether it wants an event.
    #[must_use]
    pub fn push(&mut self) -> bool {
        self.flush();
        self.ring.push()
    }
}
