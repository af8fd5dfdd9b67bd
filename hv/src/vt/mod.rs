//! The seam to the hardware's virtualisation: vendor-neutral exits above, SVM below.

/// The world switch's part of a per-CPU block.
#[derive(Debug, Default)]
pub struct CpuVt;

/// Width of a guest's code and structures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 32-bit.
    Bits32,
    /// 64-bit.
    Bits64,
}

/// The hardware state of a vCPU.
#[derive(Debug)]
pub struct Vcpu;
