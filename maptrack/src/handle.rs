//! The words of the interface: handles, halves, what a handle records, and errors.

use crate::entry;
use crate::store::Entry;
use core::fmt;

/// Bits of a handle that index the entry store.
pub(crate) const INDEX_BITS: u32 = 22;
/// Entries a table can ever have: what [`INDEX_BITS`] can name.
pub(crate) const MAX_ENTRIES: u32 = 1 << INDEX_BITS;
/// First generation of an entry. Zero is never used, so the handle 0 of a zeroed struct is always bad.
pub(crate) const FIRST_GENERATION: u32 = 1;
/// One past the last generation. The all-ones one is skipped, so no handle is ever `!0`, which guests
/// use as "no handle".
const END_GENERATION: u32 = (1 << (32 - INDEX_BITS)) - 1;

/// The generation an entry takes when the handle of generation `g` is freed.
pub(crate) const fn next_generation(g: u32) -> u32 {
    if g + 1 >= END_GENERATION { FIRST_GENERATION } else { g + 1 }
}

/// A grant handle (`grant_handle_t`): 22 bits of index, 10 bits of generation.
///
/// A handle which was freed stays invalid for the next 1,020 lives of its entry. Never 0 and never `!0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Handle(u32);

impl Handle {
    /// The handle a guest passed. Any value may be asked about; the table decides if it is good.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The value as the ABI carries it.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    pub(crate) const fn new(index: u32, generation: u32) -> Self {
        Self(index | (generation << INDEX_BITS))
    }

    pub(crate) const fn index(self) -> u32 {
        self.0 & (MAX_ENTRIES - 1)
    }

    pub(crate) const fn generation(self) -> u32 {
        self.0 >> INDEX_BITS
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:#x}: {} gen {})", self.0, self.index(), self.generation())
    }
}

/// Which halves of a mapping: the host half (`GNTMAP_host_map`), the device half (`GNTMAP_device_map`),
/// both, or neither.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Halves(u8);

impl Halves {
    /// No half.
    pub const NONE: Self = Self(0);
    /// The half reached by the CPU.
    pub const HOST: Self = Self(1);
    /// The half reached by devices.
    pub const DEVICE: Self = Self(2);
    /// Both halves.
    pub const BOTH: Self = Self(3);

    /// True if no half is named.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if every half of `other` is in `self`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn bits(self) -> u64 {
        // A u8 always fits; `u64::from` is not const.
        self.0 as u64
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        let [low, ..] = bits.to_le_bytes();
        Self(low & Self::BOTH.0)
    }
}

impl core::ops::BitOr for Halves {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl core::ops::BitAnd for Halves {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// What a live handle records of its mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MapInfo {
    /// The granting domain.
    pub domid: u16,
    /// The grant reference in the granter's table.
    pub gref: u32,
    /// Halves that are mapped.
    pub halves: Halves,
    /// The mapping may not write.
    pub readonly: bool,
    /// Frame of the mapping domain at which the host half is mapped; any value if there is no host half.
    pub gfn: u64,
}

/// A handle that was allocated and not yet published: no guest can unmap it.
///
/// It must go to [`publish`](crate::Maptrack::publish) or back to [`free`](crate::Maptrack::free) of the
/// table it came from, else it is lost to that table.
#[derive(PartialEq, Eq, Debug)]
#[must_use]
pub struct Reserved(pub(crate) Handle);

impl Reserved {
    /// The handle this will be once published.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.0
    }
}

/// The right to take down the halves it names, held by one unmap at a time.
///
/// It must go to [`finish_unmap`](crate::Maptrack::finish_unmap) or
/// [`rollback`](crate::Maptrack::rollback) of the table it came from.
#[derive(PartialEq, Eq, Debug)]
#[must_use]
pub struct Claim {
    pub(crate) handle: Handle,
    /// `info.halves` are the halves claimed, not those mapped.
    pub(crate) info: MapInfo,
}

/// A [`Reserved`] handle with the place of its entry: for a batch, which need not look it up again.
///
/// It must be [published](Vacant::publish) or go back to [`free_vacant`](crate::Local::free_vacant) of the table it
/// came from, else it is lost to that table.
#[must_use]
pub struct Vacant<'a> {
    pub(crate) handle: Handle,
    pub(crate) entry: Entry<'a>,
}

impl Vacant<'_> {
    /// Makes the handle live; see [`Maptrack::publish`](crate::Maptrack::publish).
    #[inline]
    pub fn publish(self, info: &MapInfo) -> Handle {
        debug_assert!(!info.halves.is_empty());
        self.entry.publish(self.handle, info);
        self.handle
    }
}

/// A [`Claim`] with the place of its entry: for a batch, which need not look it up again.
///
/// It must go to [`finish_taken`](crate::Local::finish_taken) of the table it came from, or be
/// [given back](Taken::give_back).
#[must_use]
pub struct Taken<'a> {
    pub(crate) handle: Handle,
    pub(crate) entry: Entry<'a>,
    /// The first word of the entry as the claim found it, but with the halves claimed as those mapped.
    pub(crate) word: u64,
}

/// What a handle records of the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The granting domain.
    pub domid: u16,
    /// The grant reference in the granter's table.
    pub gref: u32,
    /// The mapping may not write.
    pub readonly: bool,
}

impl Taken<'_> {
    /// The handle claimed.
    #[must_use]
    #[inline]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// As [`Claim::halves`].
    #[must_use]
    #[inline]
    pub const fn halves(&self) -> Halves {
        Halves::from_bits(self.word)
    }

    /// What the handle records of the other side.
    #[must_use]
    #[inline]
    pub const fn info(&self) -> Granted {
        let MapInfo { domid, gref, readonly, .. } = entry::info(self.word, 0, Halves::NONE);
        Granted { domid, gref, readonly }
    }

    /// Gives the claimed halves back: they are mapped as before.
    #[inline]
    pub fn give_back(self) {
        self.entry.unclaim(self.halves());
    }
}

impl Claim {
    /// The handle claimed.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// The halves this claim takes down. Empty if none of the halves asked for is mapped, which is legal
    /// and leaves the handle as it was (XSA-394).
    #[must_use]
    pub const fn halves(&self) -> Halves {
        self.info.halves
    }

    /// What the handle records. Its `halves` are the claimed ones.
    #[must_use]
    pub const fn info(&self) -> MapInfo {
        self.info
    }
}

/// No handle is free and the table may not grow (`GNTST_no_space`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSpace;

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no free grant handle")
    }
}

/// The handle is not live, or another unmap holds one of the halves (`GNTST_bad_handle`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadHandle;

impl fmt::Display for BadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bad grant handle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_handle_is_zero_or_all_ones() {
        let mut g = FIRST_GENERATION;
        let mut lives = 0;
        loop {
            for index in [0, 1, MAX_ENTRIES - 1] {
                let h = Handle::new(index, g);
                assert_ne!(h.raw(), 0);
                assert_ne!(h.raw(), !0);
                assert_eq!((h.index(), h.generation()), (index, g));
            }
            g = next_generation(g);
            lives += 1;
            if g == FIRST_GENERATION {
                break;
            }
        }
        assert_eq!(lives, 1022);
    }
}
