//! The end of the hypervisor: registers, a backtrace, what this CPU was doing, then reboot or stop.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::{arch::x86::power, cmdline::Com1};

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
    if NOREBOOT.load(Ordering::Relaxed) {
        power::stop()
    }
    power::reboot()
}

/// The image's panic handler.
pub fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::dev::console::panic_line(format_args!("panic: {info}"));
    end()
}
