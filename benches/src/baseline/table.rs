//! Shared and active entries; acquiring a grant for a copy and releasing it.

use super::locks::{Cpu, PercpuRwLock, TicketLock};
use super::{Domain, Xen};
use crate::engine::ME;
use crate::primitive::{AtomicU16, AtomicU32, Ordering};
use gnttab_fast::Status;
use gnttab_fast::abi::gtf;

/// Pin counters, eight bits each, in one word.
pub(super) const PIN_READ: u32 = 1;
pub(super) const PIN_WRITE: u32 = 1 << 8;
const PIN_WRITE_MASK: u32 = 0xff00;
const PIN_OVERFLOW: u32 = 0x8080;

const ACTIVE_PER_PAGE: u32 = 128;
/// Compare-exchanges tried on a shared entry that keeps changing.
const SET_STATUS_TRIES: u32 = 5;

/// What Xen knows about a grant in use: 32 bytes. Read and written under its lock.
#[repr(C, align(32))]
#[derive(Default)]
pub(super) struct Active {
    lock: Lock,
    pub(super) pin: AtomicU32,
    pub(super) domid: AtomicU16,
    start: AtomicU16,
    length: AtomicU16,
    sub_page: AtomicU16,
    pub(super) mfn: AtomicU32,
    gref: AtomicU32,
}

struct Lock(TicketLock);

impl Default for Lock {
    fn default() -> Self {
        Self(TicketLock::new())
    }
}

/// One domain's grant table.
pub(super) struct Table {
    pub(super) lock: PercpuRwLock,
    version: AtomicU32,
    entries: AtomicU32,
    active: Vec<Box<[Active]>>,
}

impl Table {
    pub(super) fn new(entries: u32) -> Self {
        let pages = entries.div_ceil(ACTIVE_PER_PAGE);
        let page = |_| (0..ACTIVE_PER_PAGE).map(|_| Active::default()).collect();
        Self {
            lock: PercpuRwLock::new(),
            version: AtomicU32::new(1),
            entries: AtomicU32::new(entries),
            active: (0..pages).map(page).collect(),
        }
    }

    pub(super) fn at_rest(&self) -> bool {
        self.active.iter().all(|p| p.iter().all(|a| a.pin.load(Ordering::Relaxed) == 0))
    }

    pub(super) fn has(&self, gref: u32) -> bool {
        self.version.load(Ordering::Relaxed) == 1 && gref < self.entries.load(Ordering::Relaxed)
    }

    /// Locks the active entry. The caller reads under the table's lock and has checked the reference.
    #[inline]
    pub(super) fn acquire(&self, cpu: &Cpu, gref: u32) -> &Active {
        let act = &self.active[(gref / ACTIVE_PER_PAGE) as usize][(gref % ACTIVE_PER_PAGE) as usize];
        act.lock.0.lock(cpu);
        act
    }

    #[inline]
    pub(super) fn release(cpu: &Cpu, act: &Active) {
        act.lock.0.unlock(cpu);
    }
}

/// Flags and domid as they share a word.
const fn word_flags(flags: u16) -> u32 {
    flags as u32
}

impl Xen<'_> {
    /// Marks the shared entry as in use, if it permits that.
    #[inline(never)]
    fn set_status(&self, rd: &Domain, gref: u32, readonly: bool) -> Status {
        let (head, _) = self.machine.entry(rd.id, gref);
        let mut old = head.load(Ordering::Relaxed);
        for _ in 0..SET_STATUS_TRIES {
            let permits = old & word_flags(gtf::TYPE_MASK) == word_flags(gtf::PERMIT_ACCESS);
            if !permits || old >> 16 != u32::from(ME) {
                return Status::GeneralError;
            }
            let mut new = old | word_flags(gtf::READING);
            if !readonly {
                if old & word_flags(gtf::READONLY) != 0 {
                    return Status::GeneralError;
                }
                new |= word_flags(gtf::WRITING);
            }
            match head.compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return Status::Okay,
                Err(now) => old = now,
            }
        }
        Status::GeneralError
    }

    /// Pins an entry under its lock: the common part of map and copy. Takes a page reference.
    #[inline]
    pub(super) fn pin(&self, rd: &Domain, act: &Active, gref: u32, readonly: bool) -> Result<u32, Status> {
        let pin = act.pin.load(Ordering::Relaxed);
        let foreign = act.domid.load(Ordering::Relaxed) != ME || act.sub_page.load(Ordering::Relaxed) != 0;
        if pin != 0 && (foreign || pin & PIN_OVERFLOW != 0) {
            return Err(Status::GeneralError);
        }
        if pin == 0 || !readonly && pin & PIN_WRITE_MASK == 0 {
            match self.set_status(rd, gref, readonly) {
                Status::Okay => {}
                bad => return Err(bad),
            }
        }
        if pin == 0 {
            let mfn = self.machine.entry(rd.id, gref).1.load(Ordering::Relaxed);
            let page = self.pages.get(mfn as usize).ok_or(Status::BadPage)?;
            if !page.get(rd.id) {
                self.clear_status(rd, gref, true, true);
                return Err(Status::BadPage);
            }
            act.domid.store(ME, Ordering::Relaxed);
            act.start.store(0, Ordering::Relaxed);
            act.length.store(4096, Ordering::Relaxed);
            act.sub_page.store(0, Ordering::Relaxed);
            act.mfn.store(mfn, Ordering::Relaxed);
            act.gref.store(gref, Ordering::Relaxed);
        } else if !self.pages[act.mfn.load(Ordering::Relaxed) as usize].get(rd.id) {
            return Err(Status::BadPage);
        }
        act.pin.store(pin + if readonly { PIN_READ } else { PIN_WRITE }, Ordering::Relaxed);
        Ok(act.mfn.load(Ordering::Relaxed))
    }

    /// Drops a pin under the entry's lock, and the marks with the last.
    #[inline]
    pub(super) fn unpin(&self, rd: &Domain, act: &Active, gref: u32, readonly: bool) {
        let pin = act.pin.load(Ordering::Relaxed) - if readonly { PIN_READ } else { PIN_WRITE };
        act.pin.store(pin, Ordering::Relaxed);
        self.clear_status(rd, gref, !readonly && pin & PIN_WRITE_MASK == 0, pin == 0);
    }

    #[inline]
    fn clear_status(&self, rd: &Domain, gref: u32, writing: bool, reading: bool) {
        let (head, _) = self.machine.entry(rd.id, gref);
        if writing {
            head.fetch_and(!word_flags(gtf::WRITING), Ordering::SeqCst);
        }
        if reading {
            head.fetch_and(!word_flags(gtf::READING), Ordering::SeqCst);
        }
    }

    /// Acquires a grant for a copy: the frame and the range that may be touched.
    #[inline(never)]
    pub(super) fn acquire_for_copy(
        &self,
        cpu: &Cpu,
        rd: &Domain,
        gref: u32,
        readonly: bool,
    ) -> Result<(u32, u16, u16), Status> {
        rd.table.lock.read(cpu);
        if !rd.table.has(gref) {
            rd.table.lock.read_unlock(cpu);
            return Err(Status::BadGntref);
        }
        let act = rd.table.acquire(cpu, gref);
        let got = self
            .pin(rd, act, gref, readonly)
            .map(|mfn| (mfn, act.start.load(Ordering::Relaxed), act.length.load(Ordering::Relaxed)));
        Table::release(cpu, act);
        rd.table.lock.read_unlock(cpu);
        got
    }

    /// Releases what `acquire_for_copy` took, but for the page reference.
    #[inline(never)]
    pub(super) fn release_for_copy(&self, cpu: &Cpu, rd: &Domain, gref: u32, readonly: bool) {
        rd.table.lock.read(cpu);
        let act = rd.table.acquire(cpu, gref);
        self.unpin(rd, act, gref, readonly);
        Table::release(cpu, act);
        rd.table.lock.read_unlock(cpu);
    }
}
