//! Active entries: what the hypervisor itself knows of a grant in use, without a lock.
//!
//! # What it is
//! Two words an entry. The *pin word* counts who uses the entry and names the grantee; it is changed by
//! compare-exchange only. The *frame word* beside it holds the machine frame and the range of bytes granted;
//! it is written while nobody has a pin and stays as it is until the last pin goes, whatever the guest
//! does to the shared entry meanwhile (XSA-500).
//!
//! # States
//! An entry is *idle* (word 0), *live* (pins, no [`BUSY`]) or *busy*. The steps which must look at the
//! guest's shared entry are four: first pin, first write pin, last write pin gone, last pin gone. The CPU
//! that takes one sets [`BUSY`] with the exchange that would have made the step, does its work, and stores
//! the word of the new state. Any other pin or unpin is one exchange. Who meets [`BUSY`] waits: the holder
//! runs with interrupts off, makes at most five attempts on the shared entry, walks a p2m once, and never
//! waits for anything while it holds the entry. So no guest prolongs the wait. Only `swap_grant_ref` holds two
//! entries busy, the lower reference first.
//!
//! The guest-visible bits follow: `GTF_reading` is set while there are pins, `GTF_writing` while there are
//! write pins, host or device, copies included (XSA-230). They are set before the pin can be seen and
//! cleared after it is gone; the caller drops pins of a mapping only after the TLB flush (XSA-218).
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

use crate::abi::gtf;
use crate::primitive::{AtomicU64, Ordering, spin_loop};
use crate::status::Status;
use crate::types::{DomId, Mfn};

/// Set while one CPU alone may change the entry.
const BUSY: u64 = 1 << 48;
/// The range granted is less than the frame, or lies in another domain: never to be mapped.
const SUB_PAGE: u64 = 1 << 49;
/// The granter's p2m lets the frame be written.
const WRITABLE: u64 = 1 << 50;
/// The four counters: host readers, host writers, device readers, device writers. Those of devices are
/// counted with the others wherever pins are looked at; nothing raises them before there is an IOMMU.
const PINS: u64 = 0xffff_ffff;
const WRITERS: u64 = 0xff00_ff00;
const DOMID_SHIFT: u32 = 32;

/// What a pin is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// The frame is read.
    Read,
    /// The frame is read and written.
    Write,
}

impl Pin {
    const fn increment(self) -> u64 {
        match self {
            Self::Read => 1,
            Self::Write => 1 << 8,
        }
    }

    /// The bit of this pin's counter that says it is at its limit: 128 pins of a kind, as in Xen.
    const fn limit(self) -> u64 {
        self.increment() << 7
    }

    /// Whether the pin writes.
    #[must_use]
    #[inline]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write)
    }

    /// A pin for a mapping or a copy that writes, or does not.
    #[must_use]
    #[inline]
    pub const fn for_access(writes: bool) -> Self {
        if writes { Self::Write } else { Self::Read }
    }
}

/// A frame word: machine frame, first and last byte granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame(u64);

impl Frame {
    const START_SHIFT: u32 = 40;
    const LAST_SHIFT: u32 = 52;
    const OFFSET_MASK: u64 = 0xfff;

    /// All of a frame.
    #[must_use]
    #[inline]
    pub const fn whole(mfn: Mfn) -> Self {
        Self::range(mfn, 0, 0xfff)
    }

    /// The bytes `start..=last` of a frame, both below 4096. Physical addresses have at most 52 bits (AMD
    /// APM vol. 2, 5.3), frame numbers 40.
    #[must_use]
    #[inline]
    pub const fn range(mfn: Mfn, start: u64, last: u64) -> Self {
        Self(
            (mfn.0 & ((1 << Self::START_SHIFT) - 1))
                | (start & Self::OFFSET_MASK) << Self::START_SHIFT
                | (last & Self::OFFSET_MASK) << Self::LAST_SHIFT,
        )
    }

    /// The machine frame.
    #[must_use]
    #[inline]
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 & ((1 << Self::START_SHIFT) - 1))
    }

    /// First byte granted.
    #[must_use]
    #[inline]
    pub const fn start(self) -> usize {
        Self::low12(self.0 >> Self::START_SHIFT)
    }

    /// Last byte granted.
    #[must_use]
    #[inline]
    pub const fn last(self) -> usize {
        Self::low12(self.0 >> Self::LAST_SHIFT)
    }

    const fn low12(word: u64) -> usize {
        (word & Self::OFFSET_MASK) as usize
    }
}

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

    /// Checks the shared entry and sets `GTF_reading`, and `GTF_writing` for a write pin, in one step. With
    /// `grantee` the entry is not pinned yet and type and grantee are checked too.
    ///
    /// # Errors
    /// The status for the guest; no bit was set.
    fn mark(&self, grantee: Option<DomId>, pin: Pin) -> Result<Self::Mark, Status>;

    /// Clears `GTF_*` bits of the shared entry.
    fn unmark(&self, bits: u16);

    /// Finds the frame the shared entry names and makes sure of it for this pin, as [`hold`](Self::hold)
    /// does. Called between `mark` and the pin.
    ///
    /// # Errors
    /// The status for the guest; nothing is held.
    fn find(&self, mark: Self::Mark, pin: Pin) -> Result<Found, Status>;

    /// For the first write pin on an entry already pinned: whether `recorded` may be used.
    ///
    /// # Errors
    /// The status for the guest.
    fn recheck(&self, mark: Self::Mark, recorded: Frame) -> Result<(), Status>;

    /// Makes sure that `frame` stays in place, for a mapping with a reference, for a copy until the end of
    /// the epoch. False if it is the granter's no more.
    fn hold(&self, frame: Frame) -> bool;

    /// Undoes [`hold`](Self::hold).
    fn let_go(&self, frame: Frame);

    /// True for a mapping: sub-page entries are refused.
    fn maps(&self) -> bool;
}

/// Pins of an entry as a moment's picture, for tests and for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pins {
    /// Host pins that read.
    pub host_read: u8,
    /// Host pins that write.
    pub host_write: u8,
    /// Who has them.
    pub grantee: u16,
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

fn grantee(word: u64) -> u64 {
    word >> DOMID_SHIFT & 0xffff
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
        self.pins_word().load(Ordering::Acquire) == 0
    }

    /// Takes a pin for `by`. The frame returned is pinned, and held for as long as `backing` says.
    ///
    /// # Errors
    /// The status for the guest; nothing has changed.
    #[inline(always)]
    pub fn pin(self, by: DomId, pin: Pin, backing: &impl Backing) -> Result<Frame, Status> {
        // Idle is the common case for a copy, so try it before looking.
        match self.pins_word().compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => self.first_pin(by, pin, backing),
            Err(word) => self.pin_in_use(word, by, pin, backing),
        }
    }

    #[inline(always)]
    fn first_pin(self, by: DomId, pin: Pin, backing: &impl Backing) -> Result<Frame, Status> {
        let found = backing
            .mark(Some(by), pin)
            .and_then(|mark| backing.find(mark, pin).inspect_err(|_| backing.unmark(bits_of(pin))));
        let found = match found {
            Ok(found) => found,
            Err(status) => {
                self.pins_word().store(0, Ordering::Release);
                return Err(status);
            }
        };
        self.frame_word().store(found.frame.0, Ordering::Relaxed);
        let word = u64::from(by.0) << DOMID_SHIFT
            | if found.sub_page { SUB_PAGE } else { 0 }
            | if found.writable { WRITABLE } else { 0 }
            | pin.increment();
        // Release: who joins sees the frame word.
        self.pins_word().store(word, Ordering::Release);
        Ok(found.frame)
    }

    #[cold]
    fn pin_in_use(self, mut word: u64, by: DomId, pin: Pin, backing: &impl Backing) -> Result<Frame, Status> {
        loop {
            if word & BUSY != 0 {
                spin_loop();
                word = self.pins_word().load(Ordering::Relaxed);
                continue;
            }
            if word == 0 {
                match self.pins_word().compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => return self.first_pin(by, pin, backing),
                    Err(now) => word = now,
                }
                continue;
            }
            if grantee(word) != u64::from(by.0)
                || word & pin.limit() != 0
                || (backing.maps() && word & SUB_PAGE != 0)
            {
                return Err(Status::GeneralError);
            }
            if pin.writes() && word & WRITERS == 0 {
                match self.exchange(word, word | BUSY) {
                    Ok(()) => return self.first_write_pin(word, pin, backing),
                    Err(now) => word = now,
                }
                continue;
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
                    self.unpin(pin, |bits| backing.unmark(bits));
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
        let result = backing.mark(None, pin).and_then(|mark| {
            let allowed = if word & WRITABLE == 0 {
                Err(Status::BadPage)
            } else if !backing.hold(frame) {
                Err(Status::GeneralError)
            } else {
                backing.recheck(mark, frame).inspect_err(|_| backing.let_go(frame))
            };
            allowed.inspect_err(|_| backing.unmark(gtf::WRITING))
        });
        let next = if result.is_ok() { word + pin.increment() } else { word };
        self.pins_word().store(next, Ordering::Release);
        result.map(|()| frame)
    }

    /// Drops a pin, with `unmark` as [`Backing::unmark`]. What [`Backing::hold`] took is the caller's to let
    /// go, afterwards.
    #[inline]
    pub fn unpin(self, pin: Pin, unmark: impl FnOnce(u16)) {
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
                gtf::READING | if pin.writes() { gtf::WRITING } else { 0 }
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
                    unmark(clear);
                    let next = if next & PINS == 0 { 0 } else { next };
                    self.pins_word().store(next, Ordering::Release);
                    return;
                }
                Err(now) => word = now,
            }
        }
    }

    /// Makes an idle entry busy, after waiting for whoever has it busy now. False if it is pinned.
    #[must_use]
    pub fn lock_idle(self) -> bool {
        loop {
            match self.pins_word().compare_exchange(0, BUSY, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(word) if word & BUSY == 0 => return false,
                Err(_) => spin_loop(),
            }
        }
    }

    /// Ends what [`lock_idle`](Self::lock_idle) began.
    pub fn unlock_idle(self) {
        self.pins_word().store(0, Ordering::Release);
    }

    #[inline]
    fn exchange(self, from: u64, to: u64) -> Result<(), u64> {
        self.pins_word().compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).map(drop)
    }
}

/// The bits a first pin sets.
const fn bits_of(pin: Pin) -> u16 {
    match pin {
        Pin::Read => gtf::READING,
        Pin::Write => gtf::READING | gtf::WRITING,
    }
}
