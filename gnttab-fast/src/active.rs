//! Active entries: what the hypervisor itself knows of a grant in use, without a lock.
//!
//! # What it is
//! Two words an entry. The *pin word* counts who uses the entry and names the grantee; it is changed by
//! compare-exchange only. The *frame word* beside it holds the machine frame and the range of bytes granted;
//! it is written while nobody has a pin and stays as it is until the last pin goes, whatever the guest
//! does to the shared entry meanwhile (XSA-500).
//!
//! # States
//! An entry is *idle* (word 0, or [`V2`] alone), *live* (pins, no [`BUSY`]) or *busy*. The steps which must look at the
//! guest's shared entry are four: first pin, first write pin, last write pin gone, last pin gone. The CPU
//! that takes one sets [`BUSY`] with the exchange that would have made the step, does its work, and stores
//! the word of the new state. Any other pin or unpin is one exchange. Who meets [`BUSY`] waits: the holder
//! runs with interrupts off, makes at most five attempts on the shared entry, walks a p2m once, and never
//! waits for anything while it holds the entry. So no guest prolongs the wait. `swap_grant_ref` and a version
//! switch hold several entries busy, and take lower references first. A block of short copies holds several,
//! too, in no order, for as long as some KiB take to copy ([`copy`](crate::copy)): it takes only what is idle
//! ([`try_lock_v1`](Active::try_lock_v1)) and waits for none.
//!
//! The guest-visible bits follow: `GTF_reading` is set while there are pins, `GTF_writing` while there are
//! write pins, host or device, copies included (XSA-230). They are set before the pin can be seen and
//! cleared after it is gone; the caller drops pins of a mapping only after the TLB flush (XSA-218).
//!
//! # Versions
//! Where the guest's side of an entry is depends on the version of the table, and a switch moves it. Each
//! entry carries the version in its own word, and a switch holds all entries busy while it changes them: so
//! the version cannot change for whoever has the entry busy or pinned, and the word an operation compares and
//! exchanges anyway tells it. That is why version 1 pays nothing for the existence of version 2: its first
//! pin is an exchange of zero, which fails for an entry of version 2, and its last unpin tests [`V2`]
//! together with [`BUSY`]. The entries reserved for the toolstack may be pinned across a switch, which then
//! moves their bits and changes their words while they are busy.
//!
//! # Transitive grants
//! A pin of such an entry comes with a pin of the entry it passes on, which its caller took before and drops
//! after it ([`pin_transitive`](Active::pin_transitive)); nobody waits for an entry while another is busy, so
//! grants that cross each other cannot deadlock (XSA-411). The frame word holds the other entry's frame and
//! range, and later pins must have come to the same.
//!
//! # Frames and epochs
//! Who makes the first pin reads the p2m inside its own epoch, so the frame found stays what it is until
//! that epoch ends. Who joins an entry takes the frame from the frame word, and the p2m may have dropped it
//! before the joiner's epoch began: the pins that hold it alive are others'. So a joiner first makes sure
//! of the frame ([`Backing::hold`]: a reference for a mapping, a look at the frame's owner for a copy),
//! then pins, then checks that the frame word is still the one it made sure of.
//!
//! # Orderings
//! Pins are taken with acquire and dropped with release on the pin word, so that what one holder did to
//! frame word, shared entry or frame is seen by who comes after the word's zero. The frame word needs no
//! order of its own: it is written before the release store that ends the busy state and read after the
//! acquire exchange that joined.

mod words;

use crate::abi::gtf;
use crate::policy::Version;
use crate::primitive::{AtomicU64, Ordering, spin_loop};
use crate::status::Status;
use crate::types::DomId;
use core::ptr;
use words::{
    BUSY, DOMID_SHIFT, PINS, SUB_PAGE, TRANSITIVE, V2, WRITABLE, WRITERS, grantee, idle, is_idle, version_of,
};
pub use words::{Frame, Pin, Pins};

/// What the first pin of an entry finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Frame and range.
    pub frame: Frame,
    /// The granter may write the frame, so a grantee may be let.
    pub writable: bool,
    /// The entry must not be mapped.
    pub sub_page: bool,
}

/// The world around an entry: the shared entry, the granter's p2m, and what keeps a frame in place.
pub trait Backing {
    /// What [`mark`](Self::mark) read of the shared entry.
    type Mark;

    /// Checks the shared entry and sets `GTF_reading`, and `GTF_writing` for a write pin, so that the guest
    /// cannot take the grant back between the two. With `grantee` the entry is not pinned yet and type and
    /// grantee are checked too; without, there are no writers yet.
    ///
    /// # Errors
    /// The status for the guest; no bit is left set.
    fn mark(&self, version: Version, grantee: Option<DomId>, pin: Pin) -> Result<Self::Mark, Status>;

    /// Clears `GTF_*` bits of the shared entry.
    fn unmark(&self, version: Version, bits: u16);

    /// Finds the frame the shared entry names and makes sure of it for this pin, as [`hold`](Self::hold)
    /// does. Called between `mark` and the pin.
    ///
    /// # Errors
    /// The status for the guest; nothing is held.
    fn find(&self, mark: Self::Mark, pin: Pin) -> Result<Found, Status>;

    /// For the first write pin on an entry already pinned: whether `recorded`, less than a frame if
    /// `sub_page`, may be used.
    ///
    /// # Errors
    /// The status for the guest.
    fn recheck(&self, mark: Self::Mark, recorded: Frame, sub_page: bool) -> Result<(), Status>;

    /// For a pin that joins others of a version-2 entry: whether a copy must not, because the entry has come
    /// to pass on another one and what is on record is not what it says (XSA-500).
    fn passes_on(&self) -> bool;

    /// Makes sure that `frame` stays in place, for a mapping with a reference, for a copy until the end of
    /// the epoch. False if it is the granter's no more.
    fn hold(&self, frame: Frame) -> bool;

    /// Undoes [`hold`](Self::hold).
    fn let_go(&self, frame: Frame);

    /// True for a mapping: sub-page entries are refused.
    fn maps(&self) -> bool;
}

/// The shared entry of a transitive grant.
pub trait Passing {
    /// Checks that the shared entry still passes on what the caller pinned, and lets `pin` be; with
    /// `grantee`, also to whom. Sets the bits `set`, so that the guest cannot take the grant back between the
    /// two.
    ///
    /// # Errors
    /// The status for the guest; the bits are cleared again.
    fn mark_transitive(&self, grantee: Option<DomId>, pin: Pin, set: u16) -> Result<(), Status>;
}

impl Pins {
    /// Whether no more of this kind can be taken.
    #[must_use]
    pub const fn at_limit(self, pin: Pin) -> bool {
        match pin {
            Pin::Read => self.host_read >= Self::LIMIT,
            Pin::Write => self.host_write >= Self::LIMIT,
        }
    }

    /// The most pins of a kind, as [`Pin::limit`] has it.
    const LIMIT: u8 = 1 << 7;
}

/// One active entry.
#[derive(Clone, Copy, Debug)]
pub struct Active<'a> {
    /// Pin word, frame word.
    words: &'a [AtomicU64; 2],
}

impl<'a> Active<'a> {
    /// The entry made of these two words, which belong to it alone and began as zeroes.
    #[inline]
    #[must_use]
    pub fn new(words: &'a [AtomicU64; 2]) -> Self {
        Self { words }
    }

    fn pins_word(self) -> &'a AtomicU64 {
        let [pins, _] = self.words;
        pins
    }

    fn frame_word(self) -> &'a AtomicU64 {
        let [_, frame] = self.words;
        frame
    }

    /// Whether it is the entry at this place.
    #[inline(always)]
    pub(crate) fn is_at(self, place: *const [AtomicU64; 2]) -> bool {
        ptr::eq(self.words, place)
    }

    /// Where it is.
    #[inline(always)]
    pub(crate) fn place(self) -> *const [AtomicU64; 2] {
        self.words
    }

    /// The frame recorded. Means something only to who has a pin.
    #[inline]
    #[must_use]
    pub fn frame(self) -> Frame {
        Frame(self.frame_word().load(Ordering::Relaxed))
    }

    /// The pins of this moment.
    #[must_use]
    pub fn pins(self) -> Pins {
        let word = self.pins_word().load(Ordering::Acquire);
        let [host_read, host_write, _, _, low, high, ..] = word.to_le_bytes();
        Pins { host_read, host_write, grantee: u16::from_le_bytes([low, high]) }
    }

    /// Whether nobody pins the entry, nor is about to.
    #[must_use]
    pub fn is_idle(self) -> bool {
        is_idle(self.pins_word().load(Ordering::Acquire))
    }

    /// Takes a pin for `by`. The frame returned is pinned, and held for as long as `backing` says.
    ///
    /// # Errors
    /// The status for the guest; nothing has changed.
    #[inline(always)]
    pub fn pin<B: Backing + Copy>(self, by: DomId, pin: Pin, backing: B) -> Result<Frame, Status> {
        // Idle in version 1 is the common case for a copy, so try it before looking.
        match self.pins_word().compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => self.first_pin(Version::V1, by, pin, &backing),
            // By value, so that the common case need not put it into memory.
            Err(word) => self.pin_in_use(word, by, pin, backing),
        }
    }

    #[inline(always)]
    fn first_pin(
        self,
        version: Version,
        by: DomId,
        pin: Pin,
        backing: &impl Backing,
    ) -> Result<Frame, Status> {
        let found = backing
            .mark(version, Some(by), pin)
            .and_then(|mark| backing.find(mark, pin).inspect_err(|_| backing.unmark(version, pin.bits())));
        let found = match found {
            Ok(found) => found,
            Err(status) => {
                self.pins_word().store(idle(version), Ordering::Release);
                return Err(status);
            }
        };
        self.frame_word().store(found.frame.0, Ordering::Relaxed);
        let word = u64::from(by.0) << DOMID_SHIFT
            | if found.sub_page { SUB_PAGE } else { 0 }
            | if found.writable { WRITABLE } else { 0 }
            | idle(version)
            | pin.increment();
        // Release: who joins sees the frame word.
        self.pins_word().store(word, Ordering::Release);
        Ok(found.frame)
    }

    #[cold]
    #[inline(never)]
    fn pin_in_use<B: Backing>(self, mut word: u64, by: DomId, pin: Pin, backing: B) -> Result<Frame, Status> {
        let backing = &backing;
        loop {
            if word & BUSY != 0 {
                spin_loop();
                word = self.pins_word().load(Ordering::Relaxed);
                continue;
            }
            if is_idle(word) {
                match self.exchange(word, word | BUSY) {
                    Ok(()) => return self.first_pin(version_of(word), by, pin, backing),
                    Err(now) => word = now,
                }
                continue;
            }
            let refused = if backing.maps() { SUB_PAGE | TRANSITIVE } else { TRANSITIVE };
            if grantee(word) != u64::from(by.0) || word & (pin.limit() | refused) != 0 {
                return Err(Status::GeneralError);
            }
            if pin.writes() && word & WRITERS == 0 {
                match self.exchange(word, word | BUSY) {
                    Ok(()) => return self.first_write_pin(word, pin, backing),
                    Err(now) => word = now,
                }
                continue;
            }
            if version_of(word) == Version::V2 && backing.passes_on() {
                return Err(Status::GeneralError);
            }
            // Join. The frame word may be of an earlier life of the entry until the pin is ours; `hold`
            // must come before it (see the module's text), hence the comparison after.
            let frame = self.frame();
            if !backing.hold(frame) {
                // Perhaps of an earlier life; then the pin word has moved on.
                let now = self.pins_word().load(Ordering::Acquire);
                if now == word && self.frame() == frame {
                    return Err(Status::GeneralError);
                }
                word = now;
                continue;
            }
            match self.exchange(word, word + pin.increment()) {
                Ok(()) if self.frame() == frame => return Ok(frame),
                Ok(()) => {
                    self.unpin(pin, |version, bits| backing.unmark(version, bits));
                    backing.let_go(frame);
                    word = self.pins_word().load(Ordering::Relaxed);
                }
                Err(now) => {
                    backing.let_go(frame);
                    word = now;
                }
            }
        }
    }

    /// The entry is busy and pinned by readers: `word` is its word without [`BUSY`].
    #[cold]
    fn first_write_pin(self, word: u64, pin: Pin, backing: &impl Backing) -> Result<Frame, Status> {
        // Busy and pinned: the frame word cannot change.
        let frame = self.frame();
        let version = version_of(word);
        let result = backing.mark(version, None, pin).and_then(|mark| {
            let allowed = if word & WRITABLE == 0 {
                Err(Status::BadPage)
            } else if !backing.hold(frame) {
                Err(Status::GeneralError)
            } else {
                backing.recheck(mark, frame, word & SUB_PAGE != 0).inspect_err(|_| backing.let_go(frame))
            };
            allowed.inspect_err(|_| backing.unmark(version, gtf::WRITING))
        });
        let next = if result.is_ok() { word + pin.increment() } else { word };
        self.pins_word().store(next, Ordering::Release);
        result.map(|()| frame)
    }

    /// Takes a pin of an entry that passes another one on: of version 2, transitive, with a pin of the like
    /// on the entry passed on, which has `frame`. Its frame is held by that other pin.
    ///
    /// # Errors
    /// The status for the guest; nothing has changed. The other pin is the caller's to drop.
    pub fn pin_transitive(
        self,
        by: DomId,
        pin: Pin,
        frame: Frame,
        backing: &impl Passing,
    ) -> Result<(), Status> {
        let word = self.lock();
        let fits = grantee(word) == u64::from(by.0)
            && word & TRANSITIVE != 0
            && word & pin.limit() == 0
            && self.frame() == frame;
        let (first, set) = match word {
            _ if is_idle(word) => (true, pin.bits()),
            _ if !fits => (false, 0),
            _ if pin.writes() && word & WRITERS == 0 => (false, gtf::WRITING),
            _ => (false, 0),
        };
        // A switch to version 1 may have come since the entry was seen to be transitive.
        let result = if version_of(word) == Version::V2 && (first || fits) {
            backing.mark_transitive(first.then_some(by), pin, set)
        } else {
            Err(Status::GeneralError)
        };
        let next = match result {
            Err(_) => word,
            Ok(()) if first => {
                self.frame_word().store(frame.0, Ordering::Relaxed);
                u64::from(by.0) << DOMID_SHIFT | SUB_PAGE | WRITABLE | TRANSITIVE | V2 | pin.increment()
            }
            Ok(()) => word + pin.increment(),
        };
        self.pins_word().store(next, Ordering::Release);
        result
    }

    /// Drops a pin, with `unmark` as [`Backing::unmark`]. What [`Backing::hold`] took is the caller's to let
    /// go, afterwards.
    #[inline(always)]
    pub fn unpin(self, pin: Pin, unmark: impl FnOnce(Version, u16)) {
        let word = self.pins_word().load(Ordering::Relaxed);
        // The only pin of a version-1 entry, as a copy's is nearly always.
        if word & (BUSY | V2 | PINS) == pin.increment() && self.exchange(word, word | BUSY).is_ok() {
            unmark(Version::V1, pin.bits());
            self.pins_word().store(0, Ordering::Release);
            return;
        }
        self.unpin_in_use(pin, unmark);
    }

    #[cold]
    #[inline(never)]
    fn unpin_in_use(self, pin: Pin, unmark: impl FnOnce(Version, u16)) {
        let mut word = self.pins_word().load(Ordering::Relaxed);
        loop {
            if word & BUSY != 0 {
                spin_loop();
                word = self.pins_word().load(Ordering::Relaxed);
                continue;
            }
            debug_assert_ne!(word & (pin.increment() * 0xff), 0, "a pin dropped twice");
            let next = word - pin.increment();
            let clear = if next & PINS == 0 {
                pin.bits()
            } else if pin.writes() && next & WRITERS == 0 {
                gtf::WRITING
            } else {
                match self.exchange(word, next) {
                    Ok(()) => return,
                    Err(now) => word = now,
                }
                continue;
            };
            match self.exchange(word, word | BUSY) {
                Ok(()) => {
                    let version = version_of(word);
                    unmark(version, clear);
                    let next = if next & PINS == 0 { idle(version) } else { next };
                    self.pins_word().store(next, Ordering::Release);
                    return;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Makes the entry busy, pinned or not, after waiting for whoever has it busy now. Returns its word as it
    /// was.
    fn lock(self) -> u64 {
        let mut word = self.pins_word().load(Ordering::Relaxed);
        loop {
            if word & BUSY != 0 {
                spin_loop();
                word = self.pins_word().load(Ordering::Relaxed);
                continue;
            }
            match self.exchange(word, word | BUSY) {
                Ok(()) => return word,
                Err(now) => word = now,
            }
        }
    }

    /// Makes an idle entry busy, after waiting for whoever has it busy now. Returns its version, or `None` if
    /// it is pinned.
    #[must_use]
    pub fn lock_idle(self) -> Option<Version> {
        let mut word = self.pins_word().load(Ordering::Relaxed);
        loop {
            if word & BUSY != 0 {
                spin_loop();
                word = self.pins_word().load(Ordering::Relaxed);
                continue;
            }
            if !is_idle(word) {
                return None;
            }
            match self.exchange(word, word | BUSY) {
                Ok(()) => return Some(version_of(word)),
                Err(now) => word = now,
            }
        }
    }

    /// Makes an idle entry of version 1 busy, if it is one at this moment; waits for nobody.
    #[must_use]
    #[inline(always)]
    pub fn try_lock_v1(self) -> bool {
        self.pins_word().compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends what [`lock_idle`](Self::lock_idle) or [`try_lock_v1`](Self::try_lock_v1) began, with the entry's version from now on. Also makes a
    /// zeroed entry that nobody can reach yet one of `version`.
    #[inline(always)]
    pub fn unlock_idle(self, version: Version) {
        self.pins_word().store(idle(version), Ordering::Release);
    }

    /// Makes an entry busy whether it is pinned or not.
    pub fn lock_any(self) {
        self.lock();
    }

    /// Ends what [`lock_any`](Self::lock_any) began, with the entry's version from now on.
    pub fn unlock_any(self, version: Version) {
        // Busy: nobody else changes the word.
        let word = self.pins_word().load(Ordering::Relaxed) & !(BUSY | V2);
        self.pins_word().store(word | idle(version), Ordering::Release);
    }

    #[inline]
    fn exchange(self, from: u64, to: u64) -> Result<(), u64> {
        self.pins_word().compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).map(drop)
    }
}
