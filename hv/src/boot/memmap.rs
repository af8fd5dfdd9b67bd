//! The memory map: what a loader's list means once it is put in order.
//!
//! Loaders and firmware hand over lists that are unsorted, overlap, and now and then wrap. The result is
//! sorted and free of overlaps; where two entries disagree about a byte, the one that forbids more wins.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::{BootError, MemKind, MemRange};

/// The most entries a loader may hand over.
pub const MAX_RAW: usize = 128;

/// A loader's list as it came.
pub type RawMap = ArrayVec<MemRange, MAX_RAW>;

impl MemKind {
    /// The kind behind an e820 type number; multiboot and PVH use the same ones.
    #[must_use]
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Ram,
            3 => Self::AcpiData,
            4 => Self::AcpiNvs,
            _ => Self::Reserved,
        }
    }

    /// Who wins a disputed byte: the greater.
    const fn strictness(self) -> u8 {
        match self {
            Self::Ram => 0,
            Self::AcpiData => 1,
            Self::AcpiNvs => 2,
            Self::Reserved => 3,
        }
    }
}

/// Sorts a map, resolves overlaps and merges neighbours of one kind. Empty and wrapping entries are
/// dropped.
///
/// # Errors
/// [`BootError::MapTooLong`] when the result does not fit, [`BootError::NoRam`] when nothing usable is left.
pub fn normalise(raw: &RawMap) -> Result<ArrayVec<MemRange, 64>, BootError> {
    let mut edges = ArrayVec::<u64, { 2 * MAX_RAW }>::new();
    for range in raw.iter().filter(|range| range.start < range.end) {
        edges.push(range.start);
        edges.push(range.end);
    }
    edges.sort_unstable();
    let mut map = ArrayVec::<MemRange, 64>::new();
    // No entry has an edge inside (start, end): whoever covers `start` covers all of it.
    for (&start, &end) in edges.iter().zip(edges.iter().skip(1)).filter(|(start, end)| start < end) {
        let kind = raw
            .iter()
            .filter(|range| range.start <= start && start < range.end)
            .map(|range| range.kind)
            .max_by_key(|kind| kind.strictness());
        let Some(kind) = kind else { continue };
        match map.last_mut() {
            Some(last) if last.end == start && last.kind == kind => last.end = end,
            _ => map.try_push(MemRange { start, end, kind }).map_err(|_| BootError::MapTooLong)?,
        }
    }
    if !map.iter().any(|range| range.kind == MemKind::Ram) {
        return Err(BootError::NoRam);
    }
    Ok(map)
}

/// Whether `start..end` lies in RAM, all of it in one range.
#[must_use]
pub fn is_ram(map: &[MemRange], start: u64, end: u64) -> bool {
    map.iter().any(|range| range.kind == MemKind::Ram && range.start <= start && end <= range.end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64, kind: MemKind) -> MemRange {
        MemRange { start, end, kind }
    }

    #[test]
    fn order_overlap_and_neighbours() {
        let raw = RawMap::from_iter([
            range(0x10_0000, 0x2000_0000, MemKind::Ram),
            range(0, 0x9_fc00, MemKind::Ram),
            range(0x1fff_0000, 0x2000_0000, MemKind::Reserved),
            range(0x9_fc00, 0xa_0000, MemKind::Reserved),
            range(0xf_0000, 0x10_0000, MemKind::Reserved),
            range(0x2000_0000, 0x3000_0000, MemKind::Ram),
            range(0x3000_0000, 0x4000_0000, MemKind::Ram),
            range(0x500, 0x400, MemKind::Ram),
        ]);
        let map = normalise(&raw).expect("a good map");
        assert_eq!(
            map.as_slice(),
            [
                range(0, 0x9_fc00, MemKind::Ram),
                range(0x9_fc00, 0xa_0000, MemKind::Reserved),
                range(0xf_0000, 0x10_0000, MemKind::Reserved),
                range(0x10_0000, 0x1fff_0000, MemKind::Ram),
                range(0x1fff_0000, 0x2000_0000, MemKind::Reserved),
                range(0x2000_0000, 0x4000_0000, MemKind::Ram),
            ]
        );
        assert!(is_ram(&map, 0x10_0000, 0x1fff_0000));
        assert!(!is_ram(&map, 0x10_0000, 0x1fff_0001));
    }

    #[test]
    fn nothing_usable_is_an_error() {
        assert_eq!(normalise(&RawMap::new()), Err(BootError::NoRam));
        let raw = RawMap::from_iter([range(0, 100, MemKind::Ram), range(0, 100, MemKind::AcpiNvs)]);
        assert_eq!(normalise(&raw), Err(BootError::NoRam));
    }

    proptest! {
        #[test]
        fn every_byte_has_the_strictest_kind(
            entries in prop::collection::vec((0u64..60, 0u64..60, 1u32..6), 0..20)
        ) {
            let raw: RawMap = entries
                .iter()
                .map(|&(start, end, kind)| range(start, end, MemKind::from_e820(kind)))
                .collect();
            let Ok(map) = normalise(&raw) else { return Ok(()) };
            for pair in map.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start);
                prop_assert!(pair[0].end < pair[1].start || pair[0].kind != pair[1].kind);
            }
            for byte in 0..60 {
                let covers = |range: &&MemRange| range.start <= byte && byte < range.end;
                let wanted = raw.iter().filter(covers).map(|range| range.kind.strictness()).max();
                let got = map.iter().find(covers).map(|range| range.kind.strictness());
                prop_assert_eq!(wanted, got);
            }
        }
    }
}
