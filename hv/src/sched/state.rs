//! The state of a vCPU and the protocol that loses no wake-up.
//!
//! Four states: *down* (never picked), *blocked*, *runnable* (its slot is in some pCPU's set, or is about to
//! be put there by whoever made it so), *running* (owned by one pCPU). Each change is a compare-exchange, so
//! each has one winner, and who makes a vCPU runnable is who puts it into a set, once.
//!
//! The **sleeper** is the pCPU that runs the vCPU, the **waker** anybody who gave it a reason to run (a
//! pending event, a fired timer, the domain's end):
//!
//! | sleeper | waker |
//! |---|---|
//! | 1. release the guest's registers | 1. publish the reason |
//! | 2. state: running -> blocked | 2. read the state: |
//! | 3. look for a reason; if there is one and the state still is blocked: blocked -> runnable | blocked: -> runnable, enqueue; running: kick if in guest mode |
//!
//! Every step is sequentially consistent. Then either the sleeper's step 2 precedes the waker's step 2, and
//! the waker sees *blocked* (or that the sleeper woke itself), or the waker's step 1 precedes the sleeper's
//! step 3, and the sleeper sees the reason. The same argument covers entry to guest mode: the runner sets
//! `in_guest`, then looks for reasons to inject; the waker publishes, then reads `in_guest` and sends an IPI
//! if it is set. The IPI reaches the pCPU at or after its entry (interrupts are off before it), which then
//! exits at once. A runner that comes from a hypercall does not look for reasons again, only at `told`, which a
//! waker sets that has found it in root mode: the runner sets `in_guest`, then reads `told`; the waker
//! sets `told`, then reads `in_guest` once more. A waker that reads *runnable* may leave: the state turns to *running* before the runner
//! looks.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// States of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Status {
    /// Not to be run.
    Down = 0,
    /// Waits for a reason to run.
    Blocked = 1,
    /// Waits for a pCPU.
    Runnable = 2,
    /// On a pCPU.
    Running = 3,
}

/// What a waker has to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Wake {
    /// The caller made it runnable: put it into a pCPU's set.
    Enqueue,
    /// It is in guest mode on this pCPU: send the kick.
    Kick(u32),
    /// It runs on this pCPU, in root mode: it will see the reason before it enters the guest.
    Look(u32),
    /// It will see the reason when it is run, or is down.
    Nothing,
}

/// The run state of one vCPU.
#[derive(Debug)]
pub struct RunState {
    status: AtomicU32,
    cpu: AtomicU32,
    in_guest: AtomicBool,
    /// A waker found it in root mode.
    told: AtomicBool,
}

impl RunState {
    /// Down, at home on `cpu`.
    #[must_use]
    pub const fn new(cpu: u32) -> Self {
        Self {
            status: AtomicU32::new(Status::Down as u32),
            cpu: AtomicU32::new(cpu),
            in_guest: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// The state at some moment.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.status.load(Ordering::SeqCst) {
            0 => Status::Down,
            1 => Status::Blocked,
            2 => Status::Runnable,
            _ => Status::Running,
        }
    }

    /// The pCPU it runs on or ran on last.
    #[must_use]
    pub fn cpu(&self) -> u32 {
        self.cpu.load(Ordering::SeqCst)
    }

    /// Changes the state if it is `from`; true for the one that did.
    pub fn change(&self, from: Status, to: Status) -> bool {
        self.status.compare_exchange(from as u32, to as u32, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Runnable to running on `cpu`. The number may lag behind the state for a moment; nobody is misled,
    /// because the vCPU is not in guest mode before it is stored.
    pub fn start(&self, cpu: u32) -> bool {
        let started = self.change(Status::Runnable, Status::Running);
        if started {
            self.cpu.store(cpu, Ordering::SeqCst);
        }
        started
    }

    /// The waker's second step. The reason must have been published, sequentially consistent, before.
    pub fn wake(&self) -> Wake {
        loop {
            match self.status() {
                Status::Blocked => {
                    if self.change(Status::Blocked, Status::Runnable) {
                        return Wake::Enqueue;
                    }
                }
                Status::Running if self.in_guest.load(Ordering::SeqCst) => return Wake::Kick(self.cpu()),
                Status::Running => {
                    self.told.store(true, Ordering::SeqCst);
                    // It may be on its way in, and have looked at `told` before we set it.
                    if self.in_guest.load(Ordering::SeqCst) {
                        return Wake::Kick(self.cpu());
                    }
                    return Wake::Look(self.cpu());
                }
                Status::Runnable | Status::Down => return Wake::Nothing,
            }
        }
    }

    /// Told by the runner before it looks for reasons and enters, and after it came back.
    #[inline]
    pub fn set_in_guest(&self, inside: bool) {
        if inside {
            self.in_guest.store(true, Ordering::SeqCst);
            if self.told.load(Ordering::SeqCst) {
                // Before it looks, so that it does not forget what it has not seen.
                self.told.store(false, Ordering::SeqCst);
            }
        } else {
            self.in_guest.store(false, Ordering::Release);
        }
    }

    /// The runner enters again and has not looked for reasons; false: it must, for somebody has told it so.
    #[inline]
    pub fn enter_again(&self) -> bool {
        self.in_guest.store(true, Ordering::SeqCst);
        !self.told.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::thread;

    use super::*;

    /// Two wakers against a vCPU that blocks whenever it has seen what there is: the queue never holds it
    /// twice, and what was published last is seen.
    #[test]
    fn no_wake_up_is_lost_and_none_is_doubled() {
        const ROUNDS: u32 = 20_000;
        let run = RunState::new(0);
        let reason = AtomicBool::new(false);
        let queued = AtomicU32::new(0);
        let wakers = AtomicU32::new(2);
        let enqueue = || assert_eq!(queued.fetch_add(1, Ordering::SeqCst), 0, "in the queue twice");
        assert!(run.change(Status::Down, Status::Blocked));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        reason.store(true, Ordering::SeqCst);
                        if run.wake() == Wake::Enqueue {
                            enqueue();
                        }
                    }
                    wakers.fetch_sub(1, Ordering::SeqCst);
                });
            }
            scope.spawn(|| {
                loop {
                    let last = wakers.load(Ordering::SeqCst) == 0;
                    if queued.load(Ordering::SeqCst) == 0 {
                        // Nobody wakes any more and nothing is queued: then nothing may be left to see.
                        if last {
                            assert!(!reason.load(Ordering::SeqCst), "a wake-up was lost");
                            return;
                        }
                        thread::yield_now();
                        continue;
                    }
                    queued.fetch_sub(1, Ordering::SeqCst);
                    assert!(run.start(0));
                    run.set_in_guest(true);
                    reason.store(false, Ordering::SeqCst);
                    run.set_in_guest(false);
                    assert!(run.change(Status::Running, Status::Blocked));
                    if reason.load(Ordering::SeqCst) && run.change(Status::Blocked, Status::Runnable) {
                        enqueue();
                    }
                }
            });
        });
    }

    /// A runner that only looks at `told` between entries, against a waker: what was published is seen, or a
    /// kick is on its way.
    #[test]
    fn who_enters_again_without_looking_is_told() {
        const ROUNDS: u32 = 20_000;
        let run = RunState::new(0);
        assert!(run.change(Status::Down, Status::Runnable) && run.start(0));
        let (published, kicks) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    published.store(round, Ordering::SeqCst);
                    if matches!(run.wake(), Wake::Kick(_)) {
                        kicks.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            scope.spawn(|| {
                let (mut seen, mut taken) = (0, 0);
                while seen < ROUNDS {
                    run.set_in_guest(true);
                    seen = published.load(Ordering::SeqCst);
                    run.set_in_guest(false);
                    // Hypercalls, until something is to be seen: a kick ends guest mode, `told` forbids it.
                    let mut again = 0u32;
                    while run.enter_again() && kicks.load(Ordering::SeqCst) == taken {
                        run.set_in_guest(false);
                        again += 1;
                        assert!(again < 100_000_000 || seen < published.load(Ordering::SeqCst));
                        if again.is_multiple_of(1024) {
                            thread::yield_now();
                        }
                        // The waker has ended: nothing may be left unseen without a sign.
                        if published.load(Ordering::SeqCst) == ROUNDS && seen == ROUNDS {
                            return;
                        }
                    }
                    taken = kicks.load(Ordering::SeqCst);
                    run.set_in_guest(false);
                }
            });
        });
    }

    #[test]
    fn a_waker_is_told_what_is_left_to_do() {
        let run = RunState::new(3);
        assert_eq!(run.wake(), Wake::Nothing);
        assert!(!run.start(1), "down is not runnable");
        assert!(run.change(Status::Down, Status::Runnable));
        assert_eq!(run.wake(), Wake::Nothing);
        assert!(run.start(5));
        assert_eq!(run.wake(), Wake::Look(5));
        run.set_in_guest(true);
        assert_eq!(run.wake(), Wake::Kick(5));
        run.set_in_guest(false);
        assert!(run.change(Status::Running, Status::Blocked));
        assert_eq!(run.wake(), Wake::Enqueue);
        assert_eq!(run.status(), Status::Runnable);
    }
}
