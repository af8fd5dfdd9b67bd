//! Nested page tables: four levels of 512.
//!
//! The baseline walks them as the processor does, from the root down for each frame. Ours goes the way of the
//! hypervisor (`hv::mm::p2m`), which keeps the page directories of the first GiBs at hand and maps a domain's
//! memory by large leaves: directory, leaf. Mappings of grants are small leaves: directory, table, leaf.

use crate::primitive::{AtomicU64, Ordering};
use std::ptr;

/// Page directories kept at hand, one a GiB.
const NEAR: usize = 8;

/// A table of any level. An entry that is not a leaf is the address of the next one, or 0; a leaf is odd.
type Table = [AtomicU64; 512];

/// What tells a leaf from a link.
pub(crate) const PRESENT: u64 = 1;

/// The tables.
pub(crate) struct P2m {
    /// All of them, the root first. None moves, and no link changes once it is made.
    tables: Vec<Box<Table>>,
    /// The links to the first directories.
    near: [u64; NEAR],
}

impl P2m {
    /// Tables for the guest frames below `end`, with nothing mapped.
    pub(crate) fn new(end: u32) -> Self {
        let mut p2m = Self { tables: vec![Self::table()], near: [0; NEAR] };
        for gfn in (0..u64::from(end)).step_by(512) {
            let mut at = 0;
            for shift in [27, 18, 9] {
                let link = p2m.tables[at][Self::index(gfn, shift)].load(Ordering::Relaxed);
                at = match p2m.tables.iter().position(|table| Self::address(table) == link) {
                    Some(next) => next,
                    None => {
                        let table = Self::table();
                        p2m.tables[at][Self::index(gfn, shift)]
                            .store(Self::address(&table), Ordering::Relaxed);
                        p2m.tables.push(table);
                        p2m.tables.len() - 1
                    }
                };
                if shift == 18 {
                    p2m.near[Self::index(gfn, 18)] = Self::address(&p2m.tables[at]);
                }
            }
        }
        p2m
    }

    fn table() -> Box<Table> {
        Box::new([const { AtomicU64::new(0) }; 512])
    }

    fn address(table: &Table) -> u64 {
        ptr::from_ref(table).expose_provenance() as u64
    }

    #[inline]
    fn index(gfn: u64, shift: u32) -> usize {
        usize::try_from(gfn >> shift & 511).unwrap_or(0)
    }

    /// The table a link leads to.
    #[inline(always)]
    fn follow(&self, link: u64) -> Option<&Table> {
        let at = ptr::with_exposed_provenance::<Table>(usize::try_from(link).ok()?);
        // SAFETY: 0, or the address of one of `tables`, which are never taken out nor moved while `self` lives.
        unsafe { at.as_ref() }
    }

    /// The leaf of a guest frame, if there are tables for it, from the root down.
    #[inline]
    pub(crate) fn walk(&self, gfn: u64) -> Option<&AtomicU64> {
        let mut table: &Table = self.tables.first()?;
        for shift in [27, 18, 9] {
            table = self.follow(table[Self::index(gfn, shift)].load(Ordering::Acquire))?;
        }
        Some(&table[Self::index(gfn, 0)])
    }

    /// The slot of the large leaf that covers a guest frame, by the directories at hand: the machine is not
    /// larger than they reach.
    #[inline(always)]
    fn directory_slot(&self, gfn: u64) -> Option<&AtomicU64> {
        let directory = self.follow(*self.near.get(usize::try_from(gfn >> 18).ok()?)?)?;
        Some(&directory[Self::index(gfn, 9)])
    }

    /// Puts a leaf where the table of 512 guest frames was.
    pub(crate) fn set_large(&self, gfn: u64, leaf: u64) {
        let slot = self.directory_slot(gfn).expect("below the end");
        slot.store(leaf | PRESENT, Ordering::Release);
    }

    /// What stands at a guest frame, how far into a large leaf it lies, and whether the leaf is one.
    #[inline(always)]
    pub(crate) fn find(&self, gfn: u64) -> Option<(u64, u64, bool)> {
        let entry = self.directory_slot(gfn)?.load(Ordering::Acquire);
        if entry & PRESENT != 0 {
            return Some((entry, gfn & 511, true));
        }
        Some((self.follow(entry)?[Self::index(gfn, 0)].load(Ordering::Acquire), 0, false))
    }

    /// The small leaf of a guest frame.
    #[inline(always)]
    pub(crate) fn leaf(&self, gfn: u64) -> Option<&AtomicU64> {
        let entry = self.directory_slot(gfn)?.load(Ordering::Acquire);
        if entry & PRESENT != 0 {
            return None;
        }
        Some(&self.follow(entry)?[Self::index(gfn, 0)])
    }
}
