//! What a panic prints.

use core::sync::atomic::{AtomicBool, Ordering};

use super::{end, symbols::Symbols};
use crate::{
    arch::x86::{
        percpu, power,
        stacks::{self, CpuStacks, GUARD},
        traps::{self, TrapFrame},
    },
    dev::console::panic_line,
    mm::direct::usize_of,
};

/// A panic is being told.
static TELLING: AtomicBool = AtomicBool::new(false);

/// The most frames a backtrace shows.
const DEPTH: usize = 40;

/// Lets the first caller go on, with the other CPUs stopped.
fn begin() {
    if TELLING.swap(true, Ordering::AcqRel) {
        // Another CPU tells its story and will stop this one; or this one failed while telling.
        power::stop();
    }
    traps::stop_others();
}

/// Who was struck, and what it was doing.
fn tell_place() {
    let Some(cpu) = percpu::try_this() else {
        panic_line(format_args!("on the boot CPU, early"));
        return;
    };
    match cpu.current.vcpu() {
        Some((domain, vcpu)) => match cpu.current.op() {
            Some(op) => panic_line(format_args!("on CPU {} for d{domain}v{vcpu}, hypercall {op}", cpu.id)),
            None => panic_line(format_args!("on CPU {} for d{domain}v{vcpu}", cpu.id)),
        },
        None => panic_line(format_args!("on CPU {}", cpu.id)),
    }
    let nmis = cpu.nmis.load(Ordering::Relaxed);
    let stray = traps::STRAY_INTERRUPTS.load(Ordering::Relaxed);
    if nmis != 0 || stray != 0 {
        panic_line(format_args!("NMIs here: {nmis}, stray interrupts: {stray}"));
    }
}

/// The image's panic handler.
pub fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    begin();
    match info.location() {
        Some(at) => panic_line(format_args!("panic at {}:{}: {}", at.file(), at.line(), info.message())),
        None => panic_line(format_args!("panic: {}", info.message())),
    }
    tell_place();
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    backtrace(None, frame);
    end()
}

/// An exception in root mode: always a bug.
pub(crate) fn exception(frame: &TrapFrame) -> ! {
    begin();
    let name = traps::name(frame.vector);
    panic_line(format_args!(
        "panic: {name} (vector {}, error {:#x}) at {:#x}",
        frame.vector, frame.error, frame.rip
    ));
    tell_place();
    let (cr2, cr3): (u64, u64);
    // SAFETY: reads two control registers.
    unsafe {
        core::arch::asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags));
        core::arch::asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags));
    }
    let TrapFrame { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, .. } = *frame;
    let TrapFrame { r8, r9, r10, r11, r12, r13, r14, r15, rflags, .. } = *frame;
    for line in [
        [("rax", rax), ("rbx", rbx), ("rcx", rcx), ("rdx", rdx)],
        [("rsi", rsi), ("rdi", rdi), ("rbp", rbp), ("rsp", rsp)],
        [("r8 ", r8), ("r9 ", r9), ("r10", r10), ("r11", r11)],
        [("r12", r12), ("r13", r13), ("r14", r14), ("r15", r15)],
        [("rfl", rflags), ("cr2", cr2), ("cr3", cr3), ("rip", frame.rip)],
    ] {
        let [(a, av), (b, bv), (c, cv), (d, dv)] = line;
        panic_line(format_args!("  {a} {av:016x}  {b} {bv:016x}  {c} {cv:016x}  {d} {dv:016x}"));
    }
    backtrace(Some(frame.rip), rbp);
    end()
}

/// Follows the chain of frame pointers from `frame` and prints the return addresses by name.
fn backtrace(first: Option<u64>, frame: u64) {
    let symbols = Symbols::of_image();
    panic_line(format_args!("backtrace:"));
    if let Some(at) = first {
        panic_line(format_args!("  {}", symbols.place(at)));
    }
    let mut frame = frame;
    for _ in 0..DEPTH {
        let Some([next, back]) = stack_words(frame) else { return };
        if back == 0 {
            return;
        }
        // The call lies before the address it returns to.
        panic_line(format_args!("  {}", symbols.place(back - 1)));
        // Stacks grow down: a chain that does not go up is broken, or goes round.
        if next <= frame {
            return;
        }
        frame = next;
    }
}

/// The saved frame pointer and the return address at `frame`, if that is in this CPU's stacks.
fn stack_words(frame: u64) -> Option<[u64; 2]> {
    let base = percpu::try_this().map_or_else(stacks::boot_stacks, |cpu| cpu.stacks);
    let offset = usize_of(frame.checked_sub(base)?);
    let inside = |stack: &stacks::Stack| stack.guard + GUARD <= offset && offset + 16 <= stack.top;
    if !frame.is_multiple_of(8) || !CpuStacks::ALL.iter().any(inside) {
        return None;
    }
    let at: *const [u64; 2] = core::ptr::with_exposed_provenance(usize_of(frame));
    // SAFETY: two words inside a mapped stack of this CPU; volatile, since Rust code owns them too.
    Some(unsafe { at.read_volatile() })
}
