//! What a locked instruction costs where nobody else wants the line: the least that a grant operation can cost, which
//! has so many of them an element (`results/profiles.md`).
//!
//! ```text
//! cargo run --release -p benches --example locked
//! ```
//!
//! As a copy of 32 elements does it: 32 words of 8 bytes, neighbours as shared entries are, one locked instruction
//! each, and between two of them a store and a load elsewhere. Medians of 301 samples; the loop without the locked
//! instruction is told beside it, and is to be taken off.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const WORDS: usize = 32;
const ROUNDS: usize = 2_000;
const SAMPLES: usize = 301;

/// What is done to a word.
type Act = fn(&AtomicU64);

fn main() {
    let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    let other: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    let kinds: [(&str, Act); 3] = [
        ("none", |_| {}),
        ("and", |word| {
            // Its result is not used, so it is one LOCK AND.
            word.fetch_and(black_box(!8), Ordering::AcqRel);
        }),
        ("compare and exchange", |word| {
            let old = word.load(Ordering::Relaxed);
            let _ = black_box(word.compare_exchange(old, old ^ 8, Ordering::AcqRel, Ordering::Relaxed));
        }),
    ];
    let mut samples = kinds.map(|_| Vec::with_capacity(SAMPLES));
    for _ in 0..SAMPLES {
        // In turns, so that whatever else the machine does meets all of them.
        for ((_, act), samples) in kinds.iter().zip(&mut samples) {
            let since = Instant::now();
            for _ in 0..ROUNDS {
                for (word, beside) in words.iter().zip(&other) {
                    act(word);
                    beside.store(black_box(beside.load(Ordering::Relaxed)) + 1, Ordering::Relaxed);
                }
            }
            samples.push(since.elapsed().as_secs_f64() * 1e9 / (ROUNDS * WORDS) as f64);
        }
    }
    for ((name, _), samples) in kinds.iter().zip(&mut samples) {
        samples.sort_by(f64::total_cmp);
        println!("{name:<22} {:>6.2} ns", samples[SAMPLES / 2]);
    }
}
