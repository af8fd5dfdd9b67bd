//! The direct map: every byte of RAM at a constant distance, readable and writable, never executable.
//!
//! Left out are the image (its text must have no writable alias) and the page that starts other CPUs.
//! On a host an arena stands in for RAM: [`ARENA_SIZE`] zeroed bytes that begin at physical address
//! [`ARENA_START`].

use crate::boot::Module;

/// Where physical address 0 appears.
pub const DIRECT_BASE: u64 = 0xffff_8000_0000_0000;

/// The address of a byte of RAM.
///
/// The pointer is good for physical addresses inside RAM only (see [`super::frames::owner`]); it is
/// not checked here.
#[must_use]
#[inline]
pub fn phys_to_virt(pa: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(usize_of(base().wrapping_add(pa)))
}

/// The physical address of a byte that was reached through [`phys_to_virt`].
#[must_use]
pub fn virt_to_phys(at: *const u8) -> u64 {
    u64_of(at.expose_provenance()).wrapping_sub(base())
}

/// A module's file.
pub(crate) fn module_bytes(module: &Module) -> &'static [u8] {
    let len = usize_of(module.len);
    // SAFETY: boot checked that the module lies in RAM and shares it with nothing; its frames are never
    // given to the allocator, and nobody writes them.
    unsafe { core::slice::from_raw_parts(phys_to_virt(module.start), len) }
}

/// An address as a pointer-sized number; both are 64 bits wide here.
#[must_use]
pub const fn usize_of(value: u64) -> usize {
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    #[expect(clippy::cast_possible_truncation, reason = "asserted equal above")]
    let value = value as usize;
    value
}

/// The other way about.
#[must_use]
pub const fn u64_of(value: usize) -> u64 {
    value as u64
}

#[cfg(feature = "bare-metal")]
const fn base() -> u64 {
    DIRECT_BASE
}

/// First physical address of the host's arena.
#[cfg(not(feature = "bare-metal"))]
pub const ARENA_START: u64 = 0x4000_0000;
/// Bytes of the host's arena.
#[cfg(not(feature = "bare-metal"))]
pub const ARENA_SIZE: u64 = 128 << 20;

#[cfg(not(feature = "bare-metal"))]
fn base() -> u64 {
    use alloc::alloc::{Layout, alloc_zeroed};
    static BASE: spin::Once<u64> = spin::Once::new();
    *BASE.call_once(|| {
        let layout = Layout::from_size_align(usize_of(ARENA_SIZE), 2 << 20).expect("a good layout");
        // SAFETY: the layout has a size.
        let arena = unsafe { alloc_zeroed(layout) };
        assert!(!arena.is_null(), "no memory for the arena");
        u64_of(arena.expose_provenance()).wrapping_sub(ARENA_START)
    })
}
