//! I/O ports.

use core::arch::asm;

/// Reads a byte.
///
/// # Safety
/// The device at `port` must not answer the read by changing memory that Rust code relies on.
#[must_use]
pub unsafe fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: the instruction itself touches no memory; the device is the caller's word.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte.
///
/// # Safety
/// As for [`read8`].
pub unsafe fn write8(port: u16, value: u8) {
    // SAFETY: as in `read8`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a 16-bit word.
///
/// # Safety
/// As for [`read8`].
#[must_use]
pub unsafe fn read16(port: u16) -> u16 {
    let value;
    // SAFETY: as in `read8`.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a 16-bit word.
///
/// # Safety
/// As for [`read8`].
pub unsafe fn write16(port: u16, value: u16) {
    // SAFETY: as in `read8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a 32-bit word.
///
/// # Safety
/// As for [`read8`].
#[must_use]
pub unsafe fn read32(port: u16) -> u32 {
    let value;
    // SAFETY: as in `read8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}
