//! Timers of vCPUs: the single-shot and the periodic timer, the time limit of `SCHEDOP_poll` and the local APIC's
//! timer.
//!
//! A deadline stands in the vCPU (its own hypercalls set it); the pCPU the vCPU runs on, or ran on last, watches it. When a vCPU is
//! switched in elsewhere its new pCPU watches as well, and the old one forgets it at its next look; should
//! both find the deadline passed, the compare-exchange lets one of them fire it. So each pCPU touches only
//! its own set and its own local APIC.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use super::{CpuSched, resolve, wake};
use crate::abi::xen::VIRQ_TIMER;
use crate::arch::x86::{apic, percpu, time};
use crate::domain::{
    Vcpu,
    vcpu::{NO_TIMER, NOT_POLLING, POLL_DONE},
};
use crate::event;

/// A vCPU was switched in, or its deadlines changed while it runs here: they are this pCPU's to watch.
pub(super) fn adopt(own: &CpuSched, vcpu: &Vcpu) {
    let first = earliest(vcpu);
    if first != NO_TIMER {
        own.timers.insert(vcpu.slot);
        own.next_timer.fetch_min(first, Ordering::Relaxed);
    }
}

fn earliest(vcpu: &Vcpu) -> u64 {
    [&vcpu.timer_ns, &vcpu.tick_ns, &vcpu.poll_until_ns, &vcpu.lapic.timer_ns]
        .into_iter()
        .fold(NO_TIMER, |first, deadline| first.min(deadline.load(Ordering::SeqCst)))
}

impl CpuSched {
    /// The earliest deadline watched here, in ns.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        Some(self.next_timer.load(Ordering::Relaxed)).filter(|&ns| ns != NO_TIMER)
    }
}

/// Fires what is due on this pCPU.
pub(super) fn expire(own: &CpuSched) {
    if own.next_deadline().is_none_or(|first| time::now_ns() < first) {
        return;
    }
    let now = time::now_ns();
    let mut next = NO_TIMER;
    for slot in own.timers.iter() {
        let Some((domain, id)) = resolve(slot) else {
            own.timers.remove(slot);
            continue;
        };
        let Some(vcpu) = domain.vcpu(id) else { continue };
        if fired(&vcpu.timer_ns, now) {
            event::raise_virq(&domain, id, VIRQ_TIMER);
        }
        let tick = vcpu.tick_ns.load(Ordering::SeqCst);
        if fired(&vcpu.tick_ns, now) {
            let next = next_tick(tick, vcpu.tick_period_ns.load(Ordering::SeqCst), now);
            // Stopped, or set anew, since: then that holds.
            let _ = vcpu.tick_ns.compare_exchange(NO_TIMER, next, Ordering::SeqCst, Ordering::SeqCst);
            if vcpu.tick_period_ns.load(Ordering::SeqCst) == 0 {
                vcpu.tick_ns.store(NO_TIMER, Ordering::SeqCst);
            }
            event::raise_virq(&domain, id, VIRQ_TIMER);
        }
        if fired(&vcpu.poll_until_ns, now) {
            end_poll(vcpu);
        }
        if fired(&vcpu.lapic.timer_ns, now) && vcpu.lapic.timer_fired(now) {
            wake(vcpu);
        }
        let left = earliest(vcpu);
        if left == NO_TIMER || vcpu.run.cpu() != percpu::cpu_id() {
            own.timers.remove(slot);
        } else {
            next = next.min(left);
        }
    }
    own.next_timer.store(next, Ordering::Relaxed);
}

/// Whether a deadline has passed and this call is the one that fires it.
fn fired(deadline: &AtomicU64, now: u64) -> bool {
    let due = deadline.load(Ordering::SeqCst);
    due <= now
        && due != NO_TIMER
        && deadline.compare_exchange(due, NO_TIMER, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// The tick after `now` of a timer that was due at `due`: ticks that were missed are one.
fn next_tick(due: u64, period: u64, now: u64) -> u64 {
    let late = now.saturating_sub(due);
    match late.checked_rem(period) {
        Some(into) => now.saturating_add(period - into),
        None => NO_TIMER,
    }
}

/// The time limit of a poll is over.
fn end_poll(vcpu: &Vcpu) {
    let waits = vcpu.poll.load(Ordering::SeqCst);
    if waits != NOT_POLLING
        && waits != POLL_DONE
        && vcpu.poll.compare_exchange(waits, POLL_DONE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    {
        wake(vcpu);
    }
}

/// Arms this pCPU's local APIC for the earlier of the end of a turn (a TSC value) and the first deadline.
pub(super) fn arm(own: &CpuSched, turn_end: Option<u64>) {
    let timer = own.next_deadline().map(time::ns_to_tsc);
    let first = match (turn_end, timer) {
        (Some(turn), Some(timer)) => Some(turn.min(timer)),
        (turn, timer) => turn.or(timer),
    };
    apic::arm_oneshot(first);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_keep_their_beat_and_missed_ones_are_one() {
        assert_eq!(next_tick(100, 10, 100), 110);
        assert_eq!(next_tick(100, 10, 103), 110);
        assert_eq!(next_tick(100, 10, 147), 150);
        assert_eq!(next_tick(100, 0, 147), NO_TIMER);
        assert_eq!(next_tick(1, u64::MAX - 1, 5), u64::MAX);
    }
}
