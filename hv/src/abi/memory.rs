//! `public/memory.h`.

use super::{abi_struct, layout};

/// `XENMEM_*`: the operation is in the low six bits, a continuation's progress above.
pub mod op {
    /// `XENMEM_increase_reservation`
    pub const INCREASE_RESERVATION: u32 = 0;
    /// `XENMEM_decrease_reservation`
    pub const DECREASE_RESERVATION: u32 = 1;
    /// `XENMEM_maximum_ram_page`
    pub const MAXIMUM_RAM_PAGE: u32 = 2;
    /// `XENMEM_current_reservation`
    pub const CURRENT_RESERVATION: u32 = 3;
    /// `XENMEM_maximum_reservation`
    pub const MAXIMUM_RESERVATION: u32 = 4;
    /// `XENMEM_populate_physmap`
    pub const POPULATE_PHYSMAP: u32 = 6;
    /// `XENMEM_add_to_physmap`
    pub const ADD_TO_PHYSMAP: u32 = 7;
    /// `XENMEM_memory_map`
    pub const MEMORY_MAP: u32 = 9;
    /// `XENMEM_exchange`
    pub const EXCHANGE: u32 = 11;
    /// `XENMEM_maximum_gpfn`
    pub const MAXIMUM_GPFN: u32 = 14;
    /// `XENMEM_remove_from_physmap`
    pub const REMOVE_FROM_PHYSMAP: u32 = 15;
    /// `XENMEM_add_to_physmap_batch`
    pub const ADD_TO_PHYSMAP_BATCH: u32 = 23;
    /// `XENMEM_acquire_resource`
    pub const ACQUIRE_RESOURCE: u32 = 28;
    /// `MEMOP_EXTENT_SHIFT`: where a continuation keeps its progress.
    pub const EXTENT_SHIFT: u32 = 6;
    /// Bits of the operation.
    pub const MASK: u32 = (1 << EXTENT_SHIFT) - 1;
}

/// `XENMAPSPACE_shared_info`
pub const MAPSPACE_SHARED_INFO: u32 = 0;
/// `XENMAPSPACE_grant_table`
pub const MAPSPACE_GRANT_TABLE: u32 = 1;
/// `XENMAPSPACE_gmfn`
pub const MAPSPACE_GMFN: u32 = 2;
/// `XENMAPSPACE_gmfn_range`
pub const MAPSPACE_GMFN_RANGE: u32 = 3;
/// `XENMAPSPACE_gmfn_foreign`
pub const MAPSPACE_GMFN_FOREIGN: u32 = 4;
/// `XENMAPSPACE_dev_mmio`
pub const MAPSPACE_DEV_MMIO: u32 = 5;
/// `XENMAPIDX_grant_table_status`: index bit that names a status frame.
pub const MAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000;

/// `XENMEM_resource_grant_table`
pub const RESOURCE_GRANT_TABLE: u16 = 1;
/// `XENMEM_resource_vmtrace_buf`
pub const RESOURCE_VMTRACE_BUF: u16 = 2;
/// `XENMEM_resource_grant_table_id_shared`
pub const RESOURCE_GRANT_TABLE_SHARED: u32 = 0;
/// `XENMEM_resource_grant_table_id_status`
pub const RESOURCE_GRANT_TABLE_STATUS: u32 = 1;

abi_struct! {
    /// `xen_memory_reservation`, 64-bit.
    Reservation {
        /// Guest address of the array of `xen_pfn_t`.
        extent_start: u64,
        /// Its length.
        nr_extents: u64,
        /// log2 of the frames of each extent.
        extent_order: u32,
        /// `XENMEMF_*`
        mem_flags: u32,
        /// Whose memory (`DOMID_SELF`).
        domid: u16,
        /// Padding.
        pad: [u16; 3],
    }
}
layout!(Reservation, size 32, nr_extents @ 8, extent_order @ 16, mem_flags @ 20, domid @ 24);

abi_struct! {
    /// `xen_add_to_physmap`, 64-bit.
    AddToPhysmap {
        /// Whose p2m (`DOMID_SELF`).
        domid: u16,
        /// Pages to go through, for `gmfn_range`.
        size: u16,
        /// `XENMAPSPACE_*`
        space: u32,
        /// Index into the space.
        idx: u64,
        /// Where it shall appear.
        gpfn: u64,
    }
}
layout!(AddToPhysmap, size 24, size @ 2, space @ 4, idx @ 8, gpfn @ 16);

abi_struct! {
    /// `xen_add_to_physmap_batch`, 64-bit.
    AddToPhysmapBatch {
        /// Whose p2m (`DOMID_SELF`).
        domid: u16,
        /// `XENMAPSPACE_*`
        space: u16,
        /// Elements.
        size: u16,
        /// The foreign domain, for `gmfn_foreign`; otherwise zero.
        u: u16,
        /// Guest address of the indexes (`xen_ulong_t`).
        idxs: u64,
        /// Guest address of the gfns (`xen_pfn_t`).
        gpfns: u64,
        /// Guest address of the results (`int`).
        errs: u64,
    }
}
layout!(AddToPhysmapBatch, size 32, space @ 2, size @ 4, u @ 6, idxs @ 8, gpfns @ 16, errs @ 24);

abi_struct! {
    /// `xen_remove_from_physmap`, 64-bit.
    RemoveFromPhysmap {
        /// Whose p2m (`DOMID_SELF`).
        domid: u16,
        /// Padding.
        pad: [u16; 3],
        /// What shall go.
        gpfn: u64,
    }
}
layout!(RemoveFromPhysmap, size 16, gpfn @ 8);

abi_struct! {
    /// `xen_memory_map`, 64-bit.
    MemoryMap {
        /// IN: room; OUT: entries.
        nr_entries: u32,
        /// Padding.
        pad: u32,
        /// Guest address of the array of [`E820Entry`].
        buffer: u64,
    }
}
layout!(MemoryMap, size 16, buffer @ 8);

/// An E820 entry as `XENMEM_memory_map` returns it: 20 bytes, packed in both widths.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C, packed)]
pub struct E820Entry {
    /// First byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// 1 RAM, 2 reserved, 3 ACPI.
    pub kind: u32,
}
layout!(E820Entry, size 20, kind @ 16);

abi_struct! {
    /// `xen_mem_acquire_resource`, 64-bit.
    AcquireResource {
        /// Whose resource: another domain's.
        domid: u16,
        /// `XENMEM_resource_*`
        kind: u16,
        /// Which of that kind.
        id: u32,
        /// IN: frames; OUT, when the size was asked: how many there can be.
        nr_frames: u32,
        /// Zero.
        pad: u32,
        /// The first frame.
        frame: u64,
        /// Guest address of the gfns (`xen_pfn_t`); 0 asks the size.
        frame_list: u64,
    }
}
layout!(AcquireResource, size 32, kind @ 2, id @ 4, nr_frames @ 8, pad @ 12, frame @ 16, frame_list @ 24);

/// The layouts of a 32-bit guest.
pub mod compat {
    use super::super::{abi_struct, layout};

    abi_struct! {
        /// `xen_memory_reservation`
        Reservation {
            /// Guest address of the array of `xen_pfn_t`.
            extent_start: u32,
            /// Its length.
            nr_extents: u32,
            /// log2 of the frames of each extent.
            extent_order: u32,
            /// `XENMEMF_*`
            mem_flags: u32,
            /// Whose memory (`DOMID_SELF`).
            domid: u16,
            /// Padding.
            pad: u16,
        }
    }
    layout!(Reservation, size 20, nr_extents @ 4, extent_order @ 8, mem_flags @ 12, domid @ 16);

    abi_struct! {
        /// `xen_add_to_physmap`
        AddToPhysmap {
            /// Whose p2m (`DOMID_SELF`).
            domid: u16,
            /// Pages to go through, for `gmfn_range`.
            size: u16,
            /// `XENMAPSPACE_*`
            space: u32,
            /// Index into the space.
            idx: u32,
            /// Where it shall appear.
            gpfn: u32,
        }
    }
    layout!(AddToPhysmap, size 16, size @ 2, space @ 4, idx @ 8, gpfn @ 12);

    abi_struct! {
        /// `xen_add_to_physmap_batch`
        AddToPhysmapBatch {
            /// Whose p2m (`DOMID_SELF`).
            domid: u16,
            /// `XENMAPSPACE_*`
            space: u16,
            /// Elements.
            size: u16,
            /// The foreign domain, for `gmfn_foreign`; otherwise zero.
            u: u16,
            /// Guest address of the indexes.
            idxs: u32,
            /// Guest address of the gfns.
            gpfns: u32,
            /// Guest address of the results (`int`).
            errs: u32,
        }
    }
    layout!(AddToPhysmapBatch, size 20, u @ 6, idxs @ 8, gpfns @ 12, errs @ 16);

    abi_struct! {
        /// `xen_remove_from_physmap`
        RemoveFromPhysmap {
            /// Whose p2m (`DOMID_SELF`).
            domid: u16,
            /// Padding.
            pad: u16,
            /// What shall go.
            gpfn: u32,
        }
    }
    layout!(RemoveFromPhysmap, size 8, gpfn @ 4);

    abi_struct! {
        /// `xen_mem_acquire_resource`: its 64-bit number is aligned to 4 bytes only.
        AcquireResource {
            /// Whose resource: another domain's.
            domid: u16,
            /// `XENMEM_resource_*`
            kind: u16,
            /// Which of that kind.
            id: u32,
            /// IN: frames; OUT, when the size was asked: how many there can be.
            nr_frames: u32,
            /// Zero.
            pad: u32,
            /// The first frame: low half.
            frame_low: u32,
            /// High half.
            frame_high: u32,
            /// Guest address of the gfns; 0 asks the size.
            frame_list: u32,
        }
    }
    layout!(AcquireResource, size 28, nr_frames @ 8, frame_low @ 16, frame_list @ 24);

    abi_struct! {
        /// `xen_memory_map`
        MemoryMap {
            /// IN: room; OUT: entries.
            nr_entries: u32,
            /// Guest address of the array of entries.
            buffer: u32,
        }
    }
    layout!(MemoryMap, size 8, buffer @ 4);
}
