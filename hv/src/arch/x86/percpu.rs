//! The per-CPU block behind GS.

use core::sync::atomic::AtomicU32;

use crate::{mm::tlb::CpuTlb, sched::CpuSched, vt::CpuVt};

/// What one pCPU owns. Other CPUs may look at it: each part keeps its own rules for that.
#[derive(Debug)]
#[non_exhaustive]
pub struct PerCpu {
    /// Dense number from 0 (the boot CPU).
    pub id: u32,
    /// Local APIC id.
    pub apic_id: u32,
    /// What runs here, for a panic to tell.
    pub current: Current,
    /// The scheduler's part.
    pub sched: CpuSched,
    /// The world switch's part.
    pub vt: CpuVt,
    /// The TLB bookkeeping.
    pub tlb: CpuTlb,
}

/// What a panic tells of the guest side.
#[derive(Debug)]
pub struct Current {
    domain: AtomicU32,
    vcpu: AtomicU32,
    op: AtomicU32,
}

impl Current {
    /// This pCPU now runs that vCPU (`None`: none).
    pub fn set_vcpu(&self, domid_vcpu: Option<(u16, u32)>) {
        let _ = (domid_vcpu, &self.domain, &self.vcpu);
        todo!()
    }

    /// This pCPU now works on that hypercall (`None`: none).
    pub fn set_op(&self, nr: Option<u32>) {
        let _ = (nr, &self.op);
        todo!()
    }
}

/// The block of the CPU we run on.
#[must_use]
pub fn this() -> &'static PerCpu {
    todo!()
}

/// The number of the CPU we run on.
#[must_use]
pub fn cpu_id() -> u32 {
    this().id
}

/// How many CPUs run; their numbers are `0..cpus_online()`.
#[must_use]
pub fn cpus_online() -> u32 {
    todo!()
}

/// The block of a CPU by number.
#[must_use]
pub fn get(id: u32) -> Option<&'static PerCpu> {
    let _ = id;
    todo!()
}
