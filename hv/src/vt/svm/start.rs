//! The states a vCPU can start in: PVH's, and what `VCPUOP_initialise` is given.

use super::{
    super::{Gprs, PvhEntry},
    vmcb::{self, Segment, Vmcb, clean},
};
use super::{CR0_ET, CR0_PE, EFER_GUEST, EFER_LMA, EFER_LME, EFER_SVME, RFLAGS_RESERVED, Vcpu};
use crate::abi::hvm::hvm_vcpu::{X86_32, X86_64};

impl Vcpu {
    /// The state the PVH boot protocol asks for (public/arch-x86/hvm/start_info.h): flat 32-bit protected mode,
    /// paging off, EBX at the start info.
    pub fn start_pvh(&mut self, at: PvhEntry) {
        self.switched.gprs = Gprs { rbx: u64::from(at.start_info), ..Gprs::default() };
        let c = self.control();
        flat_segments(c, vmcb::CODE32, u32::MAX);
        c.cr0 = CR0_PE | CR0_ET;
        c.cr3 = 0;
        c.cr4 = 0;
        c.efer = EFER_SVME;
        c.rflags = RFLAGS_RESERVED;
        c.rip = u64::from(at.entry);
        c.rsp = 0;
        c.rax = 0;
        self.soil(clean::ALL);
    }

    /// Where a startup IPI starts a vCPU: in real mode, at the beginning of a page below 1 MiB, everything else
    /// as after INIT (APM vol. 2, 14.1.3), but with its caches on.
    pub fn start_real(&mut self, page: u8) {
        const REAL_CODE: u16 = 0x9b;
        const REAL_DATA: u16 = 0x93;
        let real = |attributes| Segment { selector: 0, attributes, limit: 0xffff, base: 0 };
        self.switched.gprs = Gprs::default();
        let c = self.control();
        c.cs = Segment { selector: u16::from(page) << 8, base: u64::from(page) << 12, ..real(REAL_CODE) };
        let data = real(REAL_DATA);
        (c.ds, c.es, c.ss, c.fs, c.gs) = (data, data, data, data, data);
        (c.gdtr, c.idtr) = (real(0), real(0));
        c.ldtr = real(0x82);
        c.tr = real(vmcb::TSS_BUSY);
        c.cpl = 0;
        c.cr0 = CR0_ET;
        (c.cr2, c.cr3, c.cr4) = (0, 0, 0);
        c.efer = EFER_SVME;
        c.rflags = RFLAGS_RESERVED;
        c.rip = 0;
        c.rsp = 0;
        c.rax = 0;
        c.event_inj = 0;
        c.interrupt_shadow = 0;
        c.vintr &= !0xff;
        self.soil(clean::ALL);
    }

    /// Where `VCPUOP_initialise` starts a 32-bit vCPU. False, and nothing changed, when the state is none
    /// the hardware could enter.
    #[must_use]
    pub fn start_32(&mut self, from: &X86_32) -> bool {
        const LONG: u64 = EFER_LMA | EFER_LME;
        const PG: u64 = 1 << 31;
        const PRESENT: u16 = 1 << 7;
        const ACCESSED: u16 = 1;
        const BUSY: u16 = 2;
        let [eax, ecx, edx, ebx, esp, ebp, esi, edi] = from.gprs.map(u64::from);
        let (cr0, cr4) = (u64::from(from.cr0), u64::from(from.cr4));
        // Compatibility mode is long mode with paging: all of it or nothing.
        let long_ok = match from.efer & LONG {
            0 => true,
            LONG => cr0 & PG != 0 && cr4 & (1 << 5) != 0,
            _ => false,
        };
        if cr0 & CR0_PE == 0
            || from.efer & !EFER_GUEST != 0
            || !long_ok
            || from.ars.iter().any(|ar| ar >> 12 != 0)
        {
            return false;
        }
        let segment = |index: usize, used: u16| Segment {
            selector: 0,
            // The header's twelve bits are the VMCB's. A segment in use is marked so in its type.
            attributes: from.ars[index] | if from.ars[index] & PRESENT == 0 { 0 } else { used },
            limit: from.limits[index],
            base: u64::from(from.bases[index]),
        };
        self.switched.gprs =
            Gprs { rbx: ebx, rcx: ecx, rdx: edx, rsi: esi, rdi: edi, rbp: ebp, ..Gprs::default() };
        let c = self.control();
        (c.cs, c.ds) = (segment(0, ACCESSED), segment(1, ACCESSED));
        (c.ss, c.es) = (segment(2, ACCESSED), segment(3, ACCESSED));
        c.tr = segment(4, BUSY);
        c.fs = Segment { attributes: vmcb::DATA32, limit: u32::MAX, ..Segment::default() };
        c.gs = c.fs;
        c.cr0 = cr0 | CR0_ET;
        c.cr3 = u64::from(from.cr3);
        c.cr4 = cr4;
        c.efer = from.efer | EFER_SVME;
        c.rflags = u64::from(from.eflags) | RFLAGS_RESERVED;
        c.rip = u64::from(from.eip);
        c.rsp = esp;
        c.rax = eax;
        self.soil(clean::ALL);
        true
    }

    /// Where `VCPUOP_initialise` starts a 64-bit vCPU. False as in [`Vcpu::start_32`].
    #[must_use]
    pub fn start_64(&mut self, from: &X86_64) -> bool {
        const NEEDED: u64 = EFER_LMA | EFER_LME;
        const PG_PE: u64 = 1 << 31 | CR0_PE;
        if from.efer & NEEDED != NEEDED
            || from.efer & !EFER_GUEST != 0
            || from.cr0 & PG_PE != PG_PE
            || from.cr4 & (1 << 5) == 0
        {
            return false;
        }
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi] = from.gprs;
        self.switched.gprs = Gprs { rbx, rcx, rdx, rsi, rdi, rbp, ..Gprs::default() };
        let c = self.control();
        flat_segments(c, vmcb::CODE64, u32::MAX);
        c.cr0 = from.cr0 | CR0_ET;
        c.cr3 = from.cr3;
        c.cr4 = from.cr4;
        c.efer = from.efer | EFER_SVME;
        c.rflags = from.rflags | RFLAGS_RESERVED;
        c.rip = from.rip;
        c.rsp = rsp;
        c.rax = rax;
        self.soil(clean::ALL);
        true
    }
}

fn flat_segments(c: &mut Vmcb, code: u16, limit: u32) {
    let flat = |selector, attributes| Segment { selector, attributes, limit, base: 0 };
    c.cs = flat(8, code);
    let data = flat(16, vmcb::DATA32);
    (c.ds, c.es, c.ss, c.fs, c.gs) = (data, data, data, data, data);
    c.tr = Segment { selector: 0, attributes: vmcb::TSS_BUSY, limit: 0x67, base: 0 };
    (c.gdtr, c.idtr, c.ldtr) = (Segment::default(), Segment::default(), Segment::default());
    c.cpl = 0;
}
