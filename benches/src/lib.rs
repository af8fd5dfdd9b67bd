//! Measuring the grant tables against Xen's algorithm.
//!
//! [`workload`]s are data (`definitions/*.toml`): sequences of grant hypercalls as a network or block
//! backend makes them. An [`engine`] plays them on a make-believe [`machine`]: ours, or the [`baseline`],
//! which is Xen's algorithm with its locks, barriers and references. [`ab`] plays both in turns in one
//! process, verifies every answer, and compares.
//!
//! `cargo xtask bench` runs the A/B runner, `cargo xtask report` writes what it measured to `results/`: [`report`]
//! makes verdicts, plots and a page. `simulate` (feature `lines`) plays both engines on a model of cache-line
//! ownership with up to 256 CPUs, with the costs that [`lines`] measures; [`sim`] is what it says.

pub mod ab;
pub mod baseline;
pub mod counters;
pub mod engine;
pub mod handles;
pub mod lines;
pub mod machine;
pub mod ours;
mod p2m;
pub mod placement;
mod primitive;
pub mod report;
pub mod sim;
pub mod stage;
pub mod workload;
