//! The end of the hypervisor: registers, a backtrace, what this CPU was doing, then reboot or stop.
//!
//! One CPU tells its story: the first to get here. It stops the others by NMI, so that the console and
//! memory stay as they were, and takes the console's port whoever holds its lock. A panic inside a panic
//! ends at once. Nothing here allocates.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::{arch::x86::power, cmdline::Com1, dev::console::panic_line};

#[cfg(any(test, feature = "bare-metal"))]
mod symbols;
#[cfg(feature = "bare-metal")]
mod tell;

#[cfg(feature = "bare-metal")]
pub(crate) use tell::exception;
#[cfg(feature = "bare-metal")]
pub use tell::panicked;

static NOREBOOT: AtomicBool = AtomicBool::new(false);
/// The console as the command line has it: baud rate and port.
static COM1: (AtomicU32, AtomicU32) = (AtomicU32::new(0), AtomicU32::new(0));
/// What `noreboot` and `com1=` said.
pub fn set_options(noreboot: bool, com1: Com1) {
    NOREBOOT.store(noreboot, Ordering::Relaxed);
    COM1.0.store(com1.baud, Ordering::Relaxed);
    COM1.1.store(com1.port.into(), Ordering::Relaxed);
}

/// The console's port, for a panic that cannot get at the console's lock.
#[must_use]
pub fn com1() -> Com1 {
    match (COM1.0.load(Ordering::Relaxed), u16::try_from(COM1.1.load(Ordering::Relaxed))) {
        (0, _) | (_, Err(_)) => Com1::default(),
        (baud, Ok(port)) => Com1 { baud, port },
    }
}

/// After the last line: restart, or stop with the line still to be read.
pub fn end() -> ! {
    #[cfg(feature = "bare-metal")]
    crate::arch::x86::traps::stop_others();
    if NOREBOOT.load(Ordering::Relaxed) {
        panic_line(format_args!("stopped (noreboot)"));
        power::stop()
    }
    power::reboot()
}
