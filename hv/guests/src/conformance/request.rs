//! The argument structures in the layout of either width. Cases are written once, with the 64-bit ones.
#![forbid(unsafe_code)]

use hv::abi::grant_table::{self as gnttab, compat};
use hv::abi::memory as mem;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::bytes;
use crate::rt::wide;

/// In which ABI hypercalls are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// From 64-bit code.
    W64,
    /// From 32-bit code.
    W32,
}

/// A structure with a twin of the other width.
pub trait Request: Copy + FromBytes + IntoBytes + Immutable {
    /// The 32-bit layout.
    type Compat: FromBytes + IntoBytes + Immutable;
    /// To the 32-bit layout. What does not fit is cut; cases that need it are not run in that width.
    fn narrow(self) -> Self::Compat;
    /// From the 32-bit layout.
    fn widen(compat: Self::Compat) -> Self;

    /// Bytes of one element.
    #[must_use]
    fn size(width: Width) -> u64 {
        wide(match width {
            Width::W64 => size_of::<Self>(),
            Width::W32 => size_of::<Self::Compat>(),
        })
    }

    /// Writes it to memory.
    fn put(self, width: Width, address: u64) {
        match width {
            Width::W64 => bytes::put(address, &self),
            Width::W32 => bytes::put(address, &self.narrow()),
        }
    }

    /// Reads it from memory.
    #[must_use]
    fn get(width: Width, address: u64) -> Self {
        match width {
            Width::W64 => bytes::get(address),
            Width::W32 => Self::widen(bytes::get(address)),
        }
    }
}

/// The low half.
#[expect(clippy::cast_possible_truncation, reason = "cutting is what it is for")]
#[must_use]
pub const fn low(word: u64) -> u32 {
    word as u32
}

macro_rules! same {
    ($($name:ident),*) => { $(
        impl Request for gnttab::$name {
            type Compat = Self;
            fn narrow(self) -> Self {
                self
            }
            fn widen(compat: Self) -> Self {
                compat
            }
        }
    )* };
}
same!(
    MapGrantRef,
    UnmapGrantRef,
    DumpTable,
    QuerySize,
    UnmapAndReplace,
    SetVersion,
    GetVersion,
    SwapGrantRef,
    CacheFlush
);

impl Request for gnttab::SetupTable {
    type Compat = compat::SetupTable;
    fn narrow(self) -> Self::Compat {
        compat::SetupTable {
            dom: self.dom,
            nr_frames: self.nr_frames,
            status: self.status,
            frame_list: low(self.frame_list),
            ..Default::default()
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self {
            dom: compat.dom,
            nr_frames: compat.nr_frames,
            status: compat.status,
            frame_list: compat.frame_list.into(),
            ..Default::default()
        }
    }
}

impl Request for gnttab::Transfer {
    type Compat = compat::Transfer;
    fn narrow(self) -> Self::Compat {
        compat::Transfer {
            mfn: low(self.mfn),
            domid: self.domid,
            gref: self.gref,
            status: self.status,
            ..Default::default()
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self {
            mfn: compat.mfn.into(),
            domid: compat.domid,
            gref: compat.gref,
            status: compat.status,
            ..Default::default()
        }
    }
}

impl Request for gnttab::Copy {
    type Compat = compat::Copy;
    fn narrow(self) -> Self::Compat {
        let side = |side: gnttab::CopyPtr| compat::CopyPtr {
            u: low(side.u),
            domid: side.domid,
            offset: side.offset,
        };
        compat::Copy {
            source: side(self.source),
            dest: side(self.dest),
            len: self.len,
            flags: self.flags,
            status: self.status,
            ..Default::default()
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        let side = |side: compat::CopyPtr| gnttab::CopyPtr {
            u: side.u.into(),
            domid: side.domid,
            offset: side.offset,
            pad: 0,
        };
        Self {
            source: side(compat.source),
            dest: side(compat.dest),
            len: compat.len,
            flags: compat.flags,
            status: compat.status,
            ..Default::default()
        }
    }
}

impl Request for gnttab::GetStatusFrames {
    type Compat = compat::GetStatusFrames;
    fn narrow(self) -> Self::Compat {
        compat::GetStatusFrames {
            nr_frames: self.nr_frames,
            dom: self.dom,
            status: self.status,
            frame_list: low(self.frame_list),
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self {
            nr_frames: compat.nr_frames,
            dom: compat.dom,
            status: compat.status,
            frame_list: compat.frame_list.into(),
        }
    }
}

impl Request for mem::AddToPhysmap {
    type Compat = mem::compat::AddToPhysmap;
    fn narrow(self) -> Self::Compat {
        mem::compat::AddToPhysmap {
            domid: self.domid,
            size: self.size,
            space: self.space,
            idx: low(self.idx),
            gpfn: low(self.gpfn),
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self {
            domid: compat.domid,
            size: compat.size,
            space: compat.space,
            idx: compat.idx.into(),
            gpfn: compat.gpfn.into(),
        }
    }
}

impl Request for mem::AddToPhysmapBatch {
    type Compat = mem::compat::AddToPhysmapBatch;
    fn narrow(self) -> Self::Compat {
        mem::compat::AddToPhysmapBatch {
            domid: self.domid,
            space: self.space,
            size: self.size,
            u: self.u,
            idxs: low(self.idxs),
            gpfns: low(self.gpfns),
            errs: low(self.errs),
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self {
            domid: compat.domid,
            space: compat.space,
            size: compat.size,
            u: compat.u,
            idxs: compat.idxs.into(),
            gpfns: compat.gpfns.into(),
            errs: compat.errs.into(),
        }
    }
}

impl Request for mem::RemoveFromPhysmap {
    type Compat = mem::compat::RemoveFromPhysmap;
    fn narrow(self) -> Self::Compat {
        mem::compat::RemoveFromPhysmap { domid: self.domid, pad: 0, gpfn: low(self.gpfn) }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self { domid: compat.domid, pad: [0; 3], gpfn: compat.gpfn.into() }
    }
}

impl Request for mem::Reservation {
    type Compat = mem::compat::Reservation;
    fn narrow(self) -> Self::Compat {
        mem::compat::Reservation {
            extent_start: low(self.extent_start),
            nr_extents: low(self.nr_extents),
            extent_order: self.extent_order,
            mem_flags: self.mem_flags,
            domid: self.domid,
            pad: 0,
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self {
            extent_start: compat.extent_start.into(),
            nr_extents: compat.nr_extents.into(),
            extent_order: compat.extent_order,
            mem_flags: compat.mem_flags,
            domid: compat.domid,
            pad: [0; 3],
        }
    }
}

impl Request for mem::AcquireResource {
    type Compat = mem::compat::AcquireResource;
    fn narrow(self) -> Self::Compat {
        mem::compat::AcquireResource {
            domid: self.domid,
            kind: self.kind,
            id: self.id,
            nr_frames: self.nr_frames,
            pad: self.pad,
            frame_low: low(self.frame),
            frame_high: low(self.frame >> 32),
            frame_list: low(self.frame_list),
        }
    }
    fn widen(compat: Self::Compat) -> Self {
        Self {
            domid: compat.domid,
            kind: compat.kind,
            id: compat.id,
            nr_frames: compat.nr_frames,
            pad: compat.pad,
            frame: u64::from(compat.frame_high) << 32 | u64::from(compat.frame_low),
            frame_list: compat.frame_list.into(),
        }
    }
}
