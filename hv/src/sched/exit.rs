//! What to do about an exit.
//!
//! A guest that does something outside its interface gets the exception a real machine would give, or, where
//! a real machine has something that we do not (memory outside its map, a triple fault), it ends: that
//! domain alone, with its registers on the console.
#![forbid(unsafe_code)]

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use gnttab_fast::types::{Gfn, PAGE_SHIFT};

use super::{lapic as local_apic, run::Leave};
use crate::abi::sched::SHUTDOWN_POWEROFF;
use crate::arch::x86::{irq, percpu::PerCpu};
use crate::dev::{input, lapic};
use crate::domain::{Domain, Vcpu, counters::ExitKind, lifecycle, vcpu::NOT_POLLING};
use crate::hypercall::{self, After, grant_table};
use crate::vt::{self, Exit, GuestException, Width};
use crate::{epoch, info, rate_limited};

/// Counter 2 of a PC's interval timer. All ones there look like a counter that stands still, which Linux reads
/// a hundred thousand times to be sure; zero tells at once that nothing counts.
const PIT_COUNTER_2: u16 = 0x42;

/// What the run loop does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Look around and enter the guest again.
    Enter,
    /// Enter the guest again: nothing has happened that nobody tells of.
    Straight,
    /// Give up the pCPU.
    Leave(Leave),
}

/// Handles one exit.
#[inline(always)]
pub(super) fn handle(
    cpu: &PerCpu,
    pins: epoch::Pins<'_>,
    domain: &Arc<Domain>,
    vcpu: &Vcpu,
    arch: &mut vt::Vcpu,
    exit: Exit,
) -> Next {
    // Counted by their numbers.
    if exit == Exit::Hypercall {
        let after = hypercall::handle(cpu, pins, domain, vcpu, arch);
        return if after == After::Resume { Next::Straight } else { behind_call(vcpu, arch, after) };
    }
    other(domain, vcpu, arch, exit)
}

/// Handles all exits but hypercalls.
#[cold]
#[inline(never)]
fn other(domain: &Arc<Domain>, vcpu: &Vcpu, arch: &mut vt::Vcpu, exit: Exit) -> Next {
    domain.counters.exit(kind(exit));
    match exit {
        Exit::Hypercall => {}
        Exit::ExternalInterrupt => {
            irq::window();
            input::work();
        }
        Exit::Nmi | Exit::InterruptWindow => {}
        Exit::Hlt => {
            step_over(domain, arch);
            return halt(domain, vcpu, arch);
        }
        Exit::Cpuid => {
            let vcpus = u32::try_from(domain.vcpus().len()).unwrap_or(u32::MAX);
            vt::cpuid::emulate(arch, domain.id.0, vcpu.id, vcpus, || grant_table::told_by_cpuid(domain));
            step_over(domain, arch);
        }
        Exit::MsrRead(msr) if lapic::is_msr(msr) => local_apic::read(domain, vcpu, arch, msr),
        Exit::MsrWrite(msr, value) if lapic::is_msr(msr) => {
            local_apic::write(domain, vcpu, arch, msr, value);
        }
        Exit::MsrRead(msr) => match vt::msr::read(arch, msr) {
            Ok(value) => {
                arch.set_rax(value & 0xffff_ffff);
                arch.gprs_mut().rdx = value >> 32;
                step_over(domain, arch);
            }
            Err(exception) => {
                rate_limited!(debug, of domain; "d{}v{}: RDMSR {msr:#x} refused", domain.id.0, vcpu.id);
                arch.inject_exception(exception);
            }
        },
        Exit::MsrWrite(msr, value) => {
            let guard = epoch::pin();
            match vt::msr::write(arch, &domain.p2m, &guard, msr, value) {
                Ok(()) => arch.advance(&domain.p2m, &guard),
                Err(exception) => {
                    rate_limited!(debug, of domain; "d{}v{}: WRMSR {msr:#x} = {value:#x} refused", domain.id.0, vcpu.id);
                    arch.inject_exception(exception);
                }
            }
        }
        Exit::Io { string: true, .. } => arch.inject_exception(GuestException::GeneralProtection),
        Exit::Io { port, size, input, .. } => {
            // No device is there: reads give all ones, writes go nowhere.
            if input && port == PIT_COUNTER_2 {
                arch.set_rax(arch.rax() & !0xff);
            } else if input {
                let rax = match size {
                    1 => arch.rax() | 0xff,
                    2 => arch.rax() | 0xffff,
                    _ => 0xffff_ffff,
                };
                arch.set_rax(rax);
            }
            step_over(domain, arch);
        }
        Exit::NestedFault { gpa, write, exec, .. } => nested_fault(domain, vcpu, arch, gpa, write, exec),
        Exit::Xsetbv { index, value } => {
            if arch.set_xcr0(index, value) {
                step_over(domain, arch);
            } else {
                arch.inject_exception(GuestException::GeneralProtection);
            }
        }
        Exit::Undefined => arch.inject_exception(GuestException::InvalidOpcode),
        Exit::Denied => arch.inject_exception(GuestException::GeneralProtection),
        Exit::CacheControl => step_over(domain, arch),
        Exit::Shutdown => lifecycle::crash(domain, vcpu, arch, format_args!("triple fault")),
        Exit::Invalid => {
            lifecycle::crash(domain, vcpu, arch, format_args!("the CPU refuses its state"));
        }
        Exit::Other { code, info1, info2 } => lifecycle::crash(
            domain,
            vcpu,
            arch,
            format_args!("exit {code:#x} ({info1:#x}, {info2:#x}), which is not handled"),
        ),
    }
    Next::Enter
}

fn kind(exit: Exit) -> ExitKind {
    match exit {
        Exit::Hypercall => ExitKind::Hypercall,
        Exit::Cpuid => ExitKind::Cpuid,
        Exit::MsrRead(_) | Exit::MsrWrite(..) => ExitKind::Msr,
        Exit::Io { .. } => ExitKind::Io,
        Exit::Hlt => ExitKind::Hlt,
        Exit::NestedFault { .. } => ExitKind::NestedFault,
        Exit::ExternalInterrupt | Exit::Nmi => ExitKind::Interrupt,
        Exit::InterruptWindow => ExitKind::Window,
        _ => ExitKind::Other,
    }
}

pub(super) fn step_over(domain: &Domain, arch: &mut vt::Vcpu) {
    arch.advance(&domain.p2m, &epoch::pin());
}

/// What a hypercall wants done behind it.
#[cold]
#[inline(never)]
fn behind_call(vcpu: &Vcpu, arch: &vt::Vcpu, after: After) -> Next {
    match after {
        After::Resume => Next::Straight,
        After::Again => Next::Enter,
        After::Yield => Next::Leave(Leave::Turn),
        After::Down => {
            vcpu.set_up(false);
            Next::Leave(Leave::Down)
        }
        After::Block => {
            // With interrupts off a vCPU that polls waits for its ports alone. One that blocks gets whatever
            // comes: it asked for upcalls.
            let polls = vcpu.poll.load(Ordering::SeqCst) != NOT_POLLING;
            Next::Leave(Leave::Block { interruptible: arch.interrupts_on() || !polls })
        }
    }
}

/// HLT. With interrupts off nothing can wake the vCPU: it is down, and with the last one the domain is done, as
/// Xen does it.
fn halt(domain: &Domain, vcpu: &Vcpu, arch: &vt::Vcpu) -> Next {
    if arch.interrupts_on() {
        return Next::Leave(Leave::Block { interruptible: true });
    }
    vcpu.set_up(false);
    if domain.vcpus().iter().all(|vcpu| !vcpu.is_up()) {
        info!(of domain; "d{} {}: every vCPU is down or has halted with interrupts off", domain.id.0, domain.name);
        lifecycle::shutdown(domain, SHUTDOWN_POWEROFF);
    }
    Next::Leave(Leave::Down)
}

/// An access the nested tables do not allow.
fn nested_fault(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu, gpa: u64, write: bool, exec: bool) {
    match domain.p2m.lookup(Gfn(gpa >> PAGE_SHIFT)) {
        // What is not its own memory is data (`P2mKind`).
        Some(entry) if exec && !entry.kind.is_ram() => {
            rate_limited!(warn, of domain; "d{}v{}: executes what is mapped as data at {gpa:#x}", domain.id.0, vcpu.id);
            arch.inject_exception(GuestException::GeneralProtection);
        }
        // It has been mapped meanwhile, or the fault is of a stale translation: the access is tried again.
        Some(entry) if entry.writable() || !write => {}
        // A write to a read-only grant: what Xen does.
        Some(_) => {
            rate_limited!(warn, of domain; "d{}v{}: write to read-only memory at {gpa:#x}", domain.id.0, vcpu.id);
            arch.inject_exception(GuestException::GeneralProtection);
        }
        None if gpa & !0xfff == u64::from(lapic::BASE)
            && !exec
            && vcpu.lapic.mode() == lapic::Mode::XApic =>
        {
            local_apic::access(domain, vcpu, arch, gpa, write);
        }
        None => {
            let what = match (exec, write) {
                (true, _) => "it executes",
                (_, true) => "it writes to",
                _ => "it reads from",
            };
            let wide = if arch.width() == Width::Bits64 { "64" } else { "32" };
            lifecycle::crash(
                domain,
                vcpu,
                arch,
                format_args!("{what} {gpa:#x}, where it has no memory ({wide}-bit code)"),
            );
        }
    }
}
