//! What the CPU can do, asked once, and the control registers that follow from it.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use spin::Once;

/// CPU features the hypervisor looks at. Numbers are those of AMD's APM volume 3, appendix E.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent CPUID bit")]
#[non_exhaustive]
pub struct Features {
    /// SVM (8000_0001 ECX[2]).
    pub svm: bool,
    /// Nested paging (8000_000A EDX[0]).
    pub npt: bool,
    /// The next RIP is saved on exits (8000_000A EDX[3]).
    pub nrips: bool,
    /// VMCB clean bits (8000_000A EDX[5]).
    pub vmcb_clean: bool,
    /// TLB flush by ASID (8000_000A EDX[6]).
    pub flush_by_asid: bool,
    /// Decode assists (8000_000A EDX[7]).
    pub decode_assists: bool,
    /// Number of ASIDs (8000_000A EBX).
    pub asids: u32,
    /// VMX (1 ECX[5]).
    pub vmx: bool,
    /// No-execute pages (8000_0001 EDX[20]).
    pub nx: bool,
    /// 1 GiB pages (8000_0001 EDX[26]).
    pub gib_pages: bool,
    /// SMEP (7 EBX[7]).
    pub smep: bool,
    /// SMAP (7 EBX[20]).
    pub smap: bool,
    /// UMIP (7 ECX[2]).
    pub umip: bool,
    /// XSAVE (1 ECX[26]).
    pub xsave: bool,
    /// XSAVEOPT (D.1 EAX[0]).
    pub xsaveopt: bool,
    /// State components XCR0 may enable (D.0 EDX:EAX).
    pub xcr0: u64,
    /// AVX (1 ECX[28]).
    pub avx: bool,
    /// AVX2 (7 EBX[5]).
    pub avx2: bool,
    /// AVX-512 F (7 EBX[16]).
    pub avx512: bool,
    /// Enhanced REP MOVSB (7 EBX[9]).
    pub erms: bool,
    /// Fast short REP MOVSB (7 EDX[4]).
    pub fsrm: bool,
    /// x2APIC (1 ECX[21]).
    pub x2apic: bool,
    /// TSC deadline timer (1 ECX[24]).
    pub tsc_deadline: bool,
    /// Invariant TSC (8000_0007 EDX[8]).
    pub invariant_tsc: bool,
    /// RDTSCP (8000_0001 EDX[27]).
    pub rdtscp: bool,
    /// A hypervisor is below us (1 ECX[31]).
    pub hypervisor: bool,
    /// Bits of a physical address (8000_0008 EAX[7:0]).
    pub physical_bits: u32,
}

impl Features {
    fn probe() -> Self {
        let standard = __cpuid(0).eax;
        let extended = __cpuid(0x8000_0000).eax;
        let leaf = |number: u32, sub: u32| {
            let highest = if number >= 0x8000_0000 { extended } else { standard };
            let known = number <= highest;
            let leaf = __cpuid_count(number, sub);
            let mask = if known { u32::MAX } else { 0 };
            [leaf.eax & mask, leaf.ebx & mask, leaf.ecx & mask, leaf.edx & mask]
        };
        let bit = |word: u32, number: u32| word >> number & 1 != 0;
        let [_, _, ecx1, _] = leaf(1, 0);
        let [_, ebx7, ecx7, edx7] = leaf(7, 0);
        let [_, _, ecx81, edx81] = leaf(0x8000_0001, 0);
        let xsave = bit(ecx1, 26);
        let [low, _, _, high] = if xsave { leaf(0xd, 0) } else { [0; 4] };
        let svm = bit(ecx81, 2);
        let [_, asids, _, svm_features] = if svm { leaf(0x8000_000a, 0) } else { [0; 4] };
        Self {
            svm,
            npt: bit(svm_features, 0),
            nrips: bit(svm_features, 3),
            vmcb_clean: bit(svm_features, 5),
            flush_by_asid: bit(svm_features, 6),
            decode_assists: bit(svm_features, 7),
            asids,
            vmx: bit(ecx1, 5),
            nx: bit(edx81, 20),
            gib_pages: bit(edx81, 26),
            smep: bit(ebx7, 7),
            smap: bit(ebx7, 20),
            umip: bit(ecx7, 2),
            xsave,
            xsaveopt: xsave && bit(leaf(0xd, 1)[0], 0),
            xcr0: u64::from(high) << 32 | u64::from(low),
            avx: bit(ecx1, 28),
            avx2: bit(ebx7, 5),
            avx512: bit(ebx7, 16),
            erms: bit(ebx7, 9),
            fsrm: bit(edx7, 4),
            x2apic: bit(ecx1, 21),
            tsc_deadline: bit(ecx1, 24),
            invariant_tsc: bit(leaf(0x8000_0007, 0)[3], 8),
            rdtscp: bit(edx81, 27),
            hypervisor: bit(ecx1, 31),
            physical_bits: match leaf(0x8000_0008, 0)[0] & 0xff {
                0 => 36,
                bits => bits,
            },
        }
    }

    /// What XCR0 is set to in root mode: x87 and SSE, and the vector state the CPU has.
    #[must_use]
    pub const fn host_xcr0(&self) -> u64 {
        /// x87 and SSE.
        const LEGACY: u64 = 0b11;
        const AVX: u64 = 0b100;
        /// Mask registers, upper halves of ZMM0-15, ZMM16-31.
        const AVX512: u64 = 0b1110_0000;
        let mut wanted = LEGACY;
        if self.avx && self.xcr0 & AVX == AVX {
            wanted |= AVX;
            if self.avx512 && self.xcr0 & AVX512 == AVX512 {
                wanted |= AVX512;
            }
        }
        wanted
    }
}

/// The boot CPU's features; the others are taken to be like it, and checked when they start.
#[must_use]
pub fn features() -> &'static Features {
    static FEATURES: Once<Features> = Once::new();
    FEATURES.call_once(Features::probe)
}

/// Whether the running CPU can do all that the boot CPU can.
#[must_use]
pub fn matches_boot_cpu() -> bool {
    Features::probe() == *features()
}

/// Sets the running CPU's control registers for root mode.
#[cfg(feature = "bare-metal")]
pub(crate) fn init() {
    use core::arch::asm;

    use super::msr;

    /// PG, WP, NE, ET, MP, PE; no EM, TS, CD or NW: the FPU works and memory is cached.
    const CR0: u64 = 0x8001_0033;
    /// PAE, MCE, OSFXSR, OSXMMEXCPT.
    const CR4: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;
    const CR4_UMIP: u64 = 1 << 11;
    const CR4_OSXSAVE: u64 = 1 << 18;
    const CR4_SMEP: u64 = 1 << 20;
    const CR4_SMAP: u64 = 1 << 21;
    const EFER_NXE: u64 = 1 << 11;

    let features = features();
    let mut cr4 = CR4;
    for (present, bit) in [
        (features.umip, CR4_UMIP),
        (features.xsave, CR4_OSXSAVE),
        (features.smep, CR4_SMEP),
        (features.smap, CR4_SMAP),
    ] {
        if present {
            cr4 |= bit;
        }
    }
    // SAFETY: every bit is of a feature the CPU has; none changes the meaning of the page tables in
    // force, which have no user pages; XCR0 gets a value the CPU offers.
    unsafe {
        msr::write(msr::EFER, msr::read(msr::EFER) | EFER_NXE);
        asm!("mov cr0, {}", in(reg) CR0, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
        if features.xsave {
            let [low, high] = [features.host_xcr0() & 0xffff_ffff, features.host_xcr0() >> 32];
            asm!("xsetbv", in("ecx") 0, in("rax") low, in("rdx") high, options(nostack, preserves_flags));
        }
        // Default rounding, all exceptions masked.
        asm!("fninit", options(nomem, nostack, preserves_flags));
        let mxcsr = 0x1f80_u32;
        asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack, readonly, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_a_64_bit_cpu() {
        let features = features();
        assert!(features.nx && features.physical_bits >= 36);
        assert!(matches_boot_cpu());
    }

    #[test]
    fn xcr0_follows_the_offer() {
        let none = Features { xcr0: 7, ..Features::default() };
        assert_eq!(none.host_xcr0(), 3);
        let avx = Features { xcr0: 7, avx: true, avx512: true, ..Features::default() };
        assert_eq!(avx.host_xcr0(), 7);
        let all = Features { xcr0: 0x2e7, ..avx };
        assert_eq!(all.host_xcr0(), 0xe7);
    }
}
