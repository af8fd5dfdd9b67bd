//! Version-2 entries: sixteen bytes of the guest's, and a status word of the hypervisor's in another frame.
//!
//! # Taking a grant, and taking it back
//! The two sides cannot change one word, so both write, then read (public/grant_table.h): the hypervisor sets
//! `GTF_reading` or `GTF_writing` in the status word, then reads the header again; the guest clears the
//! header's flags, then reads the status word. With a full barrier between the two steps on each side, at
//! least one of them sees the other. What is read after the barrier is what counts, and each field of it is
//! read once; a guest that changes the other fields of an entry it has not taken back gets what it wrote, of
//! its own frames, one way or the other.
//!
//! Four status words share one of ours, so bits are set and cleared by atomic OR and AND.

use super::Pin;
use crate::abi::{gtf, low32};
use crate::active::Frame;
use crate::primitive::{AtomicU64, Ordering, fence};
use crate::status::Status;
use crate::types::{DomId, Gfn, Gref, Mfn};

/// Status words in one of ours.
pub(crate) const STATUSES: usize = 4;

/// A version-2 entry as it was read: first word, second word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WordsV2 {
    /// Flags, grantee, and the range of a sub-page entry or the domain of a transitive one.
    pub(crate) header: u64,
    /// The frame, or the reference passed on.
    pub(crate) body: u64,
}

fn half(word: u64, index: u32) -> u16 {
    let [a, b, ..] = (word >> (16 * index)).to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl WordsV2 {
    pub(crate) fn flags(self) -> u16 {
        half(self.header, 0)
    }

    fn domid(self) -> DomId {
        DomId(half(self.header, 1))
    }

    /// The frame granted.
    #[must_use]
    pub fn gfn(self) -> Gfn {
        Gfn(self.body)
    }

    /// Whether less than a frame is granted.
    pub(crate) fn is_sub_page(self) -> bool {
        self.flags() & gtf::SUB_PAGE != 0
    }

    /// The bytes granted of frame `mfn`.
    pub(crate) fn range(self, mfn: Mfn) -> Frame {
        if self.is_sub_page() {
            Frame::sub_page(mfn, half(self.header, 2), half(self.header, 3))
        } else {
            Frame::whole(mfn)
        }
    }

    /// Whether the entry passes on another domain's, so that what it names is no frame.
    pub(crate) fn is_transitive(self) -> bool {
        self.flags() & gtf::TYPE_MASK == gtf::TRANSITIVE
    }

    /// The grant a transitive entry passes on.
    pub(crate) fn passes_on(self) -> (DomId, Gref) {
        (DomId(half(self.header, 2)), Gref(low32(self.body)))
    }

    /// Whether this is a transitive entry for `grantee` that lets `pin` be.
    pub(crate) fn is_transitive_for(self, grantee: DomId, pin: Pin) -> bool {
        fits(self.header, Some(grantee), pin, gtf::TYPE_MASK, gtf::TRANSITIVE)
    }
}

/// Whether a header has type `wanted` and names `grantee`, if there is one, and whether it lets `pin` be.
fn fits(header: u64, grantee: Option<DomId>, pin: Pin, mask: u16, wanted: u16) -> bool {
    let now = WordsV2 { header, body: 0 };
    grantee.is_none_or(|grantee| now.flags() & mask == wanted && now.domid() == grantee)
        && !(pin.writes() && now.flags() & gtf::READONLY != 0)
}

/// A version-2 entry in a shared frame, with its status.
#[derive(Clone, Copy, Debug)]
pub struct EntryV2<'a> {
    header: &'a AtomicU64,
    body: &'a AtomicU64,
    status: &'a AtomicU64,
    /// Of this entry's status in `status`.
    shift: u32,
}

impl<'a> EntryV2<'a> {
    /// The entry in these two words of a shared frame, with its status at `index` of the four in `status`.
    #[must_use]
    pub fn new([header, body]: &'a [AtomicU64; 2], status: &'a AtomicU64, index: usize) -> Self {
        let shift = match index % STATUSES {
            0 => 0,
            1 => 16,
            2 => 32,
            _ => 48,
        };
        Self { header, body, status, shift }
    }

    /// The entry of this moment.
    #[must_use]
    pub fn load(self) -> WordsV2 {
        // Header first: a body read after it belongs to a grant at least as new.
        let header = self.header.load(Ordering::Acquire);
        WordsV2 { header, body: self.body.load(Ordering::Acquire) }
    }

    /// Replaces the entry. Only for entries without pins that are held busy.
    pub(crate) fn store(self, words: WordsV2) {
        self.body.store(words.body, Ordering::Release);
        self.header.store(words.header, Ordering::Release);
    }

    /// The status of this moment.
    pub(crate) fn status(self) -> u16 {
        half(self.status.load(Ordering::Acquire) >> self.shift, 0)
    }

    /// Replaces the status. Only for entries held busy.
    pub(crate) fn set_status(self, status: u16) {
        self.unmark(u16::MAX);
        self.status.fetch_or(u64::from(status) << self.shift, Ordering::AcqRel);
    }

    /// See [`Backing::mark`](crate::active::Backing::mark).
    ///
    /// # Errors
    /// [`Status::GeneralError`] if type, grantee or access do not fit; no bit is left set.
    pub fn mark(self, grantee: Option<DomId>, pin: Pin, maps: bool) -> Result<WordsV2, Status> {
        let mask = if maps { gtf::TYPE_MASK | gtf::SUB_PAGE } else { gtf::TYPE_MASK };
        let set = if grantee.is_some() { pin.bits() } else { gtf::WRITING };
        self.mark_if(set, |header| fits(header, grantee, pin, mask, gtf::PERMIT_ACCESS))
    }

    /// See [`Passing::mark_transitive`](crate::active::Passing::mark_transitive); `to` is what the entry must
    /// pass on.
    ///
    /// # Errors
    /// As for [`mark`](Self::mark).
    pub(crate) fn mark_transitive(
        self,
        grantee: Option<DomId>,
        pin: Pin,
        set: u16,
        to: (DomId, Gref),
    ) -> Result<(), Status> {
        let words = self.mark_if(set, |header| {
            fits(header, grantee, pin, gtf::TYPE_MASK, gtf::TRANSITIVE)
                && WordsV2 { header, body: 0 }.is_transitive()
        })?;
        if words.passes_on() == to {
            return Ok(());
        }
        self.unmark(set);
        Err(Status::GeneralError)
    }

    fn mark_if(self, set: u16, fits: impl Fn(u64) -> bool) -> Result<WordsV2, Status> {
        if !fits(self.header.load(Ordering::Acquire)) {
            return Err(Status::GeneralError);
        }
        self.status.fetch_or(u64::from(set) << self.shift, Ordering::AcqRel);
        // Between our status and the guest's header; the guest has one between its header and our status.
        fence(Ordering::SeqCst);
        let words = self.load();
        if fits(words.header) {
            return Ok(words);
        }
        self.unmark(set);
        Err(Status::GeneralError)
    }

    /// Clears bits of the status.
    pub fn unmark(self, bits: u16) {
        self.status.fetch_and(!(u64::from(bits) << self.shift), Ordering::AcqRel);
    }
}
