//! The measurement at boot.
//!
//! Each kernel that can run copies a few lengths within two pages, warm, between aligned addresses and with
//! the source two bytes off (network buffers keep IP headers aligned by two). The least of a few runs stands,
//! as anything that disturbs a run makes it longer. All of it is about 130,000 instructions for three
//! kernels, so that it costs nothing even in an emulator, where its figures mean little.

use core::fmt;

use crate::Segment;
use crate::engine::{Choice, Engine};

/// Lengths measured: headers, a small packet, an Ethernet frame, a page.
pub const SIZES: [usize; 5] = [64, 128, 256, 1500, 4096];
/// How often each length counts: headers are what the grant path mostly copies.
const WEIGHTS: [u64; 5] = [8, 8, 4, 2, 1];
/// Copies in a timed run.
const COPIES: usize = 8;
/// Timed runs of which the least counts; one more goes before them to warm up.
const RUNS: usize = 2;
/// Source offsets measured.
const OFFSETS: [usize; 2] = [0, 2];

const CANDIDATES: [Choice; 4] = [Choice::Avx2, Choice::Avx512, Choice::Sse2, Choice::Rep];

/// Memory for the measurement.
#[repr(C, align(4096))]
pub struct Scratch {
    source: [u8; 4096 + 2048],
    target: [u8; 4096 + 2048],
}

impl Scratch {
    /// Zeroes; may be a static's initial value.
    pub const fn new() -> Self {
        Self { source: [0; 4096 + 2048], target: [0; 4096 + 2048] }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// One kernel's figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// The kernel, as `copy=` knows it.
    pub name: &'static str,
    /// Clock ticks per copy, the mean of the offsets, for each of [`SIZES`].
    pub ticks: [u64; SIZES.len()],
}

impl Timing {
    fn score(&self) -> u64 {
        self.ticks.iter().zip(WEIGHTS).map(|(ticks, weight)| ticks * weight).sum()
    }
}

/// What the choice was and why; `Display` is one line for the boot log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selection {
    /// The chosen kernel.
    pub name: &'static str,
    /// What was measured; none of it if the command line chose.
    pub timings: [Option<Timing>; CANDIDATES.len()],
}

impl Selection {
    pub(crate) fn asked(engine: Engine) -> Self {
        Self { name: engine.name(), timings: [None; CANDIDATES.len()] }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        let mut measured = self.timings.iter().flatten().peekable();
        if measured.peek().is_none() {
            return f.write_str(" (as asked)");
        }
        f.write_str(" (cycles for")?;
        for size in SIZES {
            write!(f, " {size}")?;
        }
        f.write_str(" bytes:")?;
        for (n, timing) in measured.enumerate() {
            write!(f, "{} {}", if n == 0 { "" } else { "," }, timing.name)?;
            for ticks in timing.ticks {
                write!(f, " {ticks}")?;
            }
        }
        f.write_str(")")
    }
}

/// Measures every kernel that can run and takes the one that costs least.
pub(crate) fn fastest(scratch: &mut Scratch, clock: &impl Fn() -> u64) -> (Engine, Selection) {
    let mut best = Engine::SSE2;
    let mut least = u64::MAX;
    let mut timings = [None; CANDIDATES.len()];
    for (slot, choice) in timings.iter_mut().zip(CANDIDATES) {
        let Some(engine) = Engine::of(choice) else { continue };
        let timing = measure(engine, scratch, clock);
        if timing.score() < least {
            (best, least) = (engine, timing.score());
        }
        *slot = Some(timing);
    }
    (best, Selection { name: best.name(), timings })
}

fn measure(engine: Engine, scratch: &mut Scratch, clock: &impl Fn() -> u64) -> Timing {
    let mut ticks = [0; SIZES.len()];
    for (ticks, len) in ticks.iter_mut().zip(SIZES) {
        let total: u64 = OFFSETS.iter().map(|&offset| run(engine, scratch, offset, len, clock)).sum();
        *ticks = total / (OFFSETS.len() * COPIES) as u64;
    }
    Timing { name: engine.name(), ticks }
}

/// The least ticks for `COPIES` copies of `len` bytes.
fn run(engine: Engine, scratch: &mut Scratch, offset: usize, len: usize, clock: &impl Fn() -> u64) -> u64 {
    let segment =
        Segment { dst: scratch.target.as_mut_ptr(), src: scratch.source[offset..][..len].as_ptr(), len };
    let segments = [segment; COPIES];
    let session = engine.begin();
    session.widen();
    let mut least = u64::MAX;
    for _ in 0..=RUNS {
        let start = clock();
        // SAFETY: both ranges lie within the scratch memory, which is borrowed exclusively.
        unsafe { session.copy_batch(&segments) };
        least = least.min(clock().wrapping_sub(start));
    }
    least
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;
    use std::string::ToString;

    use super::*;

    /// A clock by which each candidate takes a time of its own.
    fn choose(favourite: usize) -> (Engine, Selection) {
        let readings = Cell::new(0);
        let now = Cell::new(0);
        let per_kernel = SIZES.len() * OFFSETS.len() * (RUNS + 1) * 2;
        fastest(&mut Scratch::new(), &|| {
            let kernel = readings.get() / per_kernel;
            readings.set(readings.get() + 1);
            now.set(now.get() + if kernel == favourite { 80 } else { 800 });
            now.get()
        })
    }

    #[test]
    fn the_fastest_is_taken() {
        let available = CANDIDATES.iter().filter_map(|&choice| Engine::of(choice));
        for (n, engine) in available.enumerate() {
            let (chosen, selection) = choose(n);
            assert_eq!(chosen.name(), engine.name());
            assert_eq!(selection.name, engine.name());
            let timing = selection.timings.iter().flatten().nth(n).expect("it was measured");
            assert_eq!((timing.name, timing.ticks), (engine.name(), [10; SIZES.len()]));
        }
    }

    #[test]
    fn the_report_is_one_line() {
        let (_, selection) = choose(0);
        let line = selection.to_string();
        assert!(line.starts_with(selection.name) && line.contains("sse2 100 100 100 100 100"), "{line}");
        assert!(!line.contains('\n'));
    }
}
