//! A whole machine in one process, for tests and benches: frames, domains with flat physical maps, and hosts
//! for their hypercalls. Feature `testing`.
//!
//! Every rule that [`Host`](crate::Host) and [`Domain`](crate::Domain) state is kept here in the plainest
//! way and checked where the real machine would silently go wrong: a reference dropped twice, a frame
//! unmapped and never flushed, a mapping replaced. Frames that lose their last reference are not used
//! again, which is the longest grace period there is.

mod machine;
mod memory;

pub use machine::{Kind, Machine, MachineBuilder, MockDomain, MockFrames, MockHost};
pub use memory::{FIRST_MFN, Flat, FrameStore, Shared};
