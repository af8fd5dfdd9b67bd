//! The end of the hypervisor: registers, a backtrace, what this CPU was doing, then reboot or stop.
//!
//! One CPU tells its story: the first to get here. It stops the others by NMI, so that the console and
//! memory stay as they were, and takes the console's port whoever holds its lock. A panic inside a panic
//! ends at once. Nothing here allocates.

use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use crate::{
    arch::x86::{
        percpu, power,
        traps::{self, TrapFrame},
    },
    cmdline::Com1,
    dev::console::panic_line,
};

static NOREBOOT: AtomicBool = AtomicBool::new(false);
/// The console as the command line has it: baud rate and port.
static COM1: (AtomicU32, AtomicU32) = (AtomicU32::new(0), AtomicU32::new(0));
/// A panic is being told.
static TELLING: AtomicBool = AtomicBool::new(false);

/// The most frames a backtrace shows.
const DEPTH: usize = 40;

/// What `noreboot` and `com1=` said.
pub fn set_options(noreboot: bool, com1: Com1) {
    NOREBOOT.store(noreboot, Ordering::Relaxed);
    COM1.0.store(com1.baud, Ordering::Relaxed);
    COM1.1.store(com1.port.into(), Ordering::Relaxed);
}

/// The console's port, for a panic that cannot get at the console's lock.
#[must_use]
pub fn com1() -> Com1 {
    match (COM1.0.load(Ordering::Relaxed), u16::try_from(COM1.1.load(Ordering::Relaxed))) {
        (0, _) | (_, Err(_)) => Com1::default(),
        (baud, Ok(port)) => Com1 { baud, port },
    }
}

/// After the last line: restart, or stop with the line still to be read.
pub fn end() -> ! {
    if NOREBOOT.load(Ordering::Relaxed) {
        panic_line(format_args!("stopped (noreboot)"));
        power::stop()
    }
    power::reboot()
}

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
    use crate::arch::x86::stacks::{self, CpuStacks, GUARD};
    use crate::mm::direct::{u64_of, usize_of};
    let base = percpu::try_this().map_or_else(stacks::boot_stacks, |cpu| cpu.stacks);
    let offset = usize_of(frame.checked_sub(base)?);
    let inside = |stack: &stacks::Stack| stack.guard + GUARD <= offset && offset + 16 <= stack.top;
    if !frame.is_multiple_of(8) || !CpuStacks::ALL.iter().any(inside) {
        return None;
    }
    debug_assert!(u64_of(offset) + base == frame);
    let at: *const [u64; 2] = core::ptr::with_exposed_provenance(usize_of(frame));
    // SAFETY: two words inside a mapped stack of this CPU; volatile, since Rust code owns them too.
    Some(unsafe { at.read_volatile() })
}

/// The image's functions by address, as `cargo xtask image` writes them: a count, that many pairs of
/// address (from the image's base, ascending) and offset of the name, and the names, NUL-terminated.
#[derive(Clone, Copy, Debug)]
struct Symbols<'t> {
    table: &'t [u8],
    base: u64,
}

impl Symbols<'_> {
    #[cfg(feature = "bare-metal")]
    fn of_image() -> Self {
        use crate::boot::entry;
        Self { table: entry::symbols(), base: entry::Image::get().start }
    }

    #[cfg(not(feature = "bare-metal"))]
    const fn of_image() -> Self {
        Self { table: &[], base: 0 }
    }

    /// An address for people.
    fn place(&self, address: u64) -> Place<'_> {
        Place { address, name: self.find(address) }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.table.get(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    }

    /// The function an address lies in, and how far.
    fn find(&self, address: u64) -> Option<(&str, u64)> {
        let offset = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let count = usize::try_from(self.word(0)?).ok()?;
        let start_of = |index: usize| self.word(4 + index * 8);
        // The last function that does not begin behind the address.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if start_of(middle)? <= offset { low = middle + 1 } else { high = middle }
        }
        let index = low.checked_sub(1)?;
        let name = usize::try_from(self.word(8 + index * 8)?).ok()?;
        let rest = self.table.get(name..)?;
        let name = rest.split(|&byte| byte == 0).next().unwrap_or(rest);
        Some((core::str::from_utf8(name).ok()?, u64::from(offset - start_of(index)?)))
    }
}

/// An address and its function.
struct Place<'t> {
    address: u64,
    name: Option<(&'t str, u64)>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.address)?;
        self.name.map_or(Ok(()), |(name, offset)| write!(f, " {name}+{offset:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec::Vec};

    use super::*;

    #[test]
    fn names_are_found_by_address() {
        let mut table: Vec<u8> = Vec::new();
        for word in [2u32, 0x10, 20, 0x40, 26] {
            table.extend(word.to_le_bytes());
        }
        table.extend(b"first\0second::<T>\0");
        let symbols = Symbols { table: &table, base: 0x1000 };
        assert_eq!(symbols.place(0x1000).to_string(), "0x0000000000001000");
        assert_eq!(symbols.place(0x1013).to_string(), "0x0000000000001013 first+0x3");
        assert_eq!(symbols.find(0x103f), Some(("first", 0x2f)));
        assert_eq!(symbols.find(0x1040), Some(("second::<T>", 0)));
        for cut in 0..table.len() {
            let _ = Symbols { table: &table[..cut], base: 0x1000 }.find(0x1050);
        }
        assert_eq!(Symbols { table: &[0; 64], base: 0x1000 }.find(0x1040), None);
    }
}
