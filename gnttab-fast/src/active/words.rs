//! The two words of an active entry: their fields.

use crate::abi::gtf;
use crate::policy::Version;
use crate::types::Mfn;

/// Set while one CPU alone may change the entry.
pub(super) const BUSY: u64 = 1 << 48;
/// The range granted is less than the frame, or lies in another domain: never to be mapped.
pub(super) const SUB_PAGE: u64 = 1 << 49;
/// The granter's p2m lets the frame be written.
pub(super) const WRITABLE: u64 = 1 << 50;
/// The entry is one of a version-2 table. Set also when nobody has a pin. (Never, in a build of version 1
/// alone.)
pub(super) const V2: u64 = if cfg!(feature = "only-v1") { 0 } else { 1 << 51 };
/// The frame is that of another domain's entry, and each pin has its like there.
pub(super) const TRANSITIVE: u64 = 1 << 52;
/// The four counters: host readers, host writers, device readers, device writers. Those of devices are
/// counted with the others wherever pins are looked at; nothing raises them before there is an IOMMU.
pub(super) const PINS: u64 = 0xffff_ffff;
pub(super) const WRITERS: u64 = 0xff00_ff00;
pub(super) const DOMID_SHIFT: u32 = 32;

/// The word of an entry nobody pins.
pub(super) const fn idle(version: Version) -> u64 {
    match version {
        Version::V1 => 0,
        Version::V2 => V2,
    }
}

/// Whether nobody pins the entry nor has it busy.
pub(super) const fn is_idle(word: u64) -> bool {
    word & !V2 == 0
}

/// The version of the entry's table, which no switch can change while the entry is pinned or busy.
pub(super) const fn version_of(word: u64) -> Version {
    if word & V2 != 0 { Version::V2 } else { Version::V1 }
}

pub(super) const fn grantee(word: u64) -> u64 {
    word >> DOMID_SHIFT & 0xffff
}

/// What a pin is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pin {
    /// The frame is read.
    Read,
    /// The frame is read and written.
    Write,
}

impl Pin {
    pub(super) const fn increment(self) -> u64 {
        match self {
            Self::Read => 1,
            Self::Write => 1 << 8,
        }
    }

    /// The bit of this pin's counter that says it is at its limit: 128 pins of a kind, as in Xen.
    pub(super) const fn limit(self) -> u64 {
        self.increment() << 7
    }

    /// The bits of the shared entry that a first pin sets.
    pub(crate) const fn bits(self) -> u16 {
        match self {
            Self::Read => gtf::READING,
            Self::Write => gtf::READING | gtf::WRITING,
        }
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

/// A frame word: machine frame, first byte granted, and how many bytes behind the last one are not. So a whole
/// frame is its number and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame(pub(super) u64);

impl Frame {
    const START_SHIFT: u32 = 40;
    const BEHIND_SHIFT: u32 = 52;
    const OFFSET_MASK: u64 = 0xfff;

    /// All of a frame.
    #[must_use]
    #[inline]
    pub const fn whole(mfn: Mfn) -> Self {
        Self::range(mfn, 0, Self::OFFSET_MASK)
    }

    /// The bytes `start..=last` of a frame, both below 4096. Physical addresses have at most 52 bits (AMD
    /// APM vol. 2, 5.3), frame numbers 40.
    #[must_use]
    #[inline]
    pub const fn range(mfn: Mfn, start: u64, last: u64) -> Self {
        Self(
            (mfn.0 & ((1 << Self::START_SHIFT) - 1))
                | (start & Self::OFFSET_MASK) << Self::START_SHIFT
                | (Self::OFFSET_MASK - (last & Self::OFFSET_MASK)) << Self::BEHIND_SHIFT,
        )
    }

    /// The `len` bytes from `start`, as far as they lie in the frame; perhaps none.
    #[must_use]
    pub const fn sub_page(mfn: Mfn, start: u16, len: u16) -> Self {
        let (start, end) = (start as u64, start as u64 + len as u64);
        if len == 0 || start > Self::OFFSET_MASK {
            // First byte behind the last: no range lies in it.
            return Self::range(mfn, Self::OFFSET_MASK, 0);
        }
        Self::range(mfn, start, if end > Self::OFFSET_MASK { Self::OFFSET_MASK } else { end - 1 })
    }

    /// The machine frame.
    #[must_use]
    #[inline]
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 & ((1 << Self::START_SHIFT) - 1))
    }

    /// Whether all of the frame is granted.
    #[must_use]
    #[inline]
    pub const fn is_whole(self) -> bool {
        self.0 >> Self::START_SHIFT == 0
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
        Self::low12(Self::OFFSET_MASK - (self.0 >> Self::BEHIND_SHIFT))
    }

    const fn low12(word: u64) -> usize {
        (word & Self::OFFSET_MASK) as usize
    }
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
