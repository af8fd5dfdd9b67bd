//! The seam to the hardware's virtualisation: vendor-neutral exits above, SVM below.

/// The world switch's part of a per-CPU block.
#[derive(Debug, Default)]
pub struct CpuVt;
