//! `public/arch-x86/hvm/start_info.h`: what a PVH guest finds at EBX. Both widths alike.

use crate::abi::{abi_struct, layout};

/// `XEN_HVM_START_MAGIC_VALUE`
pub const MAGIC: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM`
pub const MEMMAP_RAM: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RESERVED`
pub const MEMMAP_RESERVED: u32 = 2;
/// `XEN_HVM_MEMMAP_TYPE_ACPI`
pub const MEMMAP_ACPI: u32 = 3;
/// `XEN_HVM_MEMMAP_TYPE_PMEM`
pub const MEMMAP_PMEM: u32 = 7;

/// `SIF_PRIVILEGED` (public/xen.h): the domain has power over others.
pub const SIF_PRIVILEGED: u32 = 1 << 0;

abi_struct! {
    /// `hvm_start_info`, version 1.
    StartInfo {
        /// [`MAGIC`]
        magic: u32,
        /// 1: the memory map is there.
        version: u32,
        /// `SIF_*`
        flags: u32,
        /// Entries of the module list.
        nr_modules: u32,
        /// Address of the module list.
        modlist_paddr: u64,
        /// Address of the command line, NUL-terminated.
        cmdline_paddr: u64,
        /// Address of the RSDP, or 0.
        rsdp_paddr: u64,
        /// Address of the memory map.
        memmap_paddr: u64,
        /// Its entries.
        memmap_entries: u32,
        /// Zero.
        reserved: u32,
    }
}
layout!(StartInfo, size 56, modlist_paddr @ 16, cmdline_paddr @ 24, rsdp_paddr @ 32, memmap_paddr @ 40, memmap_entries @ 48);

abi_struct! {
    /// `hvm_modlist_entry`
    ModlistEntry {
        /// Address of the module.
        paddr: u64,
        /// Bytes.
        size: u64,
        /// Address of its command line, NUL-terminated, or 0.
        cmdline_paddr: u64,
        /// Zero.
        reserved: u64,
    }
}
layout!(ModlistEntry, size 32, cmdline_paddr @ 16);

abi_struct! {
    /// `hvm_memmap_table_entry`
    MemmapEntry {
        /// First byte.
        addr: u64,
        /// Bytes.
        size: u64,
        /// `XEN_HVM_MEMMAP_TYPE_*`
        kind: u32,
        /// Zero.
        reserved: u32,
    }
}
layout!(MemmapEntry, size 24, kind @ 16);
