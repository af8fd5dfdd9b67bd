//! Into the guest and back, and what is set up for that: an address-space identifier, an event, XCR0.
//!
//! A vCPU that makes hypercalls needs none of it. So [`Vcpu::run`] only looks whether something is to be done, and it
//! stands in the loop that enters again; all else is out of line.

use gnttab_fast::types::PAGE_SHIFT;

use super::{
    Vcpu, delivered_again, run, runs_again,
    vmcb::{self, clean, event, exit, intercept3, vintr},
};
use crate::{arch::x86::percpu::PerCpu, mm::tlb::DomainTlb, vt::Exit};

impl Vcpu {
    /// Runs the guest until something needs a decision. Root mode, interrupts off, `load` done.
    /// `cpu` is this pCPU.
    #[inline(always)]
    pub fn run(&mut self, cpu: &PerCpu, tlb: &DomainTlb) -> Exit {
        let generation = cpu.tlb.enter(tlb);
        if generation != self.tlb_generation
            || !cpu.vt.holds(self.asid)
            || self.state().event_inj != 0
            || !self.xstate.fits_host(self.cr4())
        {
            return self.run_prepared(cpu, generation);
        }
        self.enter(cpu);
        self.xstate.leave_guest(false);
        self.why()
    }

    /// [`Vcpu::run`] where something is to be set up first: an identifier, an event, XCR0.
    #[cold]
    #[inline(never)]
    fn run_prepared(&mut self, cpu: &PerCpu, generation: u64) -> Exit {
        if generation != self.tlb_generation || !cpu.vt.holds(self.asid) {
            let (asid, flush_all) = cpu.vt.fresh(cpu.id);
            (self.asid, self.tlb_generation) = (asid, generation);
            self.soil(clean::ASID);
            let c = self.control();
            c.asid = asid.value;
            c.tlb_control = if flush_all { vmcb::TLB_FLUSH_ALL } else { 0 };
        }
        let posted = self.state().event_inj != 0 && self.post();
        let other_xcr0 = !self.xstate.fits_host(self.cr4());
        if other_xcr0 {
            self.xstate.enter_guest();
        }
        self.enter(cpu);
        self.xstate.leave_guest(other_xcr0);
        let c = self.control();
        c.tlb_control = 0;
        c.event_inj = 0;
        if posted {
            self.unpost();
        }
        self.why()
    }

    /// The world switch, there and back.
    #[inline(always)]
    fn enter(&mut self, cpu: &PerCpu) {
        // SAFETY: root mode with interrupts off (the run loop's rule); the VMCB is ours, and its CPU's alone while
        // `self` is borrowed; `host_state` was filled by `init_cpu`, without which no scheduler runs here.
        unsafe { run::enter(&raw mut self.switched, self.frame.0 << PAGE_SHIFT, cpu.vt.host_state()) };
        cpu.tlb.leave();
        let may_keep = self.may_keep;
        self.control().clean = may_keep;
    }

    /// Why the guest was left.
    #[inline(always)]
    fn why(&mut self) -> Exit {
        let c = self.state();
        // No event is being delivered when an instruction exits: EXITINTINFO is not valid then.
        if c.exit_code == exit::VMMCALL { Exit::Hypercall } else { self.interrupted() }
    }

    /// An exit that is no hypercall. An event that was being delivered is to be delivered again.
    #[cold]
    #[inline(never)]
    fn interrupted(&mut self) -> Exit {
        let c = self.control();
        let pending = c.exit_int_info;
        if pending & event::VALID != 0 && !runs_again(pending) {
            c.event_inj = delivered_again(pending);
        }
        self.reason()
    }

    /// Makes an external interrupt in EVENTINJ a virtual one ([`super`]'s docs).
    pub(super) fn post(&mut self) -> bool {
        let c = self.state();
        let inject = c.event_inj;
        if inject & (event::VALID | event::TYPE_MASK) != event::VALID | event::TYPE_INTR {
            return false;
        }
        if c.intercepts[3] & intercept3::VINTR != 0 {
            self.request_window(false);
            self.end_of_handler(true);
        }
        self.soil(clean::TPR);
        let c = self.control();
        c.event_inj = 0;
        c.vintr = (c.vintr & !vintr::VECTOR_MASK)
            | (inject & 0xff) << vintr::VECTOR_SHIFT
            | vintr::V_IRQ
            | vintr::V_PRIO_MAX
            | vintr::V_IGN_TPR;
        true
    }

    /// After the exit: takes the virtual interrupt back, into EVENTINJ if the guest has not begun to take it.
    pub(super) fn unpost(&mut self) {
        self.soil(clean::TPR);
        let c = self.control();
        let vector = (c.vintr & vintr::VECTOR_MASK) >> vintr::VECTOR_SHIFT;
        if c.vintr & vintr::V_IRQ != 0 && c.exit_int_info & event::VALID == 0 {
            c.event_inj = vector | event::TYPE_INTR | event::VALID;
        }
        c.vintr &= !(vintr::VECTOR_MASK | vintr::V_IRQ | vintr::V_PRIO_MAX | vintr::V_IGN_TPR);
        if self.event_pending() {
            self.end_of_handler(false);
        }
    }

    /// Asks for (or takes back the wish for) an exit at the guest's next IRET.
    pub(super) fn end_of_handler(&mut self, on: bool) {
        if (self.state().intercepts[3] & intercept3::IRET != 0) == on {
            return;
        }
        self.soil(clean::INTERCEPTS);
        self.control().intercepts[3] ^= intercept3::IRET;
    }
}
