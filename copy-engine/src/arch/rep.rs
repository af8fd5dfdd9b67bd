//! `REP MOVS`: the processor's own string move for long copies, the SSE2 kernel for shorter ones.
//!
//! The string move costs 20 to 60 cycles to start: below a kilobyte SSE2 is done before. Longer copies use
//! MOVSQ, which runs the same microcode as MOVSB where that is fast, and at a word a step where it is not
//! (emulators, processors without ERMS); the last 8 bytes are copied once more, unaligned, for the remainder.
//!
//! On AMD family 19h the microcode falls to a crawl, 20 to 45 times slower, where 4 KiB aliasing meets it:
//! (dst - src) mod 4096 in 1..=63. Such copies take the SSE2 kernel's long way.

use core::arch::asm;

use super::{Isa, distance, overlap, overlaps, sse2};

/// Shortest copy worth the string move's start.
const LEAST: usize = 1024;
/// Distances, modulo 4096, from 1 to this one are not for the string move.
const TRAP: usize = 63;

/// Token: nothing is needed that x86-64 lacks.
#[derive(Clone, Copy, Debug)]
pub struct Rep(());

impl Rep {
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

    /// Whether [`Rep::new`] gives one.
    pub const fn is_available() -> bool {
        true
    }
}

/// Copies by `REP MOVSQ`.
///
/// # Safety
/// As [`crate::Session::copy`]; `len` at least 8, no overlap.
#[inline(always)]
unsafe fn string_move(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `len / 8` words ascending, within the ranges (the direction flag is clear by the ABI), and
    // their last 8 bytes.
    unsafe {
        asm!(
            "mov {last}, [rsi + {len} - 8]",
            "lea {end}, [rdi + {len} - 8]",
            "rep movsq",
            "mov [{end}], {last}",
            len = in(reg) len, last = out(reg) _, end = out(reg) _,
            inout("rcx") len / 8 => _, inout("rdi") dst => _, inout("rsi") src => _,
            options(nostack, preserves_flags),
        );
    }
}

impl Isa for Rep {
    const NAME: &'static str = "rep";

    #[inline(always)]
    unsafe fn copy(self, dst: *mut u8, src: *const u8, len: usize, before_long: impl FnOnce()) {
        // SAFETY: the caller's promises, with the lengths and ranges each routine asks for.
        unsafe {
            if sse2::short(dst, src, len) {
                return;
            }
            before_long();
            let distance = distance(dst, src);
            if overlaps(distance, len) {
                overlap::copy(dst, src, len);
            } else if len < LEAST || (distance & 0xfff).wrapping_sub(1) < TRAP {
                sse2::long(dst, src, len);
            } else {
                string_move(dst, src, len);
            }
        }
    }
}
