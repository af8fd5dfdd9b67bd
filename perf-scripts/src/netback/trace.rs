//! The guests' trace format (hv/guests/src/trace.rs reads it): little-endian, a header of four words
//! (magic, version, count, zero), a table of (offset from the file's start, length) pairs, then the bytes.

use anyhow::{Context as _, Result};

const MAGIC: u32 = u32::from_le_bytes(*b"TGTR");
const VERSION: u32 = 1;

/// The trace file of `frames`.
pub fn encode(frames: &[Vec<u8>]) -> Result<Vec<u8>> {
    let count = u32::try_from(frames.len()).context("too many frames")?;
    let mut file = Vec::new();
    for word in [MAGIC, VERSION, count, 0] {
        file.extend(word.to_le_bytes());
    }
    let mut at = 16 + 8 * frames.len();
    for frame in frames {
        file.extend(u32::try_from(at).context("the capture is too long")?.to_le_bytes());
        file.extend(u32::try_from(frame.len()).context("a frame is too long")?.to_le_bytes());
        at += frame.len();
    }
    frames.iter().for_each(|frame| file.extend(frame));
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_where_the_table_says() {
        let file = encode(&[b"first".to_vec(), b"the second".to_vec()]).unwrap();
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!((&file[..4], word(4), word(8)), (&b"TGTR"[..], 1, 2));
        let frame = |at: usize| {
            let start = usize::try_from(word(at)).unwrap();
            &file[start..start + usize::try_from(word(at + 4)).unwrap()]
        };
        assert_eq!((frame(16), frame(24)), (&b"first"[..], &b"the second"[..]));
    }
}
