//! Domains and hosts.

use super::memory::{FrameStore, Shared};
use crate::abi::{EntryV1, EntryV2FullPage, STATUS_PER_FRAME, V1_PER_FRAME, V2_PER_FRAME};
use crate::host::{self, Batch, Domain, Domains, Frames, GuestMemory, Host, Refused};
use crate::op::{Outcome, Width, grant_table_op};
use crate::policy::Policy;
use crate::table::{Limits, Table};
use crate::types::{DomId, Gfn, Gref, Mfn};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use copy_engine::{Engine, Segment};
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use maptrack::HeapPages;
use zerocopy::{FromBytes, Immutable, IntoBytes, transmute};

/// What a gfn of a mock domain holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing.
    None,
    /// The domain's own memory, which it may write.
    Ram,
    /// The domain's own memory, which it may read.
    RamRo,
    /// A frame granted to it.
    GrantRw,
    /// A frame granted to it for reading.
    GrantRo,
    /// Anything else: no memory to grant.
    Special,
}

const KINDS: [Kind; 6] = [Kind::None, Kind::Ram, Kind::RamRo, Kind::GrantRw, Kind::GrantRo, Kind::Special];
const KIND_SHIFT: u32 = 56;
/// Frames of a large page.
const LARGE: u64 = 512;

fn pack(kind: Kind, mfn: Mfn) -> u64 {
    let index = KINDS.iter().position(|&k| k == kind).unwrap_or(0) as u64;
    index << KIND_SHIFT | mfn.0
}

fn unpack(word: u64) -> (Kind, Mfn) {
    let kind = usize::try_from(word >> KIND_SHIFT).ok().and_then(|i| KINDS.get(i));
    (kind.copied().unwrap_or(Kind::None), Mfn(word & ((1 << KIND_SHIFT) - 1)))
}

/// The sixteen bytes of a version-2 entry as words.
fn words_of<T: IntoBytes + Immutable>(entry: &T) -> [u64; 2] {
    let words = <[u64; 2]>::read_from_bytes(entry.as_bytes());
    let Ok(words) = words else { panic!("a version-2 entry has 16 bytes") };
    words
}

/// The mock machine's page sources.
pub struct MockFrames;

impl Frames for MockFrames {
    type Own = HeapPages;
    type Shared = Shared;
}

/// A domain with a flat physical map.
pub struct MockDomain {
    id: DomId,
    ram: Arc<FrameStore>,
    p2m: Box<[AtomicU64]>,
    table: Table<MockFrames>,
    /// Mappings taken out and not flushed yet.
    unflushed: AtomicU32,
    flushes: AtomicU32,
    dying: AtomicBool,
}

impl MockDomain {
    /// The domain begins to die.
    pub fn die(&self) {
        self.dying.store(true, Ordering::SeqCst);
    }

    /// What is at `gfn`.
    #[must_use]
    pub fn at(&self, gfn: Gfn) -> (Kind, Mfn) {
        let word = usize::try_from(gfn.0).ok().and_then(|g| self.p2m.get(g));
        word.map_or((Kind::None, Mfn(0)), |w| unpack(w.load(Ordering::Acquire)))
    }

    /// Whether a large page could stand around `gfn`: domains with so much memory have such pages wherever they
    /// can.
    fn is_large(&self, gfn: Gfn, kind: Kind, mfn: Mfn) -> bool {
        let place = gfn.0 % LARGE;
        self.p2m.len() as u64 >= LARGE
            && mfn.0 >= place
            && (0..LARGE).all(|n| self.at(Gfn(gfn.0 - place + n)) == (kind, Mfn(mfn.0 - place + n)))
    }

    /// Puts something at `gfn`, without any check.
    ///
    /// # Panics
    /// If the physical map is not that large.
    pub fn set(&self, gfn: Gfn, kind: Kind, mfn: Mfn) {
        let gfn = usize::try_from(gfn.0).unwrap_or(usize::MAX);
        self.p2m[gfn].store(pack(kind, mfn), Ordering::Release);
    }

    /// Gives memory at `gfn` up, as a balloon does.
    pub fn balloon_out(&self, gfn: Gfn) {
        let (kind, mfn) = self.at(gfn);
        assert!(matches!(kind, Kind::Ram | Kind::RamRo), "{gfn:?} holds {kind:?}");
        self.set(gfn, Kind::None, Mfn(0));
        self.ram.put(mfn);
    }

    /// TLB flushes so far.
    #[must_use]
    pub fn flushes(&self) -> u32 {
        self.flushes.load(Ordering::Relaxed)
    }

    fn entry_word(&self, gref: Gref) -> (Mfn, usize) {
        let frame = self.table.shared_frame(gref.0 / V1_PER_FRAME);
        let Ok(mfn) = frame else { panic!("{gref:?} is beyond the table's limit") };
        (mfn, (gref.0 % V1_PER_FRAME) as usize)
    }

    /// Writes a version-1 entry, as the guest does.
    pub fn write_entry(&self, gref: Gref, entry: EntryV1) {
        let (mfn, word) = self.entry_word(gref);
        self.ram.store(mfn, word, transmute!(entry));
    }

    /// Replaces a version-1 entry that is `old`, as the guest does.
    #[must_use]
    pub fn exchange_entry(&self, gref: Gref, old: EntryV1, new: EntryV1) -> bool {
        let (mfn, word) = self.entry_word(gref);
        self.ram.exchange(mfn, word, transmute!(old), transmute!(new))
    }

    /// Reads a version-1 entry, as the guest does.
    #[must_use]
    pub fn read_entry(&self, gref: Gref) -> EntryV1 {
        let (mfn, word) = self.entry_word(gref);
        transmute!(self.ram.load(mfn, word))
    }

    fn words_v2(&self, gref: Gref) -> (Mfn, usize) {
        let frame = self.table.shared_frame(gref.0 / V2_PER_FRAME);
        let Ok(mfn) = frame else { panic!("{gref:?} is beyond the table's limit") };
        (mfn, (gref.0 % V2_PER_FRAME) as usize * 2)
    }

    /// Writes a version-2 entry of any member of the union, as the guest does: the header's word last.
    pub fn write_entry_v2<T: IntoBytes + Immutable>(&self, gref: Gref, entry: &T) {
        let (mfn, word) = self.words_v2(gref);
        let [header, body] = words_of(entry);
        self.ram.store(mfn, word + 1, body);
        self.ram.store(mfn, word, header);
    }

    /// Reads a version-2 entry, as the guest does.
    #[must_use]
    pub fn read_entry_v2(&self, gref: Gref) -> EntryV2FullPage {
        let (mfn, word) = self.words_v2(gref);
        transmute!([self.ram.load(mfn, word), self.ram.load(mfn, word + 1)])
    }

    /// Reads the status of a version-2 entry, as the guest does.
    #[must_use]
    pub fn status(&self, gref: Gref) -> u16 {
        let frame = self.table.status_frame(gref.0 / STATUS_PER_FRAME);
        let Ok(mfn) = frame else { panic!("{gref:?} has no status") };
        let index = (gref.0 % STATUS_PER_FRAME) as usize;
        let statuses: [u16; 4] = transmute!(self.ram.load(mfn, index / 4));
        statuses[index % 4]
    }

    /// The machine frame of its own memory at `gfn`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn mfn(&self, gfn: Gfn) -> Mfn {
        let (kind, mfn) = self.at(gfn);
        assert!(matches!(kind, Kind::Ram | Kind::RamRo), "{gfn:?} holds {kind:?}");
        mfn
    }
}

impl Domain for MockDomain {
    type Frames = MockFrames;

    #[inline]
    fn id(&self) -> DomId {
        self.id
    }

    #[inline]
    fn is_dying(&self) -> bool {
        self.dying.load(Ordering::Acquire)
    }

    #[inline]
    fn grants(&self) -> &Table<MockFrames> {
        &self.table
    }

    #[inline]
    fn ram(&self, gfn: Gfn) -> Option<host::Ram> {
        let (kind, mfn) = self.at(gfn);
        matches!(kind, Kind::Ram | Kind::RamRo).then(|| host::Ram {
            mfn,
            writable: kind == Kind::Ram,
            large: self.is_large(gfn, kind, mfn),
        })
    }

    fn owns(&self, mfn: Mfn) -> bool {
        self.ram.owns(self.id, mfn)
    }

    #[inline]
    fn get_frame(&self, mfn: Mfn) -> bool {
        self.ram.get(self.id, mfn)
    }

    #[inline]
    fn put_frame(&self, mfn: Mfn) {
        self.ram.put(mfn);
    }

    fn map_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        let slot = usize::try_from(gfn.0).ok().and_then(|g| self.p2m.get(g)).ok_or(Refused)?;
        let (kind, old) = self.at(gfn);
        match kind {
            Kind::GrantRo | Kind::GrantRw | Kind::Special => return Err(Refused),
            Kind::Ram | Kind::RamRo => self.ram.put(old),
            Kind::None => (),
        }
        let kind = if writable { Kind::GrantRw } else { Kind::GrantRo };
        slot.store(pack(kind, mfn), Ordering::Release);
        Ok(())
    }

    fn unmap_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        let slot = usize::try_from(gfn.0).ok().and_then(|g| self.p2m.get(g)).ok_or(Refused)?;
        let kind = if writable { Kind::GrantRw } else { Kind::GrantRo };
        slot.compare_exchange(pack(kind, mfn), pack(Kind::None, Mfn(0)), Ordering::AcqRel, Ordering::Relaxed)
            .map_err(|_| Refused)?;
        self.unflushed.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn remove_table_frame(&self, gfn: Gfn, mfn: Mfn) {
        if self.at(gfn) == (Kind::Special, mfn) {
            self.set(gfn, Kind::None, Mfn(0));
        }
        self.flush();
    }

    fn flush(&self) {
        self.unflushed.store(0, Ordering::Release);
        self.flushes.fetch_add(1, Ordering::AcqRel);
    }
}

/// How a [`Machine`] is made.
#[derive(Clone, Debug)]
pub struct MachineBuilder {
    /// Frames of memory of each domain, at gfns from 0 on.
    pub memory: usize,
    /// Gfns of each domain; those above its memory are empty.
    pub gfns: usize,
    /// CPUs.
    pub cpus: u32,
    /// Limits of each table.
    pub limits: Limits,
    /// Policy of each domain.
    pub policy: Policy,
    /// Frames nobody has yet.
    pub spare: usize,
}

impl Default for MachineBuilder {
    fn default() -> Self {
        Self {
            memory: 8,
            gfns: 32,
            cpus: 1,
            limits: Limits { frames: 2, maptrack_frames: 1 },
            policy: Policy::HOST_DEFAULT,
            spare: 0,
        }
    }
}

/// The machine: its frames and its domains, numbered from 1.
pub struct Machine {
    ram: Arc<FrameStore>,
    domains: Vec<MockDomain>,
    /// Copies with this, if there is one.
    pub engine: Option<Engine>,
}

impl MachineBuilder {
    /// A machine of `domains` domains.
    ///
    /// # Panics
    /// If the numbers do not fit each other.
    #[must_use]
    pub fn build(&self, domains: u16) -> Machine {
        self.build_with(domains, |_| self.policy)
    }

    /// As [`build`](Self::build), with each domain's own policy.
    ///
    /// # Panics
    /// If the numbers do not fit each other.
    #[must_use]
    pub fn build_with(&self, domains: u16, policy: impl Fn(u16) -> Policy) -> Machine {
        // With a status frame to each shared frame, which is more than enough.
        let tables = 2 * self.limits.frames as usize;
        let ram = FrameStore::new(usize::from(domains) * (self.memory + tables) + self.spare);
        let domains = (1..=domains).map(|id| self.domain(DomId(id), &ram, policy(id))).collect();
        Machine { ram, domains, engine: None }
    }

    fn domain(&self, id: DomId, ram: &Arc<FrameStore>, policy: Policy) -> MockDomain {
        assert!(self.memory <= self.gfns);
        let p2m = (0..self.gfns)
            .map(|gfn| match gfn < self.memory {
                true => AtomicU64::new(ram.alloc(id).map_or(0, |mfn| pack(Kind::Ram, mfn))),
                false => AtomicU64::new(pack(Kind::None, Mfn(0))),
            })
            .collect();
        let shared = Shared { ram: Arc::clone(ram), owner: id };
        let table = Table::new(HeapPages, shared, self.limits, policy, self.cpus);
        let Ok(table) = table else { panic!("no memory for a table") };
        MockDomain {
            id,
            ram: Arc::clone(ram),
            p2m,
            table,
            unflushed: AtomicU32::new(0),
            flushes: AtomicU32::new(0),
            dying: AtomicBool::new(false),
        }
    }
}

impl Machine {
    /// The frames.
    #[must_use]
    pub fn ram(&self) -> &FrameStore {
        &self.ram
    }

    /// A domain, numbered from 1.
    ///
    /// # Panics
    /// If there is none of that number.
    #[must_use]
    pub fn domain(&self, id: u16) -> &MockDomain {
        &self.domains[usize::from(id) - 1]
    }

    /// The domains.
    #[must_use]
    pub fn domains(&self) -> &[MockDomain] {
        &self.domains
    }

    /// A host for one hypercall of `caller` on CPU `cpu`.
    #[must_use]
    pub fn host(&self, caller: u16, cpu: u32) -> MockHost<'_> {
        MockHost {
            machine: self,
            caller: self.domain(caller),
            cpu,
            yields: false,
            controls: false,
            crashed: Cell::new(None),
        }
    }

    /// One hypercall, issued again until it does not yield. Returns its last outcome.
    pub fn call(
        &self,
        caller: u16,
        memory: &mut impl GuestMemory,
        width: Width,
        cmd: u32,
        args: u64,
        count: u32,
    ) -> Outcome {
        self.host(caller, 0).call(memory, width, cmd, args, count)
    }
}

/// One hypercall's view of a [`Machine`].
pub struct MockHost<'m> {
    machine: &'m Machine,
    caller: &'m MockDomain,
    cpu: u32,
    /// Yield whenever asked.
    pub yields: bool,
    /// The caller controls the other domains.
    pub controls: bool,
    /// Why the caller was crashed.
    pub crashed: Cell<Option<&'static str>>,
}

impl MockHost<'_> {
    /// One hypercall, issued again for as long as it yields. Returns its last outcome.
    pub fn call(
        &self,
        memory: &mut impl GuestMemory,
        width: Width,
        cmd: u32,
        mut args: u64,
        mut count: u32,
    ) -> Outcome {
        loop {
            match grant_table_op(self, memory, width, cmd, args, count) {
                Outcome::Again { bytes, elements } => {
                    assert!(elements > 0 && elements < count);
                    args += bytes;
                    count -= elements;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Domains for MockHost<'_> {
    type Domain = MockDomain;

    #[inline]
    fn domain(&self, id: DomId) -> Option<&MockDomain> {
        self.machine.domains.get(usize::from(id.0).checked_sub(1)?)
    }
}

impl Host for MockHost<'_> {
    #[inline]
    fn caller(&self) -> &MockDomain {
        self.caller
    }

    fn controls(&self, _: &MockDomain) -> bool {
        self.controls
    }

    #[inline]
    fn cpu(&self) -> u32 {
        self.cpu
    }

    #[inline]
    fn should_yield(&self) -> bool {
        self.yields
    }

    #[inline]
    fn frame(&self, mfn: Mfn) -> *mut u8 {
        self.machine.ram.pointer(mfn)
    }

    #[inline]
    fn copy<S: AsRef<Segment>>(&self, batch: Batch<'_, S>) {
        FrameStore::copy(batch, self.machine.engine.as_ref());
    }

    fn crash_caller(&self, why: &'static str) {
        self.crashed.set(Some(why));
    }
}
