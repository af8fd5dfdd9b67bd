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
    /// Its number as it stands in [`CpuTlb::in_guest`]: with bit 16 set, so that the word of domain 0 is not 0 either.
    id: u64,
    generation: CachePadded<AtomicU64>,
}

impl DomainTlb {
    /// Of domain `id`.
    #[must_use]
    pub fn new(id: DomId) -> Self {
        Self { id: 1 << 16 | u64::from(id.0), generation: CachePadded::new(AtomicU64::new(1)) }
    }
}

/// The TLB bookkeeping of a per-CPU block.
#[derive(Debug, Default)]
pub struct CpuTlb {
    /// 0 outside guest mode; otherwise entries so far in the high bits, and the domain ([`DomainTlb::id`]) in the low 17.
    in_guest: CachePadded<AtomicU64>,
    /// Entries so far, as they stand in `in_guest`, with a domain of 0; only its own CPU touches it.
    entries: AtomicU64,
}

impl CpuTlb {
    /// This pCPU is about to enter `domain`. Returns the generation that the vCPU must have flushed to.
    #[inline]
    pub fn enter(&self, domain: &DomainTlb) -> u64 {
        let entry = self.entries.load(Ordering::Relaxed).wrapping_add(1 << 17);
        self.entries.store(entry, Ordering::Relaxed);
        self.in_guest.store(entry | domain.id, Ordering::SeqCst);
        domain.generation.load(Ordering::SeqCst)
    }

    /// This pCPU has left guest mode.
    #[inline]
    pub fn leave(&self) {
        // Release: what the guest wrote through old translations is before this for the flusher that reads it.
        self.in_guest.store(0, Ordering::Release);
    }

    fn word_if_in(&self, domain: &DomainTlb) -> Option<u64> {
        let word = self.in_guest.load(Ordering::SeqCst);
        (word & 0x1_ffff == domain.id).then_some(word)
    }
}

/// After this no pCPU uses a translation of `domain` that was changed before the call.
///
/// Runs in root mode with interrupts off. Costs one atomic and a read per pCPU when nobody else runs the domain.
pub fn flush_domain(domain: &DomainTlb) {
    let me = percpu::cpu_id();
    let others = (0..percpu::cpus_online()).filter(|&cpu| cpu != me);
    flush(domain, others.filter_map(|cpu| Some((cpu, &percpu::get(cpu)?.tlb))), |cpu| {
        apic::send_ipi(cpu, vectors::VEC_KICK)
    });
}

/// The round itself, among `others`.
fn flush<'a>(domain: &DomainTlb, mut others: impl Iterator<Item = (u32, &'a CpuTlb)>, kick: impl Fn(u32)) {
    domain.generation.fetch_add(1, Ordering::SeqCst);
    // Kick first, wait after, a block of CPUs at a time so that the words fit on the stack.
    loop {
        let mut looked_at = 0;
        let mut inside = ArrayVec::<(&CpuTlb, u64), BLOCK>::new();
        for (cpu, other) in others.by_ref().take(BLOCK) {
            looked_at += 1;
            if let Some(word) = other.word_if_in(domain) {
                kick(cpu);
                inside.push((other, word));
            }
        }
        // By reference: the array is not to be moved.
        for &(other, word) in &inside {
            // A word that differs is a later entry, which saw the new generation.
            while other.in_guest.load(Ordering::SeqCst) == word {
                core::hint::spin_loop();
            }
        }
        if looked_at < BLOCK {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::sync::atomic::{AtomicBool, AtomicU32};
    use std::{thread, vec::Vec};

    use super::*;

    const ONE: DomId = DomId(1);
    const OTHER: DomId = DomId(2);

    #[test]
    fn only_cpus_inside_that_domain_are_kicked() {
        let (one, other) = (DomainTlb::new(ONE), DomainTlb::new(OTHER));
        let cpus: Vec<CpuTlb> = (0..BLOCK * 2 + 3).map(|_| CpuTlb::default()).collect();
        let before = cpus[7].enter(&one);
        cpus[BLOCK + 1].enter(&one);
        cpus[9].enter(&other);
        cpus[10].enter(&one);
        cpus[10].leave();
        let kicked = AtomicU32::new(0);
        let all = || (0u32..).zip(&cpus);
        flush(&one, all(), |cpu| {
            assert!(cpu == 7 || cpu == 65);
            kicked.fetch_add(1, Ordering::Relaxed);
            cpus[cpu as usize].leave();
        });
        assert_eq!(kicked.load(Ordering::Relaxed), 2);
        assert_ne!(cpus[7].enter(&one), before, "who enters later sees that it must flush");
        cpus[7].leave();
        assert_eq!(cpus[9].enter(&other), 1, "the other domain has nothing to flush");
        flush(&one, all(), |_| panic!("nobody is inside"));
    }

    #[test]
    fn entries_differ_and_domain_zero_is_inside_too() {
        let (cpu, domain) = (CpuTlb::default(), DomainTlb::new(DomId(0)));
        assert_eq!(cpu.word_if_in(&domain), None);
        cpu.enter(&domain);
        let first = cpu.word_if_in(&domain).expect("inside");
        cpu.leave();
        cpu.enter(&domain);
        assert_ne!(cpu.word_if_in(&domain), Some(first));
        assert_eq!(cpu.word_if_in(&DomainTlb::new(ONE)), None);
    }

    /// A page table of one entry, whose frames die as soon as a flush has returned; pCPUs that keep what they read
    /// until they are told otherwise.
    #[test]
    fn no_translation_outlives_its_flush() {
        const CPUS: u32 = 2;
        const ROUNDS: u64 = 400;
        let domain = DomainTlb::new(ONE);
        let cpus: Vec<CpuTlb> = (0..CPUS).map(|_| CpuTlb::default()).collect();
        let kicks: Vec<AtomicBool> = (0..CPUS).map(|_| AtomicBool::new(false)).collect();
        let (mapped, oldest_alive, done) = (AtomicU64::new(1), AtomicU64::new(1), AtomicBool::new(false));
        thread::scope(|scope| {
            for (cpu, kicked) in cpus.iter().zip(&kicks) {
                let (domain, mapped, oldest_alive, done) = (&domain, &mapped, &oldest_alive, &done);
                scope.spawn(move || {
                    let (mut seen, mut cached) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        let generation = cpu.enter(domain);
                        if generation != seen {
                            (seen, cached) = (generation, 0);
                        }
                        for _ in 0..50 {
                            if cached == 0 {
                                cached = mapped.load(Ordering::Acquire);
                            }
                            let alive = oldest_alive.load(Ordering::SeqCst);
                            assert!(cached >= alive, "frame {cached} is used, {alive} is the oldest alive");
                            if kicked.swap(false, Ordering::SeqCst) {
                                break;
                            }
                        }
                        cpu.leave();
                    }
                });
            }
            for frame in 2..ROUNDS {
                mapped.store(frame, Ordering::Release);
                flush(&domain, (0u32..).zip(&cpus), |cpu| {
                    kicks[cpu as usize].store(true, Ordering::SeqCst);
                });
                oldest_alive.store(frame, Ordering::SeqCst);
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
