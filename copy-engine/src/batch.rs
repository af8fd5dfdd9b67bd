//! Several copies in a row: while one runs, the lines of a later one are already asked for.
//!
//! Over cold memory the kernels hardly differ; what counts is how early a line is requested. So before
//! segment `n` is copied, segment `n + AHEAD` is prefetched, its destination for writing. Segments are
//! copied strictly in order, so a later one sees what an earlier one wrote.
//!
//! Prefetching is a hint: it never faults and changes no contents. The addresses are those of segments
//! already validated, so nothing a guest chose is touched, even speculatively, that it may not reach.

use core::arch::asm;

use crate::Segment;
use crate::arch::Isa;

/// How many segments ahead lines are asked for.
const AHEAD: usize = 4;
/// Bytes of a segment asked for in advance; the processor's own prefetching follows a longer run.
const REACH: usize = 256;
/// Bytes in a cache line.
const LINE: usize = 64;

/// Copies `segments` in order.
///
/// # Safety
/// As [`Isa::copy`], for each segment.
#[inline(never)]
pub unsafe fn copy<K: Isa>(kernel: K, segments: &[Segment]) {
    if segments.len() > 1 {
        segments.iter().take(AHEAD).for_each(prefetch);
    }
    for (n, segment) in segments.iter().enumerate() {
        if let Some(later) = segments.get(n + AHEAD) {
            prefetch(later);
        }
        // SAFETY: the caller's promise for this segment.
        unsafe { kernel.copy(segment.dst, segment.src, segment.len) };
    }
}

/// Copies once.
///
/// # Safety
/// As [`Isa::copy`].
#[inline(never)]
pub unsafe fn copy_one<K: Isa>(kernel: K, dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { kernel.copy(dst, src, len) };
}

/// Asks for the first lines of a segment.
///
/// PREFETCHW needs no test: every AMD64 processor has it (APM volume 3: 3DNowPrefetch, 3DNow or long mode),
/// and Intel's 64-bit processors that lack it execute it as a NOP.
#[inline(always)]
fn prefetch(segment: &Segment) {
    let reach = segment.len.min(REACH);
    let mut offset = 0;
    while offset < reach {
        // SAFETY: prefetches access nothing architecturally.
        unsafe {
            asm!(
                "prefetcht0 [{src} + {offset}]",
                "prefetchw [{dst} + {offset}]",
                src = in(reg) segment.src, dst = in(reg) segment.dst, offset = in(reg) offset,
                options(nostack, preserves_flags, readonly),
            );
        }
        offset += LINE;
    }
}
