//! Sets of vCPU slots as bit maps: what a pCPU has to run, and whose timers it keeps.
//!
//! Any CPU may insert; nothing is allocated and nothing is locked. A slot is the machine-wide number of a
//! vCPU, given at its creation.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

/// The most vCPUs of all domains together.
pub const MAX_SLOTS: usize = 256;

const WORDS: usize = MAX_SLOTS / 64;

/// A set of slots.
#[derive(Debug)]
pub struct SlotSet {
    words: [AtomicU64; WORDS],
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

impl SlotSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: [const { AtomicU64::new(0) }; WORDS] }
    }

    fn place(slot: usize) -> (usize, u64) {
        debug_assert!(slot < MAX_SLOTS);
        ((slot / 64) % WORDS, 1 << (slot % 64))
    }

    /// Puts a slot in; false when it was there.
    pub fn insert(&self, slot: usize) -> bool {
        let (word, bit) = Self::place(slot);
        self.words[word].fetch_or(bit, Ordering::SeqCst) & bit == 0
    }

    /// Takes a slot out; true when it was there. Of several callers one gets true.
    pub fn remove(&self, slot: usize) -> bool {
        let (word, bit) = Self::place(slot);
        self.words[word].fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Whether nothing is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::SeqCst) == 0)
    }

    /// The first slot at or behind `from`, going round at the end.
    #[must_use]
    pub fn next(&self, from: usize) -> Option<usize> {
        let (first, bit) = Self::place(from % MAX_SLOTS);
        for step in 0..=WORDS {
            let index = (first + step) % WORDS;
            let mut word = self.words[index].load(Ordering::SeqCst);
            if step == 0 {
                word &= !(bit - 1);
            } else if step == WORDS {
                word &= bit - 1;
            }
            if word != 0 {
                return Some(index * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }

    /// Every slot that is in, in order; what changes meanwhile is seen or not.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut left = word.load(Ordering::SeqCst);
            core::iter::from_fn(move || {
                let bit = left.checked_ilog2().map(|_| left.trailing_zeros())?;
                left &= left - 1;
                Some(index * 64 + bit as usize)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn slots_go_in_once_and_come_out_once() {
        let set = SlotSet::new();
        assert!(set.is_empty());
        for slot in [0, 63, 64, MAX_SLOTS - 1] {
            assert!(set.insert(slot));
            assert!(!set.insert(slot));
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, MAX_SLOTS - 1]);
        assert!(set.remove(64));
        assert!(!set.remove(64));
        assert_eq!(set.iter().count(), 3);
    }

    #[test]
    fn the_next_one_goes_round() {
        let set = SlotSet::new();
        assert_eq!(set.next(5), None);
        set.insert(5);
        assert_eq!(set.next(5), Some(5));
        assert_eq!(set.next(6), Some(5), "all the way round, into the same word");
        set.insert(70);
        assert_eq!(set.next(6), Some(70));
        assert_eq!(set.next(71), Some(5));
        assert_eq!(set.next(MAX_SLOTS), Some(5));
    }
}
