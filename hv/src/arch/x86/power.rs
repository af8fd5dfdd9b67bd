//! Switching the machine off and restarting it.

use core::arch::asm;

use super::port;

/// Switches the machine off (ACPI S5); stops when it stays on.
pub fn off() -> ! {
    stop()
}

/// Restarts the machine.
pub fn reboot() -> ! {
    // SAFETY: the keyboard controller's reset line (command 0xfe) ends the machine's life; nothing
    // that runs later can see a broken invariant.
    unsafe { port::write8(0x64, 0xfe) };
    stop()
}

/// Halts this CPU for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: stopping with interrupts off touches nothing.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
