//! The lines, the clocks, and the coroutines.

use generator::Gn;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// CPUs that fit a set of sharers.
const MOST: usize = 256;
/// Stack of a coroutine, in machine words.
const STACK: usize = 1 << 14;

/// What a machine takes, in picoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// A load or a store that hits.
    pub hit: u64,
    /// A locked instruction on a line the CPU owns.
    pub locked: u64,
    /// A full barrier with nothing to wait for.
    pub fence: u64,
    /// From asking for a line another CPU has to having it.
    pub moved: u64,
    /// Part of that which passes under other work of the CPU that asked.
    pub overlap: u64,
    /// How long a CPU keeps a line that others wait for.
    pub hold: u64,
    /// One turn of a loop that waits.
    pub spin: u64,
    /// What the program does beside each access.
    pub pace: u64,
    /// How much later each CPU begins than the one before it.
    pub stagger: u64,
}

/// What an access does to its line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Load,
    Store,
    /// A locked instruction.
    Exchange,
}

/// A line that has been asked for.
#[derive(Clone, Copy)]
struct Request {
    /// When it leaves whoever had it.
    leaves: u64,
    cpu: usize,
    /// To be written, so that nobody else keeps it.
    alone: bool,
}

#[derive(Default)]
struct Line {
    known: bool,
    /// The one that may write it, plus one.
    owner: usize,
    sharers: [u64; MOST / 64],
    /// Requests not yet served, in their order.
    asked: Vec<Request>,
    /// When the last that wants it alone will have had it.
    free: u64,
    /// When the last that wants to read it will have it.
    read: u64,
}

impl Line {
    fn shared_by(&self, cpu: usize) -> bool {
        self.sharers[cpu / 64] & 1 << (cpu % 64) != 0
    }

    /// Serves the requests whose time has come.
    fn settle(&mut self, now: u64) {
        let due = self.asked.iter().take_while(|r| r.leaves <= now).count();
        for r in self.asked.drain(..due) {
            if r.alone {
                self.sharers = [0; MOST / 64];
                self.owner = r.cpu + 1;
            } else {
                if let Some(before) = self.owner.checked_sub(1) {
                    self.sharers[before / 64] |= 1 << (before % 64);
                }
                self.owner = 0;
                self.sharers[r.cpu / 64] |= 1 << (r.cpu % 64);
            }
        }
    }

    fn hit(&self, cpu: usize, kind: Kind) -> bool {
        // A CPU sees what it has in its buffer.
        let buffered = || self.asked.iter().any(|r| r.cpu == cpu && r.alone);
        self.owner == cpu + 1
            || kind == Kind::Load && self.owner == 0 && self.shared_by(cpu)
            || kind != Kind::Exchange && buffered()
    }

    /// Asks for the line: when it is here, and how long the request waits for others.
    fn ask(&mut self, cpu: usize, alone: bool, now: u64, costs: &Costs) -> (u64, u64) {
        let there = now + costs.moved / 2;
        let leaves = there.max(self.free).max(if alone { self.read } else { 0 });
        let here = leaves + costs.moved.div_ceil(2);
        if alone {
            self.free = here + costs.hold;
        } else {
            self.read = self.read.max(here);
        }
        let at = self.asked.iter().take_while(|r| r.leaves <= leaves).count();
        self.asked.insert(at, Request { leaves, cpu, alone });
        (here, leaves - there)
    }
}

struct Model {
    costs: Costs,
    /// By their numbers. With a fixed hash: the order in which they are dropped decides where the next run's words
    /// lie.
    lines: HashMap<usize, Line, BuildHasherDefault<DefaultHasher>>,
    clocks: Vec<u64>,
    /// When the lines of all buffered stores are there.
    drained: Vec<u64>,
    /// Clock at which a CPU's measured part began.
    began: Vec<u64>,
    /// Those with work left and not running, by their clocks.
    waiting: BinaryHeap<Reverse<(u64, usize)>>,
    /// Clocks of others than the one that runs were changed.
    moved_clocks: bool,
    /// CPUs that have called `reset_clocks`.
    warm: usize,
    now: usize,
    /// Clock and number of the earliest of the others.
    next: (u64, usize),
    totals: Totals,
}

/// What a run took.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The longest time of any CPU since its [`reset_clocks`], in picoseconds.
    pub time: u64,
    /// Lines moved from one CPU to others.
    pub moved: u64,
    /// Time that requests for lines waited for other requests, in picoseconds.
    pub waited: u64,
    /// Requests that did.
    pub queued: u64,
    /// Accesses by all CPUs.
    pub accesses: u64,
}

thread_local! {
    static MODEL: RefCell<Option<Model>> = const { RefCell::new(None) };
}

/// One access of the CPU whose coroutine this is; nothing outside a run.
pub fn access(address: usize, kind: Kind) {
    wait_for_turn();
    let late = MODEL.with_borrow_mut(|model| model.as_mut().is_some_and(|m| m.step(address >> 6, kind)));
    if late {
        wait_for_turn();
    }
}

/// Lets those go on whose clocks are behind.
fn wait_for_turn() {
    while MODEL.with_borrow(|model| model.as_ref().is_some_and(Model::others_behind)) {
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
    MODEL.with_borrow_mut(|model| {
        if let Some(m) = model {
            m.drain();
            m.clocks[m.now] += m.costs.fence;
        }
    });
}

/// One turn of a loop that waits for another CPU.
pub fn spin() {
    let running = MODEL.with_borrow_mut(|model| {
        if let Some(m) = model {
            m.clocks[m.now] += m.costs.spin;
        }
        model.is_some()
    });
    if running {
        give_way();
    }
}

impl Model {
    /// Whether the earliest of the others, which stand still while this one runs, is behind.
    fn others_behind(&self) -> bool {
        self.next < (self.clocks[self.now], self.now)
    }

    /// Chooses who goes on, if anybody has work left.
    fn choose(&mut self) -> Option<usize> {
        let Reverse((_, first)) = self.waiting.pop()?;
        self.now = first;
        self.next = self.waiting.peek().map_or((u64::MAX, usize::MAX), |&Reverse(other)| other);
        Some(first)
    }

    /// Puts the one that ran back, or ends it.
    fn put_back(&mut self, done: bool) {
        let cpu = self.now;
        if !done {
            self.waiting.push(Reverse((self.clocks[cpu], cpu)));
        }
        if std::mem::take(&mut self.moved_clocks) {
            let left: Vec<usize> = self.waiting.drain().map(|Reverse((_, cpu))| cpu).collect();
            self.waiting.extend(left.into_iter().map(|cpu| Reverse((self.clocks[cpu], cpu))));
        }
    }

    /// Waits for the lines of buffered stores.
    fn drain(&mut self) {
        let cpu = self.now;
        self.clocks[cpu] = self.clocks[cpu].max(self.drained[cpu]);
    }

    /// Makes the access; true if it is to be waited for.
    fn step(&mut self, number: usize, kind: Kind) -> bool {
        if kind == Kind::Exchange {
            self.drain();
        }
        let (cpu, costs) = (self.now, self.costs);
        let line = self.lines.entry(number).or_default();
        line.settle(self.clocks[cpu]);
        self.totals.accesses += 1;
        let mut late = false;
        if !line.known {
            // The first to touch a line is alone with it and may write it at once.
            line.known = true;
            line.owner = cpu + 1;
        } else if !line.hit(cpu, kind) {
            let (here, waited) = line.ask(cpu, kind != Kind::Load, self.clocks[cpu], &costs);
            self.totals.moved += 1;
            self.totals.waited += waited;
            self.totals.queued += u64::from(waited > 0);
            if kind == Kind::Store {
                // The value is in memory already, which those who had a copy must not see before its time:
                // they lose it early.
                line.sharers = [0; MOST / 64];
                self.drained[cpu] = self.drained[cpu].max(here);
            } else {
                self.clocks[cpu] = here - costs.overlap.min(costs.moved);
                late = true;
            }
        }
        self.clocks[cpu] += costs.pace + if kind == Kind::Exchange { costs.locked } else { costs.hit };
        late
    }
}

/// Called once by the work of each CPU when its warm-up is over: all wait for the last, begin again one
/// after the other ([`Costs::stagger`]), and time and moves count from there.
pub fn reset_clocks() {
    MODEL.with_borrow_mut(|model| {
        let Some(m) = model else { return };
        m.warm += 1;
        if m.warm == m.clocks.len() {
            let latest = m.clocks.iter().copied().max().unwrap_or(0);
            for (cpu, clock) in m.clocks.iter_mut().enumerate() {
                *clock = latest + m.costs.stagger * cpu as u64;
            }
            m.began.clone_from(&m.clocks);
            m.moved_clocks = true;
            m.totals = Totals::default();
        }
    });
    while MODEL.with_borrow(|model| model.as_ref().is_some_and(|m| m.warm < m.clocks.len())) {
        spin();
    }
}

/// Runs `work(cpu)` on so many CPUs of a machine with these costs.
///
/// # Panics
/// If there are more than 256, if a run is under way, or if a work panics.
pub fn run<'a>(costs: Costs, cpus: usize, work: impl Fn(usize) + Copy + Send + 'a) -> Totals {
    assert!(cpus <= MOST);
    let fresh = Model {
        costs,
        lines: HashMap::default(),
        clocks: vec![0; cpus],
        drained: vec![0; cpus],
        began: vec![0; cpus],
        waiting: (0..cpus).map(|cpu| Reverse((0, cpu))).collect(),
        moved_clocks: false,
        warm: 0,
        now: 0,
        next: (0, 0),
        totals: Totals::default(),
    };
    assert!(MODEL.replace(Some(fresh)).is_none(), "one run at a time");
    let mut players: Vec<_> = (0..cpus).map(|cpu| Gn::<()>::new_opt(STACK, move || work(cpu))).collect();
    loop {
        let next = MODEL.with_borrow_mut(|model| model.as_mut().and_then(Model::choose));
        let Some(cpu) = next else { break };
        players[cpu].resume();
        let done = players[cpu].is_done();
        MODEL.with_borrow_mut(|model| {
            if let Some(m) = model {
                m.put_back(done);
            }
        });
    }
    let model = MODEL.take().expect("put there above");
    let time = model.clocks.iter().zip(&model.began).map(|(end, start)| end - start).max();
    Totals { time: time.unwrap_or(0), ..model.totals }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::{AtomicU64, Ordering};

    const COSTS: Costs =
        Costs { hit: 1, locked: 8, fence: 8, moved: 60, overlap: 0, hold: 0, spin: 15, pace: 0, stagger: 0 };

    #[test]
    fn own_lines_never_move_and_one_line_is_queued_for() {
        #[repr(align(64))]
        struct Own(AtomicU64);
        let own: Vec<Own> = (0..8).map(|_| Own(AtomicU64::new(0))).collect();
        let alone = run(COSTS, 8, |cpu| {
            for _ in 0..100 {
                own[cpu].0.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!((alone.moved, alone.waited), (0, 0));
        assert_eq!(alone.time, 100 * COSTS.locked);
        let one = Own(AtomicU64::new(0));
        let shared = run(COSTS, 8, |_| {
            for _ in 0..100 {
                one.0.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!(one.0.load(Ordering::Relaxed), 800);
        assert!(shared.moved >= 400, "{shared:?}");
        assert!(shared.time >= 350 * COSTS.moved, "{shared:?}");
    }

    #[test]
    fn a_lock_is_waited_for_and_runs_repeat() {
        let play = || {
            // The words may share a line or not: their addresses are the stack's, the same in both runs.
            let (lock, inside) = (AtomicU64::new(0), AtomicU64::new(0));
            run(COSTS, 4, |_| {
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
        let totals = run(COSTS, 1, |_| {
            for _ in 0..10 {
                word.store(word.load(Ordering::Relaxed) + 1, Ordering::Release);
            }
        });
        assert_eq!((totals.moved, totals.time), (0, 20 * COSTS.hit));
    }

    #[test]
    fn readers_share() {
        let word = AtomicU64::new(7);
        let totals = run(COSTS, 16, |_| {
            for _ in 0..100 {
                assert_eq!(word.load(Ordering::Acquire), 7);
            }
        });
        assert!(totals.moved <= 15, "{totals:?}");
    }
}
