//! The loop of a pCPU: pick a vCPU, run it until its turn is over or it blocks, sleep when there is none.
//!
//! No vCPU has a host stack: everything that must survive an exit is in the vCPU, and a hypercall that is not
//! finished leaves the rest of its work in the guest's registers. Between two entries the loop sends pending
//! interrupts in, fires timers and looks whether somebody else's turn has come.
//!
//! After a hypercall that is done it does not look for all of that again. Whoever has something for the vCPU says so
//! ([`super::wake`]), whoever has something for the pCPU sets `attention`, and deadlines are the local APIC's, which
//! was set when the loop looked last: it is only the one byte that the guest may write itself,
//! `evtchn_upcall_pending`, that is looked at.
#![forbid(unsafe_code)]

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{CpuSched, SLICE_NS, WOKEN_SLICE_NS, enqueue, exit, pick, state::Status, timer};
use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING};
use crate::arch::x86::{
    irq,
    percpu::{self, PerCpu},
    time,
};
use crate::dev::input;
use crate::domain::{
    Domain, Life, Vcpu, lifecycle,
    vcpu::{NO_TIMER, NOT_POLLING, POLL_DONE},
};
use crate::{epoch, event, vt};

/// Why a vCPU left its pCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    /// Its turn is over, or it gave it up.
    Turn,
    /// It has nothing to do until something happens.
    Block {
        /// It would take an interrupt.
        interruptible: bool,
    },
    /// It or its domain is not to run any more.
    Down,
}

/// Schedules vCPUs on this pCPU for ever.
pub fn cpu_loop() -> ! {
    let cpu = percpu::this();
    loop {
        timer::expire(&cpu.sched);
        input::work();
        let more = lifecycle::work();
        if let Some((domain, id)) = pick(cpu) {
            if let Some(vcpu) = domain.vcpu(id) {
                turn(cpu, &domain, vcpu);
            }
            irq::window();
        } else if more {
            epoch::collect_some();
            irq::window();
        } else {
            idle(cpu);
        }
    }
}

/// Sleeps until something is to be done here.
fn idle(cpu: &PerCpu) {
    epoch::collect_some();
    let own = &cpu.sched;
    own.idle.store(true, Ordering::SeqCst);
    // Behind the store: whoever inserted before it is seen here, whoever inserts behind it sees it and sends a
    // kick, which waits until `idle` opens interrupts.
    if own.woken.is_empty() && own.waiting.is_empty() && !lifecycle::pending() {
        timer::arm(own, None);
        irq::idle();
    }
    own.idle.store(false, Ordering::SeqCst);
    own.attention.store(false, Ordering::Relaxed);
}

/// One turn of a vCPU that `pick` has made running here.
fn turn(cpu: &PerCpu, domain: &Arc<Domain>, vcpu: &Vcpu) {
    let Some(mut arch) = vcpu.arch.try_lock() else {
        // Only whoever sets up a vCPU that is down holds it otherwise, for a moment.
        put_back(vcpu);
        return;
    };
    cpu.current.set_vcpu(Some((domain.id.0, vcpu.id)));
    domain.counters.scheduled.add(1);
    let flag = domain.runstate_update_flag.load(Ordering::Relaxed);
    vcpu.runstate.enter(RUNSTATE_RUNNING, flag);
    vcpu.poll.store(NOT_POLLING, Ordering::SeqCst);
    vcpu.poll_until_ns.store(NO_TIMER, Ordering::SeqCst);
    timer::adopt(&cpu.sched, vcpu);
    arch.load();
    let leave = run(cpu, domain, vcpu, &mut arch);
    vcpu.run.set_in_guest(false);
    arch.unload();
    drop(arch);
    cpu.current.set_vcpu(None);
    let state = match leave {
        Leave::Turn => RUNSTATE_RUNNABLE,
        Leave::Block { .. } => RUNSTATE_BLOCKED,
        Leave::Down => RUNSTATE_OFFLINE,
    };
    vcpu.runstate.enter(state, flag);
    // From here on another pCPU may run it.
    match leave {
        Leave::Turn => put_back(vcpu),
        Leave::Block { interruptible } => {
            vcpu.run.change(Status::Running, Status::Blocked);
            if reason_to_run(domain, vcpu, interruptible)
                && vcpu.run.change(Status::Blocked, Status::Runnable)
            {
                enqueue(vcpu, true);
            }
        }
        Leave::Down => {
            vcpu.run.change(Status::Running, Status::Down);
            if domain.life() != Life::Running {
                lifecycle::went_down(domain);
            } else if vcpu.is_up() && vcpu.run.change(Status::Down, Status::Runnable) {
                // Brought up again while it was on its way down.
                enqueue(vcpu, true);
            }
        }
    }
}

fn put_back(vcpu: &Vcpu) {
    if vcpu.run.change(Status::Running, Status::Runnable) {
        enqueue(vcpu, false);
    }
}

/// The sleeper's third step (see [`super::state`]).
fn reason_to_run(domain: &Domain, vcpu: &Vcpu, interruptible: bool) -> bool {
    let pending = || vcpu.info(domain).is_some_and(|info| info.upcall_pending().load(Ordering::SeqCst) != 0);
    vcpu.poll.load(Ordering::SeqCst) == POLL_DONE
        || (interruptible
            && (pending() || event::upcall_wanted(domain, vcpu).is_some() || vcpu.lapic.wanted(0).is_some()))
        || domain.life() != Life::Running
        || !vcpu.is_up()
}

/// Runs the guest until it has to leave this pCPU.
fn run(cpu: &PerCpu, domain: &Arc<Domain>, vcpu: &Vcpu, arch: &mut vt::Vcpu) -> Leave {
    let own = &cpu.sched;
    let start = time::rdtsc();
    let slice = |ns: u64| start.saturating_add(time::ns_to_tsc(ns).saturating_sub(time::ns_to_tsc(0)));
    let (whole, short) = (slice(SLICE_NS), slice(WOKEN_SLICE_NS));
    loop {
        timer::expire(own);
        // Everything below looks for reasons, so it comes behind this (see `state`).
        vcpu.run.set_in_guest(true);
        own.attention.store(false, Ordering::SeqCst);
        if domain.life() != Life::Running || !vcpu.is_up() {
            return Leave::Down;
        }
        let end = turn_end(own, whole, short);
        if end.is_some_and(|end| time::rdtsc() >= end) {
            return Leave::Turn;
        }
        own.slice_end
            .store(end.unwrap_or_else(|| time::rdtsc().saturating_add(whole - start)), Ordering::Relaxed);
        inject(domain, vcpu, arch);
        timer::arm(own, end);
        if let Some(leave) = straight(cpu, domain, vcpu, arch) {
            return leave;
        }
    }
}

/// Runs the guest for as long as it makes hypercalls only, behind which there is no reason to look around (module
/// docs). By itself, so that what it holds is in registers.
#[inline(never)]
fn straight(cpu: &PerCpu, domain: &Arc<Domain>, vcpu: &Vcpu, arch: &mut vt::Vcpu) -> Option<Leave> {
    let own = &cpu.sched;
    let pins = cpu.epoch.pins();
    // Where this byte is changes but once: who registers another place tells this loop to end.
    let upcall_pending = vcpu.info(domain).map(|info| info.upcall_pending());
    loop {
        let exit = arch.run(cpu, &domain.tlb);
        vcpu.run.set_in_guest(false);
        match exit::handle(cpu, pins, domain, vcpu, arch, exit) {
            exit::Next::Straight => {}
            exit::Next::Enter => return None,
            exit::Next::Leave(leave) => return Some(leave),
        }
        // It is marked as in guest mode, and then looked.
        let straight_on = vcpu.run.enter_again()
            && !own.attention.load(Ordering::SeqCst)
            && upcall_pending.is_none_or(|pending| pending.load(Ordering::SeqCst) == 0);
        if !straight_on {
            return None;
        }
    }
}

/// When the turn ends, given who waits now.
fn turn_end(own: &CpuSched, whole: u64, short: u64) -> Option<u64> {
    // A guest that never leaves must not keep the dead ones from being taken apart.
    if !own.woken.is_empty() || lifecycle::pending() {
        Some(short)
    } else if !own.waiting.is_empty() {
        Some(whole)
    } else {
        None
    }
}

/// Sends the event upcall in if one is due, else what the local APIC has, or asks for the moment at which it can be sent.
fn inject(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu) {
    let upcall = event::upcall_wanted(domain, vcpu);
    let Some(vector) = upcall.or_else(|| vcpu.lapic.wanted(arch.cr8())) else { return };
    if arch.can_take_interrupt() || arch.end_shadowed_halt(&domain.p2m, &epoch::pin()) {
        arch.inject_vector(vector);
        if upcall.is_some() {
            event::upcall_delivered(vcpu);
            // The local APIC's comes behind it, without waiting for an exit of another reason.
            if vcpu.lapic.wanted(arch.cr8()).is_some() {
                arch.request_window(true);
            }
        } else {
            vcpu.lapic.delivered(vector);
        }
    } else {
        arch.request_window(true);
    }
}
