//! Pages of the table, and the entries a guest shares with the hypervisor.
//!
//! The only module of the crate with `unsafe`, and that is one dereference: a page of a [`Directory`]
//! becomes a reference to atomics. A shared frame is written by its guest at any time, also with plain
//! stores and other widths; for us it is an array of atomic words, each read once for a decision and
//! changed by compare-exchange or by an atomic AND, never assumed to keep its value.
//!
//! # Publication
//! A directory only grows. Who grows a table puts each page into its slot with a release exchange, and
//! raises the table's limit after that, so whoever reads the limit first (acquire) finds the page (XSA-218:
//! the page published after the limit).
#![allow(unsafe_code)]

use crate::abi::gtf;
use crate::active::Pin;
use crate::primitive::{AtomicPtr, AtomicU64, Ordering};
use crate::status::Status;
use crate::types::{DomId, Gfn, Mfn};
use alloc::boxed::Box;
use core::ptr::{self, NonNull};
use maptrack::{Page, PageSource};

/// Attempts to change a shared entry before its guest is taken to be hostile: as many as Xen makes.
const TRIES: u32 = 5;

/// A source of frames that a guest will see.
///
/// # Safety
/// As for [`PageSource`], except that the guest reads and writes the page too. `mfn` of a page that came
/// from `take` is the machine frame it lies in.
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
        // exchange that put it there. It is given back in `drop` only. All access is atomic, so the guest's
        // writes are no data race; the source says nobody else has it.
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

    pub(crate) fn source(&self) -> &S {
        &self.source
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

/// A version-1 entry as it was at one moment: `frame:32 | domid:16 | flags:16`, in memory order the
/// structure of the header, read in one load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WordV1(u64);

impl WordV1 {
    fn flags(self) -> u16 {
        let [a, b, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    fn domid(self) -> u16 {
        let [_, _, a, b, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    fn with(self, bits: u16) -> Self {
        Self(self.0 | u64::from(bits))
    }

    /// The frame granted.
    #[must_use]
    pub fn gfn(self) -> Gfn {
        Gfn(self.0 >> 32)
    }
}

/// A version-1 entry in a shared frame.
#[derive(Clone, Copy, Debug)]
pub struct EntryV1<'a>(&'a AtomicU64);

impl<'a> EntryV1<'a> {
    /// The entry in this word of a shared frame.
    #[inline]
    #[must_use]
    pub fn new(word: &'a AtomicU64) -> Self {
        Self(word)
    }

    /// The entry of this moment.
    #[inline]
    #[must_use]
    pub fn load(self) -> WordV1 {
        WordV1(self.0.load(Ordering::Acquire))
    }

    /// Replaces the entry. Only for entries without pins that are held busy.
    pub fn store(self, word: WordV1) {
        self.0.store(word.0, Ordering::Release);
    }

    /// See [`Backing::mark`](crate::active::Backing::mark). Flags, grantee and frame are one word, so an
    /// exchange that succeeds has checked them all as of one moment, and returns the entry of that moment.
    ///
    /// # Errors
    /// [`Status::GeneralError`] if type, grantee or access do not fit, or if the guest changes the entry
    /// faster than it can be marked; no bit was set.
    #[inline(always)]
    pub fn mark(self, grantee: Option<DomId>, pin: Pin, maps: bool) -> Result<WordV1, Status> {
        let word = self.load();
        match self.try_mark(word, grantee, pin, maps)? {
            Ok(()) => Ok(word),
            Err(now) => self.mark_again(now, grantee, pin, maps),
        }
    }

    /// The attempts after the first.
    #[cold]
    fn mark_again(
        self,
        mut word: WordV1,
        grantee: Option<DomId>,
        pin: Pin,
        maps: bool,
    ) -> Result<WordV1, Status> {
        for _ in 1..TRIES {
            match self.try_mark(word, grantee, pin, maps)? {
                Ok(()) => return Ok(word),
                Err(now) => word = now,
            }
        }
        Err(Status::GeneralError)
    }

    /// One attempt, on an entry that was `word`; if it is another now, that is the inner error.
    #[inline(always)]
    fn try_mark(
        self,
        word: WordV1,
        grantee: Option<DomId>,
        pin: Pin,
        maps: bool,
    ) -> Result<Result<(), WordV1>, Status> {
        if let Some(grantee) = grantee {
            // A sub-page flag means nothing in version 1, but Xen refuses to map such an entry.
            let mask = if maps { gtf::TYPE_MASK | gtf::SUB_PAGE } else { gtf::TYPE_MASK };
            if word.flags() & mask != gtf::PERMIT_ACCESS || word.domid() != grantee.0 {
                return Err(Status::GeneralError);
            }
        }
        let mut bits = gtf::READING;
        if pin.writes() {
            if word.flags() & gtf::READONLY != 0 {
                return Err(Status::GeneralError);
            }
            bits |= gtf::WRITING;
        }
        let exchange =
            self.0.compare_exchange(word.0, word.with(bits).0, Ordering::AcqRel, Ordering::Acquire);
        Ok(exchange.map(drop).map_err(WordV1))
    }

    /// Clears bits, whatever else the guest has made of the entry.
    #[inline]
    pub fn unmark(self, bits: u16) {
        self.0.fetch_and(!u64::from(bits), Ordering::AcqRel);
    }
}
