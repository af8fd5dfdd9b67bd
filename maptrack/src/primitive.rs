//! The atomics the crate is written against: `core`'s, or loom's when a model runs (`--cfg loom`).
//! The simulator of cache lines (feature `lines`, for `benches` only) puts in its own. The algorithm text
//! is the same in all.

#[cfg(not(any(loom, feature = "lines")))]
pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence},
    thread::yield_now as spin_loop,
};

#[cfg(all(feature = "lines", not(loom)))]
pub(crate) use cache_lines::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence, spin_loop};
