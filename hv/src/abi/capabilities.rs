//! The one part of the ABI that is no header of Xen's: how a guest asks by CPUID what its grant table may do.
//! `docs/capabilities.md` is the specification.

/// In EBX, ECX, EDX of the first leaf of the block.
pub const SIGNATURE: &[u8; 12] = b"TollgateCaps";
/// Version of the specification: major in the upper half, minor in the lower one.
pub const VERSION: u32 = 1 << 16;

/// Offsets of the leaves from the first one.
pub mod leaf {
    /// Signature and last leaf.
    pub const SIGNATURE: u32 = 0;
    /// Version of the specification.
    pub const VERSION: u32 = 1;
    /// Grant tables, by subleaf.
    pub const GRANTS: u32 = 2;
}

/// Subleaves of [`leaf::GRANTS`].
pub mod grants {
    /// Versions, and what is allowed.
    pub const POLICY: u32 = 0;
    /// Frames of the table.
    pub const TABLE: u32 = 1;
    /// Handles.
    pub const HANDLES: u32 = 2;
    /// Maps and unmaps so far.
    pub const MAPS: u32 = 3;
    /// Copies so far.
    pub const COPIES: u32 = 4;
    /// Bit of [`POLICY`]'s EBX: the domain may take part in transitive grants.
    pub const TRANSITIVE: u32 = 1 << 0;
    /// Bit of [`POLICY`]'s EBX: `GNTTABOP_transfer` is there.
    pub const TRANSFER: u32 = 1 << 1;
}
