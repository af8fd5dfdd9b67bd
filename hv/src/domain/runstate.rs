//! How long a vCPU has been in which state (public/vcpu.h), and the guest's copy of it.
//!
//! The pCPU that changes a vCPU's state writes, and a waker leaves the time at which the vCPU became runnable;
//! anybody may read. Readers may see a state and a time that do not quite belong together while it
//! changes: it is an account, not a lock. The guest's copy is written by the same pCPU, around the
//! `XEN_RUNSTATE_UPDATE` flag if the guest has asked for that.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use gnttab_fast::types::PAGE_SIZE;
use spin::Once;

use crate::abi::vcpu::{
    RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, RUNSTATE_UPDATE, RunstateInfo,
};
use crate::arch::x86::time;
use crate::mm::shared::SharedFrame;
use crate::vt::Width;

/// The account of one vCPU.
#[derive(Debug)]
pub struct Runstate {
    state: AtomicU32,
    since: AtomicU64,
    spent: [AtomicU64; 4],
    /// When it became runnable after it was blocked or down; 0: it did not.
    woken: AtomicU64,
    area: Once<Area>,
}

/// The guest's copy: 4-aligned, in one or two frames of the domain.
#[derive(Debug)]
pub struct Area {
    /// The frame it begins in.
    pub first: SharedFrame,
    /// The frame it ends in, if that is another.
    pub second: Option<SharedFrame>,
    /// Where in the first.
    pub offset: usize,
    /// How it is laid out.
    pub width: Width,
}

impl Area {
    fn word(&self, at: usize) -> &AtomicU32 {
        let place = self.offset + at;
        match &self.second {
            Some(second) if place >= PAGE_SIZE => second.u32(place - PAGE_SIZE),
            _ => self.first.u32(place),
        }
    }

    fn write(&self, info: &RunstateInfo, flag: bool) {
        let (entry_at, times_at) = match self.width {
            Width::Bits64 => (8, 16),
            Width::Bits32 => (4, 12),
        };
        let put = |at: usize, value: u64| {
            let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
            self.word(at).store(u32::from_le_bytes([a, b, c, d]), Ordering::Release);
            self.word(at + 4).store(u32::from_le_bytes([e, f, g, h]), Ordering::Release);
        };
        if flag {
            put(entry_at, info.state_entry_time | RUNSTATE_UPDATE);
        }
        self.word(0).store(info.state, Ordering::Release);
        for (index, &time) in info.time.iter().enumerate() {
            put(times_at + index * 8, time);
        }
        put(entry_at, info.state_entry_time);
    }
}

impl Default for Runstate {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(RUNSTATE_OFFLINE),
            since: AtomicU64::new(0),
            spent: [const { AtomicU64::new(0) }; 4],
            woken: AtomicU64::new(0),
            area: Once::new(),
        }
    }
}

impl Runstate {
    /// A waker made the vCPU runnable.
    pub fn woke(&self) {
        self.woken.store(time::now_ns(), Ordering::Relaxed);
    }

    /// The vCPU is in `state` (`RUNSTATE_*`) from now on. For the pCPU that switches it in or out. With
    /// `flag` the guest wants to see when its copy is being written.
    pub fn enter(&self, state: u32, flag: bool) {
        let now = time::now_ns();
        self.enter_at(state, now);
        if let Some(area) = self.area.get() {
            area.write(&self.at(now), flag);
        }
    }

    /// Registers the guest's copy and writes it; false when there is one already.
    pub fn register(&self, area: Area, flag: bool) -> bool {
        let mut fresh = false;
        let area = self.area.call_once(|| {
            fresh = true;
            area
        });
        if fresh {
            area.write(&self.info(), flag);
        }
        fresh
    }

    fn enter_at(&self, state: u32, now: u64) {
        let account = self.at(now);
        for (own, spent) in self.spent.iter().zip(account.time) {
            own.store(spent, Ordering::Relaxed);
        }
        self.woken.store(0, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        self.state.store(state, Ordering::Relaxed);
    }

    /// The account as of now.
    #[must_use]
    pub fn info(&self) -> RunstateInfo {
        self.at(time::now_ns())
    }

    fn at(&self, now: u64) -> RunstateInfo {
        let state = self.state.load(Ordering::Relaxed);
        let since = self.since.load(Ordering::Relaxed);
        let woken = self.woken.load(Ordering::Relaxed);
        let mut spent = [0; 4];
        for (to, from) in spent.iter_mut().zip(&self.spent) {
            *to = from.load(Ordering::Relaxed);
        }
        let mut add = |state: u32, ns: u64| {
            if let Some(spent) = usize::try_from(state).ok().and_then(|state| spent.get_mut(state)) {
                *spent = spent.saturating_add(ns);
            }
        };
        if state != RUNSTATE_RUNNING && woken > since {
            add(state, woken - since);
            add(RUNSTATE_RUNNABLE, now.saturating_sub(woken));
            return RunstateInfo { state: RUNSTATE_RUNNABLE, pad: 0, state_entry_time: woken, time: spent };
        }
        add(state, now.saturating_sub(since));
        RunstateInfo { state, pad: 0, state_entry_time: since, time: spent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::vcpu::RUNSTATE_BLOCKED;

    #[test]
    fn every_nanosecond_is_in_one_state() {
        let run = Runstate::default();
        run.enter_at(RUNSTATE_RUNNING, 100);
        run.enter_at(RUNSTATE_BLOCKED, 150);
        assert_eq!((run.at(160).state, run.at(160).time), (RUNSTATE_BLOCKED, [50, 0, 10, 100]));
        run.woken.store(170, Ordering::Relaxed);
        assert_eq!((run.at(175).state, run.at(175).time), (RUNSTATE_RUNNABLE, [50, 5, 20, 100]));
        run.enter_at(RUNSTATE_RUNNING, 180);
        assert_eq!(run.at(180).time, [50, 10, 20, 100]);
        assert_eq!(run.at(181).time.iter().sum::<u64>(), 181);
    }
}
