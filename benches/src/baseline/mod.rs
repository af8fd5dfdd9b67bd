//! Xen's algorithm, as the peer to compare with: the steps, locks, barriers and references that Xen's grant
//! code takes per element, counted from its source and written here in our own words.
//!
//! It is a fair peer, not a straw man: built by the same compiler with the same flags, single-version
//! tables, no speculation barriers (what distributions ship has them and is more than twice as slow), no
//! tracing, no debug checks, direct calls only. What it keeps is what the algorithm is made of:
//!
//! * a per-CPU reader-writer lock around each use of a table: a store and a full barrier per reader;
//! * a ticket lock in each active entry, taken once to acquire and once to release a grant;
//! * a locked exchange to set GTF bits and a locked AND to clear them;
//! * page references and writable type references, each a compare-exchange to take and one to drop;
//! * one buffer per side kept between elements of a batch, dropped if the next names another;
//! * arguments and statuses moved one element at a time; domains looked up in a hash under RCU;
//! * handles in FIFO lists per vCPU that go home to the vCPU they came from, stealing at the limit;
//! * two passes per 32 unmaps, each with both locks again; `REP MOVSQ` for all lengths.
//!
//! The granter is not translated (its frame numbers are machine frames, so no p2m lookup on the granter's
//! side). A mapping is entered under the recursive lock of the mapper's guest frames: the old entry is looked
//! up, then the new one written by a second walk; taking it down looks the frame up once more before, under
//! the same lock taken twice, and a page looked up to be mapped is referenced a second time.
//!
//! Xen's own object code was measured natively (88 ns for an element of a 32-element copy of 64 bytes, 155
//! ns for a map with its unmap), so the figures can be checked: the report does. Its caller was a PV one, for
//! which a page of page tables is referenced and locked instead of the guest frames. For one thread the two
//! cost much alike; two threads that map at once wait for each other in a translated caller, as all callers
//! are here, and not in a PV one.

mod copy;
mod frame;
mod locks;
mod map;
mod maptrack;
mod table;

use crate::engine::{Engine, GRANTERS, MAPTRACK_FRAMES, ME, map_gfn};
use crate::machine::Machine;
use crate::p2m::P2m;
use crate::primitive::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;
use frame::PageInfo;
use gnttab_fast::abi::{Copy, MapGrantRef, UnmapGrantRef};
use locks::{Cpu, GfnLock};
use maptrack::Maptrack;
use table::Table;

/// Buckets of the domain hash.
const HASH: usize = 256;

/// A domain.
struct Domain {
    id: u16,
    table: Table,
    maptrack: Maptrack,
    /// Set while the toolstack tracks writes, which it never does here.
    log_dirty: AtomicU64,
    /// The lock around nested page tables, which is the lock of every guest frame in them.
    p2m_lock: GfnLock,
    p2m: P2m,
    next: Option<Box<Domain>>,
}

/// The peer.
pub struct Xen<'m> {
    machine: &'m Machine,
    pages: Box<[PageInfo]>,
    hash: Vec<Option<Box<Domain>>>,
    cpus: Box<[CachePadded<Cpu>]>,
}

impl<'m> Xen<'m> {
    /// The peer on a machine whose domains have written their entries.
    #[must_use]
    pub fn new(machine: &'m Machine) -> Self {
        let owner = |mfn| u16::try_from(machine.owner(mfn)).expect("few domains");
        let cpus = machine.shape().cpus;
        let pages = (0..machine.frames()).map(|mfn| PageInfo::new(owner(mfn))).collect();
        let mut hash: Vec<Option<Box<Domain>>> = (0..HASH).map(|_| None).collect();
        for id in std::iter::once(ME).chain(GRANTERS) {
            let bucket = &mut hash[usize::from(id) % HASH];
            *bucket = Some(Box::new(Domain {
                id,
                table: Table::new(machine.grefs()),
                maptrack: Maptrack::new(MAPTRACK_FRAMES as usize, cpus),
                log_dirty: AtomicU64::new(0),
                p2m_lock: GfnLock::new(),
                p2m: P2m::new(map_gfn(machine) + machine.grefs()),
                next: bucket.take(),
            }));
        }
        let cpus = (0..cpus).map(|_| CachePadded::new(Cpu::new())).collect();
        Self { machine, pages, hash, cpus }
    }

    /// The domain of that number, which stays while the caller is in its RCU section.
    #[inline(never)]
    fn domain(&self, cpu: &Cpu, id: u16) -> Option<&Domain> {
        cpu.disable_preemption();
        let mut at = self.hash[usize::from(id) % HASH].as_deref();
        while let Some(d) = at {
            if d.id == id {
                return Some(d);
            }
            at = d.next.as_deref();
        }
        cpu.enable_preemption();
        None
    }

    /// Ends the section begun by `domain`.
    #[inline]
    fn unlock_domain(cpu: &Cpu, _: &Domain) {
        cpu.enable_preemption();
    }

    /// The security module's say: the default module permits.
    #[inline(never)]
    fn permitted(from: &Domain, to: &Domain) -> bool {
        std::hint::black_box((from.id, to.id)).0 != u16::MAX
    }

    fn me(&self) -> &Domain {
        self.hash[usize::from(ME) % HASH].as_deref().expect("made in new")
    }

    /// Allocates a handle on one CPU and frees it on another: what the handle rows measure.
    ///
    /// # Panics
    /// If none is free.
    #[inline]
    pub fn handle_pair(&self, alloc_cpu: usize, free_cpu: usize) -> u32 {
        let me = self.me();
        let h = me.maptrack.get(&self.cpus[alloc_cpu], alloc_cpu).expect("a free handle");
        me.maptrack.put(&self.cpus[free_cpu], h);
        h
    }

    /// Takes handles for good, to fill the table.
    ///
    /// # Panics
    /// If none is free.
    pub fn take_handles(&self, n: u32) {
        for _ in 0..n {
            self.me().maptrack.get(&self.cpus[0], 0).expect("a free handle");
        }
    }
}

impl Engine for Xen<'_> {
    const NAME: &'static str = "xen";

    fn copy(&self, cpu: usize, ops: &mut [Copy]) {
        self.copy_batch(&self.cpus[cpu], ops);
    }

    fn map(&self, cpu: usize, ops: &mut [MapGrantRef]) {
        for op in ops {
            let mut local = *op;
            self.map_one(&self.cpus[cpu], cpu, &mut local);
            (op.status, op.handle, op.dev_bus_addr) = (local.status, local.handle, local.dev_bus_addr);
        }
    }

    fn unmap(&self, cpu: usize, ops: &mut [UnmapGrantRef]) {
        self.unmap_batch(&self.cpus[cpu], ops);
    }

    fn mapped_at(&self, gfn: u32) -> Option<u32> {
        let leaf = self.me().p2m.walk(u64::from(gfn))?.load(Ordering::Relaxed);
        (leaf != 0).then(|| u32::try_from(leaf >> 12).expect("frames of this machine fit"))
    }

    fn at_rest(&self) -> bool {
        let tables = GRANTERS.iter().all(|&g| {
            let bucket = self.hash[usize::from(g) % HASH].as_deref();
            bucket.is_some_and(|d| d.table.at_rest())
        });
        tables && self.me().maptrack.live() == 0 && self.pages.iter().all(PageInfo::at_rest)
    }
}
