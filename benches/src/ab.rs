//! Two players in turns: short samples of each, alternating, so that a busy neighbour or a change of clock
//! meets both; medians, and the median of the paired ratios with its confidence interval.

use serde::Serialize;
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
    let (reps_ours, reps_peer) = (repetitions(&mut ours), repetitions(&mut peer));
    let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..samples {
        let (x, y) = if i % 2 == 0 {
            let x = per_element(&mut ours, reps_ours, elements);
            (x, per_element(&mut peer, reps_peer, elements))
        } else {
            let y = per_element(&mut peer, reps_peer, elements);
            (per_element(&mut ours, reps_ours, elements), y)
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

fn repetitions(work: &mut impl FnMut()) -> u32 {
    let mut n = 1;
    loop {
        if time(work, n) >= SAMPLE || n >= 1 << 24 {
            return n;
        }
        n *= 2;
    }
}

fn time(work: &mut impl FnMut(), n: u32) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        work();
    }
    start.elapsed()
}

fn per_element(work: &mut impl FnMut(), n: u32, elements: usize) -> f64 {
    time(work, n).as_secs_f64() * 1e9 / f64::from(n) / count(elements)
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

    #[test]
    fn twice_the_work_is_half_the_speed() {
        let spin = |n: u32| {
            std::hint::black_box((0..n).fold(0, |a, i| std::hint::black_box(a ^ i)));
        };
        let row = compare("spin", "ns", 1000, 41, || spin(1000), || spin(2000));
        assert!((1.2..4.0).contains(&row.ratio), "{row:?}");
    }
}
