//! The block frontend.

use core::sync::atomic::Ordering;

use hv::abi::io::blkif::{OP_READ, OP_WRITE, RING_SLOTS, RSP_OKAY, Request, Response, Segment};
use hv::arch::x86::mem_fns::memcmp;
use zerocopy::FromZeros as _;

use super::{Disk, PAGE, PAGE_SECTORS, SEGMENTS};
use crate::net::device::{DATA, Device, RINGS};
use crate::options::{Amount, Options};
use crate::ring::Front;
use crate::rt::clock::Watchdog;
use crate::rt::grants::{self, DEVICE_PAGE};
use crate::rt::{clock, events, memory, size, wide};

const SLOTS: usize = RING_SLOTS as usize;
/// How long the backend may take to let go at the end, ns.
const LETTING_GO: u64 = 5_000_000_000;

struct Blk {
    backend: u16,
    ring: Front<Request, Response>,
    disk: Disk,
    pool: u64,
    /// The request that each id is out with.
    out: [Option<u64>; SLOTS],
    made: u64,
    reads: u64,
    spoiled: Option<u64>,
}

/// Number of the `n`th request of its kind: even ones write, odd ones read.
fn is_write(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// Runs the guest.
pub fn run(options: &Options<'_>) {
    grants::init(1);
    let (device, rings, port) = Device::offer(options.backend, 1);
    let mut blk = Blk {
        backend: options.backend,
        // SAFETY: the page is ours, granted to the backend for this, and stays.
        ring: unsafe { Front::new(memory::pointer(rings[0])) },
        disk: Disk::open(),
        pool: memory::pages(wide(SLOTS * SEGMENTS)),
        out: [None; SLOTS],
        made: 0,
        reads: 0,
        spoiled: options.corrupt,
    };
    events::unmask(port);
    device.publish();
    let mut watchdog = Watchdog::with_timer(options.stall);
    let start = clock::now();
    loop {
        let busy = blk.reap();
        let more = match options.amount {
            // Each kind as often as the disk is long, or as was asked.
            Amount::Once => blk.made < 2 * blk.disk.requests(),
            Amount::Packets(count) => blk.made < 2 * count,
            Amount::Seconds(seconds) => clock::now() - start < seconds * 1_000_000_000,
        };
        let made = more && blk.make();
        if made && blk.ring.push() {
            events::send(port);
        }
        let outstanding = blk.ring.outstanding();
        if !more && outstanding == 0 {
            break;
        }
        if busy || made {
            watchdog.feed();
        } else if !blk.ring.wait_for(1) {
            if watchdog.is_late() {
                crate::fail!("no progress for {} s: {outstanding} requests unanswered", options.stall);
            }
            events::wait_upcall();
        }
    }
    device.tx_total.store(blk.made, Ordering::Release);
    device.rx_verified.store(blk.reads, Ordering::Release);
    device.front_is_done();
    events::send(port);
    while !device.back_done() {
        if watchdog.is_late() {
            crate::fail!("the backend does not end");
        }
        events::wait_upcall();
    }
    let last = DATA + u32::try_from(SLOTS * SEGMENTS).expect("a small number");
    grants::revoke_all([DEVICE_PAGE, RINGS[0]].into_iter().chain(DATA..last), clock::now() + LETTING_GO);
    crate::say!("netfront: {} block requests, {} reads right, all grants taken back", blk.made, blk.reads);
}

impl Blk {
    fn gref(id: usize, segment: usize) -> u32 {
        DATA + u32::try_from(id * SEGMENTS + segment).expect("a small number")
    }

    fn page(&self, id: usize, segment: usize) -> u64 {
        self.pool + wide((id * SEGMENTS + segment) * PAGE)
    }

    /// Makes one request, if an id is free.
    fn make(&mut self) -> bool {
        let Some(id) = self.out.iter().position(Option::is_none) else { return false };
        let number = self.made;
        let sector = self.disk.sector(number / 2);
        let write = is_write(number);
        let mut request = Request::new_zeroed();
        request.operation = if write { OP_WRITE } else { OP_READ };
        request.nr_segments = u8::try_from(SEGMENTS).expect("eleven");
        request.id = wide(id);
        request.sector_number = sector;
        for (segment, slot) in request.seg.iter_mut().enumerate() {
            let page = self.page(id, segment);
            if write {
                let content = self.content(sector, segment);
                // SAFETY: a page of our own that nobody else has now: its grant was taken back.
                unsafe { memory::pointer(page).copy_from_nonoverlapping(content.as_ptr(), PAGE) };
                if self.spoiled == Some(number / 2) && segment == 3 {
                    // SAFETY: as above.
                    unsafe { *memory::pointer(page + 77) ^= 0x10 };
                }
            }
            grants::grant(Self::gref(id, segment), self.backend, page, write);
            *slot = Segment { gref: Self::gref(id, segment), first_sect: 0, last_sect: 7, pad: 0 };
        }
        self.ring.put(request);
        self.out[id] = Some(number);
        self.made += 1;
        true
    }

    fn content(&self, sector: u64, segment: usize) -> &'static [u8] {
        self.disk
            .page(sector + wide(segment) * PAGE_SECTORS)
            .unwrap_or_else(|| crate::fail!("sector {sector} is behind the disk's end"))
    }

    /// Takes answers.
    fn reap(&mut self) -> bool {
        let Ok(ready) = self.ring.ready() else { crate::fail!("block: the backend answers too much") };
        for _ in 0..ready {
            let response = self.ring.take();
            let id = size(response.id);
            let Some(number) = self.out.get_mut(id).and_then(Option::take) else {
                crate::fail!("block: an answer for request {id}, which is not out")
            };
            if response.status != RSP_OKAY {
                crate::fail!("block: request {number} was answered with {}", response.status);
            }
            let sector = self.disk.sector(number / 2);
            for segment in 0..SEGMENTS {
                if !grants::revoke(Self::gref(id, segment)) {
                    crate::fail!("block: request {number} was answered but its grant is in use");
                }
                let wanted = self.content(sector, segment);
                let page = memory::pointer(self.page(id, segment));
                // SAFETY: a page of our own, its grant taken back.
                if !is_write(number) && unsafe { memcmp(page, wanted.as_ptr(), PAGE) } != 0 {
                    crate::fail!("block: read {}, segment {segment}: its bytes are wrong", number / 2);
                }
            }
            self.reads += u64::from(!is_write(number));
        }
        ready > 0
    }
}
