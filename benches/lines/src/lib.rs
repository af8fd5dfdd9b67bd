//! A deterministic model of cache-line ownership, for more CPUs than there are.
//!
//! # What it models
//! A line is owned by one CPU, which may write it, or shared by some, which may read it. An access that the
//! present state allows is a hit. Any other is a miss: the line moves, which takes [`MOVE`] and nothing else
//! can move the same line meanwhile, so that CPUs which want one line queue for it ("serialised steps", the
//! time they wait). The first touch of a line by anyone is not counted as a move. Only accesses by atomics
//! are seen; copied bytes, arguments and code are each CPU's own, and are left out on both sides.
//!
//! # How it runs
//! Code written against the atomics of [`atomic`] runs as it is, once for each CPU, each in a coroutine of
//! one thread ([`run`]). Each CPU has a clock. Before an access, and when it spins, a CPU lets those go on whose
//! clocks are behind its own; so accesses happen in the order of their times, locks are waited for and
//! compare-exchanges fail and are tried again, as they would be. There is no
//! randomness: a run repeats, if the words lie at the same places in their lines.
//!
//! # How far it holds
//! Beside real runs on two processors: references of their own agree (1.1 times one CPU's time, the model says
//! 1.0 to 1.1); the same references do not yet (2.2 and 3.0 times measured; the model says 3 to 10 and 14).
//! Take the contended rows as an order, not as times.

pub mod atomic;
mod model;

pub use model::{Totals, reset_clocks, run};

/// Model nanoseconds of a load or a store that hits.
pub const HIT: u64 = 1;
/// Of a locked instruction or a full barrier, without what moving the line takes.
pub const LOCKED: u64 = 8;
/// Of moving a line from one CPU to another.
pub const MOVE: u64 = 60;
/// Of one turn of a loop that waits.
pub const SPIN: u64 = 15;
