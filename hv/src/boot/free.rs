//! What is left of RAM before the frame allocator exists.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

/// Free ranges of physical memory, in bytes, sorted and apart.
#[derive(Clone, Debug, Default)]
pub struct FreeRanges {
    ranges: ArrayVec<(u64, u64), 192>,
}

/// Alignment of everything that is taken or kept.
const PAGE: u64 = 4096;

impl FreeRanges {
    /// From sorted ranges of RAM; parts of pages are left out.
    #[must_use]
    pub fn new(ram: impl Iterator<Item = (u64, u64)>) -> Self {
        let whole_pages = |(start, end): (u64, u64)| (start.next_multiple_of(PAGE), end & !(PAGE - 1));
        Self { ranges: ram.map(whole_pages).filter(|(start, end)| start < end).collect() }
    }

    /// Takes `start..end` out, with the rest of its first and last page.
    ///
    /// # Panics
    /// When the list grows beyond its room, which 64 ranges of RAM less 64 modules cannot.
    pub fn remove(&mut self, start: u64, end: u64) {
        let (start, end) = (start & !(PAGE - 1), end.next_multiple_of(PAGE));
        let before = core::mem::take(&mut self.ranges);
        for (low, high) in before {
            for piece in [(low, high.min(start)), (low.max(end), high)] {
                if piece.0 < piece.1 && low < high {
                    self.ranges.push(piece);
                }
                // Untouched: the first piece was all of it.
                if high <= start {
                    break;
                }
            }
        }
    }

    /// Takes `len` bytes below `limit`, from the bottom.
    pub fn take(&mut self, len: u64, limit: u64) -> Option<u64> {
        let len = len.next_multiple_of(PAGE);
        let fits =
            |&&(start, end): &&(u64, u64)| start.checked_add(len).is_some_and(|top| top <= end.min(limit));
        let &(start, _) = self.ranges.iter().find(fits)?;
        self.remove(start, start + len);
        Some(start)
    }

    /// What is left.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }

    /// Bytes left.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_are_taken_from_the_bottom_and_below_the_limit() {
        let mut free = FreeRanges::new([(0x800, 0x9_fc00), (0x10_0000, 0x20_0000)].into_iter());
        assert_eq!(free.iter().collect::<Vec<_>>(), [(0x1000, 0x9_f000), (0x10_0000, 0x20_0000)]);
        assert_eq!(free.take(1, 0x10_0000), Some(0x1000));
        assert_eq!(free.take(0xa_0000, 1 << 32), Some(0x10_0000));
        assert_eq!(free.take(0x9_e000, 1 << 32), None);
        assert_eq!(free.take(0x5_f001, 0x1a_0000), Some(0x2000));
        assert_eq!(free.total(), 0x9_f000 - 0x6_2000 + 0x6_0000);
    }

    proptest! {
        #[test]
        fn removing_removes_exactly_that(
            ram in prop::collection::vec((0u64..40, 0u64..40), 0..6),
            holes in prop::collection::vec((0u64..40, 0u64..40), 0..6),
        ) {
            let mut wanted = [false; 40];
            let mut ranges: Vec<_> = Vec::new();
            for (start, len) in ram {
                let end = (start + len).min(40);
                if ranges.iter().all(|&(low, high)| end <= low || high <= start) {
                    ranges.push((start, end));
                    for page in start..end { wanted[usize::try_from(page).expect("small")] = true; }
                }
            }
            ranges.sort_unstable();
            let mut free = FreeRanges::new(ranges.iter().map(|&(start, end)| (start * PAGE, end * PAGE)));
            for (start, len) in holes {
                let end = (start + len).min(40);
                free.remove(start * PAGE, end * PAGE);
                for page in start..end { wanted[usize::try_from(page).expect("small")] = false; }
            }
            for (page, &wanted) in (0u64..).zip(&wanted) {
                let found = free.iter().any(|(start, end)| start <= page * PAGE && page * PAGE < end);
                prop_assert_eq!(found, wanted, "page {}", page);
            }
        }
    }
}
