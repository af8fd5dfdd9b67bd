//! The image's entry points and the addresses the linker script gives names to.

use core::arch::global_asm;

use crate::arch::x86::stacks::{BOOT_STACKS, CpuStacks};

/// Link address minus load address, as in `linker.ld`.
const IMAGE_OFFSET: u64 = 0xffff_ffff_8000_0000 - 0x20_0000;

global_asm!(
    include_str!("entry.S"),
    offset = const IMAGE_OFFSET,
    pvh_magic = const super::pvh::MAGIC,
    direct_slot = const (crate::mm::direct::DIRECT_BASE >> 39) & 511,
    stack = sym BOOT_STACKS,
    stack_top = const CpuStacks::MAIN_TOP,
    options(att_syntax)
);

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
    static __symbols_start: u8;
    static __symbols_end: u8;
}

/// The image's borders, as link addresses.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// First byte, of the text.
    pub start: u64,
    /// End of the text, start of read-only data.
    pub text_end: u64,
    /// End of read-only data, start of writable data.
    pub rodata_end: u64,
    /// End.
    pub end: u64,
}

impl Image {
    /// The borders, from the linker script.
    #[must_use]
    pub fn get() -> Self {
        let at = |symbol: *const u8| u64::try_from(symbol.addr()).unwrap_or(0);
        Self {
            start: at(&raw const __image_start),
            text_end: at(&raw const __text_end),
            rodata_end: at(&raw const __rodata_end),
            end: at(&raw const __image_end),
        }
    }

    /// Where it was loaded.
    #[must_use]
    pub fn phys(&self) -> (u64, u64) {
        (self.start - IMAGE_OFFSET, self.end - IMAGE_OFFSET)
    }

    /// The physical address of a link address inside the image.
    #[must_use]
    pub const fn to_phys(link: u64) -> u64 {
        link - IMAGE_OFFSET
    }
}

/// The names for backtraces that `cargo xtask image` wrote into the image.
#[must_use]
pub fn symbols() -> &'static [u8] {
    let (start, end) = (&raw const __symbols_start, &raw const __symbols_end);
    // SAFETY: linker.ld lays both symbols around one read-only section of initialised bytes.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}
