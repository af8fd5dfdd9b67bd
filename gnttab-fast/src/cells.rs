//! Elements of an argument array where their guest has them.
//!
//! An element that lies aligned within one page is used in place: each field is an atomic, read once and, for
//! results, written once. What does not lie so is read into such a structure of our own and its results
//! written back by [`Args`](crate::args::Args); the code in between is the same.

use crate::abi::{self, MapGrantRef, UnmapAndReplace, UnmapGrantRef, compat};
use core::sync::atomic::{AtomicI16, AtomicU16, AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

mod sealed {
    pub trait Sealed {}
}

/// A structure of the ABI made of nothing but atomic integers, without padding: any bytes are one, and it may
/// change at any time. Only this crate has such types, so that who lends guest memory as one can rely on it.
pub trait Cells: FromBytes + IntoBytes + KnownLayout + sealed::Sealed {}

/// `gnttab_copy`, as 64-bit callers have it.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct CopyCells {
    source: SideCells,
    dest: SideCells,
    len_and_flags: AtomicU32,
    status: AtomicI16,
    unused: AtomicU16,
}

/// `gnttab_copy_ptr`, as 64-bit callers have it.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
struct SideCells {
    u: AtomicU64,
    domid_and_offset: AtomicU32,
    unused: AtomicU32,
}

/// `gnttab_copy`, as 32-bit callers have it.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct CompatCopyCells {
    source: CompatSideCells,
    dest: CompatSideCells,
    len_and_flags: AtomicU32,
    status: AtomicI16,
    unused: AtomicU16,
}

/// `gnttab_copy_ptr`, as 32-bit callers have it.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
struct CompatSideCells {
    u: AtomicU32,
    domid_and_offset: AtomicU32,
}

/// Where one side of a copy begins, but for what names its frame.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) domid: u16,
    pub(crate) offset: u16,
}

/// What a copy says besides the names of its frames: two fields a word, the first in the lower half.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    /// Domain and offset.
    pub(crate) source: u32,
    /// Domain and offset.
    pub(crate) dest: u32,
    pub(crate) len_and_flags: u32,
}

impl Words {
    /// From.
    #[inline(always)]
    pub(crate) fn source(self) -> Side {
        let (domid, offset) = halves(self.source);
        Side { domid, offset }
    }

    /// To.
    #[inline(always)]
    pub(crate) fn dest(self) -> Side {
        let (domid, offset) = halves(self.dest);
        Side { domid, offset }
    }

    /// Bytes, and `GNTCOPY_*`.
    #[inline(always)]
    pub(crate) fn len_and_flags(self) -> (u16, u16) {
        halves(self.len_and_flags)
    }
}

/// The lower half first.
#[inline(always)]
fn halves(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_le_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

/// The structure of a copy in a width. Each call of a method reads what it returns once.
pub(crate) trait CopyArg: Cells {
    /// Where its status is.
    const STATUS: usize;

    /// All but names and status.
    fn words(&self) -> Words;

    /// From: a gfn, or a reference in the low 32 bits.
    fn source_name(&self) -> u64;

    /// To: a gfn, or a reference in the low 32 bits.
    fn dest_name(&self) -> u64;

    /// The result.
    fn set_status(&self, status: i16);
}

macro_rules! copy_arg {
    ($cells:ty, $abi:ty) => {
        impl sealed::Sealed for $cells {}
        impl Cells for $cells {}
        const _: () = assert!(size_of::<$cells>() == size_of::<$abi>());

        impl CopyArg for $cells {
            const STATUS: usize = core::mem::offset_of!($abi, status);

            #[inline(always)]
            fn words(&self) -> Words {
                Words {
                    source: self.source.domid_and_offset.load(Ordering::Relaxed),
                    dest: self.dest.domid_and_offset.load(Ordering::Relaxed),
                    len_and_flags: self.len_and_flags.load(Ordering::Relaxed),
                }
            }

            #[inline(always)]
            fn source_name(&self) -> u64 {
                self.source.u.load(Ordering::Relaxed).into()
            }

            #[inline(always)]
            fn dest_name(&self) -> u64 {
                self.dest.u.load(Ordering::Relaxed).into()
            }

            #[inline(always)]
            fn set_status(&self, status: i16) {
                self.status.store(status, Ordering::Relaxed);
            }
        }
    };
}

copy_arg!(CopyCells, abi::Copy);
copy_arg!(CompatCopyCells, compat::Copy);

/// `gnttab_map_grant_ref`, in both widths.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct MapCells {
    host_addr: AtomicU64,
    flags: AtomicU32,
    gref: AtomicU32,
    dom: AtomicU16,
    status: AtomicI16,
    handle: AtomicU32,
    dev_bus_addr: AtomicU64,
}

impl sealed::Sealed for MapCells {}
impl Cells for MapCells {}
const _: () = assert!(size_of::<MapCells>() == size_of::<MapGrantRef>());

impl MapCells {
    /// What the element asks for, each field read once; the results are zeroes.
    #[inline(always)]
    pub(crate) fn request(&self) -> MapGrantRef {
        MapGrantRef {
            host_addr: self.host_addr.load(Ordering::Relaxed),
            flags: self.flags.load(Ordering::Relaxed),
            gref: self.gref.load(Ordering::Relaxed),
            dom: self.dom.load(Ordering::Relaxed),
            ..MapGrantRef::default()
        }
    }

    /// The result but for the status.
    #[inline(always)]
    pub(crate) fn set_mapping(&self, handle: u32, dev_bus_addr: u64) {
        self.handle.store(handle, Ordering::Relaxed);
        self.dev_bus_addr.store(dev_bus_addr, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn set_status(&self, status: i16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Handle, address and status just set, where the element is a copy of our own.
    pub(crate) fn results(&self) -> (u32, u64, i16) {
        (
            self.handle.load(Ordering::Relaxed),
            self.dev_bus_addr.load(Ordering::Relaxed),
            self.status.load(Ordering::Relaxed),
        )
    }
}

/// `gnttab_unmap_grant_ref` and `gnttab_unmap_and_replace`, in both widths.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct UnmapCells {
    host_addr: AtomicU64,
    /// The device half's address, or where the page that replaces the mapping is mapped.
    other_addr: AtomicU64,
    handle: AtomicU32,
    status: AtomicI16,
    unused: AtomicU16,
}

impl sealed::Sealed for UnmapCells {}
impl Cells for UnmapCells {}
const _: () = assert!(size_of::<UnmapCells>() == size_of::<UnmapGrantRef>());
const _: () = assert!(size_of::<UnmapCells>() == size_of::<UnmapAndReplace>());

impl UnmapCells {
    /// Where their statuses are.
    pub(crate) const STATUS: usize = core::mem::offset_of!(Self, status);

    /// Host address, other address and handle, each read once.
    #[inline(always)]
    pub(crate) fn load(&self) -> (u64, u64, u32) {
        (
            self.host_addr.load(Ordering::Relaxed),
            self.other_addr.load(Ordering::Relaxed),
            self.handle.load(Ordering::Relaxed),
        )
    }

    #[inline(always)]
    pub(crate) fn set_status(&self, status: i16) {
        self.status.store(status, Ordering::Relaxed);
    }
}
