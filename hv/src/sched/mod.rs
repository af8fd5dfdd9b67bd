//! Scheduling of vCPUs on pCPUs.
//!
//! Each pCPU has sets of vCPU slots ([`set::SlotSet`]): those that were just woken, those that wait their
//! turn, and those whose timers it keeps. Waking inserts a bit with one atomic operation on any pCPU; there
//! is no queue to lock and nothing to allocate. [`state`] tells why no wake-up is lost.
//!
//! Turns go round by slot number. A woken vCPU comes before those that wait, and cuts the turn of the one
//! that runs to [`WOKEN_SLICE_NS`]; otherwise a turn lasts [`SLICE_NS`] if anybody waits, and without end if
//! nobody does. A pCPU with nothing to do takes work that waits on others before it sleeps.
#![forbid(unsafe_code)]

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::arch::x86::{
    apic,
    percpu::{self, PerCpu},
    time, vectors,
};
use crate::domain::{Domain, Vcpu, table, vcpu::NO_TIMER};
use crate::epoch;

pub mod cpuset;
mod exit;
mod lapic;
mod run;
pub mod set;
pub mod slots;
pub mod state;
pub mod timer;

pub use run::cpu_loop;

use set::SlotSet;
use state::{Status, Wake};

/// A turn while others wait.
pub const SLICE_NS: u64 = 10_000_000;
/// A turn while somebody waits who was just woken. Long enough for a backend to hand on a ring's worth of small
/// packets before the frontend that it wakes fills the ring again: with 1 ms on one pCPU the receiver of a
/// UDP flood lost a third of it, with more than this the other direction loses instead.
pub const WOKEN_SLICE_NS: u64 = 1_500_000;

/// The scheduler's part of a per-CPU block.
#[derive(Debug)]
pub struct CpuSched {
    /// Woken and not run since: picked first.
    woken: SlotSet,
    /// Waiting for their turn.
    waiting: SlotSet,
    /// vCPUs whose timers this pCPU watches. Only this pCPU touches it.
    timers: SlotSet,
    /// The earliest of those timers, in ns, or `NO_TIMER`; only this pCPU touches it.
    next_timer: AtomicU64,
    /// TSC value at which the current vCPU's turn ends.
    slice_end: AtomicU64,
    /// Somebody wants the current vCPU to look around: an event, a kick, a woken vCPU.
    attention: AtomicBool,
    /// Nothing to run: sleeping, or about to.
    idle: AtomicBool,
    /// The slot the round goes on behind.
    cursor: AtomicUsize,
}

impl Default for CpuSched {
    fn default() -> Self {
        Self {
            woken: SlotSet::new(),
            waiting: SlotSet::new(),
            timers: SlotSet::new(),
            next_timer: AtomicU64::new(NO_TIMER),
            slice_end: AtomicU64::new(0),
            attention: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            cursor: AtomicUsize::new(0),
        }
    }
}

/// Something happened that `vcpu` must see: runs it if it is blocked, gets it out of guest mode if it runs
/// there. The reason must be visible (sequentially consistent) before the call.
pub fn wake(vcpu: &Vcpu) {
    match vcpu.run.wake() {
        Wake::Enqueue => {
            vcpu.runstate.woke();
            enqueue(vcpu, true);
        }
        Wake::Kick(cpu) => kick(cpu),
        // In root mode it looks before it enters, but what it is doing may be long.
        Wake::Look(cpu) => {
            if let Some(cpu) = percpu::get(cpu) {
                cpu.sched.attention.store(true, Ordering::Relaxed);
            }
        }
        Wake::Nothing => {}
    }
}

/// Brings a vCPU up, whose registers are set; true when it was down.
pub fn start_vcpu(vcpu: &Vcpu) -> bool {
    let news = vcpu.set_up(true);
    if vcpu.run.change(Status::Down, Status::Runnable) {
        vcpu.runstate.woke();
        enqueue(vcpu, true);
    }
    news
}

/// Makes a vCPU go down that may run on another pCPU: at once if it is blocked, else when it leaves the guest.
pub fn stop_vcpu(vcpu: &Vcpu) {
    vcpu.set_up(false);
    if !vcpu.run.change(Status::Blocked, Status::Down) {
        wake(vcpu);
    }
}

/// Deadlines of the vCPU that runs here have been set.
pub fn timers_changed(vcpu: &Vcpu) {
    let own = &percpu::this().sched;
    timer::adopt(own, vcpu);
    // The local APIC is to be set anew before the guest goes on.
    own.attention.store(true, Ordering::Relaxed);
}

/// Gets a pCPU out of guest mode or out of its sleep.
fn kick(cpu: u32) {
    if let Some(target) = percpu::get(cpu) {
        target.sched.attention.store(true, Ordering::SeqCst);
        if cpu != percpu::cpu_id() {
            apic::send_ipi(cpu, vectors::VEC_KICK);
        }
    }
}

/// Puts a runnable vCPU into a pCPU's set: an idle one if there is any, at home if that is idle too.
fn enqueue(vcpu: &Vcpu, woken: bool) {
    let home = vcpu.run.cpu();
    let is_idle = |cpu: u32| {
        vcpu.affinity.contains(cpu)
            && percpu::get(cpu).is_some_and(|other| other.sched.idle.load(Ordering::Relaxed))
    };
    let cpu = if is_idle(home) {
        home
    } else {
        let idle = (0..percpu::cpus_online()).find(|&cpu| is_idle(cpu));
        idle.unwrap_or(home)
    };
    // The home of a vCPU is a pCPU of its affinity that is online: the builder saw to it.
    let Some(target) = percpu::get(cpu) else { return };
    let set = if woken { &target.sched.woken } else { &target.sched.waiting };
    set.insert(vcpu.slot);
    // Insert, then look whether it sleeps; the pCPU says that it sleeps, then looks into its sets.
    if cpu == percpu::cpu_id() {
        target.sched.attention.store(true, Ordering::Relaxed);
    } else if woken || target.sched.idle.load(Ordering::SeqCst) {
        kick(cpu);
    } else {
        // No hurry, but its next turn shall have an end.
        target.sched.attention.store(true, Ordering::SeqCst);
    }
}

/// Whether a long operation shall stop at its next safe point: the vCPU's turn is over, or somebody wants its
/// attention.
#[must_use]
#[inline]
pub fn should_yield() -> bool {
    let sched = &percpu::this().sched;
    sched.attention.load(Ordering::Relaxed) || time::rdtsc() >= sched.slice_end.load(Ordering::Relaxed)
}

/// The vCPU a slot belongs to.
fn resolve(slot: usize) -> Option<(Arc<Domain>, u32)> {
    let (domid, vcpu) = slots::owner(slot)?;
    let guard = epoch::pin();
    Some((Arc::clone(table::arc(domid, &guard)?), vcpu))
}

/// Takes the next vCPU to run here, first from this pCPU's sets, then from the others'.
fn pick(cpu: &PerCpu) -> Option<(Arc<Domain>, u32)> {
    let own = &cpu.sched;
    loop {
        let from = own.cursor.load(Ordering::Relaxed) + 1;
        let next = own.woken.next(from).filter(|&slot| own.woken.remove(slot)).or_else(|| {
            let slot = own.waiting.next(from)?;
            own.cursor.store(slot, Ordering::Relaxed);
            own.waiting.remove(slot).then_some(slot)
        });
        let Some(slot) = next else {
            if own.woken.is_empty() && own.waiting.is_empty() {
                break;
            }
            // Another pCPU took it between the look and the removal.
            continue;
        };
        if let Some(found) = claim(slot, cpu.id) {
            return Some(found);
        }
    }
    (0..percpu::cpus_online()).filter(|&id| id != cpu.id).find_map(|id| steal(percpu::get(id)?, cpu.id))
}

/// Takes a vCPU that waits on a busy pCPU.
fn steal(from: &PerCpu, to: u32) -> Option<(Arc<Domain>, u32)> {
    if from.sched.idle.load(Ordering::Relaxed) {
        return None;
    }
    [&from.sched.woken, &from.sched.waiting].into_iter().find_map(|set| {
        set.iter().find_map(|slot| {
            let (domain, id) = resolve(slot)?;
            let fits = domain.vcpu(id).is_some_and(|vcpu| vcpu.affinity.contains(to));
            if fits && set.remove(slot) { claim(slot, to) } else { None }
        })
    })
}

/// Makes a slot that was taken out of a set run here; `None` when it went down meanwhile.
fn claim(slot: usize, cpu: u32) -> Option<(Arc<Domain>, u32)> {
    let (domain, id) = resolve(slot)?;
    let started = domain.vcpu(id)?.run.start(cpu);
    started.then_some((domain, id))
}
