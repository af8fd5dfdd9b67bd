//! Guest frames: a bump allocator over free RAM, and frame numbers without memory behind them for the
//! hypervisor to map things at. Nothing is ever given back; a guest ends soon enough.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hv::abi::hvm::start_info::MEMMAP_PMEM;

use super::{boot, size, wide};

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// The next free address, and the next free address above all RAM.
static NEXT: AtomicU64 = AtomicU64::new(0);
static HOLE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static __guest_end: u8;
}

pub(super) fn init() {
    NEXT.store(wide((&raw const __guest_end).addr()), Ordering::Relaxed);
    // A gap of 2 MiB, so that no large mapping of the RAM below covers the hole.
    let top = boot::ram().map(|(_, end)| end).max().unwrap_or(0);
    HOLE.store(top.next_multiple_of(2 << 20) + (2 << 20), Ordering::Relaxed);
}

/// `count` consecutive zeroed pages; their address is also their physical address.
#[must_use]
pub fn pages(count: u64) -> u64 {
    let length = count * PAGE;
    let mut at = NEXT.load(Ordering::Relaxed).next_multiple_of(PAGE);
    // Each step either passes a piece in use or an end of RAM, so this ends.
    loop {
        let inside = boot::ram().any(|(start, end)| start <= at && at + length <= end);
        let taken =
            boot::in_use().filter(|&(start, end)| start < at + length && at < end).map(|(_, end)| end);
        at = match (taken.max(), inside) {
            (Some(end), _) => end.next_multiple_of(PAGE),
            (None, true) => break,
            (None, false) => match boot::ram().map(|(start, _)| start).filter(|&start| start > at).min() {
                Some(start) => start.next_multiple_of(PAGE),
                None => {
                    crate::fail!("memory: {count} more pages do not fit; give this domain more with mem=")
                }
            },
        };
    }
    NEXT.store(at + length, Ordering::Relaxed);
    // SAFETY: the range is RAM that nobody uses: it is in the memory map, above the image, beside what the
    // loader left, and handed out once.
    unsafe { pointer(at).write_bytes(0, size(length)) };
    at
}

/// The address of `count` consecutive frame numbers with nothing behind them.
#[must_use]
pub fn hole(count: u64) -> u64 {
    let at = HOLE.fetch_add(count * PAGE, Ordering::Relaxed);
    if at + count * PAGE > boot::MAPPED {
        crate::fail!("memory: no room above RAM for {count} mappings");
    }
    at
}

/// Memory that was there before this guest and will be after it, if the hypervisor has any for it.
#[must_use]
pub fn kept() -> Option<&'static [AtomicU64]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let entry = boot::memory_map().find(|entry| entry.kind == MEMMAP_PMEM)?;
    let end = entry.addr.checked_add(entry.size)?;
    if end > boot::MAPPED || TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the memory map says that the range is memory of ours, it is mapped, page-aligned and outside RAM, so
    // nothing else is there, and any bits are good for atomics.
    Some(unsafe { core::slice::from_raw_parts(pointer(entry.addr).cast(), size(entry.size) / 8) })
}

/// The pointer to a physical address.
#[must_use]
pub fn pointer(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(size(address))
}

/// The frame number of an address.
#[must_use]
pub const fn gfn(address: u64) -> u64 {
    address / PAGE
}
