//! Guest frame to machine frame: the nested page tables of a domain.
//!
//! Owns a tree of 4-level tables in the long-mode format that nested paging walks (AMD APM vol. 2, 15.25;
//! 5.3), with 4 KiB and 2 MiB leaves. What a leaf is for stands in the bits the hardware leaves to software
//! (9 to 11).
//!
//! **Who races.** [`P2m::lookup`] takes no lock: hypercalls on any pCPU, and the hardware's own walker, read
//! entries while writers change them. Each change of an entry is one atomic store of a complete entry, so
//! a reader sees the old or the new one. A 2 MiB leaf is split by filling a table with the same 512
//! translations first and then storing the pointer to it, so that no reader ever meets a hole. A table, once
//! linked, stays linked until [`P2m::release_step`], which runs when no vCPU of the domain can run and no
//! lookup can start (the domain is out of the table of domains and a grace period has passed): that is why
//! readers need no guard for the tables. The *frames* a lookup returns are kept by the epoch
//! (`epoch::pin`): a frame leaves a domain only after a grace period.
//!
//! A table that is linked does not move either. So the page directories of the first few GiB, where guests have
//! their memory, are also kept in the [`P2m`] itself: a lookup there is two loads, or three.
//!
//! Tables are made and linked, and large leaves made and split, under a spinlock. A 4 KiB leaf is changed by one
//! compare-exchange, with the lock or without: so mapping and unmapping grants takes no lock, where a table is there.
//!
//! Changing or removing a present leaf leaves stale translations in TLBs: whoever does it calls
//! [`super::tlb::flush_domain`] before the frame can matter to somebody else.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use gnttab_fast::Ram;
use gnttab_fast::types::{Gfn, Mfn, PAGE_SHIFT};
use spin::Mutex;

use super::{
    frames::{self, Owner},
    phys_to_virt,
};

/// Order of a 2 MiB leaf.
pub const ORDER_2M: u8 = 9;
/// Guest frames a 4-level table can name.
pub const MAX_GFN: u64 = 1 << 36;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const KIND_SHIFT: u32 = 9;
const KIND_MASK: u64 = 7 << KIND_SHIFT;
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;
/// Instruction fetches fault. The nested walk obeys it because root mode has EFER.NXE on (15.25.6).
const NO_EXECUTE: u64 = 1 << 63;
/// Accessed and dirty are set from the start: nobody reads them, and the hardware need not write them.
const ACCESSED_DIRTY: u64 = 3 << 5;

/// What a leaf is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum P2mKind {
    /// The domain's own memory.
    RamRw,
    /// The domain's own memory, which it may not write.
    RamRo,
    /// A frame of the hypervisor that this domain owns a view of: shared info, grant frames.
    Shared,
    /// Another domain's frame, mapped by grant, writable.
    GrantRw,
    /// Another domain's frame, mapped by grant, read-only.
    GrantRo,
    /// A frame of another domain's grant table, mapped by the control domain.
    Foreign,
}

impl P2mKind {
    const fn bits(self) -> u64 {
        let kind = match self {
            // Ram is 2 and 3, so that one comparison tells it.
            Self::Shared => 1,
            Self::RamRw => 2,
            Self::RamRo => 3,
            Self::GrantRw => 4,
            Self::GrantRo => 5,
            Self::Foreign => 6,
        };
        let write = if self.writable() { WRITE } else { 0 };
        // What others write, or wrote, is data.
        let execute = if self.is_ram() { 0 } else { NO_EXECUTE };
        (kind << KIND_SHIFT) | PRESENT | USER | write | execute | ACCESSED_DIRTY
    }

    const fn from_bits(entry: u64) -> Option<Self> {
        match (entry & KIND_MASK) >> KIND_SHIFT {
            1 => Some(Self::Shared),
            2 => Some(Self::RamRw),
            3 => Some(Self::RamRo),
            4 => Some(Self::GrantRw),
            5 => Some(Self::GrantRo),
            6 => Some(Self::Foreign),
            _ => None,
        }
    }

    /// May the guest write through it?
    #[must_use]
    pub const fn writable(self) -> bool {
        matches!(self, Self::RamRw | Self::Shared | Self::GrantRw | Self::Foreign)
    }

    /// Is it the domain's own memory, which it may grant?
    #[must_use]
    pub const fn is_ram(self) -> bool {
        matches!(self, Self::RamRw | Self::RamRo)
    }
}

/// A translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct P2mEntry {
    /// The machine frame.
    pub mfn: Mfn,
    /// What it is for.
    pub kind: P2mKind,
}

impl P2mEntry {
    /// May the guest write through it?
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.kind.writable()
    }
}

/// Why a change was refused; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum P2mError {
    /// No frame for a table.
    NoMemory,
    /// The gfn is beyond what the tables can name.
    OutOfRange,
    /// A 2 MiB leaf wants both frame numbers aligned and nothing mapped in its range; other orders than
    /// these two do not exist.
    Misplaced,
    /// What stands there may not be replaced.
    Occupied,
}

/// Page directories kept at hand: those of the first 8 GiB.
const NEAR: usize = 8;

/// A domain's nested page tables.
#[derive(Debug)]
pub struct P2m {
    root: Mfn,
    /// The first directories; [`EMPTY`] where there is none.
    near: [AtomicPtr<Table>; NEAR],
    /// Serialises who changes tables and large leaves; holds how far [`P2m::release_step`] has come.
    writer: Mutex<u64>,
}

/// A table of any level.
type Table = [AtomicU64; 512];

/// Reads as a directory without entries. Nobody writes it: who makes an entry goes by the tree.
static EMPTY: Table = [const { AtomicU64::new(0) }; 512];

/// The table in a frame.
#[inline(always)]
fn table_in(frame: Mfn) -> &'static Table {
    let at = phys_to_virt(frame.0 << PAGE_SHIFT).cast::<Table>();
    // SAFETY: `frame` is one this module allocated for the hypervisor and links into a tree until the tree is
    // released, when nothing walks it any more (module docs); it is accessed as atomics only, here and by the
    // hardware's walker.
    unsafe { &*at }
}

/// The entry of `table` at `index`, which is masked into the page.
#[inline(always)]
fn slot(table: Mfn, index: usize) -> &'static AtomicU64 {
    &table_in(table)[index & 511]
}

const fn index_of(gfn: Gfn, level: u32) -> usize {
    ((gfn.0 >> (9 * level)) & 511) as usize
}

const fn frame_of(entry: u64) -> Mfn {
    Mfn((entry & FRAME_MASK) >> PAGE_SHIFT)
}

const fn table_entry(table: Mfn) -> u64 {
    (table.0 << PAGE_SHIFT) | PRESENT | WRITE | USER | ACCESSED_DIRTY
}

const fn leaf(mfn: Mfn, kind: P2mKind) -> u64 {
    (mfn.0 << PAGE_SHIFT) | kind.bits()
}

/// What stands at a gfn: the leaf's entry and the frame inside it that belongs to the gfn.
fn decode(entry: u64, offset: u64) -> Option<P2mEntry> {
    if entry & PRESENT == 0 {
        return None;
    }
    Some(P2mEntry { mfn: Mfn(frame_of(entry).0 + offset), kind: P2mKind::from_bits(entry)? })
}

impl P2m {
    /// Empty tables. `None` when there is no frame for the root.
    #[must_use]
    pub fn new() -> Option<Self> {
        Some(Self {
            root: frames::alloc(0, Owner::Hypervisor)?,
            near: [const { AtomicPtr::new((&raw const EMPTY).cast_mut()) }; NEAR],
            writer: Mutex::new(0),
        })
    }

    /// The root table, for nCR3.
    #[must_use]
    pub const fn root(&self) -> Mfn {
        self.root
    }

    /// The translation of `gfn`. Takes no lock; the frame stays what it is while the caller is pinned.
    #[must_use]
    pub fn lookup(&self, gfn: Gfn) -> Option<P2mEntry> {
        let (entry, offset) = self.leaf(gfn);
        decode(entry, offset)
    }

    /// The frame at `gfn`, if it is the domain's own memory: what grants ask for the frames of each batch. As
    /// [`P2m::lookup`].
    #[must_use]
    #[inline(always)]
    pub fn ram(&self, gfn: Gfn) -> Option<Ram> {
        /// What tells ram, writable or not, from all other kinds.
        const MASK: u64 = PRESENT | KIND_MASK & !(P2mKind::RamRw.bits() ^ P2mKind::RamRo.bits());
        const RAM: u64 = P2mKind::RamRw.bits() & MASK;
        let (entry, offset) = self.leaf(gfn);
        (entry & MASK == RAM).then(|| Ram {
            mfn: Mfn(frame_of(entry).0 + offset),
            writable: entry & WRITE != 0,
            // Memory is contiguous where one leaf is. A 4 KiB leaf has the attribute bit there, which is clear.
            large: entry & LARGE != 0,
        })
    }

    /// The frame at `gfn`, and whether the domain may write it, whatever it is for. As [`P2m::lookup`].
    #[must_use]
    #[inline(always)]
    pub fn frame(&self, gfn: Gfn) -> Option<(Mfn, bool)> {
        let entry = self.pde(gfn).load(Ordering::Acquire);
        // Only writable kinds have the bit, and only present leaves are large: most guest memory is.
        if entry & LARGE != 0 {
            return Some((Mfn(frame_of(entry).0 + (gfn.0 & 511)), entry & WRITE != 0));
        }
        if entry & PRESENT == 0 {
            return None;
        }
        let entry = slot(frame_of(entry), index_of(gfn, 0)).load(Ordering::Acquire);
        (entry & PRESENT != 0).then(|| (frame_of(entry), entry & WRITE != 0))
    }

    /// The leaf that covers `gfn`, present or not, and where in it the gfn lies.
    #[inline(always)]
    fn leaf(&self, gfn: Gfn) -> (u64, u64) {
        let entry = self.pde(gfn).load(Ordering::Acquire);
        if entry & LARGE != 0 {
            return (entry, gfn.0 & 511);
        }
        if entry & PRESENT == 0 {
            return (0, 0);
        }
        (slot(frame_of(entry), index_of(gfn, 0)).load(Ordering::Acquire), 0)
    }

    /// The 2 MiB slot for `gfn`; one that is empty and to be left so, if its directory is not there.
    #[inline(always)]
    fn pde(&self, gfn: Gfn) -> &'static AtomicU64 {
        // The index of each level is masked to nine bits (three for the near ones), under speculation too, and
        // the tables it selects from are this domain's own: nothing foreign can be reached by a mispredicted
        // bound.
        let directory = if gfn.0 >> 18 < NEAR as u64 { self.near(gfn) } else { self.far_directory(gfn) };
        &directory[index_of(gfn, 1)]
    }

    /// The directory for a `gfn` below the end of the near ones.
    #[inline(always)]
    fn near(&self, gfn: Gfn) -> &'static Table {
        // Acquire: pairs with the release store of the directory, filled before.
        let directory = self.near[index_of(gfn, 2) % NEAR].load(Ordering::Acquire);
        // SAFETY: `EMPTY`, or a reference from `table_in`.
        unsafe { &*directory }
    }

    /// The 4 KiB slot for `gfn`, if its table is there.
    #[inline(always)]
    fn pte(&self, gfn: Gfn) -> Option<&'static AtomicU64> {
        let entry = self.pde(gfn).load(Ordering::Acquire);
        (entry & (PRESENT | LARGE) == PRESENT).then(|| slot(frame_of(entry), index_of(gfn, 0)))
    }

    /// The directory for a `gfn` anywhere.
    #[cold]
    fn far_directory(&self, gfn: Gfn) -> &'static Table {
        if gfn.0 >= MAX_GFN {
            return &EMPTY;
        }
        let mut table = self.root;
        for level in [3, 2] {
            // Acquire: pairs with the release store that linked the table after it was filled.
            let entry = slot(table, index_of(gfn, level)).load(Ordering::Acquire);
            if entry & PRESENT == 0 {
                return &EMPTY;
            }
            table = frame_of(entry);
        }
        table_in(table)
    }

    /// Maps `1 << order` frames (order 0 or 9) and returns what stood at `gfn` before (order 0 only).
    ///
    /// # Errors
    /// See [`P2mError`].
    pub fn set(&self, gfn: Gfn, mfn: Mfn, order: u8, kind: P2mKind) -> Result<Option<P2mEntry>, P2mError> {
        if gfn.0 >= MAX_GFN {
            return Err(P2mError::OutOfRange);
        }
        if order != 0 && order != ORDER_2M {
            return Err(P2mError::Misplaced);
        }
        let _writer = self.writer.lock();
        let pde = self.directory_slot(gfn)?;
        if order == ORDER_2M {
            if (gfn.0 | mfn.0) & 511 != 0 || pde.load(Ordering::Relaxed) & PRESENT != 0 {
                return Err(P2mError::Misplaced);
            }
            pde.store(leaf(mfn, kind) | LARGE, Ordering::Release);
            return Ok(None);
        }
        let pte = leaf_slot(pde, gfn, true)?.ok_or(P2mError::NoMemory)?;
        Ok(decode(pte.swap(leaf(mfn, kind), Ordering::AcqRel), 0))
    }

    /// Maps one frame where nothing is, if there is a table for it: the usual place of a grant. False if it is for
    /// [`P2m::set_if`] to do, or to refuse.
    #[inline(always)]
    pub fn set_vacant(&self, gfn: Gfn, mfn: Mfn, kind: P2mKind) -> bool {
        self.pte(gfn).is_some_and(|pte| {
            pte.compare_exchange(0, leaf(mfn, kind), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Maps one frame if `allowed` says so of what stands at `gfn`, and returns that.
    ///
    /// # Errors
    /// [`P2mError::Occupied`] when it was not allowed; else as [`P2m::set`].
    pub fn set_if(
        &self,
        gfn: Gfn,
        mfn: Mfn,
        kind: P2mKind,
        allowed: impl Fn(Option<P2mEntry>) -> bool,
    ) -> Result<Option<P2mEntry>, P2mError> {
        let _writer = self.writer.lock();
        // With the lock a table stays missing until it is made here, and a large leaf what it is.
        if self.pte(gfn).is_none() && !allowed(self.lookup(gfn)) {
            return Err(P2mError::Occupied);
        }
        if gfn.0 >= MAX_GFN {
            return Err(P2mError::OutOfRange);
        }
        let pde = self.directory_slot(gfn)?;
        let pte = leaf_slot(pde, gfn, true)?.ok_or(P2mError::NoMemory)?;
        let new = leaf(mfn, kind);
        let old = pte
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| allowed(decode(old, 0)).then_some(new));
        old.map(|old| decode(old, 0)).map_err(|_| P2mError::Occupied)
    }

    /// Removes the translation of one gfn and returns it; `None` when there was none.
    ///
    /// # Errors
    /// [`P2mError::NoMemory`] when a 2 MiB leaf could not be split: nothing is removed, and the caller must not
    /// act as if it were (XSA-222).
    pub fn clear(&self, gfn: Gfn) -> Result<Option<P2mEntry>, P2mError> {
        self.clear_if(gfn, |_| true)
    }

    /// Removes the translation of one gfn if `expected` says so of it, and returns it; `None` when nothing
    /// was removed.
    ///
    /// # Errors
    /// As [`P2m::clear`].
    pub fn clear_if(
        &self,
        gfn: Gfn,
        expected: impl Fn(P2mEntry) -> bool,
    ) -> Result<Option<P2mEntry>, P2mError> {
        let _writer = self.writer.lock();
        // Nothing is made or split for what is not removed.
        if !self.lookup(gfn).is_some_and(&expected) {
            return Ok(None);
        }
        let pde = self.directory_slot(gfn)?;
        let Some(pte) = leaf_slot(pde, gfn, false)? else { return Ok(None) };
        let old = pte.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            decode(old, 0).is_some_and(&expected).then_some(0)
        });
        Ok(old.ok().and_then(|old| decode(old, 0)))
    }

    /// Removes the translation of one gfn if it is a 4 KiB leaf of this frame and this kind; false when it is not.
    #[inline(always)]
    pub fn clear_exactly(&self, gfn: Gfn, mfn: Mfn, kind: P2mKind) -> bool {
        // Nothing but frame and kind is in a leaf: nobody sets its other bits.
        self.pte(gfn).is_some_and(|pte| {
            pte.compare_exchange(leaf(mfn, kind), 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// The level-1 (2 MiB) slot for `gfn`, making the tables above it.
    fn directory_slot(&self, gfn: Gfn) -> Result<&'static AtomicU64, P2mError> {
        let mut table = self.root;
        for level in [3, 2] {
            let entry = slot(table, index_of(gfn, level));
            let value = entry.load(Ordering::Relaxed);
            table = if value & PRESENT == 0 {
                let fresh = frames::alloc(0, Owner::Hypervisor).ok_or(P2mError::NoMemory)?;
                // Release: the zeroed table is visible before the pointer to it.
                entry.store(table_entry(fresh), Ordering::Release);
                if level == 2 && gfn.0 >> 18 < NEAR as u64 {
                    let directory = ptr::from_ref(table_in(fresh)).cast_mut();
                    self.near[index_of(gfn, 2) % NEAR].store(directory, Ordering::Release);
                }
                fresh
            } else {
                frame_of(value)
            };
        }
        Ok(slot(table, index_of(gfn, 1)))
    }

    /// Releases leaves and tables, at most about `budget` of them; true when nothing is left. `drop_leaf`
    /// gets each leaf with its order. Only for a domain no vCPU of which can run any more and that
    /// nobody can look up (module docs).
    pub fn release_step(&self, budget: u32, mut drop_leaf: impl FnMut(P2mEntry, u8)) -> bool {
        let mut at = self.writer.lock();
        let mut left = budget;
        while *at < MAX_GFN {
            if left == 0 {
                return false;
            }
            left -= 1;
            let gfn = Gfn(*at);
            *at = self.release_at(gfn, &mut left, &mut drop_leaf);
        }
        true
    }

    /// Releases what covers `gfn` and returns the next gfn to look at.
    fn release_at(&self, gfn: Gfn, left: &mut u32, drop_leaf: &mut impl FnMut(P2mEntry, u8)) -> u64 {
        let pml4e = slot(self.root, index_of(gfn, 3));
        let Some(pdpt) = table_at(pml4e) else { return (gfn.0 | ((1 << 27) - 1)) + 1 };
        let pdpte = slot(pdpt, index_of(gfn, 2));
        let next = match table_at(pdpte) {
            None => (gfn.0 | ((1 << 18) - 1)) + 1,
            Some(directory) => {
                release_directory_slot(slot(directory, index_of(gfn, 1)), left, drop_leaf);
                let next = (gfn.0 | 511) + 1;
                if next.trailing_zeros() >= 18 {
                    if gfn.0 >> 18 < NEAR as u64 {
                        let empty = ptr::from_ref(&EMPTY).cast_mut();
                        self.near[index_of(gfn, 2) % NEAR].store(empty, Ordering::Relaxed);
                    }
                    pdpte.store(0, Ordering::Relaxed);
                    frames::free(directory, 0);
                }
                next
            }
        };
        if next.trailing_zeros() >= 27 {
            pml4e.store(0, Ordering::Relaxed);
            frames::free(pdpt, 0);
        }
        next
    }
}

/// The table an upper entry points to.
fn table_at(entry: &AtomicU64) -> Option<Mfn> {
    let value = entry.load(Ordering::Relaxed);
    (value & PRESENT != 0).then(|| frame_of(value))
}

/// Releases the 2 MiB leaf, or the table and its leaves, behind one slot of a page directory.
fn release_directory_slot(pde: &AtomicU64, left: &mut u32, drop_leaf: &mut impl FnMut(P2mEntry, u8)) {
    let value = pde.swap(0, Ordering::AcqRel);
    if value & PRESENT == 0 {
        return;
    }
    if value & LARGE != 0 {
        if let Some(entry) = decode(value, 0) {
            drop_leaf(entry, ORDER_2M);
        }
        return;
    }
    let leaves = frame_of(value);
    for index in 0..512 {
        if let Some(entry) = decode(slot(leaves, index).load(Ordering::Relaxed), 0) {
            *left = left.saturating_sub(1);
            drop_leaf(entry, 0);
        }
    }
    frames::free(leaves, 0);
}

impl Drop for P2m {
    fn drop(&mut self) {
        // Leaves are the business of `release_step`, which knows whom to give them back to; what is left
        // here are tables of a domain that was never built.
        while !self.release_step(u32::MAX, |_, _| ()) {}
        frames::free(self.root, 0);
    }
}

/// The 4 KiB slot for `gfn` below `pde`: splits a 2 MiB leaf, and makes a missing table if `make`.
fn leaf_slot(pde: &'static AtomicU64, gfn: Gfn, make: bool) -> Result<Option<&'static AtomicU64>, P2mError> {
    let value = pde.load(Ordering::Relaxed);
    if value & PRESENT == 0 && !make {
        return Ok(None);
    }
    if value & PRESENT == 0 || value & LARGE != 0 {
        let fresh = frames::alloc(0, Owner::Hypervisor).ok_or(P2mError::NoMemory)?;
        if value & PRESENT != 0 {
            for index in 0..512 {
                let frame = frame_of(value).0 + index;
                #[expect(clippy::cast_possible_truncation, reason = "below 512")]
                let index = index as usize;
                let entry = (frame << PAGE_SHIFT) | (value & !FRAME_MASK & !LARGE);
                slot(fresh, index).store(entry, Ordering::Relaxed);
            }
        }
        // Release: the table is filled before the pointer to it can be followed.
        pde.store(table_entry(fresh), Ordering::Release);
        return Ok(Some(slot(fresh, index_of(gfn, 0))));
    }
    Ok(Some(slot(frame_of(value), index_of(gfn, 0))))
}

#[cfg(test)]
mod tests;
