//! SSE2: 16-byte vectors in XMM0-7, which every x86-64 processor has and the exit stub has saved.

use super::long::{ends, long_copies};
use super::{Isa, SHORT, descends, distance, overlap, overlaps, up_to_16};

/// Token: SSE2 may be executed.
#[derive(Clone, Copy, Debug)]
pub struct Sse2(());

impl Sse2 {
    /// The token every x86-64 processor has.
    pub const BASELINE: Self = Self(());

    /// Part of the x86-64 baseline: always there.
    pub const fn new() -> Option<Self> {
        Some(Self(()))
    }

    /// The token without probing.
    ///
    /// # Safety
    /// None beyond the target's own: kept so that all kernels have the same doors.
    pub const unsafe fn new_unchecked() -> Self {
        Self(())
    }

    /// Whether [`Sse2::new`] gives one.
    pub const fn is_available() -> bool {
        true
    }
}

long_copies!("movdqu", "movdqa", 16, 128, "xmm0", [
    "xmm0" at 0 as "xmm0", "xmm1" at 16 as "xmm1", "xmm2" at 32 as "xmm2", "xmm3" at 48 as "xmm3",
    "xmm4" at 64 as "xmm4", "xmm5" at 80 as "xmm5", "xmm6" at 96 as "xmm6", "xmm7" at 112 as "xmm7"
]);

/// Copies up to [`SHORT`] bytes; any overlap. False, and nothing done, for more.
///
/// # Safety
/// As [`crate::Session::copy`].
#[inline(always)]
pub(super) unsafe fn short(dst: *mut u8, src: *const u8, len: usize) -> bool {
    // SAFETY: in each case `len` is at least what one end takes and at most what both take.
    unsafe {
        // Headers are told first.
        if len > 64 {
            if len > SHORT {
                return false;
            }
            ends!(dst, src, len, "movdqu",
                ["xmm0" at 0 as "xmm0", "xmm1" at 16 as "xmm1", "xmm2" at 32 as "xmm2", "xmm3" at 48 as "xmm3"],
                ["xmm4" at 64 as "xmm4", "xmm5" at 48 as "xmm5", "xmm6" at 32 as "xmm6", "xmm7" at 16 as "xmm7"]);
        } else if len > 32 {
            ends!(dst, src, len, "movdqu",
                ["xmm0" at 0 as "xmm0", "xmm1" at 16 as "xmm1"],
                ["xmm2" at 32 as "xmm2", "xmm3" at 16 as "xmm3"]);
        } else if len >= 16 {
            ends!(dst, src, len, "movdqu", ["xmm0" at 0 as "xmm0"], ["xmm1" at 16 as "xmm1"]);
        } else {
            up_to_16(dst, src, len);
        }
    }
    true
}

/// Copies more than [`SHORT`] bytes between ranges that do not overlap.
///
/// # Safety
/// As [`crate::Session::copy`]; `len` more than [`SHORT`], no overlap.
#[inline(always)]
pub(super) unsafe fn long(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        if descends(distance(dst, src)) {
            descend(dst, src, len);
        } else {
            ascend(dst, src, len);
        }
    }
}

impl Isa for Sse2 {
    const NAME: &'static str = "sse2";

    #[inline(always)]
    unsafe fn copy(self, dst: *mut u8, src: *const u8, len: usize, before_long: impl FnOnce()) {
        // SAFETY: the caller's promises, with the lengths and ranges each routine asks for.
        unsafe {
            if short(dst, src, len) {
                return;
            }
            before_long();
            if overlaps(distance(dst, src), len) {
                overlap::copy(dst, src, len);
            } else {
                long(dst, src, len);
            }
        }
    }
}
