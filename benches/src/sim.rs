//! What the simulator of cache lines says: points of `simulate --json`, which the report plots.

use serde::{Deserialize, Serialize};

/// One run of the simulator.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Point {
    /// `ours` or `xen`.
    pub engine: String,
    /// `own` or `same`: which references the CPUs copy from.
    pub grefs: String,
    /// CPUs at work.
    pub cpus: u32,
    /// Model nanoseconds per element of each CPU.
    pub time: f64,
    /// Lines moved per element.
    pub moved: f64,
    /// Model nanoseconds per element waited for lines that others had.
    pub waited: f64,
}
