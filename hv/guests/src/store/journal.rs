//! Memory that outlives the store, and what stands in it: a snapshot of all state and the inputs since.
//!
//! It has two halves. In one stand the records that count: the first is the snapshot, each further one an
//! input. When that half is full a new snapshot goes into the other, which then is the one that counts. A half begins
//! with two words: its serial number (0: nothing in it counts) and the words in use behind them. A record is a word
//! with its length and a sum over its bytes, then the bytes. The store may end between any two stores to
//! memory: a record counts from the moment the words in use include it, a half from the moment it has its number,
//! and both are one word written last.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Words before the records of a half.
const HEAD: usize = 2;

/// The records, and where the next one goes.
#[derive(Debug)]
pub struct Journal {
    halves: [&'static [AtomicU64]; 2],
    /// The half that counts.
    now: usize,
    serial: u64,
}

impl Journal {
    /// Opens what an earlier store left; its records, none if there are none or one of them is not whole.
    #[must_use]
    pub fn open(words: &'static [AtomicU64]) -> (Self, Vec<Vec<u8>>) {
        let (low, high) = words.split_at(words.len() / 2);
        let halves = [low, high];
        let serials = halves.map(|half| half.first().map_or(0, |word| word.load(Ordering::Acquire)));
        let now = usize::from(serials[1] > serials[0]);
        let records = if serials[now] == 0 { None } else { read(halves[now]) };
        (Self { halves, now, serial: serials[now] }, records.unwrap_or_default())
    }

    /// Adds a record; false: there is no room, or no snapshot yet.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let half = self.halves[self.now];
        half.first().is_some_and(|serial| serial.load(Ordering::Relaxed) != 0) && put(half, bytes)
    }

    /// Begins anew with a snapshot; false: it does not fit, and nothing is kept until one does.
    #[must_use]
    pub fn begin(&mut self, snapshot: &[u8]) -> bool {
        let next = 1 - self.now;
        let half = self.halves[next];
        let [serial, used, ..] = half else { return false };
        serial.store(0, Ordering::Release);
        used.store(0, Ordering::Release);
        if !put(half, snapshot) {
            // What stands in the other is not what is any more.
            self.halves[self.now][0].store(0, Ordering::Release);
            return false;
        }
        self.serial += 1;
        serial.store(self.serial, Ordering::Release);
        self.now = next;
        true
    }
}

/// A word in front of a record: its length and a sum over it (FNV-1a).
fn title(bytes: &[u8]) -> Option<u64> {
    let sum =
        bytes.iter().fold(0x811c_9dc5_u32, |sum, &byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    Some(u64::from(u32::try_from(bytes.len()).ok()?) | u64::from(sum) << 32)
}

fn put(half: &[AtomicU64], bytes: &[u8]) -> bool {
    let [_, used, records @ ..] = half else { return false };
    let Some(at) = usize::try_from(used.load(Ordering::Relaxed)).ok() else { return false };
    let end = at + 1 + bytes.len().div_ceil(8);
    let (Some(places), Some(title)) = (records.get(at..end), title(bytes)) else { return false };
    let words = bytes.chunks(8).map(|part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    });
    for (place, word) in places.iter().zip(core::iter::once(title).chain(words)) {
        place.store(word, Ordering::Relaxed);
    }
    used.store(end as u64, Ordering::Release);
    true
}

/// All records; `None`: one is not what was written.
fn read(half: &[AtomicU64]) -> Option<Vec<Vec<u8>>> {
    let used = usize::try_from(half.get(1)?.load(Ordering::Acquire)).ok()?;
    let mut rest = half.get(HEAD..HEAD.checked_add(used)?)?;
    let mut all = Vec::new();
    while let Some((first, behind)) = rest.split_first() {
        let wanted = first.load(Ordering::Relaxed);
        let length = usize::try_from(wanted & 0xffff_ffff).ok()?;
        let words = behind.get(..length.div_ceil(8))?;
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        bytes.truncate(length);
        if title(&bytes) != Some(wanted) {
            return None;
        }
        all.push(bytes);
        rest = &behind[words.len()..];
    }
    Some(all)
}

#[cfg(test)]
pub(super) mod tests {
    use std::boxed::Box;
    use std::vec;

    use super::*;

    pub(in super::super) fn memory(words: usize) -> &'static [AtomicU64] {
        Box::leak((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    #[test]
    fn what_was_written_is_found_again() {
        let words = memory(40);
        let (mut journal, none) = Journal::open(words);
        assert!(none.is_empty() && !journal.append(b"before any snapshot"));
        assert!(journal.begin(b"first") && journal.append(b"more than a word") && journal.append(b""));
        assert_eq!(Journal::open(words).1, [b"first".to_vec(), b"more than a word".to_vec(), vec![]]);
        while journal.append(b"filling") {}
        assert!(journal.begin(b"second"));
        assert_eq!(Journal::open(words).1, [b"second".to_vec()]);
        // Too long for a half: then nothing is better than what is old.
        assert!(!journal.begin(&[7; 200]));
        assert!(Journal::open(words).1.is_empty() && !journal.append(b"x"));
        assert!(journal.begin(b"third"));
        assert_eq!(Journal::open(words).1, [b"third".to_vec()]);
    }

    #[test]
    fn an_end_at_any_moment_leaves_the_old_or_the_new() {
        let image =
            |words: &[AtomicU64]| words.iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let words = memory(64);
        let (mut journal, _) = Journal::open(words);
        let step = |journal: &mut Journal, act: &dyn Fn(&mut Journal) -> bool| {
            let before = image(words);
            let old = Journal::open(words).1;
            assert!(act(journal));
            let after = image(words);
            let new = Journal::open(words).1;
            // In the order in which they are stored: the records, the words in use, the serial number.
            let mut stored: Vec<usize> = (0..64).filter(|&at| before[at] != after[at]).collect();
            stored.sort_by_key(|&at| (HEAD.saturating_sub(at % 32), at));
            for cut in 0..=stored.len() {
                let left = memory(64);
                for (at, word) in left.iter().enumerate() {
                    let done = stored[..cut].contains(&at);
                    word.store(if done { after[at] } else { before[at] }, Ordering::Relaxed);
                }
                let found = Journal::open(left).1;
                assert_eq!(
                    found,
                    *if cut == stored.len() { &new } else { &old },
                    "{cut} of {}",
                    stored.len()
                );
            }
        };
        step(&mut journal, &|journal| journal.begin(b"a snapshot"));
        step(&mut journal, &|journal| journal.append(b"an input"));
        step(&mut journal, &|journal| journal.append(b"another input"));
        step(&mut journal, &|journal| journal.begin(b"a second snapshot"));
    }

    #[test]
    fn a_byte_that_is_not_what_it_was_is_seen() {
        let words = memory(64);
        let (mut journal, _) = Journal::open(words);
        assert!(journal.begin(b"a snapshot") && journal.append(b"an input"));
        words[32 + HEAD + 1].fetch_xor(1, Ordering::Relaxed);
        assert!(Journal::open(words).1.is_empty());
    }
}
