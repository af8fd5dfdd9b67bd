//! The first word of an entry: `gref:32 | domid:16 | generation:10 | bits:6`, one atomic.
//!
//! Two bits say which halves are mapped, two more which of them an unmap has claimed, one that the mapping
//! is read-only. A half is claimed by a compare-exchange that finds it mapped and unclaimed, so exactly one
//! unmap wins each half (XSA-218: two racing unmaps put one entry twice). Mapped bits fall when the claim is
//! finished, after the caller's TLB flush; who drops the last one owns the entry alone and frees it.
//!
//! The second word is written only while no half is mapped, and always with release ordering. So a reader
//! that sees the same first word before and after reading the second has a true pair.

use crate::handle::{BadHandle, Halves, Handle, MapInfo, next_generation};
use crate::primitive::{Ordering, fence};
use crate::store::Entry;

const BUSY_SHIFT: u32 = 2;
const READONLY: u64 = 1 << 4;
const GENERATION_SHIFT: u32 = 6;
const GENERATION_MASK: u64 = 0x3ff;
const DOMID_SHIFT: u32 = 16;
const GREF_SHIFT: u32 = 32;

/// Compare-exchanges tried before a claim gives up: the rivals are unmaps and reads of the same handle, so
/// a guest that makes this run out races itself.
const CLAIM_TRIES: u32 = 16;

fn generation(word: u64) -> u32 {
    low32(word >> GENERATION_SHIFT & GENERATION_MASK)
}

fn mapped(word: u64) -> Halves {
    Halves::from_bits(word)
}

fn busy(word: u64) -> Halves {
    Halves::from_bits(word >> BUSY_SHIFT)
}

/// The low 32 bits of a word, for fields cut out of packed words.
#[expect(clippy::cast_possible_truncation, reason = "cutting is what it is for")]
pub(crate) const fn low32(word: u64) -> u32 {
    word as u32
}

#[expect(clippy::cast_possible_truncation, reason = "cutting is what it is for")]
const fn low16(word: u64) -> u16 {
    word as u16
}

pub(crate) const fn info(word: u64, gfn: u64, halves: Halves) -> MapInfo {
    MapInfo {
        domid: low16(word >> DOMID_SHIFT),
        gref: low32(word >> GREF_SHIFT),
        halves,
        readonly: word & READONLY != 0,
        gfn,
    }
}

/// No claimed word: generations are not 0.
const NOT_CLAIMED: u64 = 0;

/// The first word of an entry, with the halves `take` as those that are mapped.
fn claimed(word: u64, take: Halves) -> u64 {
    word & !Halves::BOTH.bits() | take.bits()
}

impl Entry<'_> {
    /// Makes a never-used entry free. The caller alone knows the index.
    pub(crate) fn init(self) {
        self.word().store(u64::from(crate::handle::FIRST_GENERATION) << GENERATION_SHIFT, Ordering::Relaxed);
    }

    /// The generation a handle of this entry has now.
    #[inline]
    pub(crate) fn generation(self) -> u32 {
        generation(self.word().load(Ordering::Relaxed))
    }

    /// Makes a reserved entry live.
    #[inline]
    pub(crate) fn publish(self, handle: Handle, map: &MapInfo) {
        self.aux().store(map.gfn, Ordering::Release);
        let word = u64::from(map.gref) << GREF_SHIFT
            | u64::from(map.domid) << DOMID_SHIFT
            | u64::from(handle.generation()) << GENERATION_SHIFT
            | if map.readonly { READONLY } else { 0 }
            | map.halves.bits();
        self.word().store(word, Ordering::Release);
    }

    /// Makes an entry that the caller owns alone free, under a new generation.
    #[inline]
    pub(crate) fn retire(self, handle: Handle) {
        let next = next_generation(handle.generation());
        self.word().store(u64::from(next) << GENERATION_SHIFT, Ordering::Relaxed);
    }

    /// What the entry records if it is live, under whichever generation.
    pub(crate) fn snapshot(self, index: u32) -> Option<(Handle, MapInfo)> {
        // Each retry means that the handle changed state in between.
        for _ in 0..CLAIM_TRIES {
            let word = self.word().load(Ordering::Acquire);
            if mapped(word).is_empty() {
                return None;
            }
            let gfn = self.aux().load(Ordering::Acquire);
            fence(Ordering::Acquire);
            if self.word().load(Ordering::Relaxed) == word {
                return Some((Handle::new(index, generation(word)), info(word, gfn, mapped(word))));
            }
        }
        None
    }

    /// Claims those of the halves `asked` that are mapped. Returns the first word, with the halves claimed as those
    /// that are mapped.
    #[inline]
    pub(crate) fn claim(self, handle: Handle, asked: Halves) -> Result<u64, BadHandle> {
        let word = self.word().load(Ordering::Acquire);
        // The usual: of this generation, with all that is asked for mapped and unclaimed. One comparison.
        let (bits, busy_bits) = (asked.bits(), asked.bits() << BUSY_SHIFT);
        let of_life = GENERATION_MASK << GENERATION_SHIFT;
        let wanted = u64::from(handle.generation()) << GENERATION_SHIFT | bits;
        let usual = bits != 0
            && word & (of_life | bits | busy_bits) == wanted
            && self
                .word()
                .compare_exchange(word, word | busy_bits, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        let claimed = if usual { claimed(word, asked) } else { self.claim_what_is(handle, asked) };
        if claimed == NOT_CLAIMED { Err(BadHandle) } else { Ok(claimed) }
    }

    /// [`Entry::claim`] where not all is as usual, or another CPU is at the entry too: the word, or [`NOT_CLAIMED`]. One word, so that it comes back in a register, and the usual claim stays in
    /// registers beside it.
    #[cold]
    #[inline(never)]
    fn claim_what_is(self, handle: Handle, asked: Halves) -> u64 {
        let mut word = self.word().load(Ordering::Acquire);
        for _ in 0..CLAIM_TRIES {
            let live = mapped(word);
            if live.is_empty() || generation(word) != handle.generation() {
                return NOT_CLAIMED;
            }
            let take = asked & live;
            if !(take & busy(word)).is_empty() {
                return NOT_CLAIMED;
            }
            let new = word | take.bits() << BUSY_SHIFT;
            // With nothing to take the exchange changes nothing, and still proves that the pair read is true.
            match self.word().compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return claimed(word, take),
                Err(now) => word = now,
            }
        }
        NOT_CLAIMED
    }

    /// Drops the claimed halves. True if none is left: the entry is now the caller's alone.
    #[inline]
    pub(crate) fn finish(self, handle: Handle, halves: Halves) -> bool {
        if halves.is_empty() {
            return false;
        }
        let word = self.word().load(Ordering::Relaxed);
        if mapped(word) == halves {
            // All claimed, so nobody else changes the word; the caller does when it frees the entry.
            debug_assert!(generation(word) == handle.generation() && busy(word).contains(halves));
            return true;
        }
        let gone = halves.bits() | halves.bits() << BUSY_SHIFT;
        let old = self.word().fetch_and(!gone, Ordering::AcqRel);
        debug_assert_eq!(generation(old), handle.generation());
        debug_assert!(mapped(old).contains(halves) && busy(old).contains(halves));
        mapped(old & !gone).is_empty()
    }

    /// Gives the claimed halves back unharmed.
    #[inline]
    pub(crate) fn unclaim(self, halves: Halves) {
        let busy_bits = halves.bits() << BUSY_SHIFT;
        if busy_bits != 0 {
            self.word().fetch_and(!busy_bits, Ordering::AcqRel);
        }
    }
}
