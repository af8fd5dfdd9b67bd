//! Model-specific registers.

use core::arch::asm;

/// IA32_APIC_BASE.
pub const APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// First register of the x2APIC; each follows by number.
pub const X2APIC: u32 = 0x800;
/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;
/// GS base.
pub const GS_BASE: u32 = 0xc000_0101;

/// Reads a register.
///
/// # Safety
/// The register must exist on this CPU: there is no recovery from the fault.
#[must_use]
pub unsafe fn read(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise; reading has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a register.
///
/// # Safety
/// The register must exist, take the value, and not break what Rust code relies on.
pub unsafe fn write(register: u32, value: u64) {
    let [low, high] = [value & 0xffff_ffff, value >> 32];
    // SAFETY: the caller's promise. Not `nomem`: some registers change how memory is seen.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("rax") low, in("rdx") high, options(nostack, preserves_flags))
    };
}

/// The GS base, which exists on every 64-bit CPU.
#[must_use]
pub fn read_gs_base() -> u64 {
    // SAFETY: an architectural register of long mode.
    unsafe { read(GS_BASE) }
}
