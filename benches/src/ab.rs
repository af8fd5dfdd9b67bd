//! Two players in turns: short samples of each, alternating, so that a busy neighbour or a change of clock
//! meets both; medians, and the median of the paired ratios with its confidence interval.
//!
//! A sample during which a thread lost its processor says nothing about the work: it is thrown away and taken
//! again, up to a limit; a row tells how many were left ([`Row::clean`]).
//!
//! Two threads are measured on a processor each. They meet before the work by spinning, each takes its own
//! time, and who is done first goes on working until the other is done too, so that all that is timed runs
//! beside the other thread. Nothing that wakes a sleeper is inside the timing, and the number of repetitions
//! is found by the work's own time: a futex's wake-up takes longer than a sample does.

use crate::lines::LineCosts;
use crate::placement::{Placement, switches};
use serde::{Deserialize, Serialize};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a sample lasts at least.
const SAMPLE: Duration = Duration::from_micros(400);
/// Samples tried for each that is wanted, before disturbed ones are taken.
const TRIES: usize = 4;
/// Turns of a loop that waits for the other thread before it lets somebody else run.
const PATIENCE: u32 = 1 << 14;

/// One line of the results.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Row {
    /// The workload.
    pub name: String,
    /// What the figures count.
    pub unit: String,
    /// Ours, median.
    pub ours: f64,
    /// The baseline, median.
    pub peer: f64,
    /// Peer divided by ours: how many times faster ours is. Median of paired samples.
    pub ratio: f64,
    /// 95 % confidence interval of that median.
    pub ratio_ci: (f64, f64),
    /// Pairs of samples behind it.
    pub samples: usize,
    /// Those during which no thread lost its processor. Fewer than `samples` only on a busy machine.
    pub clean: usize,
    /// Events per element, where there is a counter for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<Counters>,
    /// What cache lines cost when it was measured, in rows of two threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<LineCosts>,
}

/// What the processor counted per element, ours and the baseline's.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Counters {
    /// Ours.
    pub ours: Events,
    /// The baseline's.
    pub peer: Events,
}

/// Events per element.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct Events {
    /// Core cycles.
    pub cycles: f64,
    /// Instructions retired.
    pub instructions: f64,
    /// Branches predicted wrong.
    pub branch_misses: f64,
    /// Misses of the last cache level.
    pub cache_misses: f64,
}

/// A sample: how long, and whether the thread was left alone.
struct Sample {
    took: Duration,
    clean: bool,
}

/// Compares two closures that each do `elements` elements of work.
pub fn compare(
    name: &str,
    unit: &str,
    elements: usize,
    samples: usize,
    mut ours: impl FnMut(),
    mut peer: impl FnMut(),
) -> Row {
    let mut ours = |n| time(&mut ours, n);
    let mut peer = |n| time(&mut peer, n);
    compare_timed(name, unit, elements, samples, &mut ours, &mut peer)
}

/// Compares two players of two threads each, on the processors `cpus`. A sample takes as long as its slower
/// thread.
pub fn compare_pairs(
    name: &str,
    unit: &str,
    elements: usize,
    samples: usize,
    cpus: [usize; 2],
    ours: [&mut (dyn FnMut() + Send); 2],
    peer: [&mut (dyn FnMut() + Send); 2],
) -> Row {
    let ([ours0, ours1], [peer0, peer1]) = (ours, peer);
    let meeting = Meeting::default();
    let before = Placement::now().ok();
    thread::scope(|s| {
        s.spawn(|| {
            Placement::pin(cpus[1]);
            while let Some((second, n)) = meeting.order() {
                meeting.work(if second { &mut *peer1 } else { &mut *ours1 }, n);
            }
        });
        Placement::pin(cpus[0]);
        let mut ours = |n| meeting.lead(false, &mut *ours0, n);
        let mut peer = |n| meeting.lead(true, &mut *peer0, n);
        let row = compare_timed(name, unit, elements, samples, &mut ours, &mut peer);
        meeting.order.store(Meeting::STOP, Ordering::Release);
        if let Some(before) = before {
            before.apply();
        }
        row
    })
}

/// Where two threads meet: what is to be done, and how many have come how far.
#[derive(Default)]
struct Meeting {
    /// Whose work, and how often.
    order: AtomicU64,
    arrived: AtomicU32,
    finished: AtomicU32,
    left: AtomicU32,
    /// The longer of the two times, in nanoseconds.
    longest: AtomicU64,
    disturbed: AtomicU32,
}

impl Meeting {
    const STOP: u64 = u64::MAX;

    fn order(&self) -> Option<(bool, u32)> {
        let mut word = 0;
        wait(|| {
            word = self.order.swap(0, Ordering::AcqRel);
            word != 0
        });
        let n = u32::try_from(word & 0xffff_ffff).unwrap_or(0);
        (word != Self::STOP).then_some((word >> 32 == 2, n))
    }

    /// The first thread's part of a sample: gives the order, works, and waits for the other to leave.
    fn lead(&self, second: bool, work: &mut dyn FnMut(), n: u32) -> Sample {
        for word in [&self.arrived, &self.finished, &self.left, &self.disturbed] {
            word.store(0, Ordering::Relaxed);
        }
        self.longest.store(0, Ordering::Relaxed);
        self.order.store((1 + u64::from(second)) << 32 | u64::from(n), Ordering::Release);
        self.work(work, n);
        wait(|| self.left.load(Ordering::Acquire) == 2);
        Sample {
            took: Duration::from_nanos(self.longest.load(Ordering::Relaxed)),
            clean: self.disturbed.load(Ordering::Relaxed) == 0,
        }
    }

    /// Either thread's part.
    fn work(&self, work: &mut dyn FnMut(), n: u32) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        wait(|| self.arrived.load(Ordering::Acquire) == 2);
        let sample = time(work, n);
        self.finished.fetch_add(1, Ordering::AcqRel);
        while self.finished.load(Ordering::Acquire) < 2 {
            work();
        }
        let nanos = u64::try_from(sample.took.as_nanos()).unwrap_or(u64::MAX);
        self.longest.fetch_max(nanos, Ordering::Relaxed);
        self.disturbed.fetch_or(u32::from(!sample.clean), Ordering::Relaxed);
        self.left.fetch_add(1, Ordering::AcqRel);
    }
}

/// Spins, and on a machine with other work lets that go on now and then.
fn wait(mut done: impl FnMut() -> bool) {
    let mut turns = 0;
    while !done() {
        turns += 1;
        if turns % PATIENCE == 0 {
            thread::yield_now();
        }
        spin_loop();
    }
}

/// `ours` and `peer` do their work so many times and tell how long it took.
fn compare_timed(
    name: &str,
    unit: &str,
    elements: usize,
    samples: usize,
    ours: &mut dyn FnMut(u32) -> Sample,
    peer: &mut dyn FnMut(u32) -> Sample,
) -> Row {
    let (reps_ours, reps_peer) = (repetitions(ours), repetitions(peer));
    let (mut clean, mut others) = (Vec::new(), Vec::new());
    for i in 0..samples * TRIES {
        let (x, y) = if i % 2 == 0 {
            let x = ours(reps_ours);
            (x, peer(reps_peer))
        } else {
            let y = peer(reps_peer);
            (ours(reps_ours), y)
        };
        let pair = (per_element(&x, reps_ours, elements), per_element(&y, reps_peer, elements));
        if x.clean && y.clean {
            clean.push(pair);
        } else {
            others.push(pair);
        }
        if clean.len() == samples {
            break;
        }
    }
    let undisturbed = clean.len();
    // Too few of them: better wide intervals than no figure.
    if undisturbed < samples.div_ceil(4) {
        clean.extend(others.into_iter().take(samples - undisturbed));
    }
    let mut ratios: Vec<f64> = clean.iter().map(|(x, y)| y / x).collect();
    let ratio_ci = median_interval(&mut ratios);
    Row {
        name: name.into(),
        unit: unit.into(),
        ours: median(&mut clean.iter().map(|p| p.0).collect::<Vec<_>>()),
        peer: median(&mut clean.iter().map(|p| p.1).collect::<Vec<_>>()),
        ratio: median(&mut ratios),
        ratio_ci,
        samples: clean.len(),
        clean: undisturbed,
        counters: None,
        lines: None,
    }
}

fn repetitions(work: &mut dyn FnMut(u32) -> Sample) -> u32 {
    let mut n = 1;
    // Twice: a single long sample may be somebody else's work.
    while n < 1 << 24 && (work(n).took < SAMPLE || work(n).took < SAMPLE) {
        n *= 2;
    }
    n
}

fn time<W: FnMut() + ?Sized>(work: &mut W, n: u32) -> Sample {
    let before = switches();
    let start = Instant::now();
    for _ in 0..n {
        work();
    }
    let took = start.elapsed();
    Sample { took, clean: switches() == before }
}

fn per_element(sample: &Sample, n: u32, elements: usize) -> f64 {
    sample.took.as_secs_f64() * 1e9 / f64::from(n) / count(elements)
}

/// A count as a number to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts of elements are small")]
fn count(n: usize) -> f64 {
    n as f64
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

/// 95 % interval of the median by order statistics.
fn median_interval(v: &mut [f64]) -> (f64, f64) {
    v.sort_by(f64::total_cmp);
    let n = count(v.len());
    let half = 0.98 * n.sqrt();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the indexes")]
    let at = |x: f64| x.clamp(0.0, n - 1.0) as usize;
    (v[at((n / 2.0 - half).floor())], v[at((n / 2.0 + half).ceil())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_interval_of_a_known_row() {
        let mut v: Vec<f64> = (0..101).map(f64::from).rev().collect();
        assert!((median(&mut v) - 50.0).abs() < f64::EPSILON);
        let (lo, hi) = median_interval(&mut v);
        assert!((39.0..=41.0).contains(&lo) && (60.0..=62.0).contains(&hi), "{lo} {hi}");
    }

    /// Twenty times the work, so that no load on the machine hides which side is slower.
    #[test]
    fn more_work_is_less_speed() {
        let spin = |n: u32| {
            std::hint::black_box((0..n).fold(0, |a, i| std::hint::black_box(a ^ i)));
        };
        let row = compare("spin", "ns", 1000, 41, || spin(1000), || spin(20_000));
        assert!(row.ratio > 2.0, "{row:?}");
    }
}
