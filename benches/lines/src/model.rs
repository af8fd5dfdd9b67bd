//! The lines, the clocks, and the coroutines.

use crate::{HIT, LOCKED, MOVE, SPIN};
use generator::Gn;
use std::cell::RefCell;
use std::collections::HashMap;

/// CPUs that fit a set of sharers.
const MOST: usize = 256;
/// Stack of a coroutine, in machine words.
const STACK: usize = 1 << 14;

/// What an access does to its line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Load,
    Store,
    /// A locked instruction.
    Exchange,
}

#[derive(Default, Clone, Copy)]
struct Line {
    known: bool,
    /// The one that may write it, plus one.
    owner: usize,
    sharers: [u64; MOST / 64],
    /// When it may move again.
    free_at: u64,
}

impl Line {
    fn shared_by(&self, cpu: usize) -> bool {
        self.sharers[cpu / 64] & 1 << (cpu % 64) != 0
    }

    fn hit(&self, cpu: usize, kind: Kind) -> bool {
        self.owner == cpu + 1 || kind == Kind::Load && self.owner == 0 && self.shared_by(cpu)
    }

    fn take(&mut self, cpu: usize, kind: Kind) {
        if kind == Kind::Load && self.owner == cpu + 1 {
            // Its own reads leave it the owner.
        } else if kind == Kind::Load {
            if let Some(before) = self.owner.checked_sub(1) {
                self.sharers[before / 64] |= 1 << (before % 64);
            }
            // The first reader of a line is alone with it and may write it at once, as in MESI.
            self.owner = 0;
            if !self.known {
                self.owner = cpu + 1;
            }
            self.sharers[cpu / 64] |= 1 << (cpu % 64);
        } else {
            self.sharers = [0; MOST / 64];
            self.owner = cpu + 1;
        }
        self.known = true;
    }
}

#[derive(Default)]
struct Model {
    lines: HashMap<usize, Line>,
    clocks: Vec<u64>,
    /// Clock at which a CPU's measured part began.
    began: Vec<u64>,
    finished: Vec<bool>,
    /// CPUs that have called `reset_clocks`.
    warm: usize,
    now: usize,
    totals: Totals,
}

/// What a run took.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The longest time of any CPU since its [`reset_clocks`].
    pub time: u64,
    /// Lines moved from one CPU to others.
    pub moved: u64,
    /// Time spent waiting for a line that was on its way to somebody else.
    pub waited: u64,
}

thread_local! {
    static MODEL: RefCell<Option<Model>> = const { RefCell::new(None) };
}

/// One access of the CPU whose coroutine this is; nothing outside a run.
pub fn access(address: usize, kind: Kind) {
    loop {
        let done = MODEL.with_borrow_mut(|model| model.as_mut().is_none_or(|m| m.step(address >> 6, kind)));
        if done {
            return;
        }
        give_way();
    }
}

/// Lets the scheduler choose who goes on.
#[expect(deprecated, reason = "its successor wants a scope, which an atomic deep inside a call has not")]
fn give_way() {
    generator::yield_with(());
}

/// A full barrier.
pub fn barrier() {
    pass(LOCKED);
}

/// One turn of a loop that waits for another CPU.
pub fn spin() {
    pass(SPIN);
    if MODEL.with_borrow(Option::is_some) {
        give_way();
    }
}

fn pass(time: u64) {
    MODEL.with_borrow_mut(|model| {
        if let Some(m) = model {
            m.clocks[m.now] += time;
        }
    });
}

impl Model {
    /// Makes the access, or says that others must go on first.
    fn step(&mut self, number: usize, kind: Kind) -> bool {
        let (cpu, clock) = (self.now, self.clocks[self.now]);
        let line = self.lines.entry(number).or_default();
        let cost = if kind == Kind::Exchange { LOCKED } else { HIT };
        let behind = |other: usize| (self.clocks[other], other) < (clock, cpu) && !self.finished[other];
        if (0..self.clocks.len()).any(behind) {
            return false;
        }
        if line.known && !line.hit(cpu, kind) {
            let start = clock.max(line.free_at);
            self.clocks[cpu] = start + MOVE;
            // Readers of a shared line are served side by side; a writer has it alone.
            if kind != Kind::Load || line.owner != 0 {
                line.free_at = start + MOVE;
            }
            self.totals.waited += start - clock;
            self.totals.moved += 1;
        }
        line.take(cpu, kind);
        self.clocks[cpu] += cost;
        true
    }
}

/// Called once by the work of each CPU when its warm-up is over: all wait for the last, and time and moves
/// count from there.
pub fn reset_clocks() {
    MODEL.with_borrow_mut(|model| {
        let Some(m) = model else { return };
        m.warm += 1;
        if m.warm == m.clocks.len() {
            let latest = m.clocks.iter().copied().max().unwrap_or(0);
            m.clocks.fill(latest);
            m.began.fill(latest);
            m.totals = Totals::default();
        }
    });
    while MODEL.with_borrow(|model| model.as_ref().is_some_and(|m| m.warm < m.clocks.len())) {
        spin();
    }
}

/// Runs `work(cpu)` on so many CPUs.
///
/// # Panics
/// If there are more than 256, if a run is under way, or if a work panics.
pub fn run<'a>(cpus: usize, work: impl Fn(usize) + Copy + Send + 'a) -> Totals {
    assert!(cpus <= MOST);
    let fresh = Model {
        clocks: vec![0; cpus],
        began: vec![0; cpus],
        finished: vec![false; cpus],
        ..Model::default()
    };
    assert!(MODEL.replace(Some(fresh)).is_none(), "one run at a time");
    let mut players: Vec<_> = (0..cpus).map(|cpu| Gn::<()>::new_opt(STACK, move || work(cpu))).collect();
    loop {
        let next = MODEL.with_borrow_mut(|model| {
            let m = model.as_mut()?;
            m.now = (0..cpus).filter(|&c| !m.finished[c]).min_by_key(|&c| m.clocks[c])?;
            Some(m.now)
        });
        let Some(cpu) = next else { break };
        players[cpu].resume();
        if players[cpu].is_done() {
            MODEL.with_borrow_mut(|model| {
                if let Some(m) = model {
                    m.finished[cpu] = true;
                }
            });
        }
    }
    let model = MODEL.take().expect("put there above");
    let time = model.clocks.iter().zip(&model.began).map(|(end, start)| end - start).max();
    Totals { time: time.unwrap_or(0), ..model.totals }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::{AtomicU64, Ordering};

    #[test]
    fn own_lines_never_move_and_one_line_is_queued_for() {
        #[repr(align(64))]
        struct Own(AtomicU64);
        let own: Vec<Own> = (0..8).map(|_| Own(AtomicU64::new(0))).collect();
        let alone = run(8, |cpu| {
            for _ in 0..100 {
                own[cpu].0.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!((alone.moved, alone.waited), (0, 0));
        assert_eq!(alone.time, 100 * LOCKED);
        let one = Own(AtomicU64::new(0));
        let shared = run(8, |_| {
            for _ in 0..100 {
                one.0.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!(one.0.load(Ordering::Relaxed), 800);
        assert!(shared.moved >= 700, "{shared:?}");
        assert!(shared.time >= 700 * MOVE, "{shared:?}");
    }

    #[test]
    fn a_lock_is_waited_for_and_runs_repeat() {
        let play = || {
            // The words may share a line or not: their addresses are the stack's, the same in both runs.
            let (lock, inside) = (AtomicU64::new(0), AtomicU64::new(0));
            run(4, |_| {
                for _ in 0..50 {
                    while lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                        spin();
                    }
                    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two hold the lock");
                    spin();
                    inside.fetch_sub(1, Ordering::Relaxed);
                    lock.store(0, Ordering::Release);
                }
            })
        };
        let (first, second) = (play(), play());
        assert_eq!(first, second);
        assert!(first.moved > 0);
    }

    #[test]
    fn one_cpu_moves_nothing() {
        let word = AtomicU64::new(0);
        let totals = run(1, |_| {
            for _ in 0..10 {
                word.store(word.load(Ordering::Relaxed) + 1, Ordering::Release);
            }
        });
        assert_eq!((totals.moved, totals.time), (0, 20 * HIT));
    }

    #[test]
    fn readers_share() {
        let word = AtomicU64::new(7);
        let totals = run(16, |_| {
            for _ in 0..100 {
                assert_eq!(word.load(Ordering::Acquire), 7);
            }
        });
        assert!(totals.moved <= 15, "{totals:?}");
    }
}
