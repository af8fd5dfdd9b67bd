//! `public/elfnote.h`: the notes of a kernel image.

/// Owner name of Xen's notes, as it stands in the file (with its NUL).
pub const NAME: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_HYPERCALL_PAGE`
pub const HYPERCALL_PAGE: u32 = 2;
/// `XEN_ELFNOTE_XEN_VERSION`
pub const XEN_VERSION: u32 = 5;
/// `XEN_ELFNOTE_GUEST_OS`
pub const GUEST_OS: u32 = 6;
/// `XEN_ELFNOTE_FEATURES`
pub const FEATURES: u32 = 10;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the PVH entry point, a 32-bit physical address.
pub const PHYS32_ENTRY: u32 = 18;
