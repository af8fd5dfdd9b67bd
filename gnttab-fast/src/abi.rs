//! The numbers and structures of `public/grant_table.h`, for both widths.
//!
//! Structures carry the header's names. Where the two widths differ, the 32-bit one is in [`compat`]. On
//! x86 the others are equal byte by byte, except that a 32-bit guest may align an array of them to 4 bytes
//! only: they are always copied to and from guest memory, never referenced there. Padding is named, so that
//! every structure is plain bytes (`zerocopy`). Fields a guest writes while the hypervisor reads them are
//! no field of these: shared entries are reached through module `shared` only.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `GNTTABOP_*`.
pub mod op {
    /// `GNTTABOP_map_grant_ref`
    pub const MAP_GRANT_REF: u32 = 0;
    /// `GNTTABOP_unmap_grant_ref`
    pub const UNMAP_GRANT_REF: u32 = 1;
    /// `GNTTABOP_setup_table`
    pub const SETUP_TABLE: u32 = 2;
    /// `GNTTABOP_dump_table`
    pub const DUMP_TABLE: u32 = 3;
    /// `GNTTABOP_transfer`
    pub const TRANSFER: u32 = 4;
    /// `GNTTABOP_copy`
    pub const COPY: u32 = 5;
    /// `GNTTABOP_query_size`
    pub const QUERY_SIZE: u32 = 6;
    /// `GNTTABOP_unmap_and_replace`
    pub const UNMAP_AND_REPLACE: u32 = 7;
    /// `GNTTABOP_set_version`
    pub const SET_VERSION: u32 = 8;
    /// `GNTTABOP_get_status_frames`
    pub const GET_STATUS_FRAMES: u32 = 9;
    /// `GNTTABOP_get_version`
    pub const GET_VERSION: u32 = 10;
    /// `GNTTABOP_swap_grant_ref`
    pub const SWAP_GRANT_REF: u32 = 11;
    /// `GNTTABOP_cache_flush`
    pub const CACHE_FLUSH: u32 = 12;
    /// Bits of the command word that name the operation; those above are a continuation's.
    pub const MASK: u32 = 0xfff;
}

/// `GNTMAP_*`: flags of a map request.
pub mod map_flags {
    /// `GNTMAP_device_map`
    pub const DEVICE_MAP: u32 = 1 << 0;
    /// `GNTMAP_host_map`
    pub const HOST_MAP: u32 = 1 << 1;
    /// `GNTMAP_readonly`
    pub const READONLY: u32 = 1 << 2;
    /// `GNTMAP_application_map`
    pub const APPLICATION_MAP: u32 = 1 << 3;
    /// `GNTMAP_contains_pte`
    pub const CONTAINS_PTE: u32 = 1 << 4;
}

/// `GTF_*`: the flags word of a shared entry.
pub mod gtf {
    /// `GTF_type_mask`
    pub const TYPE_MASK: u16 = 3;
    /// `GTF_invalid`
    pub const INVALID: u16 = 0;
    /// `GTF_permit_access`
    pub const PERMIT_ACCESS: u16 = 1;
    /// `GTF_accept_transfer`
    pub const ACCEPT_TRANSFER: u16 = 2;
    /// `GTF_transitive`
    pub const TRANSITIVE: u16 = 3;
    /// `GTF_readonly`
    pub const READONLY: u16 = 1 << 2;
    /// `GTF_reading`: the frame is mapped or read by the grantee. Written by the hypervisor.
    pub const READING: u16 = 1 << 3;
    /// `GTF_writing`: as above, for writing.
    pub const WRITING: u16 = 1 << 4;
    /// `GTF_PWT`
    pub const PWT: u16 = 1 << 5;
    /// `GTF_PCD`
    pub const PCD: u16 = 1 << 6;
    /// `GTF_PAT`
    pub const PAT: u16 = 1 << 7;
    /// `GTF_sub_page`
    pub const SUB_PAGE: u16 = 1 << 8;
}

/// `GNTCOPY_*`: flags of a copy.
pub mod copy_flags {
    /// `GNTCOPY_source_gref`
    pub const SOURCE_GREF: u16 = 1 << 0;
    /// `GNTCOPY_dest_gref`
    pub const DEST_GREF: u16 = 1 << 1;
}

/// `GNTTAB_CACHE_*`: operations of `cache_flush`.
pub mod cache_flags {
    /// `GNTTAB_CACHE_CLEAN`
    pub const CLEAN: u32 = 1 << 0;
    /// `GNTTAB_CACHE_INVAL`
    pub const INVAL: u32 = 1 << 1;
    /// `GNTTAB_CACHE_SOURCE_GREF`
    pub const SOURCE_GREF: u32 = 1 << 31;
}

/// Models have small frames, so that a few steps come to their ends.
const MODEL: bool = cfg!(loom);

/// `GNTTAB_NR_RESERVED_ENTRIES`: entries the toolstack fills; they survive version switches.
pub const RESERVED_ENTRIES: u32 = if MODEL { 1 } else { 8 };
/// `GNTTAB_RESERVED_CONSOLE`
pub const RESERVED_CONSOLE: u32 = 0;
/// `GNTTAB_RESERVED_XENSTORE`
pub const RESERVED_XENSTORE: u32 = 1;

/// Version-1 entries in a shared frame.
pub const V1_PER_FRAME: u32 = if MODEL { 4 } else { 512 };
/// Version-2 entries in a shared frame.
pub const V2_PER_FRAME: u32 = if MODEL { 2 } else { 256 };
/// Status words in a status frame (version 2).
pub const STATUS_PER_FRAME: u32 = if MODEL { 16 } else { 2048 };

/// The low half of a word: a reference in a union with a frame number.
#[expect(clippy::cast_possible_truncation, reason = "cutting is what it is for")]
#[inline]
pub(crate) const fn low32(word: u64) -> u32 {
    word as u32
}

/// Declares a structure of the header: plain bytes, with its size and the offsets of its fields asserted.
macro_rules! abi_struct {
    ($(#[$doc:meta])* $name:ident: $size:literal {
        $($(#[$fdoc:meta])* $field:ident: $ty:ty = $offset:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $ty,)*
        }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };
    };
}

abi_struct! {
    /// `struct gnttab_map_grant_ref`, both widths.
    MapGrantRef: 32 {
        /// Where to map: a guest-physical address for a translated caller.
        host_addr: u64 = 0,
        /// `GNTMAP_*`, see [`map_flags`].
        flags: u32 = 8,
        /// The reference (`ref`).
        gref: u32 = 12,
        /// The granting domain.
        dom: u16 = 16,
        /// Out: [`Status`](crate::Status).
        status: i16 = 18,
        /// Out: names the mapping for unmap.
        handle: u32 = 20,
        /// Out: the machine address.
        dev_bus_addr: u64 = 24,
    }
}

abi_struct! {
    /// `struct gnttab_unmap_grant_ref`, both widths.
    UnmapGrantRef: 24 {
        /// Where the host half is mapped; 0 leaves it alone.
        host_addr: u64 = 0,
        /// The machine address of the device half; 0 leaves it alone.
        dev_bus_addr: u64 = 8,
        /// The mapping.
        handle: u32 = 16,
        /// Out: [`Status`](crate::Status).
        status: i16 = 20,
        /// Padding.
        pad: u16 = 22,
    }
}

abi_struct! {
    /// `struct gnttab_setup_table`, 64-bit.
    SetupTable: 24 {
        /// Whose table.
        dom: u16 = 0,
        /// Padding.
        pad0: u16 = 2,
        /// Frames wanted.
        nr_frames: u32 = 4,
        /// Out: [`Status`](crate::Status).
        status: i16 = 8,
        /// Padding.
        pad1: [u16; 3] = 10,
        /// Address of an array of `nr_frames` frame numbers, filled in.
        frame_list: u64 = 16,
    }
}

abi_struct! {
    /// `struct gnttab_dump_table`, both widths. The operation is no longer handled.
    DumpTable: 4 {
        /// Whose table.
        dom: u16 = 0,
        /// Out: [`Status`](crate::Status).
        status: i16 = 2,
    }
}

abi_struct! {
    /// `struct gnttab_transfer`, 64-bit.
    Transfer: 24 {
        /// The frame to give away.
        mfn: u64 = 0,
        /// To whom.
        domid: u16 = 8,
        /// Padding.
        pad0: u16 = 10,
        /// The receiver's reference (`ref`).
        gref: u32 = 12,
        /// Out: [`Status`](crate::Status).
        status: i16 = 16,
        /// Padding.
        pad1: [u16; 3] = 18,
    }
}

abi_struct! {
    /// `struct gnttab_copy_ptr`, 64-bit: one side of a copy.
    CopyPtr: 16 {
        /// A frame, or, in the low 32 bits alone, a reference: which, [`copy_flags`] tell.
        u: u64 = 0,
        /// Whose frame or table.
        domid: u16 = 8,
        /// First byte in the frame.
        offset: u16 = 10,
        /// Padding.
        pad: u32 = 12,
    }
}

abi_struct! {
    /// `struct gnttab_copy`, 64-bit.
    Copy: 40 {
        /// From.
        source: CopyPtr = 0,
        /// To.
        dest: CopyPtr = 16,
        /// Bytes.
        len: u16 = 32,
        /// `GNTCOPY_*`, see [`copy_flags`].
        flags: u16 = 34,
        /// Out: [`Status`](crate::Status).
        status: i16 = 36,
        /// Padding.
        pad: u16 = 38,
    }
}

abi_struct! {
    /// `struct gnttab_query_size`, both widths.
    QuerySize: 16 {
        /// Whose table.
        dom: u16 = 0,
        /// Padding.
        pad0: u16 = 2,
        /// Out: frames it has.
        nr_frames: u32 = 4,
        /// Out: frames it may have.
        max_nr_frames: u32 = 8,
        /// Out: [`Status`](crate::Status).
        status: i16 = 12,
        /// Padding.
        pad1: u16 = 14,
    }
}

abi_struct! {
    /// `struct gnttab_unmap_and_replace`, both widths.
    UnmapAndReplace: 24 {
        /// Where the host half is mapped.
        host_addr: u64 = 0,
        /// Where to take the replacement from.
        new_addr: u64 = 8,
        /// The mapping.
        handle: u32 = 16,
        /// Out: [`Status`](crate::Status).
        status: i16 = 20,
        /// Padding.
        pad: u16 = 22,
    }
}

abi_struct! {
    /// `struct gnttab_set_version`, both widths.
    SetVersion: 4 {
        /// In: version wanted. Out: version in force.
        version: u32 = 0,
    }
}

abi_struct! {
    /// `struct gnttab_get_status_frames`, 64-bit.
    GetStatusFrames: 16 {
        /// Frames wanted.
        nr_frames: u32 = 0,
        /// Whose table.
        dom: u16 = 4,
        /// Out: [`Status`](crate::Status).
        status: i16 = 6,
        /// Address of an array of `nr_frames` u64, filled in.
        frame_list: u64 = 8,
    }
}

abi_struct! {
    /// `struct gnttab_get_version`, both widths.
    GetVersion: 8 {
        /// Whose table.
        dom: u16 = 0,
        /// Padding.
        pad: u16 = 2,
        /// Out: version in force.
        version: u32 = 4,
    }
}

abi_struct! {
    /// `struct gnttab_swap_grant_ref`, both widths.
    SwapGrantRef: 12 {
        /// One reference.
        ref_a: u32 = 0,
        /// The other.
        ref_b: u32 = 4,
        /// Out: [`Status`](crate::Status).
        status: i16 = 8,
        /// Padding.
        pad: u16 = 10,
    }
}

abi_struct! {
    /// `struct gnttab_cache_flush`, both widths.
    CacheFlush: 16 {
        /// A machine address, or a reference in the low 32 bits.
        a: u64 = 0,
        /// First byte in the frame.
        offset: u16 = 8,
        /// Bytes.
        length: u16 = 10,
        /// `GNTTAB_CACHE_*`, see [`cache_flags`].
        op: u32 = 12,
    }
}

abi_struct! {
    /// `struct grant_entry_v1`.
    EntryV1: 8 {
        /// `GTF_*`, see [`gtf`].
        flags: u16 = 0,
        /// The grantee.
        domid: u16 = 2,
        /// The frame granted.
        frame: u32 = 4,
    }
}

abi_struct! {
    /// `union grant_entry_v2`, member `full_page`.
    EntryV2FullPage: 16 {
        /// `GTF_*`, see [`gtf`].
        flags: u16 = 0,
        /// The grantee.
        domid: u16 = 2,
        /// Padding.
        pad0: u32 = 4,
        /// The frame granted.
        frame: u64 = 8,
    }
}

abi_struct! {
    /// `union grant_entry_v2`, member `sub_page`.
    EntryV2SubPage: 16 {
        /// `GTF_*`, see [`gtf`].
        flags: u16 = 0,
        /// The grantee.
        domid: u16 = 2,
        /// First byte granted.
        page_off: u16 = 4,
        /// Bytes granted.
        length: u16 = 6,
        /// The frame granted.
        frame: u64 = 8,
    }
}

abi_struct! {
    /// `union grant_entry_v2`, member `transitive`.
    EntryV2Transitive: 16 {
        /// `GTF_*`, see [`gtf`].
        flags: u16 = 0,
        /// The grantee.
        domid: u16 = 2,
        /// Whose grant is passed on.
        trans_domid: u16 = 4,
        /// Padding.
        pad0: u16 = 6,
        /// The grant passed on.
        gref: u32 = 8,
        /// Padding.
        pad1: u32 = 12,
    }
}

/// Structures whose 32-bit layout differs.
pub mod compat {
    use super::{FromBytes, Immutable, IntoBytes, KnownLayout};

    abi_struct! {
        /// `struct gnttab_setup_table`, 32-bit.
        SetupTable: 16 {
            /// Whose table.
            dom: u16 = 0,
            /// Padding.
            pad0: u16 = 2,
            /// Frames wanted.
            nr_frames: u32 = 4,
            /// Out: [`Status`](crate::Status).
            status: i16 = 8,
            /// Padding.
            pad1: u16 = 10,
            /// Address of an array of `nr_frames` u32 frame numbers, filled in.
            frame_list: u32 = 12,
        }
    }

    abi_struct! {
        /// `struct gnttab_transfer`, 32-bit.
        Transfer: 16 {
            /// The frame to give away.
            mfn: u32 = 0,
            /// To whom.
            domid: u16 = 4,
            /// Padding.
            pad0: u16 = 6,
            /// The receiver's reference (`ref`).
            gref: u32 = 8,
            /// Out: [`Status`](crate::Status).
            status: i16 = 12,
            /// Padding.
            pad1: u16 = 14,
        }
    }

    abi_struct! {
        /// `struct gnttab_copy_ptr`, 32-bit.
        CopyPtr: 8 {
            /// A frame or a reference.
            u: u32 = 0,
            /// Whose frame or table.
            domid: u16 = 4,
            /// First byte in the frame.
            offset: u16 = 6,
        }
    }

    abi_struct! {
        /// `struct gnttab_copy`, 32-bit.
        Copy: 24 {
            /// From.
            source: CopyPtr = 0,
            /// To.
            dest: CopyPtr = 8,
            /// Bytes.
            len: u16 = 16,
            /// `GNTCOPY_*`.
            flags: u16 = 18,
            /// Out: [`Status`](crate::Status).
            status: i16 = 20,
            /// Padding.
            pad: u16 = 22,
        }
    }

    abi_struct! {
        /// `struct gnttab_get_status_frames`, 32-bit.
        GetStatusFrames: 12 {
            /// Frames wanted.
            nr_frames: u32 = 0,
            /// Whose table.
            dom: u16 = 4,
            /// Out: [`Status`](crate::Status).
            status: i16 = 6,
            /// Address of an array of `nr_frames` u64, filled in.
            frame_list: u32 = 8,
        }
    }
}
