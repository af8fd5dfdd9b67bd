//! AVX2: 32-byte vectors in YMM0-3.
//!
//! All moves are VEX-coded, the 16-byte ones too: mixing in the legacy forms while upper halves are in use
//! costs a merge per instruction on Intel processors (SDM volume 1, 14.9.1).

use core::arch::asm;

use super::long::{ends, long_copies};
use super::{Isa, SHORT, descends, distance, overlap, overlaps, up_to_16};
use crate::cpu;

/// Token: AVX2 may be executed.
#[derive(Clone, Copy, Debug)]
pub struct Avx2(());

impl Avx2 {
    /// The token, if the processor has AVX2 and XCR0 lets it be used.
    pub fn new() -> Option<Self> {
        Self::is_available().then_some(Self(()))
    }

    /// The token without probing.
    ///
    /// # Safety
    /// [`Avx2::is_available`] must be true, and remain so (XCR0) while the token is used.
    pub const unsafe fn new_unchecked() -> Self {
        Self(())
    }

    /// Whether [`Avx2::new`] gives one.
    pub fn is_available() -> bool {
        cpu::has_avx2()
    }
}

long_copies!("vmovdqu", "vmovdqa", 32, 128, "ymm0", [
    "ymm0" at 0 as "xmm0", "ymm1" at 32 as "xmm1", "ymm2" at 64 as "xmm2", "ymm3" at 96 as "xmm3"
]);

/// Copies up to [`SHORT`] bytes; any overlap. False, and nothing done, for more.
///
/// # Safety
/// As [`crate::Session::copy`], the processor must have AVX2.
#[inline(always)]
unsafe fn short(dst: *mut u8, src: *const u8, len: usize) -> bool {
    // SAFETY: in each case `len` is at least what one end takes and at most what both take.
    unsafe {
        // Headers are told first.
        if len > 64 {
            if len > SHORT {
                return false;
            }
            ends!(dst, src, len, "vmovdqu",
                ["ymm0" at 0 as "xmm0", "ymm1" at 32 as "xmm1"],
                ["ymm2" at 64 as "xmm2", "ymm3" at 32 as "xmm3"]);
        } else if len > 32 {
            ends!(dst, src, len, "vmovdqu", ["ymm0" at 0 as "xmm0"], ["ymm1" at 32 as "xmm1"]);
        } else if len >= 16 {
            ends!(dst, src, len, "vmovdqu", ["xmm0" at 0 as "xmm0"], ["xmm1" at 16 as "xmm1"]);
        } else {
            up_to_16(dst, src, len);
        }
    }
    true
}

/// Copies 128 to 256 bytes between ranges that do not overlap: the first 128 bytes, then the last.
///
/// # Safety
/// As [`crate::Session::copy`], the processor must have AVX2; `len` in 128..=256, no overlap.
#[inline(always)]
unsafe fn two_blocks(dst: *mut u8, src: *const u8, len: usize) {
    let last = len - 128;
    // SAFETY: both blocks lie within the ranges, `len` being at least one of them.
    unsafe {
        ends!(dst, src, 128_usize, "vmovdqu",
            ["ymm0" at 0 as "xmm0", "ymm1" at 32 as "xmm1"],
            ["ymm2" at 64 as "xmm2", "ymm3" at 32 as "xmm3"]);
        ends!(dst.add(last), src.add(last), 128_usize, "vmovdqu",
            ["ymm0" at 0 as "xmm0", "ymm1" at 32 as "xmm1"],
            ["ymm2" at 64 as "xmm2", "ymm3" at 32 as "xmm3"]);
    }
}

impl Isa for Avx2 {
    const NAME: &'static str = "avx2";

    #[inline(always)]
    unsafe fn copy(self, dst: *mut u8, src: *const u8, len: usize, before_long: impl FnOnce()) {
        // SAFETY: the caller's promises and the token, with the lengths and ranges each routine asks for.
        unsafe {
            if short(dst, src, len) {
                return;
            }
            before_long();
            let distance = distance(dst, src);
            if overlaps(distance, len) {
                overlap::copy(dst, src, len);
            } else if len <= 256 {
                two_blocks(dst, src, len);
            } else if descends(distance) {
                descend(dst, src, len);
            } else {
                ascend(dst, src, len);
            }
        }
    }
}

/// Room for YMM0-3.
pub(crate) type Saved = [u8; 128];

/// Stores YMM0-3.
///
/// # Safety
/// The processor must have AVX, as a token proves; `area` must be writable.
#[inline(never)]
pub(crate) unsafe fn save(area: *mut Saved) {
    // SAFETY: 128 bytes from `area`, which the caller gives.
    unsafe {
        asm!(
            "vmovdqu [{area}], ymm0",
            "vmovdqu [{area} + 32], ymm1",
            "vmovdqu [{area} + 64], ymm2",
            "vmovdqu [{area} + 96], ymm3",
            area = in(reg) area,
            options(nostack, preserves_flags),
        );
    }
}

/// Loads what [`save`] stored. The low halves change with it, as any kernel changes them.
///
/// # Safety
/// As [`save`]; `area` must hold what it stored.
#[inline(never)]
pub(crate) unsafe fn restore(area: *const Saved) {
    // SAFETY: 128 bytes from `area`, which the caller gives.
    unsafe {
        asm!(
            "vmovdqu ymm0, [{area}]",
            "vmovdqu ymm1, [{area} + 32]",
            "vmovdqu ymm2, [{area} + 64]",
            "vmovdqu ymm3, [{area} + 96]",
            area = in(reg) area,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            options(nostack, preserves_flags),
        );
    }
}

/// Zeroes the upper halves of all YMM registers: what they were before, if none was in use.
///
/// # Safety
/// The processor must have AVX, and no upper half may hold anything that is still wanted.
#[inline(never)]
pub(crate) unsafe fn zero_upper() {
    // SAFETY: the caller's promises; XMM registers, which the compiler uses, stay as they are.
    unsafe { asm!("vzeroupper", options(nomem, nostack, preserves_flags)) };
}
