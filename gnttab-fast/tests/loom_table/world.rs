//! A machine for models: domains of two frames of memory, whose bytes are cells that loom watches.

use copy_engine::Segment;
use gnttab_fast::abi::{Copy, CopyPtr, SetVersion, copy_flags, gtf, op};
use gnttab_fast::{
    Batch, Cells, DomId, Domain, Domains, Fault, Frames, Gfn, Gref, GuestMemory, Host, Limits, Mfn, Outcome,
    PAGE_SHIFT, Policy, Ram, Refused, Scan, SharedSource, Table, Version, Width, grant_table_op,
};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use loom::thread;
use maptrack::{HeapPages, Page, PageSource};
use std::ptr::NonNull;
use std::sync::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Frames of memory of a domain.
const FRAMES: usize = 2;
const CPUS: u32 = 2;

/// A version-1 entry: read and write for `domid`.
pub fn v1(domid: u16, frame: u64) -> u64 {
    u64::from(gtf::PERMIT_ACCESS) | u64::from(domid) << 16 | frame << 32
}

/// A version-2 entry.
pub fn v2_full(domid: u16, frame: u64) -> [u64; 2] {
    [v1(domid, 0), frame]
}

pub fn v2_transitive(domid: u16, trans_domid: u16, gref: u64) -> [u64; 2] {
    [u64::from(gtf::TRANSITIVE) | u64::from(domid) << 16 | u64::from(trans_domid) << 32, gref]
}

/// A copy between a grant and the caller's second frame.
pub fn copy_from(domid: u16, gref: u32, writes: bool) -> Copy {
    let grant = CopyPtr { u: gref.into(), domid, offset: 0, pad: 0 };
    let own = CopyPtr { u: 1, domid: DomId::SELF.0, offset: 0, pad: 0 };
    let (source, dest) = if writes { (own, grant) } else { (grant, own) };
    let flags = if writes { copy_flags::DEST_GREF } else { copy_flags::SOURCE_GREF };
    Copy { source, dest, len: 8, flags, status: 77, pad: 0 }
}

/// So many bytes that two copies of them are a block that pins its entries, where one of a few bytes keeps them
/// busy.
pub const MUCH: u16 = 4096;

/// Pages of a table, kept until the world ends: the longest grace period.
#[derive(Clone)]
pub struct Pages(std::sync::Arc<Mutex<Vec<usize>>>);

// SAFETY: pages come from `HeapPages`; the registry only remembers them.
unsafe impl PageSource for Pages {
    fn take(&self) -> Option<NonNull<Page>> {
        let page = HeapPages.take()?;
        self.0.lock().unwrap().push(page.as_ptr() as usize);
        Some(page)
    }

    unsafe fn give_back(&self, _: NonNull<Page>) {}
}

// SAFETY: as above; the number of a page is its place in the registry.
unsafe impl SharedSource for Pages {
    fn mfn(&self, page: NonNull<Page>) -> Mfn {
        let at = page.as_ptr() as usize;
        let index = self.0.lock().unwrap().iter().position(|&p| p == at).unwrap();
        Mfn(1000 + index as u64)
    }
}

impl Pages {
    fn page(&self, mfn: Mfn) -> &Page {
        let index = usize::try_from(mfn.0 - 1000).unwrap();
        let at = self.0.lock().unwrap()[index];
        // SAFETY: a page of the registry lives until the world ends.
        unsafe { &*(at as *const Page) }
    }
}

pub struct ModelFrames;

impl Frames for ModelFrames {
    type Own = HeapPages;
    type Shared = Pages;
}

/// A domain; gfn n of `id` is mfn `id * FRAMES + n`, and gfn 4 a place to map to.
pub struct Dom {
    id: DomId,
    table: Table<ModelFrames>,
    pages: Pages,
    dying: AtomicBool,
    mapped: AtomicU64,
    refs: [AtomicU32; FRAMES],
    bytes: [UnsafeCell<u32>; FRAMES],
}

// SAFETY: the cells are loom's, which is the judge of who may touch them when.
unsafe impl Sync for Dom {}
// SAFETY: as above.
unsafe impl Send for Dom {}

impl Dom {
    fn index(&self, mfn: Mfn) -> usize {
        usize::try_from(mfn.0).unwrap() - usize::from(self.id.0) * FRAMES
    }

    pub fn die(&self) {
        self.dying.store(true, Ordering::SeqCst);
    }
}

impl Domain for Dom {
    type Frames = ModelFrames;

    fn id(&self) -> DomId {
        self.id
    }

    fn is_dying(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    fn grants(&self) -> &Table<ModelFrames> {
        &self.table
    }

    fn ram(&self, gfn: Gfn) -> Option<Ram> {
        let mfn = Mfn(u64::from(self.id.0) * FRAMES as u64 + gfn.0);
        (gfn.0 < FRAMES as u64).then_some(Ram { mfn, writable: true, large: false })
    }

    fn owns(&self, mfn: Mfn) -> bool {
        (0..FRAMES).contains(&self.index(mfn))
    }

    fn get_frame(&self, mfn: Mfn) -> bool {
        self.refs[self.index(mfn)].fetch_add(1, Ordering::AcqRel);
        true
    }

    fn put_frame(&self, mfn: Mfn) {
        assert_ne!(self.refs[self.index(mfn)].fetch_sub(1, Ordering::AcqRel), 0, "dropped twice");
    }

    fn map_frame(&self, gfn: Gfn, mfn: Mfn, _: bool) -> Result<(), Refused> {
        assert_eq!(gfn, Gfn(4));
        self.mapped.store(mfn.0, Ordering::Release);
        Ok(())
    }

    fn unmap_frame(&self, _: Gfn, mfn: Mfn, _: bool) -> Result<(), Refused> {
        let done = self.mapped.compare_exchange(mfn.0, 0, Ordering::AcqRel, Ordering::Relaxed);
        done.map(drop).map_err(|_| Refused)
    }

    fn flush(&self) {}

    fn remove_table_frame(&self, _: Gfn, _: Mfn) {}
}

pub struct World {
    domains: Vec<Dom>,
    /// Hypercalls under way, in place of epochs.
    hosts: AtomicU32,
}

impl World {
    pub fn new(domains: u16) -> Arc<Self> {
        let domain = |id| {
            let pages = Pages(std::sync::Arc::default());
            let limits = Limits { frames: 2, maptrack_frames: 1 };
            let table = Table::new(HeapPages, pages.clone(), limits, Policy::HOST_DEFAULT, CPUS);
            Dom {
                id: DomId(id),
                table: table.map_err(|_| ()).unwrap(),
                pages,
                dying: AtomicBool::new(false),
                mapped: AtomicU64::new(0),
                refs: [AtomicU32::new(1), AtomicU32::new(1)],
                bytes: [UnsafeCell::new(0), UnsafeCell::new(0)],
            }
        };
        Arc::new(Self { domains: (1..=domains).map(domain).collect(), hosts: AtomicU32::new(0) })
    }

    pub fn domain(&self, id: u16) -> &Dom {
        &self.domains[usize::from(id) - 1]
    }

    /// One hypercall of one element on CPU `cpu`.
    pub fn on<T: IntoBytes + FromBytes + Immutable>(
        &self,
        cpu: u32,
        caller: u16,
        cmd: u32,
        arg: T,
    ) -> (Outcome, T) {
        let (outcome, [arg]) = self.batch(cpu, caller, cmd, [arg]);
        (outcome, arg)
    }

    /// One hypercall of `N` elements on CPU `cpu`.
    pub fn batch<T: IntoBytes + FromBytes + Immutable, const N: usize>(
        &self,
        cpu: u32,
        caller: u16,
        cmd: u32,
        args: [T; N],
    ) -> (Outcome, [T; N]) {
        self.hosts.fetch_add(1, Ordering::SeqCst);
        // As an epoch's pin has one; loom knows the total order of fences only.
        fence(Ordering::SeqCst);
        let host = View { world: self, caller, cpu };
        let mut memory = Memory(args.as_bytes().to_vec());
        let count = u32::try_from(N).unwrap();
        let outcome = grant_table_op(&host, &mut memory, Width::Bits64, cmd, 0, count);
        self.hosts.fetch_sub(1, Ordering::SeqCst);
        (outcome, <[T; N]>::read_from_bytes(&memory.0).unwrap())
    }

    /// One on CPU 0 that must return 0.
    pub fn one<T: IntoBytes + FromBytes + Immutable>(&self, caller: u16, cmd: u32, arg: T) -> T {
        let (outcome, arg) = self.on(0, caller, cmd, arg);
        assert_eq!(outcome, Outcome::Done);
        arg
    }

    pub fn set_version(&self, d: u16, version: u32) -> Outcome {
        self.on(0, d, op::SET_VERSION, SetVersion { version }).0
    }

    /// Returns when all hypercalls of now have ended.
    pub fn grace_period(&self) {
        fence(Ordering::SeqCst);
        while self.hosts.load(Ordering::SeqCst) != 0 {
            thread::yield_now();
        }
    }

    /// Somebody else uses a frame; loom objects if a copy may still touch it.
    pub fn reuse(&self, d: u16, frame: usize) {
        // SAFETY: loom fails the model if anybody else has the cell now, which is the question.
        self.domain(d).bytes[frame].with_mut(|p| unsafe { *p = 7 });
    }

    pub fn refs(&self, d: u16, frame: usize) -> u32 {
        self.domain(d).refs[frame].load(Ordering::SeqCst)
    }

    fn word(&self, d: u16, frame: u32, word: usize) -> &AtomicU64 {
        let domain = self.domain(d);
        &domain.pages.page(domain.table.shared_frame(frame).unwrap())[word]
    }

    pub fn write_v1(&self, d: u16, gref: u32, entry: u64) {
        self.word(d, gref / 4, (gref % 4) as usize).store(entry, Ordering::Release);
    }

    pub fn read_v1(&self, d: u16, gref: u32) -> u64 {
        self.word(d, gref / 4, (gref % 4) as usize).load(Ordering::Acquire)
    }

    /// What the guest does to take a grant back: true if it had it free.
    pub fn revoke_v1(&self, d: u16, gref: u32) -> bool {
        let word = self.word(d, gref / 4, (gref % 4) as usize);
        let seen = word.load(Ordering::Acquire);
        seen & u64::from(gtf::READING | gtf::WRITING) == 0
            && word.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    pub fn write_v2(&self, d: u16, gref: u32, [header, body]: [u64; 2]) {
        let at = (gref % 2 * 2) as usize;
        self.word(d, gref / 2, at + 1).store(body, Ordering::Release);
        self.word(d, gref / 2, at).store(header, Ordering::Release);
    }

    pub fn read_v2(&self, d: u16, gref: u32) -> [u64; 2] {
        let at = (gref % 2 * 2) as usize;
        [0, 1].map(|word| self.word(d, gref / 2, at + word).load(Ordering::Acquire))
    }

    /// The bits of ours of an entry, wherever the version of now has them.
    pub fn status_bits(&self, d: u16, gref: u32) -> u64 {
        let domain = self.domain(d);
        if domain.table.version() == Version::V1 {
            return self.read_v1(d, gref) & u64::from(gtf::READING | gtf::WRITING);
        }
        let status = domain.pages.page(domain.table.status_frame(0).unwrap());
        status[(gref / 4) as usize].load(Ordering::Acquire) >> (gref % 4 * 16) & 0xffff
    }

    pub fn assert_quiet(&self) {
        for domain in &self.domains {
            assert_eq!(domain.table.find_pinned(Gref(0), u32::MAX), Scan::Clear);
            assert_eq!(domain.table.maptrack().in_use(), 0);
        }
    }
}

struct View<'w> {
    world: &'w World,
    caller: u16,
    cpu: u32,
}

impl Domains for View<'_> {
    type Domain = Dom;

    fn domain(&self, id: DomId) -> Option<&Dom> {
        self.world.domains.get(usize::from(id.0).checked_sub(1)?)
    }
}

impl Host for View<'_> {
    fn caller(&self) -> &Dom {
        self.world.domain(self.caller)
    }

    fn controls(&self, _: &Dom) -> bool {
        false
    }

    fn cpu(&self) -> u32 {
        self.cpu
    }

    fn should_yield(&self) -> bool {
        false
    }

    fn frame(&self, mfn: Mfn) -> *mut u8 {
        std::ptr::without_provenance_mut(usize::try_from(mfn.0).unwrap() << PAGE_SHIFT)
    }

    fn copy<S: AsRef<Segment>>(&self, batch: Batch<'_, S>) {
        for segment in batch.segments().iter().map(AsRef::as_ref) {
            for (address, writes) in [(segment.src.addr(), false), (segment.dst.addr(), true)] {
                let mfn = address >> PAGE_SHIFT;
                let cell = &self.world.domains[mfn / FRAMES - 1].bytes[mfn % FRAMES];
                // SAFETY: loom fails the model if another thread has the cell in a way that is a race.
                if writes { cell.with_mut(|p| unsafe { *p += 1 }) } else { cell.with(|p| unsafe { _ = *p }) }
            }
        }
    }

    fn crash_caller(&self, why: &'static str) {
        panic!("{why}");
    }
}

struct Memory(Vec<u8>);

impl GuestMemory for Memory {
    fn in_place<T: Cells>(&mut self, address: u64, most: usize) -> Result<&[T], Fault> {
        let bytes = usize::try_from(address).ok().and_then(|at| self.0.get_mut(at..)).ok_or(Fault)?;
        let fit = (bytes.len() / size_of::<T>()).min(most);
        Ok(<[T]>::mut_from_bytes(&mut bytes[..fit * size_of::<T>()]).map_or(&[], |cells| cells))
    }

    fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let at = usize::try_from(address).map_err(|_| Fault)?;
        out.copy_from_slice(self.0.get(at..at + out.len()).ok_or(Fault)?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let at = usize::try_from(address).map_err(|_| Fault)?;
        self.0.get_mut(at..at + bytes.len()).ok_or(Fault)?.copy_from_slice(bytes);
        Ok(())
    }
}
