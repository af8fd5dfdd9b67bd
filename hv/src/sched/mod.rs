//! Scheduling of vCPUs on pCPUs.
//!
//! Each pCPU has sets of vCPU slots ([`set::SlotSet`]): those that were just woken, those that wait their
//! turn, and those whose timers it keeps. Waking inserts a bit with one atomic operation on any pCPU; there
//! is no queue to lock and nothing to allocate. [`state`] tells why no wake-up is lost.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::arch::x86::{percpu, time};
use crate::domain::Vcpu;

pub mod cpuset;
pub mod set;
pub mod state;

use set::SlotSet;

/// The scheduler's part of a per-CPU block.
#[derive(Debug, Default)]
pub struct CpuSched {
    /// Woken and not run since: picked first.
    woken: SlotSet,
    /// Waiting for their turn.
    waiting: SlotSet,
    /// vCPUs whose single-shot timers this pCPU watches.
    timers: SlotSet,
    /// TSC value at which the current vCPU's turn ends.
    slice_end: AtomicU64,
    /// Somebody wants the current vCPU to look around: an event, a kick, a woken vCPU.
    attention: AtomicBool,
    /// Nothing to run: sleeping, or about to.
    idle: AtomicBool,
    /// Where the round goes on.
    cursor: AtomicU32,
}

/// Schedules vCPUs on this pCPU for ever.
pub fn cpu_loop() -> ! {
    todo!()
}

/// Something happened that `vcpu` must see: runs it if it is blocked, gets it out of guest mode if it runs
/// there. The reason must be visible (sequentially consistent) before the call.
pub fn wake(vcpu: &Vcpu) {
    let _ = vcpu;
    todo!()
}

/// Whether a long operation shall stop at its next safe point: the vCPU's turn is over, or somebody wants its
/// attention.
#[must_use]
#[inline]
pub fn should_yield() -> bool {
    let sched = &percpu::this().sched;
    sched.attention.load(Ordering::Relaxed) || time::rdtsc() >= sched.slice_end.load(Ordering::Relaxed)
}
