//! `public/sysctl.h`: what a control domain asks of the whole machine. Both widths alike: the header uses
//! 64-bit handles and numbers throughout.

use super::{abi_struct, layout};

/// `XEN_SYSCTL_INTERFACE_VERSION` of Xen 4.17. The interface is stable within a release only, so a caller
/// says which one it was built for.
pub const INTERFACE_VERSION: u32 = 0x15;

/// `XEN_SYSCTL_getdomaininfolist`
pub const GETDOMAININFOLIST: u32 = 6;
/// `XEN_SYSCTL_debug_keys`
pub const DEBUG_KEYS: u32 = 7;

abi_struct! {
    /// `struct xen_sysctl`.
    Sysctl {
        /// `XEN_SYSCTL_*`
        cmd: u32,
        /// [`INTERFACE_VERSION`]
        interface_version: u32,
        /// The operation's structure.
        u: [u64; 16],
    }
}
layout!(Sysctl, size 136, interface_version @ 4, u @ 8);

abi_struct! {
    /// `struct xen_sysctl_debug_keys`, at the beginning of `u`.
    DebugKeys {
        /// Guest address of the letters.
        keys: u64,
        /// How many.
        nr_keys: u32,
        /// Padding.
        pad: u32,
    }
}
layout!(DebugKeys, size 16, nr_keys @ 8);

abi_struct! {
    /// `struct xen_sysctl_getdomaininfolist`, at the beginning of `u`.
    DomainInfoList {
        /// The lowest number to tell of.
        first_domain: u16,
        /// Padding.
        pad0: u16,
        /// Room in the buffer.
        max_domains: u32,
        /// Guest address of [`DomainInfo`](super::domctl::DomainInfo) structures.
        buffer: u64,
        /// OUT: how many there are now.
        num_domains: u32,
        /// Padding.
        pad1: u32,
    }
}
layout!(DomainInfoList, size 24, max_domains @ 4, buffer @ 8, num_domains @ 16);
