//! The stacks of a pCPU: one to run on, one for each kind of vector.
//!
//! Every vector enters on a stack of the interrupt stack table, so an interrupted function may use
//! whatever lies below its stack pointer. Below each stack is a guard page that is never mapped: an
//! overflow becomes a page fault on the exception stack, and an overflow of that one a double fault on
//! its own. The boot CPU's stacks lie in the image, the others' in frames mapped by
//! [`crate::mm::paging`] with the same offsets.

use core::cell::UnsafeCell;

/// A page that stays unmapped.
pub const GUARD: usize = 4096;

/// One stack with its guard page below.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Offset of the guard page in [`CpuStacks`].
    pub guard: usize,
    /// Offset of the first byte above the stack: where RSP starts.
    pub top: usize,
}

/// The memory behind all stacks of one pCPU.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct CpuStacks {
    bytes: UnsafeCell<[u8; Self::SIZE]>,
}

impl CpuStacks {
    /// The stack to run on. Unpacking an XZ kernel takes the most by far: its decoder's tables are built there.
    pub const MAIN_SIZE: usize = 160 * 1024;
    /// Exceptions format a whole panic.
    const EXCEPTION_SIZE: usize = 16 * 1024;
    /// NMI, machine check and interrupts do little.
    const SMALL_SIZE: usize = 8 * 1024;

    const fn above(below: usize, size: usize) -> Stack {
        Stack { guard: below, top: below + GUARD + size }
    }

    /// The stack a pCPU runs on.
    pub const MAIN: Stack = Self::above(0, Self::MAIN_SIZE);
    /// Exceptions but the following.
    pub const EXCEPTION: Stack = Self::above(Self::MAIN.top, Self::EXCEPTION_SIZE);
    /// Double faults.
    pub const DOUBLE_FAULT: Stack = Self::above(Self::EXCEPTION.top, Self::EXCEPTION_SIZE);
    /// NMIs.
    pub const NMI: Stack = Self::above(Self::DOUBLE_FAULT.top, Self::SMALL_SIZE);
    /// Machine checks.
    pub const MACHINE_CHECK: Stack = Self::above(Self::NMI.top, Self::SMALL_SIZE);
    /// Interrupts.
    pub const INTERRUPT: Stack = Self::above(Self::MACHINE_CHECK.top, Self::SMALL_SIZE);

    /// All of them.
    pub const ALL: [Stack; 6] =
        [Self::MAIN, Self::EXCEPTION, Self::DOUBLE_FAULT, Self::NMI, Self::MACHINE_CHECK, Self::INTERRUPT];

    /// Bytes in a set of stacks.
    pub const SIZE: usize = Self::INTERRUPT.top;

    /// Offset where the boot CPU's stack pointer starts.
    pub const MAIN_TOP: usize = Self::MAIN.top;
}

// SAFETY: nobody reads or writes the bytes through this type; the CPU they belong to uses them as its
// stacks.
unsafe impl Sync for CpuStacks {}

/// The boot CPU's stacks.
#[unsafe(link_section = ".bss.stacks")]
pub static BOOT_STACKS: CpuStacks = CpuStacks { bytes: UnsafeCell::new([0; CpuStacks::SIZE]) };

/// Where the boot CPU's stacks begin.
#[must_use]
pub fn boot_stacks() -> u64 {
    crate::mm::direct::u64_of((&raw const BOOT_STACKS).addr())
}
