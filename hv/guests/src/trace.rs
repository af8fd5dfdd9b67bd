//! The trace file: the frames of a capture as the guests receive them in their boot module.
//!
//! Little-endian words: magic, version, count, zero; then `count` pairs of (offset from the file's start,
//! length); then the bytes. Both guests of a run get the same file, so the receiver knows what must come.
//! `cargo xtask` writes it with [`encode`]; nothing here needs a machine.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

/// The first word.
pub const MAGIC: u32 = u32::from_le_bytes(*b"TGTR");
/// The second word.
pub const VERSION: u32 = 1;
/// Bytes before the table.
const HEAD: usize = 16;
/// Bytes of a pair in the table.
const PAIR: usize = 8;
/// The largest frame a netif ring can say (its sizes are 16 bits, `public/io/netif.h`).
pub const LARGEST_FRAME: usize = 65_535;

/// A trace in memory, checked as a whole when it was opened.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    file: &'a [u8],
    count: usize,
}

impl<'a> Trace<'a> {
    /// Takes the bytes of a trace file; the error is one line saying what is wrong.
    pub fn new(file: &'a [u8]) -> Result<Self, &'static str> {
        let word = |index: usize| word(file, index * 4).ok_or("too short for its header");
        if word(0)? != MAGIC {
            return Err("not a trace file");
        }
        if word(1)? != VERSION {
            return Err("a version this guest does not know");
        }
        let count = usize::try_from(word(2)?).map_err(|_| "too many frames")?;
        let trace = Self { file, count };
        (0..count)
            .all(|index| trace.find(index).is_some())
            .then_some(trace)
            .ok_or("a frame is out of the file")
    }

    /// Number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Frame number `index`.
    ///
    /// # Panics
    /// When there is no such frame.
    #[must_use]
    pub fn frame(&self, index: usize) -> &'a [u8] {
        self.find(index).expect("frames were checked when the trace was opened")
    }

    /// All bytes of the file: the block workload's disk.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.file
    }

    fn find(&self, index: usize) -> Option<&'a [u8]> {
        let at = HEAD.checked_add(index.checked_mul(PAIR)?)?;
        let start = usize::try_from(word(self.file, at)?).ok()?;
        let length = usize::try_from(word(self.file, at + 4)?).ok()?;
        (length > 0 && length <= LARGEST_FRAME && index < self.count)
            .then(|| self.file.get(start..start.checked_add(length)?))
            .flatten()
    }
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*file.get(at..)?.first_chunk()?))
}

/// The trace file of `frames`; `None` when it would be over 4 GiB.
#[must_use]
pub fn encode(frames: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    for word in [MAGIC, VERSION, u32::try_from(frames.len()).ok()?, 0] {
        file.extend(word.to_le_bytes());
    }
    let mut at = HEAD + PAIR * frames.len();
    for frame in frames {
        file.extend(u32::try_from(at).ok()?.to_le_bytes());
        file.extend(u32::try_from(frame.len()).ok()?.to_le_bytes());
        at += frame.len();
    }
    frames.iter().for_each(|frame| file.extend(frame));
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn frames_come_back_as_they_went_in() {
        let frames = [vec![1; 60], vec![2; LARGEST_FRAME], vec![3; 1]];
        let file = encode(&frames).unwrap();
        let trace = Trace::new(&file).unwrap();
        assert_eq!(trace.len(), 3);
        assert!(frames.iter().enumerate().all(|(index, frame)| trace.frame(index) == frame));
    }

    #[test]
    fn damage_is_refused() {
        let whole = encode(&[vec![1; 60], vec![2; 1514]]).unwrap();
        for cut in 0..whole.len() {
            assert!(Trace::new(&whole[..cut]).is_err(), "{cut}");
        }
        let mut file = whole.clone();
        file[0] = 0;
        assert_eq!(Trace::new(&file).unwrap_err(), "not a trace file");
        let mut file = whole.clone();
        file[4] = 2;
        assert_eq!(Trace::new(&file).unwrap_err(), "a version this guest does not know");
        let mut file = whole;
        file[8] = 0xff;
        file[11] = 0xff;
        assert_eq!(Trace::new(&file).unwrap_err(), "a frame is out of the file");
    }
}
