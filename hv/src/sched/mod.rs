//! Scheduling of vCPUs on pCPUs.
#![forbid(unsafe_code)]

/// The scheduler's part of a per-CPU block.
#[derive(Debug, Default)]
pub struct CpuSched;
