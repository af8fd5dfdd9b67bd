//! Frames a guest and the hypervisor write at the same time: `shared_info`, `vcpu_info`, runstate areas.
//!
//! A [`SharedFrame`] holds one reference to a domain's frame, so the frame stays that domain's for as long
//! as the value lives. It is seen through atomics only: the guest may store there at any moment, with any
//! width, and every value read is a copy that is used once.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use gnttab_fast::types::{DomId, Mfn, PAGE_SHIFT, PAGE_SIZE};

use super::{frames, phys_to_virt};

/// One frame of a domain, pinned by a reference.
#[derive(Debug)]
pub struct SharedFrame {
    mfn: Mfn,
}

impl SharedFrame {
    /// A new zeroed frame of that domain.
    #[must_use]
    pub fn alloc(domain: DomId) -> Option<Self> {
        frames::alloc(0, frames::Owner::Domain(domain)).map(|mfn| Self { mfn })
    }

    /// Pins a frame that the domain owns.
    #[must_use]
    pub fn pin(mfn: Mfn, domain: DomId) -> Option<Self> {
        frames::get_ref(mfn, domain).then_some(Self { mfn })
    }

    /// The machine frame.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The address of `size` bytes at `offset`. Offsets are the hypervisor's own numbers, or the guest's
    /// after a check; a bad one stops the hypervisor here instead of reaching another frame.
    #[inline]
    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(offset.is_multiple_of(size) && offset < PAGE_SIZE, "offset {offset:#x} in a shared frame");
        phys_to_virt(self.mfn.0 << PAGE_SHIFT).wrapping_add(offset)
    }

    /// The byte at an offset.
    #[must_use]
    #[inline]
    pub fn u8(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: `at` stays inside the frame, which is RAM in the direct map and stays allocated while
        // `self` holds its reference. All hypervisor accesses to it are atomic.
        unsafe { AtomicU8::from_ptr(self.at(offset, 1)) }
    }

    /// The 32-bit word at an offset that is a multiple of 4.
    #[must_use]
    #[inline]
    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `u8`; `at` checks the alignment.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// The 64-bit word at an offset that is a multiple of 8.
    #[must_use]
    #[inline]
    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `u8`; `at` checks the alignment.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }
}

impl Drop for SharedFrame {
    fn drop(&mut self) {
        frames::put_ref(self.mfn);
    }
}
