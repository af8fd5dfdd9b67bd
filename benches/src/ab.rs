//! Two players in turns: short samples of each, alternating, so that a busy neighbour or a change of clock
//! meets both; medians, and the median of the paired ratios with its confidence interval.

use serde::Serialize;
use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a sample lasts at least.
const SAMPLE: Duration = Duration::from_micros(400);

/// One line of the results.
#[derive(Serialize, Clone, Debug)]
pub struct Row {
    /// The workload.
    pub name: String,
    /// What the figures count.
    pub unit: &'static str,
    /// Ours, median.
    pub ours: f64,
    /// The baseline, median.
    pub peer: f64,
    /// Peer divided by ours: how many times faster ours is. Median of paired samples.
    pub ratio: f64,
    /// 95 % confidence interval of that median.
    pub ratio_ci: (f64, f64),
}

/// Compares two closures that each do `elements` elements of work.
pub fn compare(
    name: &str,
    unit: &'static str,
    elements: usize,
    samples: usize,
    mut ours: impl FnMut(),
    mut peer: impl FnMut(),
) -> Row {
    let mut ours = |n| time(&mut ours, n);
    let mut peer = |n| time(&mut peer, n);
    compare_timed(name, unit, elements, samples, &mut ours, &mut peer)
}

/// Compares two players of two threads each. A sample takes as long as its slower thread.
pub fn compare_pairs(
    name: &str,
    unit: &'static str,
    elements: usize,
    samples: usize,
    ours: [&mut (dyn FnMut() + Send); 2],
    peer: [&mut (dyn FnMut() + Send); 2],
) -> Row {
    let ([ours0, ours1], [peer0, peer1]) = (ours, peer);
    let (order, done) = (Order::default(), Barrier::new(2));
    thread::scope(|s| {
        s.spawn(|| {
            while let Some((second, n)) = order.wait() {
                time(if second { &mut *peer1 } else { &mut *ours1 }, n);
                done.wait();
            }
        });
        let both = |work: &mut dyn FnMut(), second, n| {
            order.send(Some((second, n)));
            let start = Instant::now();
            time(work, n);
            done.wait();
            start.elapsed()
        };
        let mut ours = |n| both(&mut *ours0, false, n);
        let mut peer = |n| both(&mut *peer0, true, n);
        let row = compare_timed(name, unit, elements, samples, &mut ours, &mut peer);
        order.send(None);
        row
    })
}

/// What the second thread is to do next: whose work, and how often. Spun for: a sleeping thread would begin
/// late.
#[derive(Default)]
struct Order(AtomicU64);

impl Order {
    const STOP: u64 = u64::MAX;

    fn send(&self, work: Option<(bool, u32)>) {
        let word = work.map_or(Self::STOP, |(second, n)| u64::from(second) << 32 | u64::from(n));
        self.0.store(word, Ordering::Release);
    }

    fn wait(&self) -> Option<(bool, u32)> {
        loop {
            match self.0.swap(0, Ordering::AcqRel) {
                0 => spin_loop(),
                Self::STOP => return None,
                word => return Some((word >> 32 != 0, u32::try_from(word & 0xffff_ffff).unwrap_or(0))),
            }
        }
    }
}

/// `ours` and `peer` do their work so many times and tell how long it took.
fn compare_timed(
    name: &str,
    unit: &'static str,
    elements: usize,
    samples: usize,
    ours: &mut dyn FnMut(u32) -> Duration,
    peer: &mut dyn FnMut(u32) -> Duration,
) -> Row {
    let (reps_ours, reps_peer) = (repetitions(ours), repetitions(peer));
    let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..samples {
        let (x, y) = if i % 2 == 0 {
            let x = per_element(ours, reps_ours, elements);
            (x, per_element(peer, reps_peer, elements))
        } else {
            let y = per_element(peer, reps_peer, elements);
            (per_element(ours, reps_ours, elements), y)
        };
        a.push(x);
        b.push(y);
        ratios.push(y / x);
    }
    let ci = median_interval(&mut ratios);
    Row {
        name: name.into(),
        unit,
        ours: median(&mut a),
        peer: median(&mut b),
        ratio: median(&mut ratios),
        ratio_ci: ci,
    }
}

fn repetitions(work: &mut dyn FnMut(u32) -> Duration) -> u32 {
    let mut n = 1;
    while work(n) < SAMPLE && n < 1 << 24 {
        n *= 2;
    }
    n
}

fn time<W: FnMut() + ?Sized>(work: &mut W, n: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        work();
    }
    start.elapsed()
}

fn per_element(work: &mut dyn FnMut(u32) -> Duration, n: u32, elements: usize) -> f64 {
    work(n).as_secs_f64() * 1e9 / f64::from(n) / count(elements)
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
