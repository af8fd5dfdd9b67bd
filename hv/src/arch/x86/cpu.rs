//! What the CPU can do, asked once.

/// CPU features the hypervisor looks at.
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
    /// VMX.
    pub vmx: bool,
    /// No-execute pages.
    pub nx: bool,
    /// 1 GiB pages.
    pub gib_pages: bool,
    /// SMEP.
    pub smep: bool,
    /// SMAP.
    pub smap: bool,
    /// UMIP.
    pub umip: bool,
    /// XSAVE.
    pub xsave: bool,
    /// XSAVEOPT.
    pub xsaveopt: bool,
    /// AVX.
    pub avx: bool,
    /// AVX2.
    pub avx2: bool,
    /// AVX-512 F.
    pub avx512: bool,
    /// Enhanced REP MOVSB.
    pub erms: bool,
    /// Fast short REP MOVSB.
    pub fsrm: bool,
    /// x2APIC.
    pub x2apic: bool,
    /// TSC deadline timer.
    pub tsc_deadline: bool,
    /// Invariant TSC.
    pub invariant_tsc: bool,
    /// RDTSCP.
    pub rdtscp: bool,
}

/// The boot CPU's features.
#[must_use]
pub fn features() -> &'static Features {
    todo!()
}
