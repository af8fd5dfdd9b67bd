//! Copy kernels, their choice at boot, vector state, and batches.
#![no_std]

pub mod arch;
mod batch;
mod cpu;
mod engine;
pub mod naive;
mod select;
mod session;

pub use engine::{Choice, Engine, Unavailable};
pub use select::{SIZES, Scratch, Selection, Timing};
pub use session::Session;

/// One copy of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where the bytes go.
    pub dst: *mut u8,
    /// Where they come from.
    pub src: *const u8,
    /// How many.
    pub len: usize,
}
