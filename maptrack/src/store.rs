//! The pages of entries: where they come from, how they are published, how an index becomes an entry.
//!
//! The store only grows. A page goes into the directory first and the number of usable entries is raised
//! after it, both with release ordering, so who reads the number (acquire) finds every page below it: the
//! reverse order was one of the faults of XSA-218. Growth takes no lock. Whoever loses the race for a
//! directory slot gives its page back and helps to raise the number, so a stalled winner holds nobody up.
//!
//! This is the crate's only module with `unsafe`: it turns the source's raw pages into references, and
//! holds the mask against speculation.

use crate::handle::MAX_ENTRIES;
use crate::primitive::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use core::ptr::{self, NonNull};

/// Words in a page. Models use small pages so that growth comes within their reach.
pub(crate) const PAGE_WORDS: usize = if cfg!(loom) { 4 } else { 512 };
/// Words in an entry.
const ENTRY_WORDS: usize = 2;
/// Entries in a page: 256, as the public documents of `gnttab_max_maptrack_frames` count them.
pub const ENTRIES_PER_PAGE: u32 = if cfg!(loom) { 2 } else { 256 };
/// Pages a table can ever have (16,384): larger limits are cut to it.
pub const MAX_PAGES: u32 = MAX_ENTRIES / ENTRIES_PER_PAGE;

/// One page of entries.
pub type Page = [AtomicU64; PAGE_WORDS];

/// Where a table gets its pages.
///
/// # Safety
/// A page from `take` must be all zeroes, aligned for [`Page`], valid for reads and writes, and nobody
/// else's until `give_back`.
pub unsafe trait PageSource {
    /// A zeroed page, or `None` if there is no memory.
    fn take(&self) -> Option<NonNull<Page>>;

    /// Takes a page back.
    ///
    /// # Safety
    /// The page came from `take` of this source, and no reference to it is left.
    unsafe fn give_back(&self, page: NonNull<Page>);
}

/// Pages from the global allocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapPages;

#[cfg(not(loom))]
// SAFETY: `alloc_zeroed` gives zeroed memory of `Page`'s layout, exclusively; `give_back` frees with the
// same layout.
unsafe impl PageSource for HeapPages {
    fn take(&self) -> Option<NonNull<Page>> {
        // SAFETY: the layout of `Page` is not zero-sized.
        let p = unsafe { alloc::alloc::alloc_zeroed(core::alloc::Layout::new::<Page>()) };
        NonNull::new(p.cast())
    }

    unsafe fn give_back(&self, page: NonNull<Page>) {
        // SAFETY: the caller says the page came from `take`, which used this layout.
        unsafe { alloc::alloc::dealloc(page.as_ptr().cast(), core::alloc::Layout::new::<Page>()) }
    }
}

#[cfg(loom)]
// SAFETY: a leaked box is exclusive and valid; loom's atomics start at the zero given.
unsafe impl PageSource for HeapPages {
    fn take(&self) -> Option<NonNull<Page>> {
        NonNull::new(Box::into_raw(Box::new(core::array::from_fn(|_| AtomicU64::new(0)))))
    }

    unsafe fn give_back(&self, page: NonNull<Page>) {
        // SAFETY: the caller says the page came from `take`, which leaked a box.
        drop(unsafe { Box::from_raw(page.as_ptr()) });
    }
}

/// One entry: two words. The first is `entry::Word`; the second is the gfn of a live entry and the links
/// of a free one.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a>(&'a [AtomicU64; ENTRY_WORDS]);

impl<'a> Entry<'a> {
    #[inline]
    pub(crate) fn word(self) -> &'a AtomicU64 {
        let [word, _] = self.0;
        word
    }

    #[inline]
    pub(crate) fn aux(self) -> &'a AtomicU64 {
        let [_, aux] = self.0;
        aux
    }
}

/// The pages of one table.
pub(crate) struct Store<S: PageSource> {
    source: S,
    directory: Box<[AtomicPtr<Page>]>,
    /// Entries whose pages are in the directory.
    published: AtomicU32,
}

impl<S: PageSource> Store<S> {
    /// An empty store of at most `max_pages` pages (cut to [`MAX_PAGES`]).
    pub(crate) fn new(source: S, max_pages: u32) -> Self {
        let pages = max_pages.min(MAX_PAGES);
        let directory = (0..pages).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Self { source, directory, published: AtomicU32::new(0) }
    }

    /// Entries the store may grow to.
    pub(crate) fn limit(&self) -> u32 {
        u32::try_from(self.directory.len()).map_or(MAX_ENTRIES, |p| p * ENTRIES_PER_PAGE)
    }

    /// Entries that exist now.
    pub(crate) fn published(&self) -> u32 {
        self.published.load(Ordering::Acquire)
    }

    /// The entry at an index chosen by a guest, or `None` outside the store. A mispredicted bounds check
    /// reads entry 0 at most.
    #[inline]
    pub(crate) fn entry(&self, index: u32) -> Option<Entry<'_>> {
        let published = self.published();
        if index >= published {
            return None;
        }
        let entry = self.slot(index_nospec(index as usize, published as usize));
        // In a model a page missing below the number is a failure; elsewhere it is a bad handle.
        assert!(!cfg!(loom) || entry.is_some(), "the number of entries ran ahead of their pages");
        entry
    }

    /// The entry at an index taken from the table's own lists.
    ///
    /// # Panics
    /// If the index is outside the store: the lists are broken and nothing they say can be trusted.
    #[inline]
    pub(crate) fn own_entry(&self, index: u32) -> Entry<'_> {
        match self.slot(index as usize) {
            Some(e) => e,
            None => panic!("maptrack: free list names entry {index}, which does not exist"),
        }
    }

    #[inline]
    fn slot(&self, index: usize) -> Option<Entry<'_>> {
        let per_page = ENTRIES_PER_PAGE as usize;
        let page = self.directory.get(index / per_page)?.load(Ordering::Acquire);
        // SAFETY: a pointer in the directory is null or a page the source gave us for ourselves, zeroed
        // before the release store that put it there; it stays until the store is dropped, which cannot be
        // while `self` is borrowed.
        let page = unsafe { page.as_ref() }?;
        let (entries, _) = page.as_chunks::<ENTRY_WORDS>();
        entries.get(index % per_page).map(Entry)
    }

    /// Adds one page beyond `seen` published entries. False if the limit is reached or the source is empty.
    /// True also if another CPU has grown the store meanwhile.
    #[cold]
    pub(crate) fn grow(&self, seen: u32) -> bool {
        let Some(slot) = self.directory.get((seen / ENTRIES_PER_PAGE) as usize) else { return false };
        if slot.load(Ordering::Acquire).is_null() {
            let Some(page) = self.source.take() else { return self.published() > seen };
            let won =
                slot.compare_exchange(ptr::null_mut(), page.as_ptr(), Ordering::AcqRel, Ordering::Acquire);
            if won.is_err() {
                // SAFETY: `page` came from this source just now and never got into the directory.
                unsafe { self.source.give_back(page) };
            }
        }
        // The page is in the directory, ours or another's: only now may the number say so (XSA-218). The
        // exchange fails if somebody has raised it already, which is as good.
        let _ = self.published.compare_exchange(
            seen,
            seen + ENTRIES_PER_PAGE,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        true
    }
}

impl<S: PageSource> Drop for Store<S> {
    fn drop(&mut self) {
        for slot in &self.directory {
            if let Some(page) = NonNull::new(slot.load(Ordering::Acquire)) {
                // SAFETY: the page came from this source; `&mut self` says no `Entry` borrows it.
                unsafe { self.source.give_back(page) };
            }
        }
    }
}

/// `index` if it is below `len`, else 0, computed without a branch, so that it also holds while the CPU
/// runs ahead of a bounds check (Spectre v1).
#[inline]
#[must_use]
pub fn index_nospec(index: usize, len: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    let mask = {
        let mask: usize;
        // SAFETY: arithmetic on registers only: CMP sets the carry if index < len, SBB spreads it.
        unsafe {
            core::arch::asm!(
                "cmp {index}, {len}",
                "sbb {mask}, {mask}",
                index = in(reg) index,
                len = in(reg) len,
                mask = out(reg) mask,
                options(pure, nomem, nostack),
            );
        }
        mask
    };
    #[cfg(not(target_arch = "x86_64"))]
    let mask = 0usize.wrapping_sub(usize::from(core::hint::black_box(index) < len));
    index & mask
}

/// All ones if `index` is below `LEN`, which has 31 bits at most, else 0: without a branch, as in [`index_nospec`].
#[inline]
#[must_use]
pub fn mask_nospec<const LEN: usize>(index: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let mask: usize;
        // SAFETY: arithmetic on registers only: CMP sets the carry if index < LEN, SBB spreads it.
        unsafe {
            core::arch::asm!(
                "cmp {index}, {len}",
                "sbb {mask}, {mask}",
                index = in(reg) index,
                len = const LEN,
                mask = out(reg) mask,
                options(pure, nomem, nostack),
            );
        }
        mask
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        0usize.wrapping_sub(usize::from(core::hint::black_box(index) < LEN))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn mask_keeps_good_and_zeroes_bad_indexes() {
        for (i, n, want) in
            [(0, 1, 0), (5, 6, 5), (6, 6, 0), (7, 6, 0), (usize::MAX, 6, 0), (0, 0, 0), (3, usize::MAX, 3)]
        {
            assert_eq!(index_nospec(i, n), want, "{i} of {n}");
        }
    }

    #[test]
    fn grows_page_by_page_to_the_limit_and_no_further() {
        let s = Store::new(HeapPages, 2);
        assert_eq!(s.limit(), 512);
        assert!(s.entry(0).is_none());
        assert!(s.grow(0));
        assert_eq!(s.published(), 256);
        assert!(s.grow(0), "a caller that saw an old number is told to look again");
        assert_eq!(s.published(), 256);
        assert!(s.entry(255).is_some() && s.entry(256).is_none());
        assert!(s.grow(256));
        assert!(!s.grow(512));
        assert!(s.entry(511).is_some() && s.entry(512).is_none() && s.entry(u32::MAX).is_none());
    }

    #[test]
    fn limits_above_what_an_index_can_name_are_cut() {
        assert_eq!(Store::new(HeapPages, u32::MAX).limit(), MAX_ENTRIES);
        assert_eq!(MAX_PAGES, 16_384);
    }
}
