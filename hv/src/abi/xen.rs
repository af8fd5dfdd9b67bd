//! `public/xen.h`: hypercall numbers, domain identifiers, virtual interrupts, and the shared page.

use super::{abi_struct, layout};

/// `__HYPERVISOR_*`: hypercall numbers.
pub mod hypercall {
    /// `__HYPERVISOR_memory_op`
    pub const MEMORY_OP: u32 = 12;
    /// `__HYPERVISOR_set_timer_op`
    pub const SET_TIMER_OP: u32 = 15;
    /// `__HYPERVISOR_xen_version`
    pub const XEN_VERSION: u32 = 17;
    /// `__HYPERVISOR_console_io`
    pub const CONSOLE_IO: u32 = 18;
    /// `__HYPERVISOR_grant_table_op`
    pub const GRANT_TABLE_OP: u32 = 20;
    /// `__HYPERVISOR_vm_assist`
    pub const VM_ASSIST: u32 = 21;
    /// `__HYPERVISOR_iret`: no HVM guest may call it.
    pub const IRET: u32 = 23;
    /// `__HYPERVISOR_vcpu_op`
    pub const VCPU_OP: u32 = 24;
    /// `__HYPERVISOR_sched_op`
    pub const SCHED_OP: u32 = 29;
    /// `__HYPERVISOR_event_channel_op`
    pub const EVENT_CHANNEL_OP: u32 = 32;
    /// `__HYPERVISOR_physdev_op`
    pub const PHYSDEV_OP: u32 = 33;
    /// `__HYPERVISOR_hvm_op`
    pub const HVM_OP: u32 = 34;
    /// `__HYPERVISOR_sysctl`
    pub const SYSCTL: u32 = 35;
    /// Numbers in a hypercall page (64 slots of 32 bytes fill half of it; the page has room for 128).
    pub const PAGE_SLOTS: u32 = 64;
}

/// `DOMID_SELF`
pub const DOMID_SELF: u16 = 0x7ff0;
/// `DOMID_IO`
pub const DOMID_IO: u16 = 0x7ff1;
/// `DOMID_XEN`
pub const DOMID_XEN: u16 = 0x7ff2;
/// `DOMID_COW`
pub const DOMID_COW: u16 = 0x7ff3;
/// `DOMID_INVALID`
pub const DOMID_INVALID: u16 = 0x7ff4;
/// `DOMID_IDLE`
pub const DOMID_IDLE: u16 = 0x7fff;

/// `VIRQ_TIMER`: per vCPU.
pub const VIRQ_TIMER: u32 = 0;
/// `VIRQ_DEBUG`: per vCPU.
pub const VIRQ_DEBUG: u32 = 1;
/// `VIRQ_CONSOLE`: one for the machine.
pub const VIRQ_CONSOLE: u32 = 2;
/// `VIRQ_DOM_EXC`: one for the machine.
pub const VIRQ_DOM_EXC: u32 = 3;
/// `VIRQ_XENOPROF`: per vCPU.
pub const VIRQ_XENOPROF: u32 = 7;
/// `VIRQ_XENPMU`: per vCPU.
pub const VIRQ_XENPMU: u32 = 13;
/// `NR_VIRQS`
pub const NR_VIRQS: u32 = 24;

/// `CONSOLEIO_write`
pub const CONSOLEIO_WRITE: u32 = 0;
/// `CONSOLEIO_read`
pub const CONSOLEIO_READ: u32 = 1;

/// `VMASST_CMD_enable`
pub const VMASST_CMD_ENABLE: u32 = 0;
/// `VMASST_CMD_disable`
pub const VMASST_CMD_DISABLE: u32 = 1;
/// `VMASST_TYPE_runstate_update_flag`: the only assist an HVM guest has.
pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;

/// `XEN_LEGACY_MAX_VCPUS`: vCPUs whose `vcpu_info` stands in the shared page.
pub const LEGACY_MAX_VCPUS: usize = 32;

abi_struct! {
    /// `struct vcpu_time_info`: one vCPU's clock. Even versions are stable.
    VcpuTimeInfo {
        /// Odd while being written.
        version: u32,
        /// Padding.
        pad0: u32,
        /// TSC at the moment of `system_time`.
        tsc_timestamp: u64,
        /// Nanoseconds since boot at `tsc_timestamp`.
        system_time: u64,
        /// Fraction of 2^32: scaled cycles to nanoseconds.
        tsc_to_system_mul: u32,
        /// Shift of the cycle count before the multiplication; negative is to the right.
        tsc_shift: i8,
        /// `XEN_PVCLOCK_*`.
        flags: u8,
        /// Padding.
        pad1: [u8; 2],
    }
}
layout!(VcpuTimeInfo, size 32, tsc_timestamp @ 8, tsc_to_system_mul @ 24, flags @ 29);

/// `XEN_PVCLOCK_TSC_STABLE_BIT`
pub const PVCLOCK_TSC_STABLE: u8 = 1;

/// Offsets inside `struct vcpu_info` (64 bytes in both widths).
pub mod vcpu_info {
    /// Bytes.
    pub const SIZE: usize = 64;
    /// `evtchn_upcall_pending`, a byte.
    pub const UPCALL_PENDING: usize = 0;
    /// `evtchn_upcall_mask`, a byte.
    pub const UPCALL_MASK: usize = 1;
    /// `evtchn_pending_sel`, a word of the guest's width.
    pub const PENDING_SEL_64: usize = 8;
    /// The same for a 32-bit guest.
    pub const PENDING_SEL_32: usize = 4;
    /// `time`, a `VcpuTimeInfo`.
    pub const TIME: usize = 32;
}

/// Offsets inside `struct shared_info` of a 64-bit guest.
pub mod shared_info {
    /// `vcpu_info[32]`
    pub const VCPU_INFO: usize = 0;
    /// `evtchn_pending[64]`, 64-bit words.
    pub const EVTCHN_PENDING: usize = 2048;
    /// `evtchn_mask[64]`
    pub const EVTCHN_MASK: usize = 2560;
    /// `wc_version`
    pub const WC_VERSION: usize = 3072;
    /// `wc_sec`: low 32 bits of the seconds.
    pub const WC_SEC: usize = 3076;
    /// `wc_nsec`
    pub const WC_NSEC: usize = 3080;
    /// `wc_sec_hi`: high 32 bits of the seconds.
    pub const WC_SEC_HI: usize = 3084;
    /// Event channels of the 2-level interface.
    pub const EVTCHN_LIMIT: u32 = 4096;
}

/// Offsets inside `struct shared_info` of a 32-bit guest.
pub mod shared_info_compat {
    /// `vcpu_info[32]`
    pub const VCPU_INFO: usize = 0;
    /// `evtchn_pending[32]`, 32-bit words.
    pub const EVTCHN_PENDING: usize = 2048;
    /// `evtchn_mask[32]`
    pub const EVTCHN_MASK: usize = 2176;
    /// `wc_version`
    pub const WC_VERSION: usize = 2304;
    /// `wc_sec`
    pub const WC_SEC: usize = 2308;
    /// `wc_nsec`
    pub const WC_NSEC: usize = 2312;
    /// `arch.wc_sec_hi`
    pub const WC_SEC_HI: usize = 2340;
    /// Event channels of the 2-level interface.
    pub const EVTCHN_LIMIT: u32 = 1024;
}
