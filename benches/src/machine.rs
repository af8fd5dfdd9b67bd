//! The memory of a make-believe machine: frames side by side, reached by number as the hypervisor reaches
//! them through its direct map. Both engines work on it, never at the same time on the same data unless a
//! workload says so.
//!
//! Frames belong to domains in equal shares: frame `i` of domain `d` is `d * FRAMES_PER_DOMAIN + i`. The
//! last frames of each domain hold its grant table.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Bytes in a frame.
pub const PAGE: usize = 4096;
/// Frames each domain has for data.
pub const DATA_FRAMES: u32 = 2048;
/// Frames of each domain's grant table: 512 version-1 entries each.
pub const GRANT_FRAMES: u32 = 4;
const ENTRIES_PER_FRAME: u32 = 512;
/// Frames each domain has.
pub const FRAMES_PER_DOMAIN: u32 = DATA_FRAMES + GRANT_FRAMES;

/// The frames.
pub struct Machine {
    base: NonNull<u8>,
    frames: u32,
}

// SAFETY: the memory is reached by atomics and by raw copies whose ranges the caller's workload keeps apart;
// the struct itself is immutable.
unsafe impl Send for Machine {}
// SAFETY: as above.
unsafe impl Sync for Machine {}

impl Machine {
    /// A machine of `domains` domains, all frames zero.
    #[must_use]
    pub fn new(domains: u32) -> Self {
        let frames = domains * FRAMES_PER_DOMAIN;
        let layout = Self::layout(frames);
        // SAFETY: the layout is not zero-sized: there is at least one frame.
        let base = unsafe { alloc(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        // Large pages, as in the hypervisor's direct map; small ones differ from run to run in the cache sets
        // they fall into. Only a hint, so the result does not matter.
        // SAFETY: the range is ours, and not in use yet.
        unsafe { libc::madvise(base.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        // SAFETY: the allocation has this size.
        unsafe { base.as_ptr().write_bytes(0, layout.size()) };
        Self { base, frames }
    }

    fn layout(frames: u32) -> Layout {
        let bytes = (frames as usize).max(1) * PAGE;
        Layout::from_size_align(bytes, 2 << 20).expect("a machine fits the address space")
    }

    /// Number of frames.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.frames
    }

    /// Frame `index` of `domain`.
    #[must_use]
    pub const fn frame_of(domain: u16, index: u32) -> u32 {
        // `u32::from` is not const.
        domain as u32 * FRAMES_PER_DOMAIN + index
    }

    /// First of the frames that hold a domain's version-1 entries.
    #[must_use]
    pub const fn grant_frame(domain: u16) -> u32 {
        Self::frame_of(domain, DATA_FRAMES)
    }

    /// The two words of a version-1 entry: flags and domid, and the frame.
    #[must_use]
    #[inline]
    pub fn entry(&self, domain: u16, gref: u32) -> (&AtomicU32, &AtomicU32) {
        let frame = Self::grant_frame(domain) + gref / ENTRIES_PER_FRAME;
        let at = (gref % ENTRIES_PER_FRAME) as usize * 2;
        (self.word(frame, at), self.word(frame, at + 1))
    }

    /// Address of a frame.
    ///
    /// # Panics
    /// If there is no such frame.
    #[must_use]
    #[inline]
    pub fn frame(&self, mfn: u32) -> *mut u8 {
        assert!(mfn < self.frames);
        // SAFETY: inside the allocation, by the check.
        unsafe { self.base.as_ptr().add(mfn as usize * PAGE) }
    }

    /// An aligned 32-bit word of a frame, as guests and hypervisor race for it.
    ///
    /// # Panics
    /// If there is no such frame or word.
    #[must_use]
    #[inline]
    pub fn word(&self, mfn: u32, index: usize) -> &AtomicU32 {
        assert!(index < PAGE / 4);
        // SAFETY: inside the frame and aligned, by the checks; grant entries are accessed in no other size.
        unsafe { AtomicU32::from_ptr(self.frame(mfn).cast::<u32>().add(index)) }
    }

    /// Writes a pattern that differs per frame and seed over a frame.
    pub fn fill(&self, mfn: u32, seed: u32) {
        let frame = self.frame(mfn);
        for (i, byte) in pattern(mfn, seed).enumerate() {
            // SAFETY: `pattern` has a frame's length; no engine runs while a workload prepares.
            unsafe { frame.add(i).write(byte) };
        }
    }

    /// A copy of some bytes of a frame.
    ///
    /// # Panics
    /// If they are not inside the frame.
    #[must_use]
    pub fn bytes(&self, mfn: u32, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= PAGE);
        let mut out = vec![0; len];
        // SAFETY: inside the frame by the check; no engine runs while a workload verifies.
        unsafe { std::ptr::copy_nonoverlapping(self.frame(mfn).add(offset), out.as_mut_ptr(), len) };
        out
    }
}

/// The bytes `fill` writes.
fn pattern(mfn: u32, seed: u32) -> impl Iterator<Item = u8> {
    let mut x = mfn.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b) | 1;
    (0..PAGE).map(move |_| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[1]
    })
}

impl Drop for Machine {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.frames)) }
    }
}
