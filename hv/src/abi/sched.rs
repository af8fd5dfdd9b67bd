//! `public/sched.h`.

use super::{abi_struct, layout};

/// `SCHEDOP_*`
pub mod op {
    /// `SCHEDOP_yield`
    pub const YIELD: u32 = 0;
    /// `SCHEDOP_block`
    pub const BLOCK: u32 = 1;
    /// `SCHEDOP_shutdown`
    pub const SHUTDOWN: u32 = 2;
    /// `SCHEDOP_poll`
    pub const POLL: u32 = 3;
    /// `SCHEDOP_remote_shutdown`
    pub const REMOTE_SHUTDOWN: u32 = 4;
    /// `SCHEDOP_shutdown_code`
    pub const SHUTDOWN_CODE: u32 = 5;
    /// `SCHEDOP_watchdog`
    pub const WATCHDOG: u32 = 6;
}

/// `SHUTDOWN_poweroff`
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// `SHUTDOWN_reboot`
pub const SHUTDOWN_REBOOT: u32 = 1;
/// `SHUTDOWN_suspend`
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// `SHUTDOWN_crash`
pub const SHUTDOWN_CRASH: u32 = 3;
/// `SHUTDOWN_watchdog`
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// `SHUTDOWN_soft_reset`
pub const SHUTDOWN_SOFT_RESET: u32 = 5;

/// Most ports one `SCHEDOP_poll` may name (Xen's limit).
pub const POLL_MAX_PORTS: u32 = 128;

abi_struct! {
    /// `sched_shutdown`
    Shutdown {
        /// `SHUTDOWN_*`
        reason: u32,
    }
}
layout!(Shutdown, size 4);

abi_struct! {
    /// `sched_poll`, 64-bit.
    Poll {
        /// Guest address of the array of `evtchn_port_t`.
        ports: u64,
        /// Its length.
        nr_ports: u32,
        /// Padding.
        pad: u32,
        /// System time in ns at which to give up; 0: never.
        timeout: u64,
    }
}
layout!(Poll, size 24, nr_ports @ 8, timeout @ 16);

/// The layouts of a 32-bit guest.
pub mod compat {
    use super::super::{abi_struct, layout};

    abi_struct! {
        /// `sched_poll`; the 64-bit timeout is only 4-aligned, so it is kept as two words.
        Poll {
            /// Guest address of the array of `evtchn_port_t`.
            ports: u32,
            /// Its length.
            nr_ports: u32,
            /// Low and high word of the system time in ns at which to give up; 0: never.
            timeout: [u32; 2],
        }
    }
    layout!(Poll, size 16, nr_ports @ 4, timeout @ 8);
}
