//! Switching the machine off and restarting it.

/// Switches the machine off (ACPI S5); stops when it stays on.
pub fn off() -> ! {
    todo!()
}

/// Restarts the machine.
pub fn reboot() -> ! {
    todo!()
}
