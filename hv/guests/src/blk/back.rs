//! The block backend.

use core::sync::atomic::Ordering;

use hv::abi::grant_table::MapGrantRef;
use hv::abi::io::blkif::{OP_READ, OP_WRITE, RSP_OKAY, Request, Response};
use hv::arch::x86::mem_fns::memcmp;

use super::{BYTES, Disk, PAGE, PAGE_SECTORS, SEGMENTS};
use crate::net::device::Attached;
use crate::net::tally::Tally;
use crate::options::Options;
use crate::ring::Back;
use crate::rt::clock::{self, NAP, Watchdog};
use crate::rt::{events, grants, memory, wide};

struct Blk {
    domid: u16,
    ring: Back<Request, Response>,
    disk: Disk,
    window: u64,
    writes: Tally,
    reads: Tally,
    spoiled: Option<u64>,
}

/// Runs the guest.
pub fn run(options: &Options<'_>) {
    let disk = Disk::open();
    let front = Attached::new(options.frontends[0], options.stall);
    let mut blk = Blk {
        domid: front.domid,
        // SAFETY: the page was mapped for this and stays until the device is closed, after us.
        ring: unsafe { Back::new(memory::pointer(front.rings[0])) },
        disk,
        window: memory::hole(wide(SEGMENTS)),
        writes: Tally::default(),
        reads: Tally::default(),
        spoiled: options.corrupt,
    };
    let mut watchdog = Watchdog::new(options.stall);
    loop {
        let Ok(ready) = blk.ring.ready() else { crate::fail!("block: the ring's index overruns it") };
        for _ in 0..ready {
            blk.request();
            if blk.ring.push() {
                events::send(front.port);
            }
        }
        if ready > 0 {
            watchdog.feed();
            continue;
        }
        if front.device.front_done() {
            break;
        }
        if blk.ring.wait_for(1) {
            continue;
        }
        if watchdog.is_late() {
            crate::fail!("no progress for {} s: {} writes so far", options.stall, blk.writes.packets);
        }
        events::poll(&[front.port], clock::now() + NAP);
    }
    let total = front.device.tx_total.load(Ordering::Acquire);
    blk.writes.verified = blk.writes.packets;
    blk.reads.verified = front.device.rx_verified.load(Ordering::Acquire);
    blk.writes.report("netback", options.profile, "write");
    blk.reads.report("netback", options.profile, "read");
    if total != blk.writes.packets + blk.reads.packets {
        crate::fail!("block: not all of {total} requests have come");
    }
    front.close();
}

impl Blk {
    /// Serves one request: eleven maps, the data, eleven unmaps.
    fn request(&mut self) {
        let request = self.ring.take();
        let write = request.operation == OP_WRITE;
        let segments = usize::from(request.nr_segments);
        if !(write || request.operation == OP_READ) || segments != SEGMENTS {
            crate::fail!("block: operation {} of {segments} segments", request.operation);
        }
        let tally = if write { &mut self.writes } else { &mut self.reads };
        tally.start();
        let mut maps: [MapGrantRef; SEGMENTS] = core::array::from_fn(|index| {
            let at = self.window + wide(index) * memory::PAGE;
            grants::map_request(self.domid, request.seg[index].gref, at, write)
        });
        tally.map.time(SEGMENTS, || grants::map(&mut maps));
        if let Some(bad) = maps.iter().find(|map| map.status != 0) {
            crate::fail!("block: mapping reference {} ends with status {}", bad.gref, bad.status);
        }
        for (index, map) in maps.iter().enumerate() {
            let sector = request.sector_number.checked_add(wide(index) * PAGE_SECTORS);
            let Some(content) = sector.and_then(|sector| self.disk.page(sector)) else {
                crate::fail!("block: sector {} is behind the disk's end", request.sector_number)
            };
            let page = memory::pointer(map.host_addr);
            if write {
                // SAFETY: the frontend's page, just mapped; reached through raw pointers only.
                if unsafe { memcmp(page, content.as_ptr(), PAGE) } != 0 {
                    crate::fail!("block: write {}, segment {index}: its bytes are wrong", tally.packets);
                }
            } else {
                // SAFETY: as above, mapped writable.
                unsafe { page.copy_from_nonoverlapping(content.as_ptr(), PAGE) };
                if self.spoiled == Some(tally.packets) && index == 3 {
                    // SAFETY: as above.
                    unsafe { *page.wrapping_add(77) ^= 0x10 };
                }
            }
        }
        let mut unmaps = maps.each_ref().map(grants::unmap_request);
        tally.unmap.time(SEGMENTS, || grants::unmap(&mut unmaps));
        if let Some(bad) = unmaps.iter().find(|unmap| unmap.status != 0) {
            crate::fail!("block: unmapping handle {} ends with status {}", bad.handle, bad.status);
        }
        if tally.packets == 0 && write {
            crate::say!("@first-packet");
            crate::say!("@progress {{\"packets\":1}}");
        }
        tally.packets(1, wide(BYTES));
        tally.end();
        let Request { id, operation, .. } = request;
        self.ring.put(Response { id, operation, pad0: 0, status: RSP_OKAY, pad1: 0 });
    }
}
