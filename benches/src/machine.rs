//! The memory of a make-believe machine: frames side by side, reached by number as the hypervisor reaches
//! them through its direct map. Both engines work on it, never at the same time on the same data unless a
//! workload says so.
//!
//! Frames belong to domains in equal shares, a power of two: frame `i` of domain `d` is `d * share + i`.
//! After its data frames each domain has its grant table; the rest of its share is never touched, and so
//! takes no memory.

use crate::primitive::AtomicU32;
use std::ptr::NonNull;

/// Bytes in a frame.
pub const PAGE: usize = 4096;
const ENTRIES_PER_FRAME: u32 = 512;
/// Alignment of the first frame: a large page.
const ALIGN: usize = 2 << 20;

/// How large a machine is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Domains, numbered from 0.
    pub domains: u32,
    /// Frames each domain has for data, and grant entries it has: a power of two, 512 at least.
    pub data_frames: u32,
    /// CPUs, and vCPUs of the caller: one each.
    pub cpus: u32,
}

/// The frames.
pub struct Machine {
    base: NonNull<u8>,
    mapped: NonNull<u8>,
    shape: Shape,
}

// SAFETY: the memory is reached by atomics and by raw copies whose ranges the caller's workload keeps apart;
// the struct itself is immutable.
unsafe impl Send for Machine {}
// SAFETY: as above.
unsafe impl Sync for Machine {}

impl Machine {
    /// A machine with all frames zero.
    ///
    /// # Panics
    /// If the shape is not as described, or there is no memory.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        assert!(shape.data_frames.is_power_of_two() && shape.data_frames >= ENTRIES_PER_FRAME);
        assert!(shape.domains > 0 && shape.cpus > 0);
        let bytes = Self::bytes_of(shape);
        // SAFETY: a new private mapping somewhere; nothing else is asked of the kernel.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes + ALIGN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(mapped != libc::MAP_FAILED, "no address space for {bytes} bytes");
        let mapped = NonNull::new(mapped.cast::<u8>()).expect("mmap does not map page 0 unasked");
        // SAFETY: the offset is below `ALIGN`, which the mapping has beyond `bytes`.
        let base = unsafe { mapped.add(mapped.as_ptr().align_offset(ALIGN)) };
        // Large pages, as in the hypervisor's direct map; small ones differ from run to run in the cache sets
        // they fall into. Only a hint, so the result does not matter.
        // SAFETY: the range is ours, and not in use yet.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Self { base, mapped, shape }
    }

    fn bytes_of(shape: Shape) -> usize {
        shape.domains as usize * 2 * shape.data_frames as usize * PAGE
    }

    /// The shape it was made in.
    #[must_use]
    #[inline]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of frames.
    #[must_use]
    #[inline]
    pub const fn frames(&self) -> u32 {
        self.shape.domains * self.share()
    }

    /// Frames in a domain's share.
    #[inline]
    const fn share(&self) -> u32 {
        2 * self.shape.data_frames
    }

    /// Grant entries each domain has.
    #[must_use]
    #[inline]
    pub const fn grefs(&self) -> u32 {
        self.shape.data_frames
    }

    /// Frames of each domain's grant table.
    #[must_use]
    pub const fn grant_frames(&self) -> u32 {
        self.shape.data_frames / ENTRIES_PER_FRAME
    }

    /// The domain whose a frame is.
    #[must_use]
    #[inline]
    pub const fn owner(&self, mfn: u32) -> u32 {
        mfn >> self.share().trailing_zeros()
    }

    /// Frame `index` of `domain`.
    #[must_use]
    #[inline]
    pub fn frame_of(&self, domain: u16, index: u32) -> u32 {
        u32::from(domain) * self.share() + index
    }

    /// First of the frames that hold a domain's version-1 entries.
    #[must_use]
    #[inline]
    pub fn grant_frame(&self, domain: u16) -> u32 {
        self.frame_of(domain, self.shape.data_frames)
    }

    /// The two words of a version-1 entry: flags and domid, and the frame.
    #[must_use]
    #[inline]
    pub fn entry(&self, domain: u16, gref: u32) -> (&AtomicU32, &AtomicU32) {
        let frame = self.grant_frame(domain) + gref / ENTRIES_PER_FRAME;
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
        assert!(mfn < self.frames());
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
        let frame = self.frame(mfn).cast::<u64>();
        let mut x = u64::from(mfn).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(seed) << 17 | 1;
        for i in 0..PAGE / 8 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            // SAFETY: inside the frame, which is aligned; no engine runs while a workload prepares.
            unsafe { frame.add(i).write(x) };
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

impl Drop for Machine {
    fn drop(&mut self) {
        let bytes = Self::bytes_of(self.shape) + ALIGN;
        // SAFETY: mapped in `new` with this length; nobody has a pointer into it any more.
        unsafe { libc::munmap(self.mapped.as_ptr().cast(), bytes) };
    }
}
