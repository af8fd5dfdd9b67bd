//! The virtual machine control block (AMD APM vol. 2, appendix B).

/// A segment register as the VMCB keeps it.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Segment {
    pub selector: u16,
    /// Descriptor bits 40 to 47 in bits 0 to 7, 52 to 55 in bits 8 to 11.
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
}

/// Attributes of a flat 32-bit code segment: present, accessed, readable; 4 KiB granules.
pub const CODE32: u16 = 0xc9b;
/// Attributes of a flat 64-bit code segment.
pub const CODE64: u16 = 0xa9b;
/// Attributes of a flat data segment.
pub const DATA32: u16 = 0xc93;
/// Attributes of a busy 32-bit TSS.
pub const TSS_BUSY: u16 = 0x08b;
/// Attribute bit L: 64-bit code.
pub const ATTR_LONG: u16 = 1 << 9;
/// Segment attribute: 32-bit code, D of the descriptor.
pub const ATTR_32: u16 = 1 << 10;

/// Bits of `tlb_control`.
pub const TLB_FLUSH_ALL: u8 = 1;

/// Bits of `intercepts[3]` (offset 00Ch).
pub mod intercept3 {
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const RSM: u32 = 1 << 19;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of `intercepts[4]` (offset 010h).
pub mod intercept4 {
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const MWAIT_ARMED: u32 = 1 << 12;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// Exit codes (appendix C).
pub mod exit {
    pub const EXCEPTION_DB: u64 = 0x41;
    pub const EXCEPTION_AC: u64 = 0x51;
    pub const EXCEPTION_MC: u64 = 0x52;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const RSM: u64 = 0x73;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const SKINIT: u64 = 0x86;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const NPF: u64 = 0x400;
    pub const INVALID: u64 = u64::MAX;
    /// The same, as QEMU's TCG writes it.
    pub const INVALID_32: u64 = 0xffff_ffff;
}

/// Bits of EVENTINJ and EXITINTINFO.
pub mod event {
    pub const TYPE_INTR: u64 = 0 << 8;
    pub const TYPE_EXCEPTION: u64 = 3 << 8;
    pub const TYPE_SOFT: u64 = 4 << 8;
    pub const TYPE_MASK: u64 = 7 << 8;
    pub const ERROR_VALID: u64 = 1 << 11;
    pub const VALID: u64 = 1 << 31;
}

/// Bits of the virtual interrupt word (offset 060h).
pub mod vintr {
    pub const V_IRQ: u64 = 1 << 8;
    pub const V_PRIO_MAX: u64 = 0xf << 16;
    pub const V_IGN_TPR: u64 = 1 << 20;
    pub const V_INTR_MASKING: u64 = 1 << 24;
    /// V_INTR_VECTOR.
    pub const VECTOR_SHIFT: u32 = 32;
    pub const VECTOR_MASK: u64 = 0xff << VECTOR_SHIFT;
}

/// Clean bits: what the hardware may keep from the last run.
pub mod clean {
    pub const INTERCEPTS: u32 = 1 << 0;
    pub const IOPM: u32 = 1 << 1;
    pub const ASID: u32 = 1 << 2;
    pub const TPR: u32 = 1 << 3;
    pub const NP: u32 = 1 << 4;
    pub const CRX: u32 = 1 << 5;
    pub const DRX: u32 = 1 << 6;
    pub const SEG: u32 = 1 << 8;
    pub const CR2: u32 = 1 << 9;
    pub const ALL: u32 = INTERCEPTS | IOPM | ASID | TPR | NP | CRX | DRX | SEG | CR2;
}

/// One page, shared with the hardware while it runs the guest.
#[repr(C, align(4096))]
pub struct Vmcb {
    /// CR reads and writes; DR reads and writes; exceptions; [`intercept3`]; [`intercept4`]; more.
    pub intercepts: [u32; 6],
    reserved0: [u8; 0x40 - 0x18],
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u8,
    reserved1: [u8; 3],
    pub vintr: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    pub np_enable: u64,
    reserved2: [u8; 0xa8 - 0x98],
    pub event_inj: u64,
    pub n_cr3: u64,
    pub lbr_enable: u64,
    pub clean: u32,
    reserved3: u32,
    pub next_rip: u64,
    reserved4: [u8; 0x400 - 0xd0],
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    reserved5: [u8; 0x4cb - 0x4a0],
    pub cpl: u8,
    reserved6: u32,
    pub efer: u64,
    reserved7: [u8; 0x548 - 0x4d8],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved8: [u8; 0x5d8 - 0x580],
    pub rsp: u64,
    reserved9: [u8; 0x5f8 - 0x5e0],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved10: [u8; 0x668 - 0x648],
    pub g_pat: u64,
    reserved11: [u8; 0x1000 - 0x670],
}

macro_rules! at {
    ($($field:ident $offset:expr),* $(,)?) => {
        const _: () = { $(assert!(core::mem::offset_of!(Vmcb, $field) == $offset);)* };
    };
}
at!(
    intercepts 0x000, iopm_base 0x040, msrpm_base 0x048, tsc_offset 0x050, asid 0x058, tlb_control 0x05c,
    vintr 0x060, interrupt_shadow 0x068, exit_code 0x070, exit_info1 0x078, exit_info2 0x080,
    exit_int_info 0x088, np_enable 0x090, event_inj 0x0a8, n_cr3 0x0b0, lbr_enable 0x0b8, clean 0x0c0,
    next_rip 0x0c8, es 0x400, cs 0x410, ss 0x420, ds 0x430, fs 0x440, gs 0x450, gdtr 0x460, ldtr 0x470,
    idtr 0x480, tr 0x490, cpl 0x4cb, efer 0x4d0, cr4 0x548, cr3 0x550, cr0 0x558, dr7 0x560, dr6 0x568,
    rflags 0x570, rip 0x578, rsp 0x5d8, rax 0x5f8, star 0x600, lstar 0x608, cstar 0x610, sfmask 0x618,
    kernel_gs_base 0x620, sysenter_cs 0x628, sysenter_esp 0x630, sysenter_eip 0x638, cr2 0x640, g_pat 0x668,
);
const _: () = assert!(size_of::<Vmcb>() == 4096);
