//! CPUID as guests see it: an honest subset of the machine, and Xen's leaves.
//!
//! A feature is shown only when it works for a guest here: what the hypervisor does not switch, emulate or
//! pass on is hidden, so that a guest never finds out by a fault. The native leaves are read once, at boot; an
//! exit costs a table look-up.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use raw_cpuid::cpuid;
use spin::Once;

use super::{
    Vcpu,
    capabilities::{self, Grants},
};
use crate::arch::x86::time;

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

/// The first of Xen's leaves (public/arch-x86/cpuid.h).
pub const XEN_BASE: u32 = 0x4000_0000;
/// Number of Xen's leaves beyond the first.
const XEN_LAST: u32 = XEN_BASE + 5;
/// Xen 4.17, the level of the ABI.
pub const XEN_VERSION: (u32, u32) = (4, 17);
/// The MSR that makes a hypercall page.
pub const HYPERCALL_MSR: u32 = 0x4000_0000;

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND; the
/// hypervisor bit and the x2APIC's, which is virtual, are added. Without: MONITOR, PCID, TSC deadline.
const F1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 1 << 28
    | 1 << 29
    | 1 << 30;
/// Leaf 1 EDX: FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2.
/// Without: VME, MCE and MCA, MTRR, HTT.
const F1_EDX: u32 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 9
    | 1 << 11
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 17
    | 1 << 19
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA, and AVX-512 F, DQ, IFMA, CD, BW,
/// VL (taken out again without the state).
const F7_EBX: u32 = 1
    | 1 << 3
    | 1 << 5
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 23
    | 1 << 24
    | 1 << 29
    | F7_EBX_AVX512;
const F7_EBX_AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31;
/// Leaf 7 ECX: AVX512VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ.
const F7_ECX: u32 = F7_ECX_AVX512 | 1 << 8 | 1 << 9 | 1 << 10;
const F7_ECX_AVX512: u32 = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
/// Leaf 7 EDX: FSRM.
const F7_EDX: u32 = 1 << 4;
/// Leaf 8000_0001 ECX: LAHF, ABM, SSE4A, MISALIGNSSE, 3DNOWPREFETCH. Without: SVM, IBS, OSVW, TBM, PERF.
const FE1_ECX: u32 = 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 8000_0001 EDX: the common bits of leaf 1, SYSCALL, NX, FFXSR, 1 GiB pages, RDTSCP, LM.
const FE1_EDX: u32 = (F1_EDX & 0x0183_f3ff) | 1 << 11 | 1 << 20 | 1 << 25 | 1 << 26 | 1 << 27 | 1 << 29;

/// The CPU's own leaves, with what guests may not see taken out.
struct Native {
    basic: ArrayVec<Leaf, 0x20>,
    extended: ArrayVec<Leaf, 0x20>,
    /// Sub-leaves of 0xD, 0 to 7.
    xstate: [Leaf; 8],
}

fn native() -> &'static Native {
    static NATIVE: Once<Native> = Once::new();
    NATIVE.call_once(|| {
        let read = |leaf: u32, sub: u32| {
            let r = cpuid!(leaf, sub);
            [r.eax, r.ebx, r.ecx, r.edx]
        };
        let basic = (0..=read(0, 0)[0].min(0xd)).map(|leaf| read(leaf, 0)).collect();
        let top = read(0x8000_0000, 0)[0].min(0x8000_0008);
        let extended = (0x8000_0000..=top).map(|leaf| read(leaf, 0)).collect();
        let xstate = core::array::from_fn(|sub| read(0xd, u32::try_from(sub).unwrap_or(0)));
        Native { basic, extended, xstate }
    })
}

/// Whose CPUID it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Viewer {
    /// The domain.
    pub domid: u16,
    /// The vCPU.
    pub vcpu: u32,
    /// How many the domain has.
    pub vcpus: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// CPUID as `viewer` sees it.
#[must_use]
pub fn leaf(viewer: &Viewer, leaf: u32, sub: u32) -> Leaf {
    match leaf {
        XEN_BASE..=0x4000_00ff => xen_leaf(viewer, leaf - XEN_BASE, sub),
        0x8000_0000..=0x8000_ffff => extended_leaf(leaf),
        _ => basic_leaf(viewer, leaf, sub),
    }
}

fn basic_leaf(viewer: &Viewer, leaf: u32, sub: u32) -> Leaf {
    let native = native();
    let Some(&[a, b, c, d]) = usize::try_from(leaf).ok().and_then(|at| native.basic.get(at)) else {
        return [0; 4];
    };
    let offered = Vcpu::xcr0_offered();
    match leaf {
        0 => [a.min(0xd), b, c, d],
        1 => {
            let mut ecx = (c & F1_ECX) | 1 << 31 | 1 << 21;
            if offered == 0 {
                ecx &= !(1 << 26);
            } else if viewer.osxsave {
                ecx |= 1 << 27;
            }
            if offered & 4 == 0 {
                ecx &= !(1 << 12 | 1 << 28 | 1 << 29);
            }
            // EBX: initial APIC id (twice the vCPU's number, as Xen has it), CLFLUSH size.
            [a, (b & 0xff00) | ((viewer.vcpu * 2) & 0xff) << 24, ecx, d & F1_EDX]
        }
        7 if sub == 0 => {
            let (mut ebx, mut ecx) = (b & F7_EBX, c & F7_ECX);
            if offered & 0xe0 == 0 {
                ebx &= !F7_EBX_AVX512;
                ecx &= !F7_ECX_AVX512;
            }
            if offered & 4 == 0 {
                ebx &= !(1 << 5);
                ecx &= !(1 << 9 | 1 << 10);
            }
            [0, ebx, ecx, d & F7_EDX]
        }
        0xd => xstate_leaf(native, viewer.xcr0, offered, sub),
        // Power, monitor, performance counters, topology and the like.
        _ => [0; 4],
    }
}

/// Leaf 0xD: sizes for what is offered, and for what is switched on.
fn xstate_leaf(native: &Native, xcr0: u64, offered: u64, sub: u32) -> Leaf {
    let size_of = |bits: u64| {
        (2..8u32).filter(|&bit| bits & (1 << bit) != 0).fold(576, |size: u32, bit| {
            let [length, offset, ..] = native.xstate[bit as usize];
            size.max(offset.saturating_add(length))
        })
    };
    match sub {
        #[expect(clippy::cast_possible_truncation, reason = "only bits below 8 are offered")]
        0 if offered != 0 => [offered as u32, size_of(xcr0), size_of(offered), 0],
        // XSAVEOPT and XGETBV(1); no compaction, no supervisor state.
        1 if offered != 0 => [native.xstate[1][0] & 0b101, 0, 0, 0],
        2..8 if offered & (1 << sub) != 0 => {
            let [length, offset, ..] = native.xstate[sub as usize];
            [length, offset, 0, 0]
        }
        _ => [0; 4],
    }
}

fn extended_leaf(leaf: u32) -> Leaf {
    let native = native();
    let at = usize::try_from(leaf & 0xffff).ok();
    let Some(&[a, b, c, d]) = at.and_then(|at| native.extended.get(at)) else { return [0; 4] };
    match leaf {
        0x8000_0000 => [a.min(0x8000_0008), b, c, d],
        0x8000_0001 => [a, b, c & FE1_ECX, d & FE1_EDX],
        0x8000_0002..=0x8000_0006 => [a, b, c, d],
        // Invariant TSC.
        0x8000_0007 => [0, 0, 0, d & (1 << 8)],
        // Physical and linear address bits; without five levels.
        0x8000_0008 => [(a & 0xff) | ((a >> 8) & 0xff).min(48) << 8, 0, 0, 0],
        _ => [0; 4],
    }
}

/// Xen's leaves (public/arch-x86/cpuid.h).
fn xen_leaf(viewer: &Viewer, leaf: u32, sub: u32) -> Leaf {
    let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    match (leaf, sub) {
        (0, _) => [XEN_LAST, word(b"XenV"), word(b"MMXe"), word(b"nVMM")],
        (1, _) => [XEN_VERSION.0 << 16 | XEN_VERSION.1, 0, 0, 0],
        // One hypercall page, made through this MSR.
        (2, _) => [1, HYPERCALL_MSR, 0, 0],
        // The TSC is the machine's own, never emulated: mode 2, its frequency in kHz, incarnation 0.
        (3, 0) => [1 << 2, 2, time::tsc_khz(), 0],
        (3, 1) => {
            // No offset; the scale as the pvclock has it.
            let (mul, shift) = crate::pvclock::scale(time::tsc_khz());
            [0, 0, mul, shift.cast_unsigned().into()]
        }
        // The vCPU's and the domain's number are there (bits 3 and 4); no virtualised APIC.
        (4, 0) => [1 << 3 | 1 << 4, viewer.vcpu, u32::from(viewer.domid), 0],
        // Machine addresses a guest may see in a grant: the width of physical addresses.
        (5, 0) => [0, extended_leaf(0x8000_0008)[0] & 0xff, 0, 0],
        _ => [0; 4],
    }
}

/// Answers the CPUID of the vCPU's last exit; the caller steps over it. `grants` is asked only for the leaves
/// that tell of them.
pub fn emulate(vcpu: &mut Vcpu, domid: u16, id: u32, vcpus: u32, grants: impl FnOnce() -> Grants) {
    let viewer = Viewer { domid, vcpu: id, vcpus, osxsave: vcpu.cr4() & (1 << 18) != 0, xcr0: vcpu.xcr0() };
    #[expect(clippy::cast_possible_truncation, reason = "EAX and ECX")]
    let (number, sub) = (vcpu.rax() as u32, vcpu.gprs().rcx as u32);
    let registers = match number {
        capabilities::BASE..=capabilities::END => {
            capabilities::answer(number - capabilities::BASE, sub, grants)
        }
        _ => leaf(&viewer, number, sub),
    };
    let [a, b, c, d] = registers.map(u64::from);
    vcpu.set_rax(a);
    let gprs = vcpu.gprs_mut();
    (gprs.rbx, gprs.rcx, gprs.rdx) = (b, c, d);
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEWER: Viewer = Viewer { domid: 3, vcpu: 2, vcpus: 4, osxsave: false, xcr0: 1 };

    #[test]
    fn xen_says_its_name_version_and_msr() {
        let [last, b, c, d] = leaf(&VIEWER, XEN_BASE, 0);
        assert_eq!(last, XEN_BASE + 5);
        let name = [b, c, d].map(u32::to_le_bytes).concat();
        assert_eq!(name, b"XenVMMXenVMM");
        assert_eq!(leaf(&VIEWER, XEN_BASE + 1, 0)[0], 0x0004_0011);
        assert_eq!(leaf(&VIEWER, XEN_BASE + 2, 0)[..2], [1, HYPERCALL_MSR]);
        assert_eq!(leaf(&VIEWER, XEN_BASE + 4, 0), [0x18, 2, 3, 0]);
    }

    #[test]
    fn what_we_do_not_virtualise_is_hidden() {
        let [_, ebx, ecx, edx] = leaf(&VIEWER, 1, 0);
        assert_eq!(ebx >> 24, 4, "APIC id");
        assert_eq!(ecx & (1 << 3 | 1 << 24), 0, "MONITOR, TSC deadline");
        assert_ne!(ecx & (1 << 31), 0, "a hypervisor is there");
        assert_eq!(ecx & (1 << 27), 0, "OSXSAVE follows CR4");
        assert_eq!(edx & (1 << 7 | 1 << 12 | 1 << 14), 0, "MCE, MTRR, MCA");
        assert_eq!(leaf(&VIEWER, 0x8000_0001, 0)[2] & (1 << 2), 0, "SVM");
        assert_eq!(leaf(&VIEWER, 0xa, 0), [0; 4], "PMU");
        assert_eq!(leaf(&VIEWER, 0x8000_000a, 0), [0; 4], "SVM's leaf");
        assert_eq!(leaf(&VIEWER, 0x1234_5678, 0), [0; 4]);
    }
}
