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

/// The handle of a domain: a toolstack chooses it on Xen, and keeps it when it builds the domain again under another
/// number. Here it comes of the name (FNV-1a of 128 bits), so that whoever knows a domain by name finds it.
#[must_use]
pub fn handle(name: &str) -> [u8; 16] {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    name.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::handle;

    #[test]
    fn handles_are_of_names() {
        // The test vectors of FNV-1a.
        assert_eq!(u128::from_be_bytes(handle("")), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(u128::from_be_bytes(handle("foobar")), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
        assert_ne!(handle("client1"), handle("client2"));
    }
}

abi_struct! {
    /// `struct xen_domctl_getdomaininfo` of 4.17. What this hypervisor does not account is zero: memory that
    /// is outstanding, shared or paged, CPU time, CPU pools.
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
        /// [`handle`] of its name.
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
