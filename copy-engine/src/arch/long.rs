//! The body that the vector kernels share: long ranges in either direction.
//!
//! The first vector (the last, when descending) is copied unaligned; then blocks whose stores are aligned;
//! then one unaligned block that ends (begins) with the range and may repeat bytes already copied, which is
//! why the ranges must not overlap. Stores are what alignment is for: a store across a cache line costs more
//! than a load across one.
//!
//! One address runs, `cursor` in the destination; the source is `gap` bytes further, wrapping.

/// Defines `ascend` and `descend` for one width.
///
/// `$move` and `$aligned` are the unaligned and the aligned move, `$bytes` a vector's bytes, `$block` those of
/// all the registers together; each register stands with its offset within the block, and with the register
/// by which the compiler knows it.
macro_rules! long_copies {
    (
        $move:literal, $aligned:literal, $bytes:literal, $block:literal,
        $first:literal, [$($register:literal at $offset:literal as $clobber:tt),*]
    ) => {
        /// Copies from the lowest address up.
        ///
        /// # Safety
        /// As [`crate::Session::copy`], the processor must have the instructions, `len` must be at least one
        /// block and the ranges must not overlap.
        #[inline(always)]
        unsafe fn ascend(dst: *mut u8, src: *const u8, len: usize) {
            // SAFETY: the first vector lies within the ranges, `len` being at least a block. `cursor` then is
            // at most one vector above `dst`, and the bytes below it are copied. While it is below `end`,
            // which is a block before the range's end, a block at it lies within the range.
            unsafe {
                core::arch::asm!(
                    concat!($move, " ", $first, ", [{src}]"),
                    concat!("lea {end}, [{cursor} + {len} - ", $block, "]"),
                    "sub {src}, {cursor}",
                    concat!($move, " [{cursor}], ", $first),
                    concat!("add {cursor}, ", $bytes),
                    concat!("and {cursor}, -", $bytes),
                    "cmp {cursor}, {end}",
                    "jae 3f",
                    ".p2align 4",
                    "2:",
                    $(concat!($move, " ", $register, ", [{cursor} + {src} + ", $offset, "]"),)*
                    $(concat!($aligned, " [{cursor} + ", $offset, "], ", $register),)*
                    concat!("add {cursor}, ", $block),
                    "cmp {cursor}, {end}",
                    "jb 2b",
                    "3:",
                    $(concat!($move, " ", $register, ", [{end} + {src} + ", $offset, "]"),)*
                    $(concat!($move, " [{end} + ", $offset, "], ", $register),)*
                    cursor = inout(reg) dst => _, src = inout(reg) src => _,
                    len = in(reg) len, end = out(reg) _,
                    $(out($clobber) _,)*
                    options(nostack),
                );
            }
        }

        /// Copies from the highest address down.
        ///
        /// # Safety
        /// As [`ascend`].
        #[inline(always)]
        unsafe fn descend(dst: *mut u8, src: *const u8, len: usize) {
            // SAFETY: as in `ascend`, mirrored: `cursor` is the aligned end of what is still to be copied, at
            // most one vector below the range's end. While it is above `low`, which is a block after the
            // range's start, a block that ends at it lies within the range.
            unsafe {
                core::arch::asm!(
                    concat!($move, " ", $first, ", [{src} + {cursor} - ", $bytes, "]"),
                    "sub {src}, {dst}",
                    concat!($move, " [{dst} + {cursor} - ", $bytes, "], ", $first),
                    "lea {cursor}, [{dst} + {cursor} - 1]",
                    concat!("lea {low}, [{dst} + ", $block, "]"),
                    concat!("and {cursor}, -", $bytes),
                    "cmp {cursor}, {low}",
                    "jbe 3f",
                    ".p2align 4",
                    "2:",
                    concat!("sub {cursor}, ", $block),
                    $(concat!($move, " ", $register, ", [{cursor} + {src} + ", $offset, "]"),)*
                    $(concat!($aligned, " [{cursor} + ", $offset, "], ", $register),)*
                    "cmp {cursor}, {low}",
                    "ja 2b",
                    "3:",
                    $(concat!($move, " ", $register, ", [{dst} + {src} + ", $offset, "]"),)*
                    $(concat!($move, " [{dst} + ", $offset, "], ", $register),)*
                    dst = in(reg) dst, src = inout(reg) src => _,
                    cursor = inout(reg) len => _, low = out(reg) _,
                    $(out($clobber) _,)*
                    options(nostack),
                );
            }
        }
    };
}

/// Copies both ends of the ranges by as many vectors each: all loads, then all stores.
///
/// Each register stands with its place: `[start]`-relative offsets in the first list, offsets before the end
/// in the second.
macro_rules! ends {
    (
        $dst:expr, $src:expr, $len:expr, $move:literal,
        [$($low:literal at $low_offset:literal as $low_clobber:tt),*],
        [$($high:literal at $high_offset:literal as $high_clobber:tt),*]
    ) => {
        core::arch::asm!(
            $(concat!($move, " ", $low, ", [{src} + ", $low_offset, "]"),)*
            $(concat!($move, " ", $high, ", [{src} + {len} - ", $high_offset, "]"),)*
            $(concat!($move, " [{dst} + ", $low_offset, "], ", $low),)*
            $(concat!($move, " [{dst} + {len} - ", $high_offset, "], ", $high),)*
            dst = in(reg) $dst, src = in(reg) $src, len = in(reg) $len,
            $(out($low_clobber) _,)*
            $(out($high_clobber) _,)*
            options(nostack, preserves_flags),
        )
    };
}

pub(super) use {ends, long_copies};
