//! Lists of free entries, linked through the entries' second words, and the depot that holds whole lists.
//!
//! A [`List`] is one word, its head and its length. The second word of a free entry is
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
const LEN_ONE: u64 = 1 << 32;
const DEPOT_TAG_ONE: u64 = 1 << LINK_BITS;

/// A chain of free entries, owned by whoever holds the word: `length:32 | head plus one:32`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct List(u64);

impl List {
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) const fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(crate) const fn to_word(self) -> u64 {
        self.0
    }

    pub(crate) const fn len(self) -> u32 {
        low32(self.0 >> 32)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn is_full(self) -> bool {
        self.len() >= LIST_LEN
    }

    /// Index of the head plus one, 0 if empty.
    const fn head(self) -> u64 {
        self.0 & LINK_MASK
    }

    /// Adds an entry which the caller owns.
    #[inline]
    pub(crate) fn push(&mut self, entry: Entry<'_>, index: u32) {
        entry.aux().store(self.head(), Ordering::Release);
        self.0 = (self.0 & !LINK_MASK) + LEN_ONE + u64::from(index) + 1;
    }

    /// Takes the head and its index.
    #[inline]
    pub(crate) fn pop<'s, S: PageSource>(&mut self, store: &'s Store<S>) -> Option<(u32, Entry<'s>)> {
        if self.is_empty() {
            return None;
        }
        let index = low32(self.head() - 1);
        let entry = store.own_entry(index);
        let next = entry.aux().load(Ordering::Relaxed) & LINK_MASK;
        self.0 = (self.0 & !LINK_MASK) - LEN_ONE + next;
        Some((index, entry))
    }
}

/// Full (and, after steals, partial) lists that belong to no CPU.
pub(crate) struct Depot {
    head: AtomicU64,
    /// Handles in all lists; not in step with `head`.
    free: AtomicU64,
}

impl Depot {
    pub(crate) fn new() -> Self {
        Self { head: AtomicU64::new(0), free: AtomicU64::new(0) }
    }

    /// Gives a list away. An empty one vanishes.
    #[cold]
    pub(crate) fn push<S: PageSource>(&self, store: &Store<S>, list: List) {
        if list.is_empty() {
            return;
        }
        let entry = store.own_entry(low32(list.head() - 1));
        let next = entry.aux().load(Ordering::Relaxed) & LINK_MASK;
        let mut head = self.head.load(Ordering::Relaxed);
        // Each failure means that another CPU's push or pop succeeded. Those come once in LIST_LEN handles
        // per CPU, and a CPU is in here at most once.
        loop {
            let links = u64::from(list.len()) << LEN_SHIFT | (head & LINK_MASK) << LINK_BITS | next;
            entry.aux().store(links, Ordering::Release);
            let new = (head & !LINK_MASK).wrapping_add(DEPOT_TAG_ONE) | list.head();
            match self.head.compare_exchange(head, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.free.fetch_add(u64::from(list.len()), Ordering::Relaxed);
    }

    /// Handles in the depot. Exact when nothing is under way.
    pub(crate) fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Takes a list, [`List::EMPTY`] if there is none.
    #[cold]
    pub(crate) fn pop<S: PageSource>(&self, store: &Store<S>) -> List {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let top = head & LINK_MASK;
            if top == 0 {
                return List::EMPTY;
            }
            let links = store.own_entry(low32(top - 1)).aux().load(Ordering::Relaxed);
            let new = head & !LINK_MASK | links >> LINK_BITS & LINK_MASK;
            match self.head.compare_exchange(head, new, Ordering::AcqRel, Ordering::Acquire) {
                // Only now are the links proven to be the list's, and its length with them.
                Ok(_) => {
                    let len = links >> LEN_SHIFT;
                    self.free.fetch_sub(len, Ordering::Relaxed);
                    return List(len << 32 | top);
                }
                Err(now) => head = now,
            }
        }
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use crate::store::HeapPages;
    use loom::sync::Arc;

    struct Shelf {
        store: Store<HeapPages>,
        depot: Depot,
    }

    fn list(store: &Store<HeapPages>, indexes: [u32; 2]) -> List {
        let mut l = List::EMPTY;
        for i in indexes {
            l.push(store.own_entry(i), i);
        }
        l
    }

    fn empty(mut l: List, store: &Store<HeapPages>) -> alloc::vec::Vec<u32> {
        core::iter::from_fn(|| l.pop(store).map(|(i, _)| i)).collect()
    }

    /// Popping, changing the links and pushing again must not let a slow popper take a list twice (ABA).
    #[test]
    fn depot_lists_have_one_owner() {
        let mut b = loom::model::Builder::new();
        b.preemption_bound = Some(3);
        b.check(|| {
            let store = Store::new(HeapPages, 2);
            assert!(store.grow(0) && store.grow(2));
            let depot = Depot::new();
            depot.push(&store, list(&store, [0, 1]));
            depot.push(&store, list(&store, [2, 3]));
            let shelf = Arc::new(Shelf { store, depot });
            let other = {
                let shelf = shelf.clone();
                loom::thread::spawn(move || {
                    let first = shelf.depot.pop(&shelf.store);
                    let second = shelf.depot.pop(&shelf.store);
                    // Put one back: the head is what it was before, the list below it is not.
                    shelf.depot.push(&shelf.store, first);
                    second
                })
            };
            let mine = empty(shelf.depot.pop(&shelf.store), &shelf.store);
            let mut all = mine;
            all.extend(empty(other.join().unwrap(), &shelf.store));
            loop {
                let l = shelf.depot.pop(&shelf.store);
                if l.is_empty() {
                    break;
                }
                all.extend(empty(l, &shelf.store));
            }
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3]);
        });
    }
}
