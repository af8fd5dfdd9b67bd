//! The runtime under every guest: entry, hypercalls, console, memory, events, grants and time.
//!
//! One vCPU, no heap to speak of, the first 4 GiB mapped onto themselves: a physical address is a pointer.
//! Statics that only the single vCPU touches are plain atomics or `spin` cells; interrupt handlers touch
//! nothing but the two words named in `entry.S`.

use core::arch::global_asm;

pub mod boot;
pub mod capabilities;
pub mod clock;
pub mod console;
pub mod cpu;
pub mod events;
pub mod grants;
pub mod hypercall;
pub mod memory;
pub mod smp;
mod support;
pub mod terminal;
pub mod traps;

global_asm!(include_str!("entry.S"));

/// Names the function a guest runs. When it returns, the domain powers itself off.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        /// Called by the runtime once everything is set up.
        #[unsafe(no_mangle)]
        extern "sysv64" fn guest_main() {
            let main: fn() = $main;
            main();
        }
    };
}

/// Prints one line on the console.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::rt::console::line(format_args!($($words)*)) };
}

/// Prints `@fail` with the reason, then crashes the domain: the run must not pass.
#[macro_export]
macro_rules! fail {
    ($($words:tt)*) => { $crate::rt::fail(format_args!($($words)*)) };
}

/// See [`fail!`].
pub fn fail(why: core::fmt::Arguments<'_>) -> ! {
    console::line(format_args!("@fail {why}"));
    hypercall::shutdown(hv::abi::sched::SHUTDOWN_CRASH)
}

unsafe extern "sysv64" {
    safe fn guest_main();
}

/// From `entry.S`: 64-bit mode, interrupts off.
#[unsafe(no_mangle)]
extern "sysv64" fn guest_start(start_info: u64) -> ! {
    traps::init();
    cpu::enable_vectors();
    hypercall::init();
    boot::init(start_info);
    memory::init();
    events::init();
    guest_main();
    hypercall::shutdown(hv::abi::sched::SHUTDOWN_POWEROFF)
}

/// Widens; addresses and lengths are 64 bits here.
#[must_use]
pub const fn wide(value: usize) -> u64 {
    value as u64
}

/// An address or length as this 64-bit machine's `usize`.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "guests are x86-64 only: the types have one size")]
pub const fn size(value: u64) -> usize {
    value as usize
}
