//! Ours: `gnttab-fast` behind a [`Host`] that is a make-believe machine.
//!
//! What the hypervisor would do per hypercall is done here too: an epoch pin, domains found by number, a
//! look at the page tables for each guest frame, page references where the grant tables ask for them, a page
//! table edit per map, and the copy engine chosen as at boot. Left out, as in the baseline: the world
//! switch, the walk of the caller's page tables for its arguments, and the TLB flush.

use crate::engine::{self, Engine, GRANTERS, MAPTRACK_FRAMES, ME};
use crate::machine::{Machine, PAGE};
use crate::p2m::{P2m, PRESENT};
use crate::primitive::{AtomicU32, AtomicU64, Ordering, fence};
use copy_engine::{Choice, Scratch, Segment};
use crossbeam_epoch::{Collector, LocalHandle};
use gnttab_fast::abi::{self, MapGrantRef, UnmapGrantRef, op};
use gnttab_fast::{
    Batch, Cells, DomId, Domain, Domains, Fault, Frames, Gfn, Gref, GuestMemory, Host, Limits, Mfn, Outcome,
    Policy, Ram, Refused, Scan, SharedSource, Table, Width, grant_table_op,
};
use maptrack::{HeapPages, Page, PageSource};
use std::cell::OnceCell;
use std::ptr::NonNull;

const WRITABLE: u64 = 2;
const GRANT: u64 = 4;

/// Grant frames: the last frames of a domain's share of the machine.
struct GrantFrames<'m> {
    machine: &'m Machine,
    domain: u16,
    taken: AtomicU32,
}

// SAFETY: each frame is handed out once, zeroed; it is a page, aligned, and lives as long as the machine,
// which outlives the table. Guests (the workloads) reach it by atomics only.
unsafe impl PageSource for GrantFrames<'_> {
    fn take(&self) -> Option<NonNull<Page>> {
        let n = self.taken.fetch_add(1, Ordering::Relaxed);
        if n >= self.machine.grant_frames() {
            return None;
        }
        let frame = self.machine.frame(self.machine.grant_frame(self.domain) + n);
        // SAFETY: a whole frame, which nobody uses yet.
        unsafe { frame.write_bytes(0, PAGE) };
        NonNull::new(frame.cast())
    }

    unsafe fn give_back(&self, _: NonNull<Page>) {
        // The machine owns it.
    }
}

// SAFETY: the frame number is that of the address, by the machine's layout.
unsafe impl SharedSource for GrantFrames<'_> {
    fn mfn(&self, page: NonNull<Page>) -> Mfn {
        let first = self.machine.frame(0).addr();
        Mfn(((page.as_ptr().addr() - first) / PAGE) as u64)
    }
}

struct MachineFrames<'m>(std::marker::PhantomData<&'m Machine>);

impl<'m> Frames for MachineFrames<'m> {
    type Own = HeapPages;
    type Shared = GrantFrames<'m>;
}

struct Dom<'m> {
    id: DomId,
    machine: &'m Machine,
    table: Table<MachineFrames<'m>>,
    p2m: P2m,
    /// References per machine frame of the whole machine.
    refs: Box<[AtomicU64]>,
}

impl<'m> Dom<'m> {
    fn new(machine: &'m Machine, id: u16) -> Self {
        let shared = GrantFrames { machine, domain: id, taken: AtomicU32::new(0) };
        let limits = Limits { frames: machine.grant_frames(), maptrack_frames: MAPTRACK_FRAMES };
        let table =
            Table::new(HeapPages, shared, limits, Policy::default(), machine.shape().cpus).expect("memory");
        table.grow_to(machine.grant_frames()).expect("memory");
        let p2m = P2m::new(engine::map_gfn(machine) + machine.grefs());
        // A domain's frames begin at one of a large page.
        for index in (0..machine.grefs()).step_by(512) {
            let mfn = u64::from(machine.frame_of(id, index));
            p2m.set_large(mfn, mfn << 12 | WRITABLE);
        }
        let refs = (0..machine.frames()).map(|_| AtomicU64::new(1)).collect();
        Self { id: DomId(id), machine, table, p2m, refs }
    }

    fn references(&self, mfn: Mfn) -> Option<&AtomicU64> {
        self.refs.get(usize::try_from(mfn.0).ok()?)
    }
}

impl<'m> Domain for Dom<'m> {
    type Frames = MachineFrames<'m>;

    #[inline]
    fn id(&self) -> DomId {
        self.id
    }

    #[inline]
    fn grants(&self) -> &Table<Self::Frames> {
        &self.table
    }

    #[inline]
    fn is_dying(&self) -> bool {
        false
    }

    #[inline(always)]
    fn ram(&self, gfn: Gfn) -> Option<Ram> {
        let (leaf, offset, large) = self.p2m.find(gfn.0)?;
        let ram = leaf & (PRESENT | GRANT) == PRESENT;
        ram.then_some(Ram { mfn: Mfn((leaf >> 12) + offset), writable: leaf & WRITABLE != 0, large })
    }

    #[inline]
    fn owns(&self, mfn: Mfn) -> bool {
        u32::try_from(mfn.0).is_ok_and(|mfn| self.machine.owner(mfn) == u32::from(self.id.0))
    }

    #[inline]
    fn get_frame(&self, mfn: Mfn) -> bool {
        let Some(refs) = self.references(mfn).filter(|_| self.owns(mfn)) else { return false };
        refs.fetch_add(1, Ordering::AcqRel);
        true
    }

    #[inline]
    fn put_frame(&self, mfn: Mfn) {
        if let Some(refs) = self.references(mfn) {
            let left = refs.fetch_sub(1, Ordering::AcqRel) - 1;
            assert!(left > 0, "the owner's reference went");
        }
    }

    #[inline]
    fn map_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        let leaf = self.p2m.leaf(gfn.0).ok_or(Refused)?;
        let new = mfn.0 << 12 | PRESENT | GRANT | if writable { WRITABLE } else { 0 };
        leaf.compare_exchange(0, new, Ordering::AcqRel, Ordering::Relaxed).map_err(|_| Refused)?;
        Ok(())
    }

    #[inline]
    fn unmap_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        let leaf = self.p2m.leaf(gfn.0).ok_or(Refused)?;
        let old = mfn.0 << 12 | PRESENT | GRANT | if writable { WRITABLE } else { 0 };
        leaf.compare_exchange(old, 0, Ordering::AcqRel, Ordering::Relaxed).map_err(|_| Refused)?;
        Ok(())
    }

    fn flush(&self) {
        // The round of interrupts is left out on both sides.
        fence(Ordering::SeqCst);
    }

    fn remove_table_frame(&self, _: Gfn, _: Mfn) {
        // No frame of a table is in a physical map here.
    }
}

/// Our grant tables on the machine.
pub struct Ours<'m> {
    machine: &'m Machine,
    domains: [Option<Dom<'m>>; 4],
    collector: Collector,
    copy: copy_engine::Engine,
}

impl<'m> Ours<'m> {
    /// Makes the tables, and writes the entries again: new tables begin with empty frames.
    ///
    /// # Panics
    /// If there is no memory, or the processor cannot run the copy kernel asked for.
    #[must_use]
    pub fn new(machine: &'m Machine, kernel: Choice) -> Self {
        let mut domains = [const { None }; 4];
        for id in std::iter::once(ME).chain(GRANTERS) {
            domains[usize::from(id)] = Some(Dom::new(machine, id));
        }
        engine::grant_all(machine);
        let mut scratch = Box::new(Scratch::new());
        let (copy, _) = copy_engine::Engine::select(kernel, &mut scratch, || {
            // SAFETY: RDTSC reads a counter.
            unsafe { std::arch::x86_64::_rdtsc() }
        })
        .expect("a kernel this processor has");
        Self { machine, domains, collector: Collector::new(), copy }
    }

    fn dom(&self, id: DomId) -> Option<&Dom<'m>> {
        self.domains.get(usize::from(id.0))?.as_ref()
    }

    fn call<T>(&self, cpu: usize, cmd: u32, ops: &mut [T]) {
        thread_local! {
            static HANDLE: OnceCell<LocalHandle> = const { OnceCell::new() };
        }
        HANDLE.with(|handle| {
            let _guard = handle.get_or_init(|| self.collector.register()).pin();
            let call = Call { ours: self, cpu: u32::try_from(cpu).unwrap_or(0) };
            let range = ops.as_mut_ptr_range();
            let start = range.start.expose_provenance() as u64;
            let mut memory = Window { start, end: range.end.addr() as u64 };
            let count = u32::try_from(ops.len()).unwrap_or(u32::MAX);
            let outcome = grant_table_op(&call, &mut memory, Width::Bits64, cmd, start, count);
            assert_eq!(outcome, Outcome::Done, "nothing asked it to yield");
        });
    }
}

/// One hypercall of [`ME`].
struct Call<'o, 'm> {
    ours: &'o Ours<'m>,
    cpu: u32,
}

impl<'m> Domains for Call<'_, 'm> {
    type Domain = Dom<'m>;

    #[inline]
    fn domain(&self, id: DomId) -> Option<&Dom<'m>> {
        self.ours.dom(id)
    }
}

impl<'m> Host for Call<'_, 'm> {
    #[inline]
    fn caller(&self) -> &Dom<'m> {
        self.ours.dom(DomId(ME)).expect("made in new")
    }

    fn controls(&self, _: &Dom<'m>) -> bool {
        false
    }

    #[inline]
    fn cpu(&self) -> u32 {
        self.cpu
    }

    #[inline]
    fn should_yield(&self) -> bool {
        false
    }

    #[inline]
    fn frame(&self, mfn: Mfn) -> *mut u8 {
        self.ours.machine.frame(u32::try_from(mfn.0).unwrap_or(u32::MAX))
    }

    #[inline]
    fn copy<S: AsRef<Segment>>(&self, batch: Batch<'_, S>) {
        let session = self.ours.copy.begin();
        // SAFETY: the grant tables keep each side of a segment within a frame that `frame` gave them. The
        // machine outlives them, and the workload writes none of these bytes meanwhile.
        unsafe { session.copy_batch(batch.segments()) };
    }

    fn crash_caller(&self, why: &'static str) {
        panic!("the workload did what no guest does: {why}");
    }
}

/// The caller's argument array, by its address in this process.
struct Window {
    start: u64,
    end: u64,
}

impl Window {
    #[inline]
    fn pointer(&self, address: u64, len: usize) -> Result<*mut u8, Fault> {
        let end = address.checked_add(len as u64).ok_or(Fault)?;
        if address < self.start || end > self.end {
            return Err(Fault);
        }
        Ok(std::ptr::with_exposed_provenance_mut(usize::try_from(address).map_err(|_| Fault)?))
    }
}

impl GuestMemory for Window {
    #[inline]
    fn in_place<T: Cells>(&mut self, address: u64, most: usize) -> Result<&[T], Fault> {
        let from = self.pointer(address, 0)?.cast::<T>();
        let room = usize::try_from(self.end - address).map_err(|_| Fault)?;
        if !from.is_aligned() {
            return Ok(&[]);
        }
        // SAFETY: inside the array that `call` borrows mutably, by the check, and aligned; `Cells` are atomic
        // integers, so any bytes are one.
        Ok(unsafe { std::slice::from_raw_parts(from, (room / size_of::<T>()).min(most)) })
    }

    #[inline]
    fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let from = self.pointer(address, out.len())?;
        // SAFETY: inside the array that `call` borrows mutably, by the check; `out` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    #[inline]
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let to = self.pointer(address, bytes.len())?;
        // SAFETY: as above; the array is plain numbers, so any bytes are good.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }
}

impl Engine for Ours<'_> {
    const NAME: &'static str = "ours";

    fn copy(&self, cpu: usize, ops: &mut [abi::Copy]) {
        self.call(cpu, op::COPY, ops);
    }

    fn map(&self, cpu: usize, ops: &mut [MapGrantRef]) {
        self.call(cpu, op::MAP_GRANT_REF, ops);
    }

    fn unmap(&self, cpu: usize, ops: &mut [UnmapGrantRef]) {
        self.call(cpu, op::UNMAP_GRANT_REF, ops);
    }

    fn mapped_at(&self, gfn: u32) -> Option<u32> {
        let me = self.dom(DomId(ME))?;
        let leaf = me.p2m.leaf(u64::from(gfn))?.load(Ordering::Acquire);
        (leaf & GRANT != 0).then(|| u32::try_from(leaf >> 12).unwrap_or(u32::MAX))
    }

    fn at_rest(&self) -> bool {
        self.domains.iter().flatten().all(|d| {
            d.table.maptrack().in_use() == 0
                && d.table.find_pinned(Gref(0), u32::MAX) == Scan::Clear
                && d.refs.iter().all(|r| r.load(Ordering::Relaxed) == 1)
        })
    }
}
