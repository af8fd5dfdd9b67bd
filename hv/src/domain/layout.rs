//! The guest-physical memory map of a domain.
//!
//! | from | to | |
//! |---|---|---|
//! | 0 | 0xa0000 | RAM |
//! | 0xa0000 | 0x100000 | reserved: kernels expect a BIOS there (it is backed by RAM all the same) |
//! | 0x100000 | end of RAM, at most [`LOW_END`] | RAM |
//! | 0xf0000000 | 0xf0800000 | what survives the end of a store that is built again; others have nothing there |
//! | 0xfc000000 | as many pages as they take | ACPI tables |
//! | 0xfeff8000 | 0xff000000 | reserved: special pages |
//! | 4 GiB | | RAM that did not fit below [`LOW_END`] |
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use gnttab_fast::types::PAGE_SHIFT;

use crate::abi::hvm::start_info::{MEMMAP_ACPI, MEMMAP_PMEM, MEMMAP_RAM, MEMMAP_RESERVED};

/// End of RAM below 4 GiB, as Xen's toolstack has it for HVM guests.
pub const LOW_END: u64 = 0xf000_0000;
/// Memory that survives the domain's end.
pub const KEPT: u64 = LOW_END;
/// How much of it a store has that is built again.
pub const KEPT_PAGES: u64 = (8 << 20) >> PAGE_SHIFT;
/// ACPI tables, where Xen's toolstack has them.
pub const ACPI: u64 = 0xfc00_0000;
/// Begin of the second piece of RAM.
pub const HIGH_START: u64 = 1 << 32;
/// Special pages (console, store and so on).
pub const SPECIAL: (u64, u64) = (0xfeff_8000, 0xff00_0000);
/// The page of the console ring, the last of the special ones, as Xen's toolstack has it.
pub const CONSOLE: u64 = SPECIAL.1 - 4096;
/// What a PC has instead of RAM below 1 MiB.
const LEGACY: (u64, u64) = (0xa_0000, 0x10_0000);

/// An entry of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `XEN_HVM_MEMMAP_TYPE_*`, the same numbers as E820's.
    pub kind: u32,
}

/// The pieces a domain of `memory` bytes has RAM at.
#[must_use]
pub fn ram(memory: u64) -> ArrayVec<(u64, u64), 2> {
    let mut pieces = ArrayVec::new();
    pieces.push((0, memory.min(LOW_END)));
    if memory > LOW_END {
        pieces.push((HIGH_START, HIGH_START + (memory - LOW_END)));
    }
    pieces
}

/// The map a domain of `memory` bytes with `acpi` pages of ACPI tables and `kept` that survive it is told.
#[must_use]
pub fn map(memory: u64, acpi: u64, kept: u64) -> ArrayVec<Range, 7> {
    let ram = ram(memory);
    let low_end = ram[0].1;
    let mut map = ArrayVec::new();
    map.push(Range { start: 0, end: LEGACY.0, kind: MEMMAP_RAM });
    map.push(Range { start: LEGACY.0, end: LEGACY.1, kind: MEMMAP_RESERVED });
    map.push(Range { start: LEGACY.1, end: low_end, kind: MEMMAP_RAM });
    if kept != 0 {
        map.push(Range { start: KEPT, end: KEPT + (kept << PAGE_SHIFT), kind: MEMMAP_PMEM });
    }
    map.push(Range { start: ACPI, end: ACPI + (acpi << PAGE_SHIFT), kind: MEMMAP_ACPI });
    map.push(Range { start: SPECIAL.0, end: SPECIAL.1, kind: MEMMAP_RESERVED });
    if let Some(&(start, end)) = ram.get(1) {
        map.push(Range { start, end, kind: MEMMAP_RAM });
    }
    map
}

#[cfg(test)]
mod tests {
    use super::super::config::{MAX_MEMORY, MIN_MEMORY};
    use super::*;

    #[test]
    fn the_map_is_sorted_and_without_overlaps() {
        for memory in [MIN_MEMORY, 64 << 20, LOW_END, LOW_END + 4096, 8 << 30, MAX_MEMORY] {
            let map = map(memory, 2, KEPT_PAGES);
            for pair in map.windows(2) {
                assert!(pair[0].start < pair[0].end && pair[0].end <= pair[1].start, "{memory:#x}");
            }
            let told: u64 = map
                .iter()
                .filter(|range| range.kind == MEMMAP_RAM)
                .map(|range| range.end - range.start)
                .sum();
            assert_eq!(told + (LEGACY.1 - LEGACY.0), memory);
            assert_eq!(ram(memory).iter().map(|(start, end)| end - start).sum::<u64>(), memory);
        }
    }
}
