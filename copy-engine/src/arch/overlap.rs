//! Long ranges that share bytes: a guest copying onto itself.
//!
//! Nobody's fast path, so one plain routine serves all kernels: words of 8 bytes in general registers, in
//! the direction in which no byte is overwritten before it is read, then single bytes for the rest.

use core::arch::asm;

/// Copies `len` bytes between ranges that overlap, as if through a buffer.
///
/// # Safety
/// As [`crate::Session::copy`].
#[cold]
#[inline(never)]
pub(super) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    if dst.addr() == src.addr() {
        // Every byte is where it should be, and a write back could undo another pCPU's.
        return;
    }
    let (words, bytes) = (len / 8, len % 8);
    if dst.addr() < src.addr() {
        // SAFETY: exactly `len` bytes ascending from both starts; the direction flag is clear by the ABI.
        unsafe {
            asm!(
                "rep movsq",
                "mov ecx, {bytes:e}",
                "rep movsb",
                bytes = in(reg) bytes,
                inout("rcx") words => _, inout("rdi") dst => _, inout("rsi") src => _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    // SAFETY: exactly `len` bytes, descending: first words, whose addresses are 8 * n - 8 above the lowest
    // `bytes` bytes, then these bytes. Both counters reach 0 exactly.
    unsafe {
        asm!(
            "test {words}, {words}",
            "jz 3f",
            "2:",
            "mov {word}, [{src} + 8 * {words} - 8]",
            "mov [{dst} + 8 * {words} - 8], {word}",
            "dec {words}",
            "jnz 2b",
            "3:",
            words = inout(reg) words => _, word = out(reg) _,
            dst = in(reg) dst.wrapping_add(bytes), src = in(reg) src.wrapping_add(bytes),
            options(nostack),
        );
        asm!(
            "test {bytes}, {bytes}",
            "jz 3f",
            "2:",
            "mov {byte}, [{src} + {bytes} - 1]",
            "mov [{dst} + {bytes} - 1], {byte}",
            "dec {bytes}",
            "jnz 2b",
            "3:",
            bytes = inout(reg) bytes => _, byte = out(reg_byte) _,
            dst = in(reg) dst, src = in(reg) src,
            options(nostack),
        );
    }
}
