//! Pages of the table.
//!
//! The only module of the crate with `unsafe`, and that is one dereference: a page of a [`Directory`]
//! becomes a reference to atomics. A shared frame is written by its guest at any time, also with plain
//! stores and other widths; for us it is an array of atomic words, each read once for a decision and
//! changed by compare-exchange or by an atomic AND or OR, never assumed to keep its value.
//!
//! # Publication
//! A directory grows page by page. Who grows a table puts each page into its slot with a release exchange,
//! and raises the table's limit after that, so whoever reads the limit first (acquire) finds the page
//! (XSA-218: the page published after the limit).
//!
//! # Taking pages out
//! Status frames go when a table goes back to version 1 (XSA-255, XSA-379). A reference found before stays
//! good: a shared source keeps memory given back as it is for as long as any hypercall runs that may have
//! found it, see [`SharedSource`].
#![allow(unsafe_code)]

use crate::primitive::{AtomicPtr, Ordering};
use crate::types::Mfn;
use alloc::boxed::Box;
use core::ptr::{self, NonNull};
use maptrack::{Page, PageSource};

/// A source of frames that a guest will see.
///
/// # Safety
/// As for [`PageSource`], except that the guest reads and writes the page too. `mfn` of a page that came
/// from `take` is the machine frame it lies in. A page given back stays mapped, and is used for nothing else,
/// until all hosts ([`Host`](crate::Host), [`Domains`](crate::Domains)) that existed at the time are gone: an
/// epoch's grace period.
pub unsafe trait SharedSource: PageSource {
    /// The machine frame of a page of this source.
    fn mfn(&self, page: NonNull<Page>) -> Mfn;
}

/// A growing array of pages from one source.
pub(crate) struct Directory<S: PageSource> {
    source: S,
    slots: Box<[AtomicPtr<Page>]>,
}

impl<S: PageSource> Directory<S> {
    /// An empty directory of `slots` slots.
    pub(crate) fn new(source: S, slots: usize) -> Self {
        Self { source, slots: (0..slots).map(|_| AtomicPtr::new(ptr::null_mut())).collect() }
    }

    /// The page in a slot. `None` if there is none yet, or no such slot.
    #[inline]
    pub(crate) fn page(&self, slot: usize) -> Option<&Page> {
        let page = self.slots.get(slot)?.load(Ordering::Acquire);
        // SAFETY: a slot holds null or a page the source gave to this directory, zeroed before the release
        // exchange that put it there. It is given back in `drop`, or by `remove` to a source that keeps it
        // until the hypercalls of now have ended. All access is atomic, so the guest's writes are no data
        // race; the source says nobody else has it.
        unsafe { page.as_ref() }
    }

    /// The page in a slot, as the source knows it.
    pub(crate) fn raw(&self, slot: usize) -> Option<NonNull<Page>> {
        NonNull::new(self.slots.get(slot)?.load(Ordering::Acquire))
    }

    /// Makes sure that a slot has a page. False if there is no memory or no such slot. Any number of CPUs
    /// may race: one page wins, the others are given back.
    pub(crate) fn fill(&self, slot: usize) -> bool {
        let Some(slot) = self.slots.get(slot) else { return false };
        if !slot.load(Ordering::Acquire).is_null() {
            return true;
        }
        let Some(page) = self.source.take() else { return false };
        let won = slot.compare_exchange(ptr::null_mut(), page.as_ptr(), Ordering::AcqRel, Ordering::Acquire);
        if won.is_err() {
            // SAFETY: the page came from this source just now and nobody has seen it.
            unsafe { self.source.give_back(page) };
        }
        true
    }
}

impl<S: SharedSource> Directory<S> {
    /// The machine frame of the page in a slot.
    pub(crate) fn mfn(&self, slot: usize) -> Option<Mfn> {
        Some(self.source.mfn(self.raw(slot)?))
    }

    /// Takes the page out of a slot and gives it back. Nothing if there is none.
    pub(crate) fn remove(&self, slot: usize) {
        let Some(slot) = self.slots.get(slot) else { return };
        if let Some(page) = NonNull::new(slot.swap(ptr::null_mut(), Ordering::AcqRel)) {
            // SAFETY: the page came from this source and is in the directory no more. References found
            // before are good until their hypercalls end: the source says so.
            unsafe { self.source.give_back(page) };
        }
    }
}

impl<S: PageSource> Drop for Directory<S> {
    fn drop(&mut self) {
        for slot in &self.slots {
            if let Some(page) = NonNull::new(slot.load(Ordering::Acquire)) {
                // SAFETY: the page came from this source; `&mut self` says no reference to it is left.
                unsafe { self.source.give_back(page) };
            }
        }
    }
}
