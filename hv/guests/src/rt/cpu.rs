//! CPUID, MSRs, and the vector unit.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// One CPUID leaf.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Writes an MSR.
///
/// # Safety
/// As the register demands.
pub unsafe fn wrmsr(register: u32, value: u64) {
    let [low, high] = halves(value);
    // SAFETY: the caller's.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") low, in("edx") high, options(nostack)) }
}

/// Writes a byte to port 0xe9, which emulators and hypervisors show on their own console.
pub fn debug_port(byte: u8) {
    // SAFETY: nothing but such a console answers there.
    unsafe { asm!("out 0xe9, al", in("al") byte, options(nostack, nomem, preserves_flags)) }
}

/// The low and the high word.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "parting is the purpose")]
pub const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// The time-stamp counter, not before earlier instructions are done.
#[must_use]
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, nomem)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Turns AVX on where the CPU has it, so that guests carry live upper vector state.
pub fn enable_vectors() {
    const XSAVE: u32 = 1 << 26;
    const AVX: u32 = 1 << 28;
    let features = cpuid(1, 0).ecx;
    if features & (XSAVE | AVX) != XSAVE | AVX {
        return;
    }
    // SAFETY: CPUID says that XSAVE exists, so CR4.OSXSAVE may be set and XCR0 takes x87, SSE and AVX.
    unsafe {
        asm!(
            "mov rax, cr4",
            "or rax, 0x40000",
            "mov cr4, rax",
            "xor ecx, ecx",
            "xgetbv",
            "or eax, 7",
            "xsetbv",
            out("rax") _, out("ecx") _, out("edx") _,
            options(nostack)
        );
    }
}

/// Whether AVX is on.
#[must_use]
pub fn has_avx() -> bool {
    const ON: u32 = 1 << 27 | 1 << 28;
    cpuid(1, 0).ecx & ON == ON
}
