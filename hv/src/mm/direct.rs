//! The direct map: every byte of RAM at a constant distance, readable and writable, never executable.

/// Where physical address 0 appears.
pub const DIRECT_BASE: u64 = 0xffff_8000_0000_0000;

/// The address of a byte of RAM.
///
/// The pointer is good for physical addresses inside RAM only (see [`super::frames::owner`]); it is
/// not checked here.
#[must_use]
pub fn phys_to_virt(pa: u64) -> *mut u8 {
    let _ = pa;
    todo!()
}

/// The physical address of a byte that was reached through [`phys_to_virt`].
#[must_use]
pub fn virt_to_phys(at: *const u8) -> u64 {
    let _ = at;
    todo!()
}
