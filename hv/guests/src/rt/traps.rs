//! Interrupts and exceptions: the table, the handler that ends the guest, and the catch for probes.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use super::wide;

/// The vector by which events come.
pub const UPCALL: u8 = 0xf3;
/// Another for them, whose handler takes some thousand instructions, and counts those that come while interrupts
/// are off.
pub const SLOW_UPCALL: u8 = 0xf4;
/// A vector whose interrupts are counted, these as well.
pub const SECOND: u8 = 0x51;

unsafe extern "sysv64" {
    safe static exception_stubs: [[u8; 16]; 32];
    safe fn upcall_entry();
    safe fn slow_upcall_entry();
    safe fn second_entry();
    safe fn spurious_entry();
    safe static guest_seconds: AtomicU64;
    safe static guest_masked: AtomicU64;
    safe static trap_stack: AtomicU64;
    #[link_name = "trap"]
    fn trap_asm(function: extern "sysv64" fn()) -> i64;
    fn trap_return(vector: u64) -> !;
    #[link_name = "enter_user"]
    safe fn enter_user_asm(function: extern "sysv64" fn() -> !) -> !;
}

#[repr(C, align(16))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written once by `init`, before anything else runs.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([[0; 2]; 256]));

/// An interrupt gate of the 64-bit kind for the code segment of `entry.S`.
fn gate(entry: u64) -> [u64; 2] {
    const CODE64: u64 = 0x08;
    const INTERRUPT: u64 = 0x8e00;
    let (low, middle) = (entry & 0xffff, (entry >> 16) & 0xffff);
    [low | CODE64 << 16 | INTERRUPT << 32 | middle << 48, entry >> 32]
}

pub(super) fn init() {
    let mut gates = [gate(wide((spurious_entry as extern "sysv64" fn() as *const ()).addr())); 256];
    for (stub, slot) in exception_stubs.iter().zip(&mut gates) {
        *slot = gate(wide(stub.as_ptr().addr()));
    }
    for (vector, entry) in [
        (UPCALL, upcall_entry as extern "sysv64" fn()),
        (SLOW_UPCALL, slow_upcall_entry),
        (SECOND, second_entry),
    ] {
        gates[usize::from(vector)] = gate(wide((entry as *const ()).addr()));
    }
    // SAFETY: nothing else reaches the table yet.
    unsafe { TABLE.0.get().write(gates) };
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let pointer = Pointer(4095, wide(TABLE.0.get().addr()));
    // SAFETY: the table is complete and stays.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, readonly)) };
}

/// Interrupts of [`SECOND`] so far.
#[must_use]
pub fn seconds() -> u64 {
    guest_seconds.load(Ordering::Relaxed)
}

/// Interrupts of [`SLOW_UPCALL`] and [`SECOND`] that came while interrupts were off.
#[must_use]
pub fn masked() -> u64 {
    guest_masked.load(Ordering::Relaxed)
}

/// What the stubs and the CPU leave on the stack.
#[repr(C)]
struct Frame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

#[unsafe(no_mangle)]
extern "sysv64" fn guest_exception(frame: &Frame) -> ! {
    if trap_stack.load(Ordering::Relaxed) != 0 {
        // SAFETY: a `trap` is under way below us on this stack.
        unsafe { trap_return(frame.vector) };
    }
    let cr2: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nostack, nomem)) };
    crate::fail!(
        "exception {} error {:#x} at {:#x} (cs {:#x} rflags {:#x} rsp {:#x} ss {:#x} cr2 {cr2:#x})",
        frame.vector,
        frame.error,
        frame.rip,
        frame.cs,
        frame.rflags,
        frame.rsp,
        frame.ss
    )
}

/// Runs `function`; the vector of the exception that ended it, or `None` if it came back.
///
/// Values that `function` would have dropped are forgotten, so it should hold none.
pub fn trap(function: extern "sysv64" fn()) -> Option<u8> {
    // SAFETY: keeps the registers the ABI wants kept; the handler unwinds to here only while we are in it.
    u8::try_from(unsafe { trap_asm(function) }).ok()
}

/// Runs `function` in ring 3.
pub fn enter_user(function: extern "sysv64" fn() -> !) -> ! {
    enter_user_asm(function)
}

/// Lets the pending events in and sleeps until something comes, without a gap between the two.
pub fn sleep() {
    // SAFETY: STI takes effect after the next instruction, so an event that comes before HLT ends it.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Opens a moment for interrupts.
pub fn window() {
    // SAFETY: the handlers keep every register.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) }
}
