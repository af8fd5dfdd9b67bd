//! Handles in FIFO lists per vCPU, linked through the entries; entries go home to the vCPU they came from.

use super::locks::{Cpu, TicketLock};
use crate::primitive::{AtomicU16, AtomicU32, Ordering};
use crossbeam_utils::CachePadded;
use std::sync::OnceLock;

const TAIL: u32 = u32::MAX;
const PER_PAGE: u32 = 256;

/// One handle's record: 16 bytes.
#[repr(C, align(16))]
#[derive(Default)]
pub(super) struct Mapping {
    /// The reference, or the next free handle.
    pub(super) gref: AtomicU32,
    pub(super) domid: AtomicU16,
    pub(super) flags: AtomicU16,
    home: AtomicU32,
    /// Xen keeps no frame number; the mapper's address is checked against its page tables.
    pad: AtomicU32,
}

struct Vcpu {
    lock: TicketLock,
    head: AtomicU32,
    tail: AtomicU32,
}

/// The handles of one domain.
pub(super) struct Maptrack {
    grow: TicketLock,
    pages: Box<[OnceLock<Box<[Mapping]>>]>,
    limit: AtomicU32,
    vcpus: Box<[CachePadded<Vcpu>]>,
}

impl Maptrack {
    pub(super) fn new(max_pages: usize, vcpus: u32) -> Self {
        let vcpu = |_: u32| {
            CachePadded::new(Vcpu {
                lock: TicketLock::new(),
                head: AtomicU32::new(TAIL),
                tail: AtomicU32::new(TAIL),
            })
        };
        Self {
            grow: TicketLock::new(),
            pages: (0..max_pages).map(|_| OnceLock::new()).collect(),
            limit: AtomicU32::new(0),
            vcpus: (0..vcpus).map(vcpu).collect(),
        }
    }

    pub(super) fn entry(&self, handle: u32) -> Option<&Mapping> {
        if handle >= self.limit.load(Ordering::Acquire) {
            return None;
        }
        self.pages[(handle / PER_PAGE) as usize].get()?.get((handle % PER_PAGE) as usize)
    }

    fn own(&self, handle: u32) -> &Mapping {
        self.entry(handle).expect("handles on lists exist")
    }

    pub(super) fn live(&self) -> usize {
        let pages = self.pages.iter().filter_map(OnceLock::get);
        pages.flat_map(|p| p.iter()).filter(|m| m.flags.load(Ordering::Relaxed) != 0).count()
    }

    /// Pops the oldest handle of a vCPU, always leaving one so that the tail stays an entry.
    #[inline(never)]
    pub(super) fn get(&self, cpu: &Cpu, vcpu: usize) -> Option<u32> {
        if let Some(h) = self.pop(cpu, vcpu) {
            return Some(h);
        }
        self.grow(cpu, vcpu)
            .or_else(|| (0..self.vcpus.len()).find_map(|victim| self.steal(cpu, vcpu, victim)))
    }

    #[inline]
    fn pop(&self, cpu: &Cpu, vcpu: usize) -> Option<u32> {
        let v = &self.vcpus[vcpu];
        v.lock.lock(cpu);
        let head = v.head.load(Ordering::Relaxed);
        let got = (head != TAIL).then(|| self.own(head).gref.load(Ordering::Relaxed)).filter(|&n| n != TAIL);
        if let Some(next) = got {
            v.head.store(next, Ordering::Relaxed);
        }
        v.lock.unlock(cpu);
        got.map(|_| head)
    }

    #[cold]
    fn steal(&self, cpu: &Cpu, vcpu: usize, victim: usize) -> Option<u32> {
        let handle = self.pop(cpu, victim)?;
        self.own(handle).home.store(u32::try_from(vcpu).unwrap_or(0), Ordering::Relaxed);
        Some(handle)
    }

    #[cold]
    fn grow(&self, cpu: &Cpu, vcpu: usize) -> Option<u32> {
        self.grow.lock(cpu);
        let first = self.limit.load(Ordering::Relaxed);
        let got = self.pages.get((first / PER_PAGE) as usize).map(|slot| {
            let home = u32::try_from(vcpu).unwrap_or(0);
            let page = (first..first + PER_PAGE).map(|h| Mapping {
                gref: AtomicU32::new(if h == first + PER_PAGE - 1 { TAIL } else { h + 1 }),
                home: AtomicU32::new(home),
                ..Mapping::default()
            });
            assert!(slot.set(page.collect()).is_ok(), "pages are added under the lock");
            self.limit.store(first + PER_PAGE, Ordering::Release);
            let v = &self.vcpus[vcpu];
            v.lock.lock(cpu);
            // The first entry is the caller's; the others go before what is left of the list.
            let old = v.head.load(Ordering::Relaxed);
            self.own(first + PER_PAGE - 1).gref.store(old, Ordering::Relaxed);
            v.head.store(first + 1, Ordering::Relaxed);
            if old == TAIL {
                v.tail.store(first + PER_PAGE - 1, Ordering::Relaxed);
            }
            v.lock.unlock(cpu);
            first
        });
        self.grow.unlock(cpu);
        got
    }

    /// Appends a handle to the list of the vCPU it belongs to.
    #[inline(never)]
    pub(super) fn put(&self, cpu: &Cpu, handle: u32) {
        let entry = self.own(handle);
        entry.gref.store(TAIL, Ordering::Relaxed);
        let v = &self.vcpus[entry.home.load(Ordering::Relaxed) as usize];
        v.lock.lock(cpu);
        let tail = v.tail.load(Ordering::Relaxed);
        self.own(tail).gref.store(handle, Ordering::Relaxed);
        v.tail.store(handle, Ordering::Relaxed);
        v.lock.unlock(cpu);
    }
}
