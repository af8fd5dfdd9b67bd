//! The state neither VMRUN nor the exit stub switches: x87, upper vector halves, XCR0, debug addresses, TSC_AUX.
//!
//! It stays in the registers while the same vCPU goes on running here, and moves when the scheduler
//! changes vCPUs. XMM registers are not part of it (the stub has them), so the image leaves bit 1 out.

use core::arch::x86_64::{_fxsave64, _xsetbv};

use gnttab_fast::types::{Mfn, PAGE_SHIFT};
use raw_cpuid::cpuid;
use spin::Once;

use crate::{
    arch::x86::cpu,
    mm::{
        frames::{self, Owner},
        phys_to_virt,
    },
};

/// x87, SSE, AVX and the three parts of AVX-512: what guests are offered, where the CPU has it.
const OFFERED: u64 = 0b1110_0111;
const CR4_OSXSAVE: u64 = 1 << 18;
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
const AVX512: u64 = 0b1110_0000;

/// The XCR0 bits guests may set; 0 when the CPU has no XSAVE.
pub fn offered() -> u64 {
    static BITS: Once<u64> = Once::new();
    *BITS.call_once(|| {
        if !cpu::features().xsave {
            return 0;
        }
        let leaf = cpuid!(0xd, 0);
        let supported = u64::from(leaf.eax) & OFFERED;
        // All of AVX-512 or nothing of it.
        if supported & AVX512 == AVX512 && supported & AVX != 0 { supported } else { supported & !AVX512 }
    })
}

/// Is this a value XSETBV takes (AMD APM vol. 2, 11.5.2)?
pub fn valid_xcr0(value: u64) -> bool {
    let avx512 = value & AVX512;
    value & X87 != 0
        && value & !offered() == 0
        && (value & AVX == 0 || value & SSE != 0)
        && (avx512 == 0 || (avx512 == AVX512 && value & AVX != 0))
}

/// One vCPU's image.
#[derive(Debug)]
pub struct XState {
    area: Mfn,
    /// The guest's XCR0.
    pub xcr0: u64,
    debug: [u64; 4],
    /// The guest's TSC_AUX.
    pub tsc_aux: u64,
    /// XCR0 in root mode; without XSAVE what every guest has, so that they never differ.
    host: u64,
    /// XSETBV is not intercepted (see [`XState::leave_guest`]).
    unseen: bool,
}

impl XState {
    /// The state after reset.
    pub fn new() -> Option<Self> {
        let area = frames::alloc(0, Owner::Hypervisor)?;
        let host = if offered() == 0 { X87 } else { host_value() };
        let unseen = offered() != 0 && !cpu::features().nrips;
        let state = Self { area, xcr0: X87, debug: [0; 4], tsc_aux: 0, host, unseen };
        // FCW after FNINIT; an XSAVE header of zero makes XRSTOR initialise the rest.
        let at = state.at();
        // SAFETY: the first bytes of a frame of our own.
        unsafe { at.cast::<u16>().write(0x37f) };
        // SAFETY: MXCSR's place in the same frame (legacy region, byte 24).
        unsafe { at.add(24).cast::<u32>().write(0x1f80) };
        // SAFETY: the header's XSTATE_BV: x87 is in the image.
        unsafe { at.add(512).cast::<u64>().write(X87) };
        Some(state)
    }

    fn at(&self) -> *mut u8 {
        phys_to_virt(self.area.0 << PAGE_SHIFT)
    }

    /// Out of the registers.
    pub fn save(&mut self) {
        if offered() == 0 {
            // SAFETY: the area is a page of our own, 16-byte aligned.
            unsafe { _fxsave64(self.at()) };
        } else {
            let mask = offered() & !SSE;
            // SAFETY: the area is a page of our own, 64-byte aligned; its 4 KiB hold all of `offered` (2,696 bytes with
            // AVX-512); XCR0 in root mode has all of `offered` (the boot set it, `enter` puts it back).
            unsafe { xsave(self.at(), mask) };
        }
        self.debug = read_debug();
    }

    /// Into the registers.
    pub fn restore(&self) {
        if offered() == 0 {
            // SAFETY: the area holds an image made by `new` or `save`.
            unsafe { fxrstor(self.at()) };
        } else {
            // SAFETY: as in `save`, and the image was made by `new` or `save`: its header is well-formed.
            unsafe { xrstor(self.at(), offered() & !SSE) };
        }
        write_debug(self.debug);
        if cpu::features().rdtscp {
            // SAFETY: the CPU has TSC_AUX; nothing in root mode uses it.
            unsafe { x86_64::registers::model_specific::Msr::new(0xc000_0103).write(self.tsc_aux) };
        }
    }

    /// Whether a guest whose CR4 that is can be entered with our XCR0.
    ///
    /// With CR4.OSXSAVE clear nothing in the guest depends on XCR0, and XSETBV is dear (under another hypervisor
    /// it exits), so ours stays. Should the guest set OSXSAVE then, it sees until its next exit a value it is
    /// offered and has not asked for, where a real CPU shows the one of reset.
    #[inline]
    pub fn fits_host(&self, cr4: u64) -> bool {
        self.xcr0 == self.host || (cr4 & CR4_OSXSAVE == 0 && !self.unseen)
    }

    /// Just before entering a guest that ours does not fit: its XCR0.
    pub fn enter_guest(&self) {
        // SAFETY: it differs from ours, so XSAVE is on, and the value was checked by `valid_xcr0`, is the one of
        // reset, or was this CPU's already.
        unsafe { set_xcr0(self.xcr0) };
    }

    /// Just after entering a guest with ours, or, if `differed`, with its own: ours again.
    ///
    /// QEMU 7.2's TCG does not intercept XSETBV: the guest's runs by itself, so what it left is looked at, or the
    /// copy kernels would meet it. Such a machine is known by having XSAVE but no next-RIP saving, which every
    /// CPU with XSAVE has.
    #[inline]
    pub fn leave_guest(&mut self, differed: bool) {
        let mut differs = differed;
        if self.unseen {
            // SAFETY: XSAVE is on.
            let left = unsafe { xgetbv0() };
            differs = left != self.host;
            if differs || differed {
                self.xcr0 = left;
            }
        }
        if differs {
            // SAFETY: the value the boot set.
            unsafe { set_xcr0(self.host) };
        }
    }
}

impl Drop for XState {
    fn drop(&mut self) {
        frames::free(self.area, 0);
    }
}

/// XCR0 in root mode, as the boot has set it.
fn host_value() -> u64 {
    static VALUE: Once<u64> = Once::new();
    // SAFETY: only called where XSAVE is on.
    *VALUE.call_once(|| unsafe { xgetbv0() })
}

/// # Safety
/// XSAVE is on.
#[inline]
unsafe fn xgetbv0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: XCR0 exists where XSAVE is on. By hand, as the intrinsic is only inlined where XSAVE may be assumed.
    unsafe {
        core::arch::asm!(
            "xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags)
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// XSAVE is on, and the CPU takes `value`.
unsafe fn set_xcr0(value: u64) {
    #[target_feature(enable = "xsave")]
    unsafe fn set(value: u64) {
        // SAFETY: the caller's.
        unsafe { _xsetbv(0, value) }
    }
    // SAFETY: the caller's.
    unsafe { set(value) }
}

/// # Safety
/// `at` is a 64-byte aligned area large enough for `mask`.
unsafe fn xsave(at: *mut u8, mask: u64) {
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!(
            "xsave64 [{at}]", at = in(reg) at,
            in("eax") mask & 0xffff_ffff, in("edx") mask >> 32, options(nostack, preserves_flags)
        );
    }
}

/// # Safety
/// `at` holds an image made by [`xsave`] with the same mask.
unsafe fn xrstor(at: *const u8, mask: u64) {
    // SAFETY: the caller's. x87 and upper vector halves are not the compiler's here.
    unsafe {
        core::arch::asm!(
            "xrstor64 [{at}]", at = in(reg) at,
            in("eax") mask & 0xffff_ffff, in("edx") mask >> 32, options(nostack, readonly, preserves_flags)
        );
    }
}

/// # Safety
/// `at` holds an image made by FXSAVE, its MXCSR that of root mode.
unsafe fn fxrstor(at: *const u8) {
    // SAFETY: the caller's. It loads XMM too, which the compiler may be using.
    unsafe {
        core::arch::asm!(
            "fxrstor64 [{at}]", at = in(reg) at,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack, readonly, preserves_flags)
        );
    }
}

fn read_debug() -> [u64; 4] {
    let (a, b, c, d);
    // SAFETY: reading the debug address registers has no effect; DR7 in root mode is clear.
    unsafe {
        core::arch::asm!(
            "mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
            out(reg) a, out(reg) b, out(reg) c, out(reg) d, options(nomem, nostack, preserves_flags)
        );
    }
    [a, b, c, d]
}

fn write_debug([a, b, c, d]: [u64; 4]) {
    // SAFETY: VMRUN's host side has DR7 at its reset value, so no address is armed in root mode.
    unsafe {
        core::arch::asm!(
            "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
            in(reg) a, in(reg) b, in(reg) c, in(reg) d, options(nomem, nostack, preserves_flags)
        );
    }
}
