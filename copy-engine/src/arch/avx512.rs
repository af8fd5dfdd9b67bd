//! AVX-512: 64-byte vectors in ZMM16-19.
//!
//! The upper sixteen registers have no legacy names: using them puts no XMM or YMM register of the guest in
//! question, calls for no VZEROUPPER, and does not slow later SSE code. The shorter moves use their low parts,
//! for which AVX-512 VL is needed.

use core::arch::asm;

use super::long::{ends, long_copies};
use super::{Isa, SHORT, descends, distance, overlap, overlaps, up_to_16};
use crate::cpu;

/// Token: AVX-512 F and VL may be executed.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if the processor has AVX-512 F and VL and XCR0 lets all their state be used.
    pub fn new() -> Option<Self> {
        Self::is_available().then_some(Self(()))
    }

    /// The token without probing.
    ///
    /// # Safety
    /// [`Avx512::is_available`] must be true, and remain so (XCR0) while the token is used.
    pub const unsafe fn new_unchecked() -> Self {
        Self(())
    }

    /// Whether [`Avx512::new`] gives one.
    pub fn is_available() -> bool {
        cpu::has_avx512()
    }
}

long_copies!("vmovdqu64", "vmovdqa64", 64, 256, "zmm16", [
    "zmm16" at 0 as "xmm16", "zmm17" at 64 as "xmm17", "zmm18" at 128 as "xmm18", "zmm19" at 192 as "xmm19"
]);

/// Copies up to [`SHORT`] bytes; any overlap. False, and nothing done, for more.
///
/// # Safety
/// As [`crate::Session::copy`], the processor must have AVX-512 F and VL.
#[inline(always)]
unsafe fn short(dst: *mut u8, src: *const u8, len: usize) -> bool {
    // SAFETY: in each case `len` is at least what one end takes and at most what both take.
    unsafe {
        if len >= 64 {
            if len > SHORT {
                return false;
            }
            ends!(dst, src, len, "vmovdqu64", ["zmm16" at 0 as "xmm16"], ["zmm17" at 64 as "xmm17"]);
        } else if len >= 32 {
            ends!(dst, src, len, "vmovdqu64", ["ymm16" at 0 as "xmm16"], ["ymm17" at 32 as "xmm17"]);
        } else if len >= 16 {
            ends!(dst, src, len, "vmovdqu64", ["xmm16" at 0 as "xmm16"], ["xmm17" at 16 as "xmm17"]);
        } else {
            up_to_16(dst, src, len);
        }
    }
    true
}

impl Isa for Avx512 {
    const NAME: &'static str = "avx512";

    #[inline(always)]
    unsafe fn copy(self, dst: *mut u8, src: *const u8, len: usize, before_long: impl FnOnce()) {
        // SAFETY: the caller's promises and the token, with the lengths and ranges each routine asks for.
        unsafe {
            if short(dst, src, len) {
                return;
            }
            before_long();
            let distance = distance(dst, src);
            if len <= 256 {
                ends!(dst, src, len, "vmovdqu64",
                    ["zmm16" at 0 as "xmm16", "zmm17" at 64 as "xmm17"],
                    ["zmm18" at 128 as "xmm18", "zmm19" at 64 as "xmm19"]);
            } else if overlaps(distance, len) {
                overlap::copy(dst, src, len);
            } else if descends(distance) {
                descend(dst, src, len);
            } else {
                ascend(dst, src, len);
            }
        }
    }
}

/// Room for ZMM16-19.
pub(crate) type Saved = [u8; 256];

/// Stores ZMM16-19.
///
/// # Safety
/// The processor must have AVX-512, as a token proves; `area` must be writable.
#[inline(never)]
pub(crate) unsafe fn save(area: *mut Saved) {
    // SAFETY: 256 bytes from `area`, which the caller gives.
    unsafe {
        asm!(
            "vmovdqu64 [{area}], zmm16",
            "vmovdqu64 [{area} + 64], zmm17",
            "vmovdqu64 [{area} + 128], zmm18",
            "vmovdqu64 [{area} + 192], zmm19",
            area = in(reg) area,
            options(nostack, preserves_flags),
        );
    }
}

/// Loads what [`save`] stored.
///
/// # Safety
/// As [`save`]; `area` must hold what it stored.
#[inline(never)]
pub(crate) unsafe fn restore(area: *const Saved) {
    // SAFETY: 256 bytes from `area`, which the caller gives.
    unsafe {
        asm!(
            "vmovdqu64 zmm16, [{area}]",
            "vmovdqu64 zmm17, [{area} + 64]",
            "vmovdqu64 zmm18, [{area} + 128]",
            "vmovdqu64 zmm19, [{area} + 192]",
            area = in(reg) area,
            out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _,
            options(nostack, preserves_flags),
        );
    }
}

/// Zeroes ZMM16-19: what they were before, if none of the sixteen was in use.
///
/// # Safety
/// The processor must have AVX-512.
#[inline(never)]
pub(crate) unsafe fn zero() {
    // SAFETY: the caller's promise; writes to the low parts zero the rest.
    unsafe {
        asm!(
            "vpxord xmm16, xmm16, xmm16",
            "vpxord xmm17, xmm17, xmm17",
            "vpxord xmm18, xmm18, xmm18",
            "vpxord xmm19, xmm19, xmm19",
            out("xmm16") _, out("xmm17") _, out("xmm18") _, out("xmm19") _,
            options(nomem, nostack, preserves_flags),
        );
    }
}
