//! AMD SVM with nested paging (AMD APM vol. 2, chapter 15).
//!
//! A [`Vcpu`] owns a VMCB, the registers the exit stub switches ([`run`]), and the state switched between
//! vCPUs ([`xstate`]). One pCPU at a time uses it (the scheduler's lock). The hardware writes the VMCB only
//! inside `run::enter`, so between exits it is ordinary memory of ours.
//!
//! **Events.** What is to be delivered goes into EVENTINJ before the next entry. If the guest exits while an
//! event is being delivered, EXITINTINFO names it and it goes back into EVENTINJ, except software interrupts
//! and breakpoint traps, whose instruction simply runs again. An interrupt that cannot be taken yet makes a
//! virtual one (V_IRQ) pend, whose only purpose is the exit when the guest opens its window.
//!
//! An external interrupt that EVENTINJ holds is handed to the CPU as a virtual one for the entry itself: it may be
//! taken, so it comes before the first instruction all the same. QEMU's TCG (7.2) forgets to clear its note of an
//! interrupt that EVENTINJ brought, and when it next looks up from its work it may deliver that again, whatever
//! RFLAGS.IF says; under `-icount` it does so every few hundred interrupts. If a window is wanted as well, for the
//! next interrupt, V_IRQ cannot serve both: then the guest exits at the end of the first one's handler (IRET), where
//! the window is asked for again if there still is a reason.
//!
//! **What CPUs lack.** QEMU's TCG has no next-RIP saving, no clean bits and no flush by ASID: lengths are found
//! by looking at the code ([`super::insn`]), clean bits are not claimed, and a flush is a fresh ASID.

mod cpu;
mod emulate;
mod enter;
mod maps;
mod run;
mod start;
mod vmcb;
mod xstate;

use core::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use crossbeam_epoch::Guard;
use gnttab_fast::types::{Mfn, PAGE_SHIFT};

use self::{
    cpu::Asid,
    run::Switched,
    vmcb::{Vmcb, clean, event, exit, intercept3, intercept4, vintr},
    xstate::XState,
};
use super::{Exit, Gprs, GuestException, Width, insn::Insn};
use crate::{
    arch::x86::{cpu as host_cpu, percpu},
    mm::{
        frames::{self, Owner},
        guest::{GuestSpace, Paging},
        p2m::P2m,
        phys_to_virt,
    },
};

pub use cpu::{CpuVt, init_cpu};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const EFER_SVME: u64 = 1 << 12;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;
const RFLAGS_IF: u64 = 1 << 9;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// Exceptions that a guest could make come back for ever inside one instruction, with no exit in between
/// (XSA-156), and machine checks.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17 | 1 << 18;

/// The hardware state of one vCPU.
pub struct Vcpu {
    vmcb: NonNull<Vmcb>,
    frame: Mfn,
    switched: Switched,
    xstate: XState,
    /// Never 0, never used twice.
    number: u64,
    asid: Asid,
    /// The generation of the domain's translations this ASID's entries are from.
    tlb_generation: u64,
    /// What the last exit was, for [`Vcpu::advance`].
    exited_at: Option<Insn>,
    /// Where the last VMMCALL without next-RIP was verified, and under which CR3.
    hypercall_at: (u64, u64),
    /// Groups of the VMCB the hardware may keep from one entry to the next; who writes one says so ([`Vcpu::soil`]).
    may_keep: u32,
    /// The hardware tells where an intercepted instruction ends.
    next_rips: bool,
}

// SAFETY: the VMCB is a frame of this value's own; nothing in it is tied to a CPU except the ASID, which
// carries the CPU's number.
unsafe impl Send for Vcpu {}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dump(f)
    }
}

impl Vcpu {
    /// A vCPU after reset, on the nested tables at `p2m_root`. `None` when there is no memory.
    #[must_use]
    pub fn new(p2m_root: Mfn) -> Option<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let maps = maps::get()?;
        let xstate = XState::new()?;
        let frame = frames::alloc(0, Owner::Hypervisor)?;
        let vmcb = NonNull::new(phys_to_virt(frame.0 << PAGE_SHIFT).cast::<Vmcb>())?;
        let mut vcpu = Self {
            vmcb,
            frame,
            switched: Switched { mxcsr: 0x1f80, ..Switched::default() },
            xstate,
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            asid: Asid::NONE,
            tlb_generation: 0,
            exited_at: None,
            hypercall_at: (u64::MAX, 0),
            may_keep: if host_cpu::features().vmcb_clean { clean::ALL } else { 0 },
            next_rips: host_cpu::features().nrips,
        };
        let c = vcpu.control();
        c.intercepts[2] = EXCEPTIONS;
        c.intercepts[3] = {
            use intercept3::{CPUID, HLT, INIT, INTR, INVD, INVLPGA, IOIO, MSR, NMI, RDPMC, RSM, SHUTDOWN};
            INTR | NMI | INIT | RDPMC | CPUID | RSM | INVD | HLT | INVLPGA | IOIO | MSR | SHUTDOWN
        };
        c.intercepts[4] = {
            use intercept4::{
                CLGI, MONITOR, MWAIT, MWAIT_ARMED, RDPRU, SKINIT, STGI, VMLOAD, VMMCALL, VMRUN, VMSAVE,
                WBINVD, XSETBV,
            };
            VMRUN
                | VMMCALL
                | VMLOAD
                | VMSAVE
                | STGI
                | CLGI
                | SKINIT
                | WBINVD
                | MONITOR
                | MWAIT
                | MWAIT_ARMED
                | XSETBV
                | RDPRU
        };
        c.iopm_base = maps.iopm;
        c.msrpm_base = maps.msrpm;
        c.vintr = vintr::V_INTR_MASKING;
        c.np_enable = 1;
        c.n_cr3 = p2m_root.0 << PAGE_SHIFT;
        c.g_pat = PAT_RESET;
        c.efer = EFER_SVME;
        c.dr6 = 0xffff_0ff0;
        c.dr7 = 0x400;
        c.rflags = RFLAGS_RESERVED;
        Some(vcpu)
    }

    #[inline]
    fn control(&mut self) -> &mut Vmcb {
        // SAFETY: the frame is this value's own, page-aligned and a valid Vmcb whatever its bytes; the hardware
        // writes it only inside `run::enter`, which borrows all of `self`.
        unsafe { self.vmcb.as_mut() }
    }

    #[inline]
    fn state(&self) -> &Vmcb {
        // SAFETY: as in `control`.
        unsafe { self.vmcb.as_ref() }
    }

    /// This vCPU is going to run on this pCPU: brings its extended state into the registers, unless it is
    /// still there.
    pub fn load(&mut self) {
        let own = &percpu::this().vt;
        // A migration makes the old CPU's memory of it stale: `unload` there has said so.
        if own.loaded.swap(self.number, Ordering::Relaxed) != self.number
            || !self.asid.is_of(percpu::cpu_id())
        {
            self.xstate.restore();
            self.soil(clean::ALL);
        }
    }

    /// Somebody else may run here next: takes the extended state out of the registers.
    pub fn unload(&mut self) {
        self.xstate.save();
    }

    /// These groups of the VMCB have been written.
    #[inline]
    fn soil(&mut self, groups: u32) {
        self.control().clean &= !groups;
    }

    /// Translates the exit code.
    fn reason(&mut self) -> Exit {
        let c = self.state();
        let (code, info1, info2) = (c.exit_code, c.exit_info1, c.exit_info2);
        let value = (self.switched.gprs.rdx << 32) | (c.rax & 0xffff_ffff);
        #[expect(clippy::cast_possible_truncation, reason = "ECX")]
        let ecx = self.switched.gprs.rcx as u32;
        let (exit, insn) = match code {
            exit::VMMCALL => (Exit::Hypercall, Some(Insn::Vmmcall)),
            exit::INTR => (Exit::ExternalInterrupt, None),
            exit::HLT => (Exit::Hlt, Some(Insn::Hlt)),
            exit::NPF => (
                Exit::NestedFault {
                    gpa: info2,
                    write: info1 & 2 != 0,
                    exec: info1 & 16 != 0,
                    present: info1 & 1 != 0,
                },
                None,
            ),
            exit::CPUID => (Exit::Cpuid, Some(Insn::Cpuid)),
            exit::MSR if info1 & 1 == 0 => (Exit::MsrRead(ecx), Some(Insn::Rdmsr)),
            exit::MSR => (Exit::MsrWrite(ecx, value), Some(Insn::Wrmsr)),
            exit::IOIO => (io_exit(info1), None),
            exit::VINTR => {
                self.request_window(false);
                (Exit::InterruptWindow, None)
            }
            exit::IRET => {
                self.end_of_handler(false);
                (Exit::InterruptWindow, None)
            }
            exit::XSETBV => (Exit::Xsetbv { index: ecx, value }, Some(Insn::Xsetbv)),
            // It came as the global interrupt flag was set again.
            exit::NMI => (Exit::Nmi, None),
            exit::EXCEPTION_MC => {
                // An intercepted machine check does not come again by itself: our own handler decides.
                // SAFETY: vector 18 has a handler with a stack of its own.
                unsafe { core::arch::asm!("int 18") };
                (Exit::Nmi, None)
            }
            exit::EXCEPTION_DB | exit::EXCEPTION_AC => {
                self.reflect(code, info1);
                // Back to the guest by way of the scheduler, which sees to it that the slice still ends.
                (Exit::ExternalInterrupt, None)
            }
            exit::WBINVD => (Exit::CacheControl, Some(Insn::Wbinvd)),
            exit::INVD => (Exit::CacheControl, Some(Insn::Invd)),
            exit::VMRUN..=exit::SKINIT
            | exit::RSM
            | exit::INVLPGA
            | exit::MONITOR
            | exit::MWAIT
            | exit::MWAIT_ARMED
            | exit::RDPRU => (Exit::Undefined, None),
            exit::RDPMC => (Exit::Denied, None),
            exit::SHUTDOWN => (Exit::Shutdown, None),
            exit::INIT => (Exit::ExternalInterrupt, None),
            exit::INVALID | exit::INVALID_32 => (Exit::Invalid, None),
            _ => (Exit::Other { code, info1, info2 }, None),
        };
        self.exited_at = insn;
        exit
    }

    /// Gives an intercepted #DB or #AC back to the guest.
    fn reflect(&mut self, code: u64, error: u64) {
        let vector = code - 0x40;
        let mut inject = vector | event::TYPE_EXCEPTION | event::VALID;
        if code == exit::EXCEPTION_AC {
            inject |= event::ERROR_VALID | (error << 32);
        }
        self.control().event_inj = inject;
    }

    /// Ends the hypercall that a caller of this width has made: its result, and the step over it.
    #[inline(always)]
    pub fn finish_hypercall(&mut self, width: Width, value: i64, p2m: &P2m, guard: &Guard) {
        let value = value.cast_unsigned();
        let (wide, next_rips, verified) = (width == Width::Bits64, self.next_rips, self.hypercall_at);
        let c = self.control();
        c.rax = if wide { value } else { value & 0xffff_ffff };
        // The usual call, from 64-bit code.
        if wide && next_rips && c.next_rip != 0 {
            c.rip = c.next_rip;
        } else if wide && verified == (c.rip, c.cr3) {
            c.rip = c.rip.wrapping_add(3);
        } else {
            return self.advance_hypercall(p2m, guard);
        }
        c.interrupt_shadow = 0;
    }

    #[cold]
    #[inline(never)]
    fn advance_hypercall(&mut self, p2m: &P2m, guard: &Guard) {
        self.exited_at = Some(Insn::Vmmcall);
        self.advance(p2m, guard);
    }

    /// Steps over the instruction of the last exit.
    pub fn advance(&mut self, p2m: &P2m, guard: &Guard) {
        let next = if let Some(insn) = self.exited_at {
            let c = self.state();
            if self.next_rips && c.next_rip != 0 {
                c.next_rip
            } else if insn == Insn::Vmmcall && self.hypercall_at == (c.rip, c.cr3) {
                c.rip.wrapping_add(3)
            } else {
                c.rip.wrapping_add(self.length(insn, p2m, guard))
            }
        } else if self.state().exit_code == exit::IOIO {
            self.state().exit_info2
        } else {
            return;
        };
        let c = self.control();
        c.rip = if c.cs.attributes & vmcb::ATTR_LONG != 0 && c.efer & EFER_LMA != 0 {
            next
        } else {
            next & 0xffff_ffff
        };
        c.interrupt_shadow = 0;
    }

    /// The length of the instruction at RIP, which is known to be `insn`.
    fn length(&mut self, insn: Insn, p2m: &P2m, guard: &Guard) -> u64 {
        let c = self.state();
        let (rip, cr3) = (c.rip, c.cr3);
        let bytes = self.instruction(p2m, guard);
        let length = insn.length_in(&bytes, self.width() == Width::Bits64);
        if insn == Insn::Vmmcall && length == 3 {
            self.hypercall_at = (rip, cr3);
        }
        length
    }

    /// Width of the code that runs now.
    #[must_use]
    #[inline]
    pub fn width(&self) -> Width {
        let c = self.state();
        if c.efer & EFER_LMA != 0 && c.cs.attributes & vmcb::ATTR_LONG != 0 {
            Width::Bits64
        } else {
            Width::Bits32
        }
    }

    /// Privilege level of the code that runs now.
    #[must_use]
    #[inline]
    pub fn cpl(&self) -> u8 {
        self.state().cpl
    }

    /// How linear addresses translate now.
    #[must_use]
    #[inline]
    pub fn paging(&self) -> Paging {
        let c = self.state();
        Paging { cr0: c.cr0, cr3: c.cr3, cr4: c.cr4, efer: c.efer }
    }

    /// CR8: the class of the local APIC's task priority. The CPU keeps it (V_TPR, APM vol. 2, 15.21.2).
    #[must_use]
    pub fn cr8(&self) -> u8 {
        let [tpr, ..] = self.state().vintr.to_le_bytes();
        tpr & 0xf
    }

    /// Sets CR8.
    pub fn set_cr8(&mut self, class: u8) {
        let c = self.control();
        c.vintr = (c.vintr & !0xff) | u64::from(class & 0xf);
        self.soil(clean::TPR);
    }

    /// CR4, for CPUID's OSXSAVE.
    #[must_use]
    pub fn cr4(&self) -> u64 {
        self.state().cr4
    }

    /// The general registers.
    #[must_use]
    pub fn gprs(&self) -> &Gprs {
        &self.switched.gprs
    }

    /// The general registers, to change.
    pub fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.switched.gprs
    }

    /// RAX.
    #[must_use]
    pub fn rax(&self) -> u64 {
        self.state().rax
    }

    /// Sets RAX.
    pub fn set_rax(&mut self, value: u64) {
        self.control().rax = value;
    }

    /// RIP.
    #[must_use]
    pub fn rip(&self) -> u64 {
        self.state().rip
    }

    /// Are interrupts enabled (RFLAGS.IF)?
    #[must_use]
    pub fn interrupts_on(&self) -> bool {
        self.state().rflags & RFLAGS_IF != 0
    }

    /// Can it take an interrupt at the next entry?
    #[must_use]
    pub fn can_take_interrupt(&self) -> bool {
        let c = self.state();
        c.rflags & RFLAGS_IF != 0 && c.interrupt_shadow & 1 == 0 && c.event_inj & event::VALID == 0
    }

    /// Whether the guest stands between STI and HLT, interrupts on but held off for that one instruction; then
    /// the HLT is stepped over, so that an interrupt can be injected as the one that ends it.
    ///
    /// A CPU would do the same by itself, entering with the interrupt shadow the VMCB holds (APM vol. 2, 15.21.5);
    /// QEMU's TCG (7.2) saves the shadow on an exit but does not take it back on VMRUN. There an interrupt
    /// would come in before the HLT, its handler would take the event, and the HLT would sleep on it.
    pub fn end_shadowed_halt(&mut self, p2m: &P2m, guard: &Guard) -> bool {
        let c = self.state();
        if c.interrupt_shadow & 1 == 0 || c.rflags & RFLAGS_IF == 0 || self.event_pending() {
            return false;
        }
        let c = self.state();
        let long = self.width() == Width::Bits64;
        let linear = if long { c.rip } else { c.rip.wrapping_add(c.cs.base) & 0xffff_ffff };
        let mut opcode = [0];
        let read = GuestSpace::new(p2m, self.paging(), guard).read(linear, &mut opcode);
        if read.is_err() || opcode != Insn::Hlt.opcode() {
            return false;
        }
        self.exited_at = Some(Insn::Hlt);
        let c = self.control();
        c.next_rip = 0;
        self.advance(p2m, guard);
        true
    }

    /// Is an event on its way into the guest?
    #[must_use]
    pub fn event_pending(&self) -> bool {
        self.state().event_inj & event::VALID != 0
    }

    /// Delivers an interrupt at the next entry; only when [`Vcpu::can_take_interrupt`].
    pub fn inject_vector(&mut self, vector: u8) {
        debug_assert!(self.can_take_interrupt());
        if self.state().intercepts[3] & intercept3::VINTR != 0 {
            self.request_window(false);
        }
        self.control().event_inj = u64::from(vector) | event::TYPE_INTR | event::VALID;
    }

    /// Asks for (or takes back the wish for) an exit as soon as the guest can take an interrupt.
    pub fn request_window(&mut self, on: bool) {
        self.soil(clean::INTERCEPTS | clean::TPR);
        let c = self.control();
        if on {
            c.intercepts[3] |= intercept3::VINTR;
            c.vintr |= vintr::V_IRQ | vintr::V_PRIO_MAX | vintr::V_IGN_TPR;
        } else {
            c.intercepts[3] &= !intercept3::VINTR;
            c.vintr &= !(vintr::V_IRQ | vintr::V_PRIO_MAX | vintr::V_IGN_TPR);
        }
    }

    /// Gives the guest an exception at the instruction of the last exit.
    pub fn inject_exception(&mut self, exception: GuestException) {
        self.control().event_inj = event::VALID
            | event::TYPE_EXCEPTION
            | match exception {
                GuestException::InvalidOpcode => 6,
                GuestException::GeneralProtection => 13 | event::ERROR_VALID,
            };
    }

    /// The number of the hypercall the guest makes.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "EAX is the number")]
    pub fn hypercall_number(&self) -> u32 {
        self.state().rax as u32
    }

    /// The arguments of the hypercall the guest makes, in the caller's ABI: cut to 32 bits for a 32-bit caller.
    #[must_use]
    #[inline]
    pub fn hypercall_args(&self, width: Width) -> [u64; 6] {
        let g = &self.switched.gprs;
        match width {
            Width::Bits64 => [g.rdi, g.rsi, g.rdx, g.r10, g.r8, g.r9],
            Width::Bits32 => [g.rbx, g.rcx, g.rdx, g.rsi, g.rdi, g.rbp].map(|value| value & 0xffff_ffff),
        }
    }

    /// Replaces a hypercall's arguments, for its continuation: RIP stays at the VMMCALL.
    pub fn set_hypercall_args(&mut self, args: [u64; 6]) {
        let wide = self.width() == Width::Bits64;
        let g = &mut self.switched.gprs;
        if wide {
            [g.rdi, g.rsi, g.rdx, g.r10, g.r8, g.r9] = args;
        } else {
            [g.rbx, g.rcx, g.rdx, g.rsi, g.rdi, g.rbp] = args;
        }
    }

    /// The guest's XCR0.
    #[must_use]
    pub fn xcr0(&self) -> u64 {
        self.xstate.xcr0
    }

    /// XSETBV. False, and nothing changed, when the hardware would refuse it: #GP.
    #[must_use]
    pub fn set_xcr0(&mut self, index: u32, value: u64) -> bool {
        let ok = index == 0 && self.cpl() == 0 && xstate::valid_xcr0(value);
        if ok {
            self.xstate.xcr0 = value;
        }
        ok
    }

    /// EFER as the guest sees it.
    #[must_use]
    pub fn efer(&self) -> u64 {
        self.state().efer & !EFER_SVME
    }

    /// Writes EFER as WRMSR does. False: #GP.
    #[must_use]
    pub fn set_efer(&mut self, value: u64) -> bool {
        let c = self.control();
        let paging = c.cr0 & (1 << 31) != 0;
        // LME may not change while paging is on; LMA is the hardware's.
        if value & !EFER_GUEST != 0 || (paging && (value ^ c.efer) & EFER_LME != 0) {
            return false;
        }
        c.efer = (value & !EFER_LMA) | (c.efer & EFER_LMA) | EFER_SVME;
        self.soil(clean::CRX);
        true
    }

    /// The guest's PAT.
    #[must_use]
    pub fn pat(&self) -> u64 {
        self.state().g_pat
    }

    /// Writes the PAT. False: #GP.
    #[must_use]
    pub fn set_pat(&mut self, value: u64) -> bool {
        let valid = value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
        if valid {
            self.control().g_pat = value;
            self.soil(clean::NP);
        }
        valid
    }

    /// TSC_AUX.
    #[must_use]
    pub fn tsc_aux(&self) -> u64 {
        self.xstate.tsc_aux
    }

    /// Writes TSC_AUX, also into this CPU. False: #GP.
    #[must_use]
    pub fn set_tsc_aux(&mut self, value: u64) -> bool {
        if value >> 32 != 0 || !host_cpu::features().rdtscp {
            return false;
        }
        self.xstate.tsc_aux = value;
        // SAFETY: the CPU has TSC_AUX, and the vCPU is loaded here.
        unsafe { x86_64::registers::model_specific::Msr::new(0xc000_0103).write(value) };
        true
    }

    /// XCR0 bits guests may set, for CPUID leaf 0xD.
    #[must_use]
    pub fn xcr0_offered() -> u64 {
        xstate::offered()
    }

    /// The registers, for a domain that is ended.
    ///
    /// # Errors
    /// The formatter's.
    pub fn dump(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let (c, g) = (self.state(), &self.switched.gprs);
        writeln!(
            f,
            "rip {:04x}:{:016x} rsp {:016x} rflags {:08x} cpl {}",
            c.cs.selector, c.rip, c.rsp, c.rflags, c.cpl
        )?;
        writeln!(f, "rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", c.rax, g.rbx, g.rcx, g.rdx)?;
        writeln!(f, "rsi {:016x} rdi {:016x} rbp {:016x} r8  {:016x}", g.rsi, g.rdi, g.rbp, g.r8)?;
        writeln!(f, "r9  {:016x} r10 {:016x} r11 {:016x} r12 {:016x}", g.r9, g.r10, g.r11, g.r12)?;
        writeln!(f, "r13 {:016x} r14 {:016x} r15 {:016x} cr2 {:016x}", g.r13, g.r14, g.r15, c.cr2)?;
        writeln!(
            f,
            "cr0 {:08x} cr3 {:016x} cr4 {:08x} efer {:04x}",
            c.cr0,
            c.cr3,
            c.cr4,
            c.efer & !EFER_SVME
        )?;
        write!(f, "exit {:#x} ({:#x}, {:#x})", c.exit_code, c.exit_info1, c.exit_info2)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        frames::free(self.frame, 0);
    }
}

/// EFER bits guests may set: SCE, LME, LMA, NXE, FFXSR.
const EFER_GUEST: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 14;

/// Events whose instruction runs again by itself: INT n, INT3, INTO.
const fn runs_again(info: u64) -> bool {
    let vector = info & 0xff;
    let kind = info & event::TYPE_MASK;
    kind == event::TYPE_SOFT || (kind == event::TYPE_EXCEPTION && (vector == 3 || vector == 4))
}

/// What EVENTINJ is given for an event that was being delivered. QEMU's TCG (7.2) calls an interrupt an exception there,
/// and refuses it as such.
const fn delivered_again(info: u64) -> u64 {
    const EXCEPTIONS: u64 = 32;
    let interrupt = info & event::TYPE_MASK == event::TYPE_EXCEPTION && info & 0xff >= EXCEPTIONS;
    if interrupt { info & !event::TYPE_MASK | event::TYPE_INTR } else { info }
}

/// EXITINFO1 of an IN or OUT (15.10.2).
fn io_exit(info: u64) -> Exit {
    let size = match (info >> 4) & 7 {
        1 => 1,
        2 => 2,
        _ => 4,
    };
    #[expect(clippy::cast_possible_truncation, reason = "the port is bits 16 to 31")]
    let port = (info >> 16) as u16;
    Exit::Io { port, size, input: info & 1 != 0, string: info & 4 != 0 }
}

#[cfg(test)]
mod tests;
