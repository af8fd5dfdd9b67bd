//! What cache lines cost on this machine, by itself: the figures the simulator of cache lines runs on. They
//! are measured beside each row of two threads, for a virtual machine's processors may be neighbours in one
//! run and far apart in the next.

use crate::placement::Placement;
use crossbeam_utils::CachePadded;
use serde::{Deserialize, Serialize};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::thread;
use std::time::Instant;

/// Samples of each figure.
const SAMPLES: u64 = 15;
/// Accesses timed in a sample.
const ACCESSES: u32 = 2000;
/// Exchanges of one word in a sample.
const EXCHANGES: u64 = 300;
/// Lines taken from the other processor in a sample.
const LINES: usize = 256;
/// An odd step through them, so that no prefetcher sees a row.
const STEP: usize = 89;

/// Medians, in nanoseconds.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub struct LineCosts {
    /// A load of a word this processor has.
    pub load: f64,
    /// A locked addition to a word this processor has.
    pub locked: f64,
    /// A store to such a word and a full barrier.
    pub store_fence: f64,
    /// One way of a ping-pong: one processor stores, the other sees it.
    pub ping_pong: f64,
    /// A locked addition to one word by two processors at once: time of both over additions of both.
    pub contended: f64,
    /// A locked addition to each of many lines that the other processor has: time of each.
    pub taken: f64,
}

struct Words {
    met: CachePadded<AtomicU64>,
    ball: CachePadded<AtomicU64>,
    shared: CachePadded<AtomicU64>,
    many: [CachePadded<AtomicU64>; LINES],
}

impl Words {
    fn new() -> Self {
        let word = || CachePadded::new(AtomicU64::new(0));
        Self { met: word(), ball: word(), shared: word(), many: std::array::from_fn(|_| word()) }
    }

    /// Waits until both have come here so many times.
    fn meet(&self, times: u64) {
        self.met.fetch_add(1, Ordering::AcqRel);
        while self.met.load(Ordering::Acquire) < 2 * times {
            spin_loop();
        }
    }

    fn take_all(&self) {
        for i in 0..LINES {
            self.many[i * STEP % LINES].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// What either does; both samples are those of the whole pair.
    fn play(&self, me: u64) -> [Vec<f64>; 3] {
        let mut out = [const { Vec::new() }; 3];
        for sample in 0..SAMPLES {
            self.meet(4 * sample + 1);
            let first = sample * 2 * EXCHANGES + me;
            let began = Instant::now();
            for i in 0..EXCHANGES {
                while self.ball.load(Ordering::Acquire) != first + 2 * i {
                    spin_loop();
                }
                self.ball.store(first + 2 * i + 1, Ordering::Release);
            }
            out[0].push(nanos(began) / count(2 * EXCHANGES));
            self.meet(4 * sample + 2);
            let took = each(|| {
                self.shared.fetch_add(1, Ordering::AcqRel);
            });
            out[1].push(took / 2.0);
            // The other first makes them its own.
            self.meet(4 * sample + 3);
            if me == 1 {
                self.take_all();
            }
            self.meet(4 * sample + 4);
            if me == 0 {
                let began = Instant::now();
                self.take_all();
                out[2].push(nanos(began) / count(LINES as u64));
            }
        }
        out
    }
}

/// Measures on two processors.
#[must_use]
pub fn measure(cpus: [usize; 2]) -> LineCosts {
    let before = Placement::now().ok();
    let words = Words::new();
    let [ping_pong, contended, taken] = thread::scope(|s| {
        s.spawn(|| {
            Placement::pin(cpus[1]);
            words.play(1)
        });
        Placement::pin(cpus[0]);
        words.play(0)
    });
    let own = CachePadded::new(AtomicU64::new(0));
    let of = |work: &dyn Fn()| median((0..SAMPLES).map(|_| each(work)).collect());
    let costs = LineCosts {
        load: of(&|| {
            black_box(own.load(Ordering::Relaxed));
        }),
        locked: of(&|| {
            own.fetch_add(1, Ordering::AcqRel);
        }),
        store_fence: of(&|| {
            own.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }),
        ping_pong: median(ping_pong),
        contended: median(contended),
        taken: median(taken),
    };
    if let Some(before) = before {
        before.apply();
    }
    costs
}

/// The middle of several, figure by figure; `None` of none.
#[must_use]
pub fn middle(all: &[LineCosts]) -> Option<LineCosts> {
    let of = |figure: fn(&LineCosts) -> f64| median(all.iter().map(figure).collect());
    (!all.is_empty()).then(|| LineCosts {
        load: of(|c| c.load),
        locked: of(|c| c.locked),
        store_fence: of(|c| c.store_fence),
        ping_pong: of(|c| c.ping_pong),
        contended: of(|c| c.contended),
        taken: of(|c| c.taken),
    })
}

/// Nanoseconds of each of many turns.
fn each(work: impl Fn()) -> f64 {
    let began = Instant::now();
    for _ in 0..ACCESSES {
        work();
    }
    nanos(began) / f64::from(ACCESSES)
}

fn nanos(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}

#[expect(clippy::cast_precision_loss, reason = "a small count")]
fn count(n: u64) -> f64 {
    n as f64
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_taken_figure_by_figure() {
        let of =
            |x: f64| LineCosts { load: x, locked: x, store_fence: x, ping_pong: -x, contended: x, taken: x };
        assert!(middle(&[]).is_none());
        let m = middle(&[of(1.0), of(9.0), of(2.0)]).expect("three");
        assert!((m.locked - 2.0).abs() < 1e-9 && (m.ping_pong + 2.0).abs() < 1e-9, "{m:?}");
    }
}
