//! `public/vcpu.h`.

use super::{abi_struct, layout};

/// `VCPUOP_*`
pub mod op {
    /// `VCPUOP_initialise`
    pub const INITIALISE: u32 = 0;
    /// `VCPUOP_up`
    pub const UP: u32 = 1;
    /// `VCPUOP_down`
    pub const DOWN: u32 = 2;
    /// `VCPUOP_is_up`
    pub const IS_UP: u32 = 3;
    /// `VCPUOP_get_runstate_info`
    pub const GET_RUNSTATE_INFO: u32 = 4;
    /// `VCPUOP_register_runstate_memory_area`
    pub const REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
    /// `VCPUOP_set_periodic_timer`
    pub const SET_PERIODIC_TIMER: u32 = 6;
    /// `VCPUOP_stop_periodic_timer`
    pub const STOP_PERIODIC_TIMER: u32 = 7;
    /// `VCPUOP_set_singleshot_timer`
    pub const SET_SINGLESHOT_TIMER: u32 = 8;
    /// `VCPUOP_stop_singleshot_timer`
    pub const STOP_SINGLESHOT_TIMER: u32 = 9;
    /// `VCPUOP_register_vcpu_info`
    pub const REGISTER_VCPU_INFO: u32 = 10;
    /// `VCPUOP_send_nmi`
    pub const SEND_NMI: u32 = 11;
    /// `VCPUOP_get_physid`
    pub const GET_PHYSID: u32 = 12;
    /// `VCPUOP_register_vcpu_time_memory_area`
    pub const REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;
}

/// `RUNSTATE_running`
pub const RUNSTATE_RUNNING: u32 = 0;
/// `RUNSTATE_runnable`
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// `RUNSTATE_blocked`
pub const RUNSTATE_BLOCKED: u32 = 2;
/// `RUNSTATE_offline`
pub const RUNSTATE_OFFLINE: u32 = 3;
/// `XEN_RUNSTATE_UPDATE`: bit of `state_entry_time`, set while an area is being written.
pub const RUNSTATE_UPDATE: u64 = 1 << 63;

/// `VCPU_SSHOTTMR_future`: refuse a time that has passed.
pub const SSHOTTMR_FUTURE: u32 = 1;

abi_struct! {
    /// `vcpu_runstate_info`, 64-bit.
    RunstateInfo {
        /// `RUNSTATE_*`
        state: u32,
        /// Padding.
        pad: u32,
        /// System time in ns when the state was entered.
        state_entry_time: u64,
        /// Time in ns spent in each state.
        time: [u64; 4],
    }
}
layout!(RunstateInfo, size 48, state_entry_time @ 8, time @ 16);

abi_struct! {
    /// `vcpu_set_singleshot_timer`, 64-bit.
    SetSingleshotTimer {
        /// System time in ns.
        timeout_abs_ns: u64,
        /// `VCPU_SSHOTTMR_*`
        flags: u32,
        /// Padding.
        pad: u32,
    }
}
layout!(SetSingleshotTimer, size 16, flags @ 8);

abi_struct! {
    /// `vcpu_set_periodic_timer`, both widths.
    SetPeriodicTimer {
        /// Nanoseconds.
        period_ns: u64,
    }
}
layout!(SetPeriodicTimer, size 8);

abi_struct! {
    /// `vcpu_register_vcpu_info`, both widths.
    RegisterVcpuInfo {
        /// Frame of the guest.
        mfn: u64,
        /// Offset in it.
        offset: u32,
        /// Padding.
        rsvd: u32,
    }
}
layout!(RegisterVcpuInfo, size 16, offset @ 8);

/// The layouts of a 32-bit guest.
pub mod compat {
    use super::super::{abi_struct, layout};

    abi_struct! {
        /// `vcpu_runstate_info`: 64-bit values are 4-aligned, so each is two words, low first.
        RunstateInfo {
            /// `RUNSTATE_*`
            state: u32,
            /// System time in ns when the state was entered.
            state_entry_time: [u32; 2],
            /// Time in ns spent in each state.
            time: [[u32; 2]; 4],
        }
    }
    layout!(RunstateInfo, size 44, state_entry_time @ 4, time @ 12);

    abi_struct! {
        /// `vcpu_set_singleshot_timer`
        SetSingleshotTimer {
            /// System time in ns, low word first.
            timeout_abs_ns: [u32; 2],
            /// `VCPU_SSHOTTMR_*`
            flags: u32,
        }
    }
    layout!(SetSingleshotTimer, size 12, flags @ 8);
}
