//! One file per instruction set, one shape for all.
//!
//! Each type here is a token: holding one proves that the processor executes its instructions. `new` probes,
//! `is_available` tells, `new_unchecked` trusts.
//!
//! A kernel has three cases. *Short* lengths are loads from both ends that meet or overlap in the middle,
//! then the stores: no loop, no alignment, right for any overlap since every load precedes every store.
//! *Long* lengths go by blocks. *Overlapping* long ranges are a guest copying onto itself: rare enough to
//! leave to one plain routine (`overlap.rs`), so that the long loops may assume that there is none.
//!
//! **4 KiB aliasing.** A load that follows a store to the same page offset waits for it, whatever the frames
//! (the pipeline compares the low 12 address bits first). So for `distance = (dst - src) mod 4096` the
//! ascending loop trips over its own stores when the distance is positive and small, and the descending loop
//! when it is negative and small. Long copies take the direction whose stores lie behind its loads. Inside
//! a block every load precedes every store.
//!
//! **Speculation.** A length mispredicted may make a kernel load, speculatively, up to a block on either side of
//! its range. What is loaded is only ever stored, never used as an address, so nothing of it can be observed.
//!
//! **Registers.** The assembly names its registers: XMM0-7 (saved by the exit stub), YMM0-3, ZMM16-19. The
//! latter two are what [`crate::Session`] looks after. The functions are compiled without AVX enabled, so
//! the compiler itself never keeps a value there, nor adds a VZEROUPPER that would lose a guest's state.
//! They are inlined only into functions of this crate that are never inlined elsewhere.

use core::arch::asm;

pub mod avx2;
pub mod avx512;
mod long;
mod overlap;
pub mod rep;
pub mod sse2;

/// Longest copy that is short: what both ends take of four registers of 32 bytes.
const SHORT: usize = 128;

/// Distances below this make long copies descend. Half of the period: the store that a load could meet is
/// then always at least 2 KiB old.
const DESCEND_BELOW: usize = 2048;

/// What a kernel is to the code around it.
pub(crate) trait Isa: Copy + 'static {
    /// Its name on the command line and in the boot log.
    const NAME: &'static str;

    /// Copies. Always inlined: see the module's text. Calls `before_long` first if the copy is a long one.
    ///
    /// # Safety
    /// As [`crate::Session::copy`], and the caller has arranged for the registers the kernel overwrites.
    unsafe fn copy(self, dst: *mut u8, src: *const u8, len: usize, before_long: impl FnOnce());
}

/// The bytes by which `dst` lies above `src`, wrapping.
#[inline(always)]
fn distance(dst: *mut u8, src: *const u8) -> usize {
    dst.addr().wrapping_sub(src.addr())
}

/// The ranges share a byte. `len` is not 0.
#[inline(always)]
fn overlaps(distance: usize, len: usize) -> bool {
    distance.wrapping_add(len - 1) < 2 * len - 1
}

/// A long copy had better descend (the module's text says why).
#[inline(always)]
fn descends(distance: usize) -> bool {
    (distance & 0xfff).wrapping_sub(1) < DESCEND_BELOW - 1
}

/// Copies up to 16 bytes in general registers.
///
/// # Safety
/// As [`crate::Session::copy`]; `len` at most 16.
#[inline(always)]
unsafe fn up_to_16(dst: *mut u8, src: *const u8, len: usize) {
    if len >= 8 {
        // SAFETY: `len` is at least 8: the first and the last 8 bytes lie within the ranges.
        unsafe {
            asm!(
                "mov {low}, [{src}]",
                "mov {high}, [{src} + {len} - 8]",
                "mov [{dst}], {low}",
                "mov [{dst} + {len} - 8], {high}",
                low = out(reg) _, high = out(reg) _,
                dst = in(reg) dst, src = in(reg) src, len = in(reg) len,
                options(nostack, preserves_flags),
            );
        }
    } else if len >= 4 {
        // SAFETY: likewise with 4 bytes.
        unsafe {
            asm!(
                "mov {low:e}, [{src}]",
                "mov {high:e}, [{src} + {len} - 4]",
                "mov [{dst}], {low:e}",
                "mov [{dst} + {len} - 4], {high:e}",
                low = out(reg) _, high = out(reg) _,
                dst = in(reg) dst, src = in(reg) src, len = in(reg) len,
                options(nostack, preserves_flags),
            );
        }
    } else if len != 0 {
        // SAFETY: 1 to 3 bytes: the first, the last, and the one at half the length.
        unsafe {
            asm!(
                "mov {low}, [{src}]",
                "mov {mid}, [{src} + {half}]",
                "mov {high}, [{src} + {len} - 1]",
                "mov [{dst}], {low}",
                "mov [{dst} + {half}], {mid}",
                "mov [{dst} + {len} - 1], {high}",
                low = out(reg_byte) _, mid = out(reg_byte) _, high = out(reg_byte) _,
                dst = in(reg) dst, src = in(reg) src, len = in(reg) len, half = in(reg) len / 2,
                options(nostack, preserves_flags),
            );
        }
    }
}
