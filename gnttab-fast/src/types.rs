//! The address and identity words every crate of the house shares.

/// Bytes in a frame (x86 small page).
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// Machine frame number: a 4 KiB frame of the host's physical memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Mfn(pub u64);

/// Guest frame number: a 4 KiB frame of one domain's physical address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Gfn(pub u64);

/// Domain identifier as the public headers spell it (`domid_t`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct DomId(pub u16);

impl DomId {
    /// `DOMID_SELF`: the caller (public/xen.h).
    pub const SELF: Self = Self(0x7ff0);
    /// First identifier that can never be a guest's (`DOMID_FIRST_RESERVED`, public/xen.h).
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
}

/// Grant reference: an index into the granting domain's table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Gref(pub u32);
