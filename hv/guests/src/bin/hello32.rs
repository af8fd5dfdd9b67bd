//! `hello32`: a 32-bit guest, in assembly; see `hello32.S`. The binary that cargo links is not bootable as
//! it is: `objcopy -O elf32-i386` makes it a 32-bit ELF file.
#![no_std]
#![no_main]

use core::arch::global_asm;

global_asm!(include_str!("hello32.S"), options(raw));

/// Nothing here can panic; the language wants one.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
