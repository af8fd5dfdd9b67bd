//! Lists of free entries, linked through the entries' second words, and the depot that holds whole lists.
//!
//! A [`List`] is one word: the index of its head and its length. The second word of a free entry is
//! `length:16 | next list:24 | next entry:24`; the upper two fields count only in the head of a list that
//! lies in the depot. Indexes are stored plus one, so zero ends a list.
//!
//! The [`Depot`] is a Treiber stack of lists: one word of `tag:40 | head:24`. A popper may read the links of
//! an entry which another CPU has popped, allocated and overwritten meanwhile; what it read is then garbage,
//! but the tag grows with every push, so its compare-exchange fails (ABA). Entries are never unmapped while
//! the table lives, so the read itself is always good.

use crate::entry::low32;
use crate::primitive::{AtomicU64, Ordering};
use crate::store::{Entry, PageSource, Store};

/// Entries in a full list: what a magazine trades with the depot. Two batches of 32 (one unmap chunk).
pub(crate) const LIST_LEN: u32 = if cfg!(loom) { 2 } else { 64 };

const LINK_BITS: u32 = 24;
const LINK_MASK: u64 = (1 << LINK_BITS) - 1;
const LEN_SHIFT: u32 = 2 * LINK_BITS;
const DEPOT_TAG_ONE: u64 = 1 << LINK_BITS;

/// A chain of free entries, owned by whoever holds the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct List {
    /// Index of the head plus one, 0 if empty.
    head: u32,
    len: u32,
}

impl List {
    pub(crate) const EMPTY: Self = Self { head: 0, len: 0 };

    pub(crate) fn from_word(word: u64) -> Self {
        Self { head: low32(word), len: low32(word >> 32) }
    }

    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.len) << 32 | u64::from(self.head)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.head == 0
    }

    pub(crate) const fn is_full(self) -> bool {
        self.len >= LIST_LEN
    }

    /// Adds an entry which the caller owns.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry<'_>, index: u32) {
        entry.aux.store(u64::from(self.head), Ordering::Release);
        *self = Self { head: index + 1, len: self.len + 1 };
    }

    /// Takes the head and its index.
    #[inline]
    pub(crate) fn pop<'s, S: PageSource>(&mut self, store: &'s Store<S>) -> Option<(u32, Entry<'s>)> {
        let index = self.head.checked_sub(1)?;
        let entry = store.own_entry(index);
        let next = low32(entry.aux.load(Ordering::Relaxed) & LINK_MASK);
        *self = Self { head: next, len: self.len - 1 };
        Some((index, entry))
    }
}

/// Full (and, after steals, partial) lists that belong to no CPU.
pub(crate) struct Depot(AtomicU64);

impl Depot {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Gives a list away. An empty one vanishes.
    #[cold]
    pub(crate) fn push<S: PageSource>(&self, store: &Store<S>, list: List) {
        let Some(index) = list.head.checked_sub(1) else { return };
        let entry = store.own_entry(index);
        let next = entry.aux.load(Ordering::Relaxed) & LINK_MASK;
        let mut head = self.0.load(Ordering::Relaxed);
        // Each failure means that another CPU's push or pop succeeded. Those come once in LIST_LEN handles
        // per CPU, and a CPU is in here at most once.
        loop {
            let links = u64::from(list.len) << LEN_SHIFT | (head & LINK_MASK) << LINK_BITS | next;
            entry.aux.store(links, Ordering::Release);
            let new = (head & !LINK_MASK).wrapping_add(DEPOT_TAG_ONE) | u64::from(list.head);
            match self.0.compare_exchange(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes a list, [`List::EMPTY`] if there is none.
    #[cold]
    pub(crate) fn pop<S: PageSource>(&self, store: &Store<S>) -> List {
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            let top = low32(head & LINK_MASK);
            let Some(index) = top.checked_sub(1) else { return List::EMPTY };
            let links = store.own_entry(index).aux.load(Ordering::Relaxed);
            let new = head & !LINK_MASK | links >> LINK_BITS & LINK_MASK;
            match self.0.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
                // `len` is read again from the links only now that they are proven to be the list's.
                Ok(_) => return List { head: top, len: low32(links >> LEN_SHIFT) },
                Err(now) => head = now,
            }
        }
    }
}
