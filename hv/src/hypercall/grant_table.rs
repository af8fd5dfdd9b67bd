//! `grant_table_op`: the crate `gnttab_fast` tied to this hypervisor.
//!
//! The crate decides; this room answers its questions about domains, frames and the caller's memory
//! ([`gnttab_fast::Host`]). One [`View`] is made for one hypercall, under the guard the dispatcher pinned, so
//! domains and translated frames stay what they are until it returns. The caller's argument pages are walked
//! once each: [`Arguments`] keeps the last two.
//!
//! # At a domain's death
//! [`release_step`] first lets a grace period pass, so that every operation that found the domain alive has
//! ended; then gives back what it had mapped; then waits for the others to unmap what it had granted. Until
//! then the domain stays in the table of domains, for their unmaps must find it. Frames of the table itself that
//! the control domain holds are waited for in the same way.
#![forbid(unsafe_code)]

use core::cell::Cell;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use alloc::sync::Arc;
use copy_engine::Segment;
use crossbeam_epoch::Guard;
use gnttab_fast::types::{DomId, Gfn, Gref, Mfn, PAGE_SHIFT, PAGE_SIZE};
use gnttab_fast::{
    Batch, Cells, Domains, Fault, Frames, GuestMemory, Host, Limits, NotGrown, Ram, RanOut, Refused, Scan,
    Table, TableFrame, grant_table_op, teardown_step,
};

use super::{Call, Outcome};
use crate::abi::errno::Errno;
use crate::abi::grant_table::op as ops;
use crate::arch::x86::percpu;
use crate::domain::{self, Domain, GrantLimits, lifecycle};
use crate::mm::frames::Owner;
use crate::mm::guest::{Access, GuestPage, GuestSpace};
use crate::mm::p2m::{P2mEntry, P2mKind};
use crate::mm::{frames, grants, phys_to_virt, tlb};
use crate::{epoch, sched, vt};

mod limits;
mod resource;

pub use resource::{Resource, foreign_added, foreign_removed};

/// Handles looked at in one step of a domain's death.
const HANDLES: u32 = 256;
/// Entries looked at in one step.
const ENTRIES: u32 = 2048;
/// What a translated x86 guest may ask of `grant_table_op`, by bits. To all else, stray bits of the command
/// word included, Xen answers -ENOSYS before it looks at anything (`hvm_grant_table_op`); so do we. The crate
/// has the rest of the operations for callers of other kinds.
const ALLOWED: u32 = 1 << ops::MAP_GRANT_REF
    | 1 << ops::UNMAP_GRANT_REF
    | 1 << ops::SETUP_TABLE
    | 1 << ops::COPY
    | 1 << ops::QUERY_SIZE
    | 1 << ops::SET_VERSION
    | 1 << ops::GET_VERSION
    | 1 << ops::SWAP_GRANT_REF;
/// `XENMAPIDX_grant_table_status`: the index is a status frame's.
const MAPIDX_STATUS: u32 = 1 << 31;

/// Where the pages of grant tables come from.
#[derive(Debug)]
pub struct GrantFrames;

impl Frames for GrantFrames {
    type Own = grants::OwnPages;
    type Shared = grants::SharedPages;
}

/// How far [`release_step`] has come.
mod stage {
    /// Not begun.
    pub const ALIVE: u32 = 0;
    /// Waiting for those who found the domain alive.
    pub const GRACE: u32 = 1;
    /// Giving back what the domain mapped.
    pub const MAPPED: u32 = 2;
    /// Waiting for those who map its frames.
    pub const GRANTED: u32 = 3;
}

/// A domain's grant table and maptrack.
pub struct GrantTable {
    table: Table<GrantFrames>,
    /// See [`stage`]. Shared with the deferred call that ends the grace period.
    stage: Arc<AtomicU32>,
    /// Where the present stage goes on.
    cursor: AtomicU32,
    /// Places in other domains' p2ms where frames of this table stand.
    foreign: AtomicU32,
    /// What it has run out of, as far as people were told.
    told: limits::Told,
}

impl fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantTable")
            .field("frames", &self.table.frames())
            .field("limits", &self.table.limits())
            .field("handles", &self.table.maptrack().in_use())
            .finish_non_exhaustive()
    }
}

impl GrantTable {
    /// The table of a new domain.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: DomId, limits: &GrantLimits) -> Result<Self, Errno> {
        let table = Table::new(
            grants::OwnPages,
            grants::SharedPages { domain },
            Limits { frames: limits.max_frames, maptrack_frames: limits.max_maptrack_frames },
            limits.policy,
            percpu::cpus_online(),
        )
        .map_err(errno_of)?;
        Ok(Self {
            table,
            stage: Arc::new(AtomicU32::new(stage::ALIVE)),
            cursor: AtomicU32::new(0),
            foreign: AtomicU32::new(0),
            told: limits::Told::default(),
        })
    }

    /// Places in the control domain's physical map where frames of this table stand. A dying domain waits until
    /// there is none.
    #[must_use]
    pub fn foreign(&self) -> u32 {
        self.foreign.load(Ordering::Acquire)
    }

    /// The table itself.
    #[must_use]
    pub fn table(&self) -> &Table<GrantFrames> {
        &self.table
    }
}

fn errno_of(why: NotGrown) -> Errno {
    match why {
        NotGrown::Limit | NotGrown::Version => Errno::EINVAL,
        NotGrown::NoMemory => Errno::ENOMEM,
    }
}

impl gnttab_fast::Domain for Domain {
    type Frames = GrantFrames;

    #[inline]
    fn id(&self) -> DomId {
        self.id
    }

    fn is_dying(&self) -> bool {
        Self::is_dying(self)
    }

    #[inline]
    fn grants(&self) -> &Table<GrantFrames> {
        &self.grants.table
    }

    #[inline(always)]
    fn ram(&self, gfn: Gfn) -> Option<Ram> {
        self.p2m.ram(gfn)
    }

    fn owns(&self, mfn: Mfn) -> bool {
        frames::owner(mfn) == Some(Owner::Domain(self.id))
    }

    #[inline]
    fn get_frame(&self, mfn: Mfn) -> bool {
        frames::get_ref(mfn, self.id)
    }

    #[inline]
    fn put_frame(&self, mfn: Mfn) {
        frames::put_ref(mfn);
    }

    #[inline(always)]
    fn map_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        if self.p2m.set_vacant(gfn, mfn, kind_of(writable)) {
            Ok(())
        } else {
            map_over(self, gfn, mfn, writable)
        }
    }

    #[inline(always)]
    fn unmap_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        // Grants are mapped by leaves of their own.
        if self.p2m.clear_exactly(gfn, mfn, kind_of(writable)) { Ok(()) } else { Err(Refused) }
    }

    fn flush(&self) {
        tlb::flush_domain(&self.tlb);
    }

    fn remove_table_frame(&self, gfn: Gfn, mfn: Mfn) {
        let ours = |entry: P2mEntry| entry.mfn == mfn && entry.kind == P2mKind::Shared;
        // Not split from anything, so nothing to be short of.
        if let Ok(Some(_)) = self.p2m.clear_if(gfn, ours) {
            tlb::flush_domain(&self.tlb);
            frames::put_ref(mfn);
        }
    }
}

/// The guest maps a grant where there is no table yet, or over something of its own: that is gone, once no CPU
/// reaches it any more.
#[cold]
#[inline(never)]
fn map_over(domain: &Domain, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
    let allowed = |old: Option<P2mEntry>| old.is_none_or(|old| !is_grant(old.kind));
    let old = domain.p2m.set_if(gfn, mfn, kind_of(writable), allowed).map_err(|_| Refused)?;
    let Some(old) = old else { return Ok(()) };
    tlb::flush_domain(&domain.tlb);
    match old.kind {
        P2mKind::Foreign => foreign_removed(old.mfn),
        kind => {
            if kind.is_ram() {
                domain.pages.fetch_sub(1, Ordering::Relaxed);
            } else {
                domain.grants.table.displace(gfn);
            }
            frames::put_ref(old.mfn);
        }
    }
    Ok(())
}

const fn kind_of(writable: bool) -> P2mKind {
    if writable { P2mKind::GrantRw } else { P2mKind::GrantRo }
}

const fn is_grant(kind: P2mKind) -> bool {
    matches!(kind, P2mKind::GrantRw | P2mKind::GrantRo)
}

/// The domains as one guard sees them.
struct Numbers<'a>(&'a Guard);

impl Domains for Numbers<'_> {
    type Domain = Domain;

    #[inline]
    fn domain(&self, id: DomId) -> Option<&Domain> {
        domain::table::get(id, self.0)
    }
}

/// The machine as one hypercall sees it.
struct View<'a> {
    caller: &'a Domain,
    domains: Numbers<'a>,
    /// Bytes copied so far.
    copied: Cell<u64>,
}

impl Domains for View<'_> {
    type Domain = Domain;

    #[inline]
    fn domain(&self, id: DomId) -> Option<&Domain> {
        self.domains.domain(id)
    }
}

impl Host for View<'_> {
    #[inline]
    fn caller(&self) -> &Domain {
        self.caller
    }

    fn controls(&self, _: &Domain) -> bool {
        self.caller.control
    }

    #[inline]
    fn cpu(&self) -> u32 {
        percpu::cpu_id()
    }

    #[inline]
    fn should_yield(&self) -> bool {
        sched::should_yield()
    }

    #[inline]
    fn frame(&self, mfn: Mfn) -> *mut u8 {
        phys_to_virt(mfn.0 << PAGE_SHIFT)
    }

    #[inline]
    fn copy<S: AsRef<Segment>>(&self, batch: Batch<'_, S>) {
        self.copied.set(self.copied.get() + batch.bytes() as u64);
        grants::copy(batch);
    }

    fn ran_out(&self, of: &Domain, what: RanOut) {
        limits::ran_out(of, what);
    }

    fn crash_caller(&self, why: &'static str) {
        lifecycle::crash_in_call(self.caller, why);
    }
}

/// The caller's argument memory. Pages are wanted for writing from the start, since every structure has a
/// result; so an array that cannot be written faults before its first element is done (XSA-98).
struct Arguments<'a> {
    space: GuestSpace<'a>,
    /// The numbers of the last two pages walked, the later first: an element may straddle them.
    bases: [u64; 2],
    pages: [Option<GuestPage<'a>>; 2],
}

/// No page has this number.
const NO_PAGE: u64 = u64::MAX;

impl<'a> Arguments<'a> {
    fn new(space: GuestSpace<'a>) -> Self {
        Self { space, bases: [NO_PAGE; 2], pages: [None; 2] }
    }

    /// The page at a linear address, and the offset in it.
    #[inline]
    fn page(&mut self, address: u64) -> Result<(GuestPage<'a>, usize), Fault> {
        let (base, offset) = (address >> PAGE_SHIFT, in_page(address));
        let ([last, before], [page, page_before]) = (self.bases, self.pages);
        let known = if last == base {
            page
        } else if before == base {
            page_before
        } else {
            Some(self.walk(address, base)?)
        };
        Ok((known.ok_or(Fault)?, offset))
    }

    /// Reads what is not aligned or straddles pages.
    #[cold]
    fn read_pieces(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < out.len() {
            let (page, offset) = self.page(address.checked_add(done as u64).ok_or(Fault)?)?;
            let len = (out.len() - done).min(PAGE_SIZE - offset);
            page.read(offset, &mut out[done..done + len]).map_err(|_| Fault)?;
            done += len;
        }
        Ok(())
    }

    /// Reads aligned words of two pages.
    #[cold]
    fn read_across(&mut self, address: u64, out: &mut [[u8; 8]]) -> Result<(), Fault> {
        let (page, offset) = self.page(address)?;
        let (here, behind) = out.split_at_mut_checked((PAGE_SIZE - offset) / 8).ok_or(Fault)?;
        page.read_words(offset, here).map_err(|_| Fault)?;
        let (page, offset) = self.page(address.checked_add(8 * here.len() as u64).ok_or(Fault)?)?;
        page.read_words(offset, behind).map_err(|_| Fault)
    }

    /// Writes what straddles pages.
    #[cold]
    fn write_pieces(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < bytes.len() {
            let (page, offset) = self.page(address.checked_add(done as u64).ok_or(Fault)?)?;
            let len = (bytes.len() - done).min(PAGE_SIZE - offset);
            page.write(offset, &bytes[done..done + len]).map_err(|_| Fault)?;
            done += len;
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn walk(&mut self, address: u64, base: u64) -> Result<GuestPage<'a>, Fault> {
        let page = self.space.page_here(address, Access::Write).map_err(|_| Fault)?;
        (self.bases, self.pages) = ([base, self.bases[0]], [Some(page), self.pages[0]]);
        Ok(page)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below the page size")]
const fn in_page(address: u64) -> usize {
    (address % PAGE_SIZE as u64) as usize
}

impl GuestMemory for Arguments<'_> {
    #[inline]
    fn in_place<T: Cells>(&mut self, address: u64, most: usize) -> Result<&[T], Fault> {
        let (page, offset) = self.page(address)?;
        page.cells(offset, most).map_err(|_| Fault)
    }

    #[inline]
    fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let (page, offset) = self.page(address)?;
        let (words, rest) = out.as_chunks_mut::<8>();
        if !rest.is_empty() || !offset.is_multiple_of(8) {
            return self.read_pieces(address, out);
        }
        // The usual element: aligned words, of one page or of two.
        if offset + 8 * words.len() <= PAGE_SIZE {
            return page.read_words(offset, words).map_err(|_| Fault);
        }
        self.read_across(address, words)
    }

    #[inline]
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (page, offset) = self.page(address)?;
        if offset + bytes.len() <= PAGE_SIZE {
            return page.write(offset, bytes).map_err(|_| Fault);
        }
        self.write_pieces(address, bytes)
    }
}

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, ..] = call.args();
    if low32(cmd) == ops::SET_VERSION { set_version(call) } else { carry_out(call) }
}

/// Status frames come and go with the version.
#[cold]
#[inline(never)]
fn set_version(call: &mut Call<'_>) -> Outcome {
    let domain = call.domain;
    let _physmap = domain.memory_lock.lock();
    carry_out(call)
}

#[inline(always)]
fn carry_out(call: &mut Call<'_>) -> Outcome {
    let [cmd, args, count, ..] = call.args();
    let (cmd_word, count_word) = (low32(cmd), low32(count));
    if ALLOWED.checked_shr(cmd_word).is_none_or(|bits| bits & 1 == 0) {
        return Outcome::Done(Errno::ENOSYS.ret());
    }
    let view = View { caller: call.domain, domains: Numbers(call.guard), copied: Cell::new(0) };
    let mut memory = Arguments::new(GuestSpace::new(&call.domain.p2m, call.arch.paging(), call.guard));
    let width = match call.width {
        vt::Width::Bits64 => gnttab_fast::Width::Bits64,
        vt::Width::Bits32 => gnttab_fast::Width::Bits32,
    };
    let outcome = grant_table_op(&view, &mut memory, width, cmd_word, args, count_word);
    let elements = match outcome {
        gnttab_fast::Outcome::Done => count_word,
        gnttab_fast::Outcome::Again { elements, .. } => elements,
        gnttab_fast::Outcome::Failed(_) => 0,
    };
    tally(call.domain, cmd_word, elements, view.copied.get());
    match outcome {
        gnttab_fast::Outcome::Done => Outcome::Done(0),
        gnttab_fast::Outcome::Failed(errno) => Outcome::Done(-i64::from(errno.code())),
        gnttab_fast::Outcome::Again { bytes, elements } => {
            let [_, _, _, a, b, c] = call.args();
            call.again([cmd, args.wrapping_add(bytes), u64::from(count_word - elements), a, b, c])
        }
    }
}

/// What the domain is told of its grants by CPUID.
pub fn told_by_cpuid(domain: &Domain) -> vt::capabilities::Grants {
    let counters = &domain.counters;
    vt::capabilities::Grants {
        usage: domain.grants.table.usage(),
        maps: counters.grant_maps.get(),
        unmaps: counters.grant_unmaps.get(),
        copies: counters.grant_copies.get(),
        copy_bytes: counters.grant_copy_bytes.get(),
    }
}

#[inline(always)]
fn tally(domain: &Domain, cmd: u32, elements: u32, bytes: u64) {
    let counters = &domain.counters;
    let elements = u64::from(elements);
    // The shortest of them first.
    if cmd == ops::COPY {
        counters.grant_copies.add(elements);
        counters.grant_copy_bytes.add(bytes);
    } else if cmd == ops::MAP_GRANT_REF {
        counters.grant_maps.add(elements);
    } else if cmd == ops::UNMAP_GRANT_REF {
        counters.grant_unmaps.add(elements);
    } else if cmd == ops::SETUP_TABLE {
        limits::look(domain);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the ABI's words are 32 bits wide")]
const fn low32(word: u64) -> u32 {
    word as u32
}

/// The frame of the table that an index of `XENMAPSPACE_grant_table` names.
fn table_frame(index: u64) -> Result<TableFrame, Errno> {
    let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
    Ok(match index & MAPIDX_STATUS {
        0 => TableFrame::Shared(index),
        _ => TableFrame::Status(index & !MAPIDX_STATUS),
    })
}

/// The frame `XENMEM_add_to_physmap` names in `XENMAPSPACE_grant_table`; the table grows up to its limit for
/// it. The domain's, with the table's reference to it. Under the domain's memory lock, which keeps version
/// switches out.
///
/// # Errors
/// `EINVAL` beyond the limit, without memory to grow, and for a status frame of a version-1 table.
pub fn physmap_frame(domain: &Domain, index: u64) -> Result<Mfn, Errno> {
    let frame = match table_frame(index)? {
        TableFrame::Shared(index) => Resource::Shared.frame(domain, index),
        TableFrame::Status(index) => Resource::Status.frame(domain, index),
    };
    limits::look(domain);
    frame
}

/// Records that a frame of the table now stands at `gfn`. Returns where it stood before: the caller takes it
/// out there. Under the domain's memory lock.
pub fn physmap_placed(domain: &Domain, index: u64, gfn: Gfn) -> Option<Gfn> {
    domain.grants.table.place(table_frame(index).ok()?, gfn)
}

/// Records that what stood at `gfn` was removed; nothing if it was no frame of the table. Under the domain's
/// memory lock.
pub fn physmap_removed(domain: &Domain, gfn: Gfn) {
    domain.grants.table.displace(gfn);
}

/// One bounded step of taking back what a dying domain has mapped and granted; true when all is back. To be
/// called again and again, with the domain in the table of domains, its vCPUs stopped for good, by one CPU at
/// a time.
pub fn release_step(domain: &Domain) -> bool {
    debug_assert!(domain.is_dying());
    let GrantTable { table, stage, cursor, foreign, told: _ } = &domain.grants;
    let guard = epoch::pin();
    match stage.load(Ordering::Acquire) {
        stage::ALIVE => {
            let ended = Arc::clone(stage);
            stage.store(stage::GRACE, Ordering::Release);
            guard.defer(move || ended.store(stage::MAPPED, Ordering::Release));
            guard.flush();
            false
        }
        stage::GRACE => {
            drop(guard);
            epoch::collect_some();
            false
        }
        stage::MAPPED => {
            let from = cursor.load(Ordering::Relaxed);
            match teardown_step(&Numbers(&guard), domain, percpu::cpu_id(), from, HANDLES) {
                Some(next) => cursor.store(next, Ordering::Relaxed),
                None => {
                    cursor.store(0, Ordering::Relaxed);
                    stage.store(stage::GRANTED, Ordering::Release);
                }
            }
            false
        }
        _ => match table.find_pinned(Gref(cursor.load(Ordering::Relaxed)), ENTRIES) {
            // Frames of the table that others hold go back with their last reference, which must still find us.
            Scan::Clear => foreign.load(Ordering::Acquire) == 0,
            Scan::More(next) => {
                cursor.store(next.0, Ordering::Relaxed);
                false
            }
            // Somebody maps it still: look here again.
            Scan::Pinned(at) => {
                cursor.store(at.0, Ordering::Relaxed);
                false
            }
        },
    }
}
