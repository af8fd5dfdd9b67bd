//! The atomics the baseline and the make-believe machine are written against: the standard ones, or those
//! that drive the simulator of cache lines.

#[cfg(not(feature = "lines"))]
pub(crate) use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(feature = "lines")]
pub(crate) use cache_lines::atomic::{
    AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence, spin_loop,
};
