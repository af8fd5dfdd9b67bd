//! The heap of the image, over frames.
//!
//! Small allocations come from a dlmalloc-like allocator (talc) that claims chunks of [`CHUNK`] bytes as
//! it grows and keeps them. Large ones take frames directly and give them back, so that a domain's
//! tables do not stay behind as heap when it dies. One lock, taken with interrupts off and by nobody's
//! interrupt handler; nothing on a hot path allocates.

use core::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};

use gnttab_fast::types::{Mfn, PAGE_SHIFT, PAGE_SIZE};
use spin::Mutex;
use talc::base::{Talc, binning::Binning, binning::DefaultBinning};
use talc::source::Source;

use super::{
    direct::{phys_to_virt, virt_to_phys},
    frames::{self, Owner},
};

/// What the heap grows by: 256 KiB.
const CHUNK_ORDER: u8 = 6;
/// From here on an allocation takes frames of its own.
const LARGE: usize = PAGE_SIZE * 4;

/// The allocator; the image's `#[global_allocator]`.
#[derive(Debug)]
pub struct Heap {
    small: Mutex<Talc<Chunks, DefaultBinning>>,
}

impl Heap {
    /// An empty heap, that takes its first chunk when it is first asked.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "one static")]
    pub const fn new() -> Self {
        Self { small: Mutex::new(Talc::new(Chunks)) }
    }

    /// The order of frames for a large allocation.
    fn order(layout: Layout) -> Option<u8> {
        let pages = layout.size().max(layout.align()).div_ceil(PAGE_SIZE).checked_next_power_of_two()?;
        u8::try_from(pages.trailing_zeros()).ok()
    }

    const fn is_large(layout: Layout) -> bool {
        layout.size() >= LARGE || layout.align() > PAGE_SIZE
    }
}

// SAFETY: small blocks are talc's, under the lock; large ones are whole frames nobody else owns, aligned
// to their size, which is at least the layout's alignment.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Self::is_large(layout) {
            return Self::order(layout)
                .and_then(|order| frames::alloc(order, Owner::Hypervisor))
                .map_or(core::ptr::null_mut(), |Mfn(mfn)| phys_to_virt(mfn << PAGE_SHIFT));
        }
        // SAFETY: GlobalAlloc's caller promises a layout of some size.
        let block = unsafe { self.small.lock().allocate(layout) };
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if Self::is_large(layout) {
            if let Some(order) = Self::order(layout) {
                frames::free(Mfn(virt_to_phys(at) >> PAGE_SHIFT), order);
            }
            return;
        }
        // SAFETY: GlobalAlloc's caller promises that `alloc` gave the block for this layout.
        unsafe { self.small.lock().deallocate(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, passed on.
        let at = unsafe { self.alloc(layout) };
        // Frames come zeroed.
        if !at.is_null() && !Self::is_large(layout) {
            // SAFETY: a fresh block of that size.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at
    }
}

/// Where talc's memory comes from.
#[derive(Debug)]
struct Chunks;

// SAFETY: `acquire` allocates frames, never heap, and returns Ok only after a successful claim.
unsafe impl Source for Chunks {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, _: Layout) -> Result<(), ()> {
        // Every small layout fits into a chunk beside talc's own needs.
        let Mfn(mfn) = frames::alloc(CHUNK_ORDER, Owner::Hypervisor).ok_or(())?;
        let base = phys_to_virt(mfn << PAGE_SHIFT);
        // SAFETY: the frames are fresh, owned by the heap from here on, and readable and writable.
        unsafe { talc.claim(base, PAGE_SIZE << CHUNK_ORDER) }.map(|_| ()).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn blocks_are_apart_and_large_ones_come_back() {
        let heap = Heap::new();
        let sizes = [1, 24, 100, 2048, 5000, LARGE - 1, LARGE, 3 * PAGE_SIZE, 1 << 20];
        let mut blocks = Vec::new();
        for (fill, size) in (1..).zip(sizes.iter().cycle().take(90)) {
            let layout = Layout::from_size_align(*size, 64).expect("good");
            // SAFETY: the layout has a size, and the block is written within it.
            let at = unsafe {
                let at = heap.alloc_zeroed(layout);
                assert!(!at.is_null());
                assert_eq!(at.addr() % 64, 0);
                assert!((0..*size).all(|offset| *at.add(offset) == 0));
                at.write_bytes(fill, *size);
                at
            };
            blocks.push((at, layout, fill));
        }
        for (at, layout, fill) in blocks {
            // SAFETY: allocated above with this layout.
            unsafe {
                assert!((0..layout.size()).all(|offset| *at.add(offset) == fill));
                heap.dealloc(at, layout);
            }
        }
    }
}
