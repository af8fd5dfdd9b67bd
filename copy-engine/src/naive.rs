//! What every kernel is compared with: one byte after the other, through a buffer's eyes.

/// Copies `len` bytes as if through a buffer.
///
/// # Safety
/// `src` must be readable and `dst` writable for `len` bytes.
pub unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    let from = |i: usize| {
        // SAFETY: `i` is below `len`.
        unsafe { dst.wrapping_add(i).write_volatile(src.wrapping_add(i).read_volatile()) };
    };
    if dst.addr() <= src.addr() {
        (0..len).for_each(from);
    } else {
        (0..len).rev().for_each(from);
    }
}
