//! Flushing what other pCPUs cached of a domain's nested page tables.
//!
//! One round for a whole batch of changes, and interrupts only to the pCPUs that are in guest mode for the
//! domain at that moment; all others flush when they next enter it.
//!
//! **Protocol.** A domain has a generation. A pCPU that is about to enter a guest first publishes, in its own
//! word, that it is in guest mode for that domain, then reads the generation, and flushes if it is not the
//! one this vCPU last ran with here. [`flush_domain`] first raises the generation, then reads each pCPU's word. All
//! four accesses are sequentially consistent, so of the two reads at least one sees the other side's write:
//! either the entering pCPU sees the new generation and flushes, or the flusher sees it in guest mode, kicks
//! it out and waits until its word changes (each entry writes a different value). Both may happen; that
//! is one flush too many and right.
//!
//! The wait ends: the kicked pCPU leaves guest mode on the interrupt without needing anything from us, and
//! a pCPU that waits here is itself not in guest mode, so two flushers do not wait for each other.

use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use crossbeam_utils::CachePadded;
use gnttab_fast::types::DomId;

use crate::arch::x86::{apic, percpu, vectors};

/// pCPUs looked at in one go.
const BLOCK: usize = 64;

/// A domain's generation of translations.
#[derive(Debug)]
pub struct DomainTlb {
    id: DomId,
    generation: CachePadded<AtomicU64>,
}

impl DomainTlb {
    /// Of domain `id`.
    #[must_use]
    pub fn new(id: DomId) -> Self {
        Self { id, generation: CachePadded::new(AtomicU64::new(1)) }
    }
}

/// The TLB bookkeeping of a per-CPU block.
#[derive(Debug, Default)]
pub struct CpuTlb {
    /// 0 outside guest mode; otherwise entries so far in the high bits, and the domain's id in the low 16.
    in_guest: CachePadded<AtomicU64>,
    /// Entries so far; only its own CPU touches it.
    entries: AtomicU64,
}

impl CpuTlb {
    /// This pCPU is about to enter `domain`. Returns the generation that the vCPU must have flushed to.
    pub fn enter(&self, domain: &DomainTlb) -> u64 {
        let entry = self.entries.load(Ordering::Relaxed).wrapping_add(1);
        self.entries.store(entry, Ordering::Relaxed);
        // Bit 16 is always set: the word of a domain 0 entry is not 0 either.
        let word = (entry << 17) | (1 << 16) | u64::from(domain.id.0);
        self.in_guest.store(word, Ordering::SeqCst);
        domain.generation.load(Ordering::SeqCst)
    }

    /// This pCPU has left guest mode.
    pub fn leave(&self) {
        // Release: what the guest wrote through old translations is before this for the flusher that reads it.
        self.in_guest.store(0, Ordering::Release);
    }

    fn word_if_in(&self, domain: DomId) -> Option<u64> {
        let word = self.in_guest.load(Ordering::SeqCst);
        (word != 0 && word & 0xffff == u64::from(domain.0)).then_some(word)
    }
}

/// After this no pCPU uses a translation of `domain` that was changed before the call.
///
/// Runs in root mode with interrupts off. Costs one atomic and a read per pCPU when nobody else runs the domain.
pub fn flush_domain(domain: &DomainTlb) {
    domain.generation.fetch_add(1, Ordering::SeqCst);
    let me = percpu::cpu_id();
    let cpus = percpu::cpus_online();
    // Kick first, wait after, a block of CPUs at a time so that the words fit on the stack.
    for first in (0..cpus).step_by(BLOCK) {
        let mut inside = ArrayVec::<(&CpuTlb, u64), BLOCK>::new();
        for cpu in (first..cpus).take(BLOCK).filter(|&cpu| cpu != me) {
            let Some(other) = percpu::get(cpu) else { continue };
            if let Some(word) = other.tlb.word_if_in(domain.id) {
                apic::send_ipi(cpu, vectors::VEC_KICK);
                inside.push((&other.tlb, word));
            }
        }
        for (other, word) in inside {
            // A word that differs is a later entry, which saw the new generation.
            while other.in_guest.load(Ordering::SeqCst) == word {
                core::hint::spin_loop();
            }
        }
    }
}
