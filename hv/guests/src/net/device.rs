//! The device page: where a frontend says what XenStore would say elsewhere.
//!
//! The frontend makes it, grants it writable under [`grants::DEVICE_PAGE`] and writes the magic number
//! last. The backend tries to map it until it is there. Afterwards each field has one writer and is an
//! atomic; totals are [`UNKNOWN`] until their writer has sent its last packet.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv::abi::grant_table::UnmapGrantRef;

use crate::rt::{clock, events, grants, memory};

const MAGIC: u32 = u32::from_le_bytes(*b"TGdp");
const VERSION: u32 = 1;
/// A total that is not known yet.
pub const UNKNOWN: u64 = u64::MAX;
/// How long a backend waits between two tries, ns.
const RETRY: u64 = 10_000_000;

/// References of the first ring's page and, for two rings, the second's.
pub const RINGS: [u32; 2] = [grants::DEVICE_PAGE + 1, grants::DEVICE_PAGE + 2];
/// References from here on are for data.
pub const DATA: u32 = 16;

/// The page's fields.
#[derive(Debug)]
#[repr(C)]
pub struct Device {
    magic: AtomicU32,
    version: AtomicU32,
    /// Number of ring pages.
    rings: AtomicU32,
    /// The frontend's unbound event channel.
    port: AtomicU32,
    /// The frontend has all it wants and will use its rings no more.
    front_done: AtomicU32,
    /// The backend has unmapped everything but this page.
    back_done: AtomicU32,
    /// Packets the frontend sends in all.
    pub tx_total: AtomicU64,
    /// Packets the backend sends in all.
    pub rx_total: AtomicU64,
    /// Packets the frontend has received and found right.
    pub rx_verified: AtomicU64,
}

impl Device {
    /// Offers a device with `rings` ring pages to `backend`; the pages and the port come back.
    pub fn offer(backend: u16, rings: usize) -> (&'static Self, [u64; 2], u32) {
        let page = memory::pages(1);
        // SAFETY: a page of our own, zeroed, that stays; from now on everyone uses its atomics.
        let device = unsafe { &*memory::pointer(page).cast::<Self>() };
        let port = events::alloc_unbound(backend);
        let mut pages = [0; 2];
        for (ring, gref) in pages.iter_mut().zip(RINGS).take(rings) {
            *ring = memory::pages(1);
            grants::grant(gref, backend, *ring, false);
        }
        device.port.store(port, Ordering::Relaxed);
        device.rings.store(u32::try_from(rings).expect("two at most"), Ordering::Relaxed);
        device.version.store(VERSION, Ordering::Relaxed);
        device.tx_total.store(UNKNOWN, Ordering::Relaxed);
        device.rx_total.store(UNKNOWN, Ordering::Relaxed);
        grants::grant(grants::DEVICE_PAGE, backend, page, false);
        (device, pages, port)
    }

    /// Says that rings and requests are ready.
    pub fn publish(&self) {
        self.magic.store(MAGIC, Ordering::Release);
    }

    /// Says that the frontend is done.
    pub fn front_is_done(&self) {
        self.front_done.store(1, Ordering::Release);
    }

    /// Whether the frontend is done.
    pub fn front_done(&self) -> bool {
        self.front_done.load(Ordering::Acquire) != 0
    }

    /// Whether the backend is done.
    pub fn back_done(&self) -> bool {
        self.back_done.load(Ordering::Acquire) != 0
    }
}

/// A backend's hold on a device.
#[derive(Debug)]
pub struct Attached {
    /// The frontend.
    pub domid: u16,
    /// The page.
    pub device: &'static Device,
    /// Our end of the event channel.
    pub port: u32,
    /// Addresses of the ring pages.
    pub rings: [u64; 2],
    page: UnmapGrantRef,
    ring_maps: [UnmapGrantRef; 2],
    ring_count: usize,
}

impl Attached {
    /// Waits for the frontend to offer its device, then maps it and its rings. Gives up after `patience`
    /// seconds.
    #[must_use]
    pub fn new(domid: u16, patience: u64) -> Self {
        let idle = events::bind_ipi();
        let deadline = clock::now() + patience * 1_000_000_000;
        let window = memory::hole(3);
        // SAFETY: used only once the page is mapped, which stays so until `close` ends us.
        let device = unsafe { &*memory::pointer(window).cast::<Device>() };
        let mut page = [grants::map_request(domid, grants::DEVICE_PAGE, window, false)];
        loop {
            grants::map(&mut page);
            let mapped = page[0].status == 0;
            if mapped && device.magic.load(Ordering::Acquire) == MAGIC {
                break;
            }
            if mapped {
                grants::unmap(&mut [grants::unmap_request(&page[0])]);
            }
            if clock::now() > deadline {
                crate::fail!(
                    "domain {domid} offers no device: mapping its page ends with status {}",
                    page[0].status
                );
            }
            events::poll(&[idle], clock::now() + RETRY);
        }
        events::close(idle);
        let version = device.version.load(Ordering::Relaxed);
        let ring_count = crate::rt::size(device.rings.load(Ordering::Relaxed).into());
        if version != VERSION || !(1..=2).contains(&ring_count) {
            crate::fail!("domain {domid} offers a device of version {version} with {ring_count} rings");
        }
        let rings = [window + memory::PAGE, window + 2 * memory::PAGE];
        let mut maps = [0, 1].map(|ring| grants::map_request(domid, RINGS[ring], rings[ring], false));
        grants::map(&mut maps[..ring_count]);
        if let Some(bad) = maps[..ring_count].iter().find(|map| map.status != 0) {
            crate::fail!("domain {domid}: mapping its ring ends with status {}", bad.status);
        }
        let port = events::bind_interdomain(domid, device.port.load(Ordering::Relaxed));
        let ring_maps = maps.each_ref().map(grants::unmap_request);
        Self { domid, device, port, rings, page: grants::unmap_request(&page[0]), ring_maps, ring_count }
    }

    /// Lets the frontend have its pages back.
    pub fn close(mut self) {
        let rings = &mut self.ring_maps[..self.ring_count];
        grants::unmap(rings);
        let bad_ring = rings.iter().map(|unmap| unmap.status).find(|&status| status != 0);
        self.device.back_done.store(1, Ordering::Release);
        events::send(self.port);
        let mut page = [self.page];
        grants::unmap(&mut page);
        events::close(self.port);
        let bad_page = Some(page[0].status).filter(|&status| status != 0);
        if let Some(status) = bad_ring.or(bad_page) {
            crate::fail!("domain {}: unmapping its rings ends with status {status}", self.domid);
        }
    }
}
