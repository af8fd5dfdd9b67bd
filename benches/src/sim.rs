//! What the simulator of cache lines says: the file `simulate --json` writes, which the report plots.

use crate::lines::LineCosts;
use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Simulated {
    /// What the machine costs, as the rows' run measured it.
    pub machine: Option<LineCosts>,
    /// Runs of the model.
    pub points: Vec<Point>,
    /// The model beside real runs.
    pub checks: Vec<Check>,
}

/// One run of the simulator.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Point {
    /// What is played.
    pub workload: String,
    /// `ours` or `xen`.
    pub engine: String,
    /// `own` or `same`: which references the CPUs use.
    pub grefs: String,
    /// CPUs at work.
    pub cpus: u32,
    /// Model nanoseconds per element of each CPU.
    pub time: f64,
    /// Lines moved per element.
    pub moved: f64,
    /// Requests per element that waited for another CPU's request: the steps that are one after the other.
    pub queued: f64,
    /// Model nanoseconds per element they waited.
    pub waited: f64,
}

/// A real run and the model's word for it.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Check {
    /// The row, or the measurement of the machine.
    pub name: String,
    /// `ours`, `xen`, or `machine`.
    pub engine: String,
    /// One way of a ping-pong when it was measured, in nanoseconds: how far apart the processors were.
    pub ping_pong: f64,
    /// Nanoseconds measured.
    pub measured: f64,
    /// Nanoseconds the model says: the mean over several ways to begin, with misses overlapping and not.
    pub model: f64,
    /// The least and the most of them.
    pub range: (f64, f64),
}

impl Check {
    /// The model's figure as a part of the measured one.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.model / self.measured
    }
}
