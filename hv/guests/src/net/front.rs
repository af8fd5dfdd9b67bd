//! The frontend: grants what it sends page by page, posts pages for what it receives, and takes each grant
//! back the moment the backend answers - which fails if the backend, or the hypervisor, still holds it.

use core::sync::atomic::Ordering;

use hv::abi::io::netif::{
    EXTRA_FLAG_MORE, EXTRA_TYPE_GSO, ExtraGso, GSO_TYPE_TCPV4, GSO_TYPE_TCPV6, RING_SLOTS, RSP_NULL,
    RSP_OKAY, RXF_EXTRA_INFO, RXF_MORE_DATA, RxRequest, RxResponse, TXF_CSUM_BLANK, TXF_DATA_VALIDATED,
    TXF_EXTRA_INFO, TXF_MORE_DATA, TxRequest, TxResponse,
};

use super::device::{DATA, Device, RINGS, UNKNOWN};
use super::frames::{Checker, Frames, Sender};
use crate::cut::{Class, Gso, SEGMENT, class, headers, tx_slots};
use crate::options::{Options, Profile, Side};
use crate::ring::Front;
use crate::rt::clock::Watchdog;
use crate::rt::grants::{self, DEVICE_PAGE};
use crate::rt::{clock, events, memory, size, wide};

const SLOTS: usize = RING_SLOTS as usize;
/// References of transmit slots, by request id, and of receive slots after them.
const TX_GREFS: u32 = DATA;
const RX_GREFS: u32 = DATA + RING_SLOTS;
/// How long the backend may take to let go at the end, ns.
const LETTING_GO: u64 = 5_000_000_000;

/// The extra info of an aggregate.
#[must_use]
pub fn extra_info(frame: &[u8]) -> Option<ExtraGso> {
    let tcp = headers(frame).tcp.filter(|_| class(frame.len()) == Class::Large)?;
    let gso_type = match tcp {
        Gso::TcpV4 => GSO_TYPE_TCPV4,
        Gso::TcpV6 => GSO_TYPE_TCPV6,
    };
    let size = u16::try_from(SEGMENT).expect("a segment fits a packet");
    Some(ExtraGso { kind: EXTRA_TYPE_GSO, flags: 0, size, gso_type, pad: 0, features: 0 })
}

/// Runs the guest.
pub fn run(options: &Options<'_>) {
    grants::init(2);
    let (device, rings, port) = Device::offer(options.backend, 2);
    let frames = Frames::of(options.profile);
    let (sends, receives) = match (options.profile, options.side) {
        (Profile::VmVm, side) => (side == Side::Send, side == Side::Receive),
        (profile, _) => (profile.sends(), profile.receives()),
    };
    let mut tx = Tx::new(options.backend, rings[0], Sender::new(frames, options));
    let mut rx = Rx::new(options.backend, rings[1], Checker::new(frames));
    events::unmask(port);
    device.publish();

    let mut watchdog = Watchdog::with_timer(options.stall);
    loop {
        let mut tell = false;
        let mut busy = false;
        if sends {
            busy |= tx.reap() | tx.send(&mut tell);
            if tx.is_done() {
                device.tx_total.store(tx.sender.sent(), Ordering::Release);
            }
        }
        if receives {
            busy |= rx.receive(&mut tell);
        }
        if tell {
            events::send(port);
        }
        let received = rx.checker.packets;
        let total = device.rx_total.load(Ordering::Acquire);
        if (!sends || tx.is_done()) && (!receives || total != UNKNOWN && received >= total) {
            break;
        }
        if busy {
            watchdog.feed();
        } else if !(sends && tx.idle() || receives && rx.idle()) {
            if watchdog.is_late() {
                crate::fail!(
                    "no progress for {} s: sent {}, {} slots unanswered, received {received}",
                    options.stall,
                    tx.sender.sent(),
                    tx.ring.outstanding()
                );
            }
            events::wait_upcall();
        }
    }
    device.rx_verified.store(rx.checker.packets, Ordering::Release);
    device.front_is_done();
    events::send(port);
    while !device.back_done() {
        if watchdog.is_late() {
            crate::fail!("the backend does not end");
        }
        events::wait_upcall();
    }
    let used = [DEVICE_PAGE].into_iter().chain(RINGS).chain(TX_GREFS..RX_GREFS + RING_SLOTS);
    grants::revoke_all(used, clock::now() + LETTING_GO);
    crate::say!(
        "netfront: sent {} packets, received {} right ({} bytes), all grants taken back",
        if sends { tx.sender.sent() } else { 0 },
        rx.checker.packets,
        rx.checker.bytes
    );
}

/// What we send.
struct Tx {
    backend: u16,
    ring: Front<TxRequest, TxResponse>,
    sender: Sender,
    free: [u16; SLOTS],
    free_count: usize,
    exhausted: bool,
}

impl Tx {
    fn new(backend: u16, ring: u64, sender: Sender) -> Self {
        Self {
            backend,
            // SAFETY: the page is ours, granted to the backend for this, and stays.
            ring: unsafe { Front::new(memory::pointer(ring)) },
            sender,
            free: core::array::from_fn(|id| u16::try_from(id).expect("256 slots")),
            free_count: SLOTS,
            exhausted: false,
        }
    }

    /// Sends as long as there is room.
    fn send(&mut self, tell: &mut bool) -> bool {
        let mut busy = false;
        while !self.exhausted {
            let Some(frame) = self.sender.turn() else {
                self.exhausted = true;
                break;
            };
            let extra = extra_info(frame);
            let slots = tx_slots(frame.as_ptr().addr(), frame);
            let count = slots.clone().count();
            if size(self.ring.room().into()) < count + usize::from(extra.is_some()) {
                break;
            }
            for (index, piece) in slots.enumerate() {
                self.free_count -= 1;
                let id = self.free[self.free_count];
                let gref = TX_GREFS + u32::from(id);
                grants::grant(gref, self.backend, wide(piece.at), true);
                let mut flags = if index + 1 < count { TXF_MORE_DATA } else { 0 };
                let mut length = piece.length;
                if index == 0 {
                    flags |= TXF_CSUM_BLANK | TXF_DATA_VALIDATED;
                    flags |= if extra.is_some() { TXF_EXTRA_INFO } else { 0 };
                    length = frame.len();
                }
                self.ring.put(TxRequest {
                    gref,
                    offset: u16::try_from(piece.at % crate::cut::PAGE).expect("below a page"),
                    flags,
                    id,
                    size: u16::try_from(length).expect("frames have 16-bit lengths"),
                });
                if let Some(extra) = extra.filter(|_| index == 0) {
                    self.ring.put_other(extra);
                }
            }
            self.sender.advance();
            busy = true;
        }
        if busy {
            *tell |= self.ring.push();
        }
        busy
    }

    /// Takes answers.
    fn reap(&mut self) -> bool {
        let Ok(ready) = self.ring.ready() else { crate::fail!("tx: the backend answers what was not asked") };
        for _ in 0..ready {
            let response = self.ring.take();
            match response.status {
                RSP_NULL => {}
                RSP_OKAY => {
                    if !grants::revoke(TX_GREFS + u32::from(response.id)) {
                        crate::fail!("tx: slot {} was answered but its grant is in use", response.id);
                    }
                    self.free[self.free_count] = response.id;
                    self.free_count += 1;
                }
                status => crate::fail!("tx: slot {} was answered with {status}", response.id),
            }
        }
        ready > 0
    }

    /// Asks for an event once half of what is out has been answered.
    fn idle(&mut self) -> bool {
        let outstanding = self.ring.outstanding();
        outstanding > 0 && self.ring.wait_for(outstanding.div_ceil(2))
    }

    /// Everything has been sent and answered.
    fn is_done(&self) -> bool {
        self.exhausted && self.ring.outstanding() == 0
    }
}

/// What we receive.
struct Rx {
    backend: u16,
    ring: Front<RxRequest, RxResponse>,
    pool: u64,
    checker: Checker,
}

impl Rx {
    /// Posts a page in every slot; the slot's number is its id.
    fn new(backend: u16, ring: u64, checker: Checker) -> Self {
        // SAFETY: the page is ours, granted to the backend for this, and stays.
        let ring = unsafe { Front::new(memory::pointer(ring)) };
        let mut rx = Self { backend, ring, pool: memory::pages(wide(SLOTS)), checker };
        (0..RING_SLOTS).for_each(|_| rx.post());
        let _ = rx.ring.push();
        rx
    }

    fn page(&self, id: u16) -> u64 {
        self.pool + u64::from(id) * memory::PAGE
    }

    fn post(&mut self) {
        let id = u16::try_from(self.ring.next() % RING_SLOTS).expect("256 slots");
        let gref = RX_GREFS + u32::from(id);
        grants::grant(gref, self.backend, self.page(id), false);
        self.ring.put(RxRequest { id, pad: 0, gref });
    }

    /// Takes packets and posts their pages again.
    fn receive(&mut self, tell: &mut bool) -> bool {
        let Ok(ready) = self.ring.ready() else { crate::fail!("rx: the backend answers what was not asked") };
        let mut left = ready;
        while left > 0 {
            left = self.packet(left);
            self.checker.end();
        }
        (0..ready).for_each(|_| self.post());
        if ready > 0 {
            *tell |= self.ring.push();
        }
        ready > 0
    }

    /// Takes one packet of at most `left` slots; how many are left.
    fn packet(&mut self, left: u32) -> u32 {
        let mut left = left;
        let mut more = true;
        let mut extra = false;
        while more || extra {
            left = left.checked_sub(1).unwrap_or_else(|| crate::fail!("rx: a packet ends in mid-ring"));
            let id = u16::try_from(self.ring.next_response() % RING_SLOTS).expect("256 slots");
            if extra {
                let info: ExtraGso = self.ring.take_other();
                extra = info.flags & EXTRA_FLAG_MORE != 0;
            } else {
                let response = self.ring.take();
                let length = usize::try_from(response.status).ok().filter(|&length| length > 0);
                let Some(length) = length.filter(|_| response.id == id) else {
                    crate::fail!("rx: slot {id} was answered with {response:?}")
                };
                more = response.flags & RXF_MORE_DATA != 0;
                extra = response.flags & RXF_EXTRA_INFO != 0;
                self.checker.bytes_at(self.page(id) + u64::from(response.offset), length);
            }
            if !grants::revoke(RX_GREFS + u32::from(id)) {
                crate::fail!("rx: slot {id} was answered but its grant is in use");
            }
        }
        left
    }

    fn idle(&mut self) -> bool {
        self.ring.wait_for(1)
    }
}
