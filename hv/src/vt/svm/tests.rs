//! What can be tried of a vCPU without entering it: the hardware's part of the VMCB is written by hand.

use gnttab_fast::types::{DomId, Gfn};

use super::*;
use crate::{
    abi::hvm::hvm_vcpu::{X86_32, X86_64},
    epoch,
    mm::p2m::P2mKind,
    vt::PvhEntry,
};

fn vcpu() -> Vcpu {
    Vcpu::new(Mfn(0x4_0000)).expect("memory")
}

/// In flat 32-bit code at `entry`.
fn pvh(entry: u32) -> Vcpu {
    let mut vcpu = vcpu();
    vcpu.start_pvh(PvhEntry { entry, start_info: 0x5000 });
    vcpu
}

/// As if the hardware had left the guest so.
fn exited(vcpu: &mut Vcpu, code: u64, info1: u64, info2: u64) -> Exit {
    let c = vcpu.control();
    (c.exit_code, c.exit_info1, c.exit_info2) = (code, info1, info2);
    vcpu.reason()
}

#[test]
fn pvh_starts_in_flat_32_bit_mode() {
    let vcpu = pvh(0x10_0000);
    assert_eq!((vcpu.width(), vcpu.cpl(), vcpu.rip()), (Width::Bits32, 0, 0x10_0000));
    assert_eq!(vcpu.gprs().rbx, 0x5000);
    assert_eq!(vcpu.paging(), Paging { cr0: 0x11, cr3: 0, cr4: 0, efer: EFER_SVME });
    assert_eq!(vcpu.efer(), 0, "the guest does not see SVME");
    assert!(!vcpu.interrupts_on() && !vcpu.can_take_interrupt());
}

#[test]
fn exits_are_told_in_neutral_words() {
    let mut vcpu = pvh(0);
    assert_eq!(exited(&mut vcpu, exit::VMMCALL, 0, 0), Exit::Hypercall);
    assert_eq!(
        exited(&mut vcpu, exit::NPF, 0x1_0000_0007, 0x1234),
        Exit::NestedFault { gpa: 0x1234, write: true, exec: false, present: true }
    );
    assert_eq!(
        exited(&mut vcpu, exit::NPF, 0x1_0000_0014, 0x1234),
        Exit::NestedFault { gpa: 0x1234, write: false, exec: true, present: false }
    );
    assert_eq!(
        exited(&mut vcpu, exit::IOIO, 0x3f8 << 16 | 1 << 4 | 1, 7),
        Exit::Io { port: 0x3f8, size: 1, input: true, string: false }
    );
    assert_eq!(
        exited(&mut vcpu, exit::IOIO, 0xcf8 << 16 | 1 << 6 | 4, 7),
        Exit::Io { port: 0xcf8, size: 4, input: false, string: true }
    );
    vcpu.gprs_mut().rcx = 0xffff_ffff_c000_0080;
    vcpu.gprs_mut().rdx = 0xffff_ffff_0000_0002;
    vcpu.set_rax(0xffff_ffff_0000_0001);
    assert_eq!(exited(&mut vcpu, exit::MSR, 0, 0), Exit::MsrRead(EFER_MSR));
    assert_eq!(exited(&mut vcpu, exit::MSR, 1, 0), Exit::MsrWrite(EFER_MSR, 0x2_0000_0001));
    assert_eq!(exited(&mut vcpu, exit::VMRUN, 0, 0), Exit::Undefined);
    assert_eq!(exited(&mut vcpu, exit::SKINIT, 0, 0), Exit::Undefined);
    assert_eq!(exited(&mut vcpu, exit::RDPMC, 0, 0), Exit::Denied);
    assert_eq!(exited(&mut vcpu, u64::MAX, 0, 0), Exit::Invalid);
    assert_eq!(exited(&mut vcpu, 0xffff_ffff, 0, 0), Exit::Invalid, "as TCG writes it");
    assert_eq!(exited(&mut vcpu, 0x999, 1, 2), Exit::Other { code: 0x999, info1: 1, info2: 2 });
}

const EFER_MSR: u32 = 0xc000_0080;

#[test]
fn an_exception_we_look_at_goes_back_to_the_guest() {
    let mut vcpu = pvh(0);
    assert_eq!(exited(&mut vcpu, exit::EXCEPTION_AC, 0, 0), Exit::ExternalInterrupt);
    assert_eq!(vcpu.state().event_inj, 17 | 3 << 8 | 1 << 11 | 1 << 31);
    assert!(vcpu.event_pending() && !vcpu.can_take_interrupt());
    exited(&mut vcpu, exit::EXCEPTION_DB, 0, 0);
    assert_eq!(vcpu.state().event_inj, 1 | 3 << 8 | 1 << 31);
}

#[test]
fn only_events_of_instructions_are_left_to_them() {
    let hardware = |vector: u64, kind: u64| vector | kind | event::VALID;
    assert!(!runs_again(hardware(0xf3, event::TYPE_INTR)));
    assert!(!runs_again(hardware(14, event::TYPE_EXCEPTION)));
    assert!(runs_again(hardware(3, event::TYPE_EXCEPTION)));
    assert!(runs_again(hardware(0x80, event::TYPE_SOFT)));
    let again = delivered_again(hardware(0xf3, event::TYPE_EXCEPTION));
    assert_eq!(again, hardware(0xf3, event::TYPE_INTR), "an interrupt, whatever it is called");
    assert_eq!(delivered_again(hardware(14, event::TYPE_EXCEPTION)), hardware(14, event::TYPE_EXCEPTION));
}

#[test]
fn an_interrupt_waits_for_its_window() {
    let mut vcpu = pvh(0);
    vcpu.control().rflags |= RFLAGS_IF;
    vcpu.control().interrupt_shadow = 1;
    assert!(!vcpu.can_take_interrupt(), "behind STI");
    vcpu.request_window(true);
    assert_ne!(vcpu.state().intercepts[3] & intercept3::VINTR, 0);
    assert_ne!(vcpu.state().vintr & vintr::V_IRQ, 0);
    vcpu.control().interrupt_shadow = 0;
    assert_eq!(exited(&mut vcpu, exit::VINTR, 0, 0), Exit::InterruptWindow);
    assert_eq!(vcpu.state().intercepts[3] & intercept3::VINTR, 0, "once");
    assert_eq!(vcpu.state().vintr, vintr::V_INTR_MASKING);
    vcpu.inject_vector(0xf3);
    assert_eq!(vcpu.state().event_inj, 0xf3 | 1 << 31);
    assert!(!vcpu.can_take_interrupt(), "one at a time");
}

#[test]
fn an_interrupt_goes_in_as_a_virtual_one() {
    let mut vcpu = pvh(0);
    vcpu.control().rflags |= RFLAGS_IF;
    vcpu.inject_vector(0xf3);
    assert!(vcpu.post());
    assert_eq!((vcpu.state().event_inj, vcpu.state().vintr >> vintr::VECTOR_SHIFT), (0, 0xf3));
    assert_ne!(vcpu.state().vintr & vintr::V_IRQ, 0);
    vcpu.unpost();
    assert_eq!(vcpu.state().event_inj, 0xf3 | event::VALID, "not taken: it stays due");
    assert_eq!(vcpu.state().vintr, vintr::V_INTR_MASKING);

    assert!(vcpu.post());
    vcpu.control().vintr &= !vintr::V_IRQ;
    vcpu.unpost();
    assert!(!vcpu.event_pending(), "taken");

    vcpu.inject_vector(0xf3);
    assert!(vcpu.post());
    vcpu.control().exit_int_info = 0xf3 | event::VALID;
    vcpu.control().event_inj = 0xf3 | event::VALID;
    vcpu.unpost();
    assert_eq!(vcpu.state().event_inj, 0xf3 | event::VALID, "once, if the exit came as it was taken");

    vcpu.control().event_inj = 14 | event::TYPE_EXCEPTION | event::VALID;
    assert!(!vcpu.post(), "an exception goes in as it is");
    vcpu.control().event_inj = 0;
}

#[test]
fn a_window_behind_an_interrupt_opens_at_the_end_of_its_handler() {
    let mut vcpu = pvh(0);
    let intercepted = |vcpu: &Vcpu| vcpu.state().intercepts[3] & (intercept3::VINTR | intercept3::IRET);
    vcpu.control().rflags |= RFLAGS_IF;
    vcpu.inject_vector(0xf3);
    vcpu.request_window(true);
    assert!(vcpu.post());
    assert_eq!((vcpu.state().event_inj, vcpu.state().vintr >> vintr::VECTOR_SHIFT), (0, 0xf3));
    assert_eq!(intercepted(&vcpu), intercept3::IRET, "V_IRQ cannot serve both");
    vcpu.unpost();
    assert!(vcpu.event_pending());
    assert_eq!(intercepted(&vcpu), 0, "not taken: who enters again asks again");

    vcpu.request_window(true);
    assert!(vcpu.post());
    vcpu.control().vintr &= !vintr::V_IRQ;
    vcpu.control().rflags &= !RFLAGS_IF;
    vcpu.unpost();
    assert_eq!(intercepted(&vcpu), intercept3::IRET, "taken: its handler runs");
    assert_eq!(exited(&mut vcpu, exit::IRET, 0, 0), Exit::InterruptWindow);
    assert_eq!(intercepted(&vcpu), 0, "once");
    assert!(!vcpu.event_pending() && !vcpu.can_take_interrupt(), "the IRET is still to come");
}

#[test]
fn arguments_are_where_each_abi_puts_them() {
    let (p2m, guard) = (P2m::new().expect("memory"), epoch::pin());
    let mut vcpu = pvh(0);
    *vcpu.gprs_mut() = Gprs {
        rbx: 1 << 32 | 1,
        rcx: 2,
        rdx: 3,
        rsi: 4,
        rdi: 5,
        rbp: 6,
        r8: 7,
        r9: 8,
        r10: 9,
        ..Gprs::default()
    };
    vcpu.set_rax(0xdead_0000_0014);
    assert_eq!(vcpu.hypercall_number(), 20);
    assert_eq!(vcpu.hypercall_args(Width::Bits32), [1, 2, 3, 4, 5, 6]);
    vcpu.finish_hypercall(Width::Bits32, -38, &p2m, &guard);
    assert_eq!(vcpu.rax(), 0xffff_ffda);
    let long = X86_64 { rip: 0x1000, cr0: 0x8000_0001, cr4: 0x20, efer: 0x500, ..long_state() };
    let mut gprs = *vcpu.gprs();
    assert!(vcpu.start_64(&long));
    (gprs.rdi, gprs.rsi) = (10, 11);
    *vcpu.gprs_mut() = gprs;
    vcpu.set_rax(20);
    assert_eq!(vcpu.width(), Width::Bits64);
    assert_eq!(vcpu.hypercall_args(Width::Bits64), [10, 11, 3, 9, 7, 8]);
    vcpu.set_hypercall_args([21, 22, 23, 24, 25, 26]);
    assert_eq!(vcpu.hypercall_args(Width::Bits64), [21, 22, 23, 24, 25, 26]);
    vcpu.finish_hypercall(Width::Bits64, -38, &p2m, &guard);
    assert_eq!(vcpu.rax(), (-38i64).cast_unsigned());
}

fn long_state() -> X86_64 {
    X86_64 { gprs: [0; 8], rip: 0, rflags: 2, cr0: 0, cr3: 0x1000, cr4: 0, efer: 0 }
}

#[test]
fn a_start_that_the_cpu_would_refuse_is_refused() {
    let mut vcpu = pvh(0);
    let good = X86_64 { rip: 0x1000, cr0: 0x8000_0001, cr4: 0x20, efer: 0x500, ..long_state() };
    for bad in [
        X86_64 { cr0: 1, ..good },
        X86_64 { cr4: 0, ..good },
        X86_64 { efer: 0x100, ..good },
        X86_64 { efer: 0x1500, ..good },
    ] {
        assert!(!vcpu.start_64(&bad), "{bad:?}");
    }
    assert_eq!(vcpu.width(), Width::Bits32, "nothing has changed");
    assert!(vcpu.start_64(&good));

    let flat = X86_32 {
        gprs: [1, 2, 3, 4, 5, 6, 7, 8],
        eip: 0x2000,
        eflags: 2,
        cr0: 0x11,
        cr3: 0,
        cr4: 0,
        pad1: 0,
        efer: 0,
        bases: [0; 5],
        limits: [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0x67],
        ars: [0xc9a, 0xc92, 0xc92, 0xc92, 0x089],
        pad2: [0; 3],
    };
    let mut ars = flat.ars;
    ars[0] |= 0x1000;
    for bad in [
        X86_32 { cr0: 0x10, ..flat },
        X86_32 { efer: 1 << 12, ..flat },
        X86_32 { efer: 0x400, ..flat },
        X86_32 { efer: 0x500, ..flat },
        X86_32 { ars, ..flat },
    ] {
        assert!(!vcpu.start_32(&bad), "{bad:?}");
    }
    assert!(vcpu.start_32(&flat));
    assert_eq!((vcpu.width(), vcpu.rip()), (Width::Bits32, 0x2000));
    let c = vcpu.state();
    assert_eq!((c.cs.attributes, c.ss.attributes, c.tr.attributes), (vmcb::CODE32, vmcb::DATA32, 0x8b));
    assert_eq!((vcpu.rax(), vcpu.gprs().rcx, vcpu.gprs().rbx, vcpu.gprs().rdi), (1, 2, 4, 8));
    assert!(
        vcpu.start_32(&X86_32 { cr0: 0x8000_0011, cr4: 0x20, efer: 0x500, ..flat }),
        "compatibility mode"
    );
    assert_eq!(vcpu.width(), Width::Bits32);
}

#[test]
fn registers_take_what_the_cpu_takes() {
    let mut vcpu = pvh(0);
    assert!(!vcpu.set_efer(1 << 12), "SVME is not a guest's");
    assert!(vcpu.set_efer(0x901));
    assert_eq!(vcpu.efer(), 0x901);
    assert_ne!(vcpu.state().efer & EFER_SVME, 0);
    vcpu.control().cr0 |= 1 << 31;
    assert!(!vcpu.set_efer(0x801), "LME with paging on");
    assert!(vcpu.set_pat(0x0007_0406_0007_0406) && !vcpu.set_pat(2) && !vcpu.set_pat(8 << 56));
    assert!(!vcpu.set_xcr0(1, 1) && !vcpu.set_xcr0(0, 0) && !vcpu.set_xcr0(0, 1 << 62));
    if Vcpu::xcr0_offered() != 0 {
        assert!(vcpu.set_xcr0(0, 3) && !vcpu.set_xcr0(0, 5), "AVX needs SSE");
        vcpu.control().cpl = 3;
        assert!(!vcpu.set_xcr0(0, 1), "user mode");
    }
}

#[test]
fn stepping_over_measures_the_instruction() {
    let p2m = P2m::new().expect("memory");
    let code = frames::alloc(1, Owner::Domain(DomId(78))).expect("memory");
    for page in 0..2 {
        p2m.set(Gfn(2 + page), Mfn(code.0 + page), 0, P2mKind::RamRw).expect("memory");
    }
    let guard = epoch::pin();
    let space = |vcpu: &Vcpu, at: u64, bytes: &[u8]| {
        GuestSpace::new(&p2m, vcpu.paging(), &guard).write(at, bytes).expect("mapped");
    };
    let mut vcpu = pvh(0x2000);
    space(&vcpu, 0x2000, &[0x66, 0x0f, 0xa2]);
    exited(&mut vcpu, exit::CPUID, 0, 0);
    vcpu.control().interrupt_shadow = 1;
    vcpu.advance(&p2m, &guard);
    assert_eq!((vcpu.rip(), vcpu.state().interrupt_shadow), (0x2003, 0));
    // Across a page, and at the end of what is mapped.
    for (at, bytes) in [(0x2ffe, [0x0f, 0x01, 0xd9]), (0x3ffd, [0x0f, 0x01, 0xd9])] {
        space(&vcpu, at, &bytes);
        vcpu.control().rip = at;
        exited(&mut vcpu, exit::VMMCALL, 0, 0);
        vcpu.advance(&p2m, &guard);
        assert_eq!(vcpu.rip(), at + 3);
    }
    // The same place again is taken from memory of ours, even when the code has gone.
    space(&vcpu, 0x3ffd, &[0x66, 0x66, 0x66]);
    vcpu.control().rip = 0x3ffd;
    vcpu.advance(&p2m, &guard);
    assert_eq!(vcpu.rip(), 0x4000);
    // Port instructions tell where they end.
    exited(&mut vcpu, exit::IOIO, 0x3f8 << 16 | 1 << 4, 0x1234);
    vcpu.advance(&p2m, &guard);
    assert_eq!(vcpu.rip(), 0x1234);
    // What is not stepped over stays.
    exited(&mut vcpu, exit::NPF, 0, 0);
    vcpu.advance(&p2m, &guard);
    assert_eq!(vcpu.rip(), 0x1234);
    for page in 0..2 {
        p2m.clear(Gfn(2 + page)).expect("memory");
        frames::put_ref(Mfn(code.0 + page));
    }
}
