//! What this processor, and the XCR0 it runs with, allow.
//!
//! CPUID alone does not say that a wide register may be touched: the system must have set CR4.OSXSAVE (which
//! CPUID reflects) and the state's bits in XCR0 (AMD APM volume 1, 11.3.5; Intel SDM volume 1, 14.3).
//! The hypervisor keeps one XCR0 of its own on all pCPUs, so one answer serves the machine.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// XCR0 and XINUSE: the upper halves of YMM0-15.
pub const STATE_YMM_HIGH: u32 = 1 << 2;
/// XCR0 and XINUSE: the whole of ZMM16-31.
pub const STATE_ZMM_16_31: u32 = 1 << 7;
/// XCR0: XMM and the upper halves of YMM.
const STATE_AVX: u32 = 0b110;
/// XCR0: the above, mask registers, upper halves of ZMM0-15, ZMM16-31.
const STATE_AVX512: u32 = 0b1110_0110;

const LEAF_1_ECX_OSXSAVE_AVX: u32 = 1 << 27 | 1 << 28;
const LEAF_7_EBX_AVX2: u32 = 1 << 5;
const LEAF_7_EBX_AVX512_F_VL: u32 = 1 << 16 | 1 << 31;
const LEAF_D_1_EAX_XGETBV_1: u32 = 1 << 2;

/// AVX2 instructions may be executed.
pub fn has_avx2() -> bool {
    xcr0() & STATE_AVX == STATE_AVX && leaf_7_ebx() & LEAF_7_EBX_AVX2 != 0
}

/// AVX-512 F and VL instructions may be executed.
pub fn has_avx512() -> bool {
    xcr0() & STATE_AVX512 == STATE_AVX512 && leaf_7_ebx() & LEAF_7_EBX_AVX512_F_VL == LEAF_7_EBX_AVX512_F_VL
}

/// XGETBV with ECX = 1 exists: it tells which enabled states differ from their initial value.
pub fn has_xinuse() -> bool {
    xcr0() != 0 && __cpuid(0).eax >= 0xd && __cpuid_count(0xd, 1).eax & LEAF_D_1_EAX_XGETBV_1 != 0
}

/// The states in use, as [`has_xinuse`] promised that it can be asked. Only the low half matters here.
///
/// # Safety
/// [`has_xinuse`] must have been true.
#[inline(always)]
pub unsafe fn xinuse() -> u32 {
    // SAFETY: the caller's promise; the instruction only reads.
    unsafe { xgetbv(1) }
}

/// XCR0's low half, or 0 where the system has not enabled XSAVE or AVX does not exist.
fn xcr0() -> u32 {
    if __cpuid(1).ecx & LEAF_1_ECX_OSXSAVE_AVX != LEAF_1_ECX_OSXSAVE_AVX {
        return 0;
    }
    // SAFETY: OSXSAVE is set, so XGETBV exists, and XCR0 always does then.
    unsafe { xgetbv(0) }
}

fn leaf_7_ebx() -> u32 {
    if __cpuid(0).eax < 7 { 0 } else { __cpuid_count(7, 0).ebx }
}

/// # Safety
/// XGETBV must exist and know `register`.
#[inline(always)]
unsafe fn xgetbv(register: u32) -> u32 {
    let low;
    // SAFETY: the caller's promise; it reads a control register and touches nothing else.
    unsafe {
        asm!("xgetbv", in("ecx") register, out("eax") low, out("edx") _,
             options(nomem, nostack, preserves_flags));
    }
    low
}
