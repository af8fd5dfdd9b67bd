//! Flushing what other pCPUs cached of a domain's nested page tables.

/// The TLB bookkeeping of a per-CPU block.
#[derive(Debug, Default)]
pub struct CpuTlb;
