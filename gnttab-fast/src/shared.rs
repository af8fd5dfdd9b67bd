//! The entries a guest shares with the hypervisor, version 1; version 2 is in [`v2`].
//!
//! The guest writes them at any time. Each word is read once for a decision.

pub(crate) mod v2;

use crate::abi::gtf;
use crate::active::Pin;
use crate::primitive::{AtomicU64, Ordering};
use crate::status::Status;
use crate::types::{DomId, Gfn};

/// Attempts to change a shared entry before its guest is taken to be hostile: as many as Xen makes.
pub(crate) const TRIES: u32 = 5;

/// A version-1 entry as it was at one moment: `frame:32 | domid:16 | flags:16`, in memory order the
/// structure of the header, read in one load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WordV1(pub(crate) u64);

impl WordV1 {
    pub(crate) fn flags(self) -> u16 {
        let [a, b, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    const DOMID_SHIFT: u32 = 16;
    pub(crate) const GFN_SHIFT: u32 = 32;

    fn with(self, bits: u16) -> Self {
        Self(self.0 | u64::from(bits))
    }

    /// The frame granted.
    #[must_use]
    pub fn gfn(self) -> Gfn {
        Gfn(self.0 >> Self::GFN_SHIFT)
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
            Ok(word) => Ok(word),
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
                Ok(word) => return Ok(word),
                Err(now) => word = now,
            }
        }
        Err(Status::GeneralError)
    }

    /// As [`mark`](Self::mark), but in one attempt: `None` also if the guest changes the entry meanwhile.
    #[inline(always)]
    pub(crate) fn mark_once(self, grantee: DomId, pin: Pin) -> Option<WordV1> {
        self.try_mark(self.load(), Some(grantee), pin, false).ok()?.ok()
    }

    /// One attempt, on an entry that was `word`, which it returns; if it is another now, that is the inner error.
    #[inline(always)]
    fn try_mark(
        self,
        word: WordV1,
        grantee: Option<DomId>,
        pin: Pin,
        maps: bool,
    ) -> Result<Result<WordV1, WordV1>, Status> {
        // What must be as it is: type, grantee, and that a writer may write. One comparison.
        let mut mask = 0;
        let mut wanted = 0;
        if let Some(grantee) = grantee {
            // A sub-page flag means nothing in version 1, but Xen refuses to map such an entry.
            let flags = if maps { gtf::TYPE_MASK | gtf::SUB_PAGE } else { gtf::TYPE_MASK };
            mask = u64::from(flags) | 0xffff << WordV1::DOMID_SHIFT;
            wanted = u64::from(gtf::PERMIT_ACCESS) | u64::from(grantee.0) << WordV1::DOMID_SHIFT;
        }
        if pin.writes() {
            mask |= u64::from(gtf::READONLY);
        }
        if word.0 & mask != wanted {
            return Err(Status::GeneralError);
        }
        let bits = pin.bits();
        let exchange =
            self.0.compare_exchange(word.0, word.with(bits).0, Ordering::AcqRel, Ordering::Acquire);
        // As the exchange saw it: the register it is in.
        Ok(exchange.map(WordV1).map_err(WordV1))
    }

    /// Clears bits, whatever else the guest has made of the entry.
    #[inline]
    pub fn unmark(self, bits: u16) {
        self.0.fetch_and(!u64::from(bits), Ordering::AcqRel);
    }
}
