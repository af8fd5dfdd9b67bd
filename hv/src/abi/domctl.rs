//! `public/domctl.h`: what is told of a domain. The structure is part of a sysctl as well.

use super::{abi_struct, layout};

/// `XEN_DOMINF_*`
pub mod info {
    /// Its resources are being taken back.
    pub const DYING: u32 = 1 << 0;
    /// Not a PV guest.
    pub const HVM_GUEST: u32 = 1 << 1;
    /// It has shut down, for the reason in the bits above.
    pub const SHUTDOWN: u32 = 1 << 2;
    /// It is the store's.
    pub const XS_DOMAIN: u32 = 1 << 7;
    /// Nested paging.
    pub const HAP: u32 = 1 << 8;
    /// The reason for the shutdown.
    pub const SHUTDOWN_MASK: u32 = 255;
    /// Where it stands.
    pub const SHUTDOWN_SHIFT: u32 = 16;
}

abi_struct! {
    /// `struct xen_domctl_getdomaininfo` of 4.17. What this hypervisor does not account is zero: memory that
    /// is outstanding, shared or paged, CPU time, the handle, CPU pools.
    DomainInfo {
        /// Its number.
        domain: u16,
        /// Padding.
        pad1: u16,
        /// [`info`]
        flags: u32,
        /// Frames it has.
        tot_pages: u64,
        /// Frames it may have.
        max_pages: u64,
        /// Zero.
        outstanding_pages: u64,
        /// Zero.
        shr_pages: u64,
        /// Zero.
        paged_pages: u64,
        /// Zero.
        shared_info_frame: u64,
        /// Zero.
        cpu_time: u64,
        /// vCPUs.
        nr_online_vcpus: u32,
        /// The number of the last one.
        max_vcpu_id: u32,
        /// Zero.
        ssidref: u32,
        /// Zero.
        handle: [u8; 16],
        /// Zero.
        cpupool: u32,
        /// Zero.
        gpaddr_bits: u8,
        /// Padding.
        pad2: [u8; 7],
        /// `struct xen_arch_domainconfig`: zero, nothing is emulated.
        arch_config: [u32; 2],
    }
}
layout!(DomainInfo, size 112, flags @ 4, tot_pages @ 8, nr_online_vcpus @ 64, handle @ 76, arch_config @ 104);
