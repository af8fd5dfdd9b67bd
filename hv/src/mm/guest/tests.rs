//! The walker over page tables built in the host's arena, in each paging mode.

extern crate std;

use std::vec::Vec;

use gnttab_fast::types::DomId;
use proptest::prelude::*;

use super::*;
use crate::{
    epoch,
    mm::{
        frames::{self, Owner},
        p2m::P2mKind,
    },
};

/// A guest: gfn `n` is RAM for every `n` below [`Guest::FRAMES`], page tables from 1 on.
struct Guest {
    p2m: P2m,
    guard: Guard,
    paging: Paging,
}

const OWNER: Owner = Owner::Domain(DomId(77));
const ALL_ON: u64 = PTE_PRESENT | PTE_WRITE | 4;
/// Not present in the guest-physical map.
const HOLE: u64 = 0x30;
/// Read-only in the guest-physical map.
const READ_ONLY: u64 = 0x31;

impl Guest {
    const FRAMES: u64 = 0x30;

    fn new(paging: Paging) -> Self {
        let p2m = P2m::new().expect("memory");
        for gfn in 0..Self::FRAMES {
            let mfn = frames::alloc(0, OWNER).expect("memory");
            p2m.set(Gfn(gfn), mfn, 0, P2mKind::RamRw).expect("memory");
        }
        let mfn = frames::alloc(0, OWNER).expect("memory");
        p2m.set(Gfn(READ_ONLY), mfn, 0, P2mKind::GrantRo).expect("memory");
        Self { p2m, guard: epoch::pin(), paging }
    }

    fn unpaged() -> Self {
        Self::new(Paging { cr0: 1, ..Paging::default() })
    }

    /// PML4 at frame 1, then 2, 3, 4: linear 0x40_0000 onwards through one page table.
    fn long() -> Self {
        let guest = Self::new(Paging {
            cr0: CR0_PG | CR0_WP | 1,
            cr3: 0x1000,
            cr4: CR4_PAE,
            efer: EFER_LMA | 1 << 8,
        });
        guest.set_entry(1, 0, 0x2000 | ALL_ON);
        guest.set_entry(2, 0, 0x3000 | ALL_ON);
        guest.set_entry(3, 2, 0x4000 | ALL_ON);
        guest
    }

    fn space(&self) -> GuestSpace<'_> {
        GuestSpace::new(&self.p2m, self.paging, &self.guard)
    }

    fn page(&self, gfn: u64) -> GuestPage<'_> {
        self.space().frame(Gfn(gfn), Access::Read).expect("mapped")
    }

    fn set_entry(&self, table: u64, index: usize, entry: u64) {
        self.page(table).atomic_u64(index * 8).expect("inside").store(entry, Ordering::Relaxed);
    }

    fn entry(&self, table: u64, index: usize) -> u64 {
        self.page(table).atomic_u64(index * 8).expect("inside").load(Ordering::Relaxed)
    }

    fn set_narrow(&self, table: u64, index: usize, entry: u32) {
        self.page(table).atomic_u32(index * 4).expect("inside").store(entry, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        while !self.p2m.release_step(1000, |entry, _| frames::put_ref(entry.mfn)) {}
    }
}

#[test]
fn unpaged_addresses_are_physical() {
    let guest = Guest::unpaged();
    let space = guest.space();
    space.write(0x5ffe, &[1, 2, 3, 4]).expect("mapped");
    let mut first = [0; 2];
    guest.page(5).read(0xffe, &mut first).expect("inside");
    assert_eq!(first, [1, 2]);
    assert_eq!(space.read_val::<u32>(0x5ffe), Ok(0x0403_0201), "across two pages");
    assert_eq!(space.read_val::<u32>(0x1_0000_5ffe), Ok(0x0403_0201), "32 bits of address");
    assert_eq!(space.read_val::<u64>(HOLE << 12), Err(Fault));
    assert_eq!(space.read_val::<u64>((HOLE << 12) - 4), Err(Fault), "the second page is missing");
}

#[test]
fn read_only_frames_refuse_writes() {
    let guest = Guest::unpaged();
    let space = guest.space();
    let at = READ_ONLY << 12;
    assert_eq!(space.read_val::<u64>(at), Ok(0));
    assert_eq!(space.write_val(at, &1u64), Err(Fault));
    assert_eq!(space.window(at, 8, Access::Write).err(), Some(Fault));
    let window = space.window(at, 8, Access::Read).expect("readable");
    assert_eq!(window.write(0, &[1]), Err(Fault), "a window for reading does not help");
    assert_eq!(guest.page(READ_ONLY).write(0, &[1]), Err(Fault));
    assert_eq!(space.read_val::<u64>(at), Ok(0), "and nothing was written");
}

#[test]
fn four_levels_translate_and_mark() {
    let guest = Guest::long();
    guest.set_entry(4, 7, 0x9000 | ALL_ON);
    let at = 0x40_7123;
    assert_eq!(guest.space().walk(at, Access::Read), Ok(0x9123));
    assert_eq!(guest.entry(1, 0) & (PTE_ACCESSED | PTE_DIRTY), PTE_ACCESSED);
    assert_eq!(guest.entry(4, 7) & (PTE_ACCESSED | PTE_DIRTY), PTE_ACCESSED);
    assert_eq!(guest.space().walk(at, Access::Write), Ok(0x9123));
    assert_eq!(guest.entry(4, 7) & (PTE_ACCESSED | PTE_DIRTY), PTE_ACCESSED | PTE_DIRTY);
    assert_eq!(guest.entry(3, 2) & PTE_DIRTY, 0, "tables are not dirty");
    assert_eq!(guest.space().walk(0x40_8000, Access::Read), Err(Fault));
    assert_eq!(guest.space().walk(1 << 47, Access::Read), Err(Fault), "not canonical");
    assert_eq!(guest.space().walk(1 << 39, Access::Read), Err(Fault), "no PML4 entry");
}

#[test]
fn four_levels_have_large_pages() {
    let guest = Guest::long();
    guest.set_entry(3, 3, 0x20_0000 | ALL_ON | PTE_LARGE);
    guest.set_entry(2, 1, 0x4000_0000 | ALL_ON | PTE_LARGE);
    assert_eq!(guest.space().walk(0x61_2345, Access::Read), Ok(0x21_2345));
    assert_eq!(guest.space().walk(0x7234_5678, Access::Read), Ok(0x7234_5678));
    // Bit 7 in a PML4 entry is reserved.
    guest.set_entry(1, 1, 0x2000 | ALL_ON | PTE_LARGE);
    assert_eq!(guest.space().walk(1 << 39, Access::Read), Err(Fault));
}

#[test]
fn write_protection_follows_every_level_and_wp() {
    let mut guest = Guest::long();
    guest.set_entry(4, 0, 0x9000 | PTE_PRESENT);
    assert_eq!(guest.space().walk(0x40_0000, Access::Write), Err(Fault));
    assert_eq!(guest.entry(4, 0) & PTE_DIRTY, 0, "a refused write marks nothing");
    guest.set_entry(4, 0, 0x9000 | ALL_ON);
    guest.set_entry(2, 0, 0x3000 | PTE_PRESENT);
    assert_eq!(guest.space().walk(0x40_0000, Access::Write), Err(Fault), "a level above forbids it");
    guest.paging.cr0 &= !CR0_WP;
    assert_eq!(guest.space().walk(0x40_0000, Access::Write), Ok(0x9000));
}

#[test]
fn five_levels_are_not_walked() {
    let mut guest = Guest::long();
    guest.set_entry(4, 0, 0x9000 | ALL_ON);
    guest.paging.cr4 |= CR4_LA57;
    assert_eq!(guest.space().walk(0x40_0000, Access::Read), Err(Fault));
}

#[test]
fn tables_outside_memory_fault() {
    let mut guest = Guest::long();
    guest.set_entry(3, 2, PTE_FRAME | ALL_ON);
    assert_eq!(guest.space().walk(0x40_0000, Access::Read), Err(Fault));
    guest.paging.cr3 = HOLE << 12;
    assert_eq!(guest.space().walk(0x40_0000, Access::Read), Err(Fault));
    // A table in a read-only frame can be walked; it just keeps its bits.
    guest.paging.cr3 = READ_ONLY << 12;
    assert_eq!(guest.space().walk(0x40_0000, Access::Read), Err(Fault), "it is empty");
}

#[test]
fn pae_has_three_levels_and_32_bits() {
    let guest = Guest::new(Paging { cr0: CR0_PG | CR0_WP | 1, cr3: 0x1020, cr4: CR4_PAE, efer: 0 });
    // The pointers stand 32 bytes into frame 1; no write bit in them.
    guest.set_entry(1, 4 + 3, 0x2000 | PTE_PRESENT);
    guest.set_entry(2, 0, 0x3000 | ALL_ON);
    guest.set_entry(2, 1, 0x40_0000 | ALL_ON | PTE_LARGE);
    guest.set_entry(3, 1, 0x9000 | ALL_ON | 1 << 63);
    assert_eq!(guest.space().walk(0xc000_1234, Access::Write), Ok(0x9234));
    assert_eq!(guest.space().walk(0xffff_ffff_c000_1234, Access::Write), Ok(0x9234));
    assert_eq!(guest.space().walk(0xc021_2345, Access::Write), Ok(0x41_2345));
    assert_eq!(guest.space().walk(0x1234, Access::Read), Err(Fault));
}

#[test]
fn narrow_tables_have_two_levels_and_4_mib_pages() {
    let mut guest = Guest::new(Paging { cr0: CR0_PG | CR0_WP | 1, cr3: 0x1000, cr4: CR4_PSE, efer: 0 });
    guest.set_narrow(1, 1, 0x2000 | 7);
    guest.set_narrow(2, 3, 0x9000 | 7);
    guest.set_narrow(2, 4, 0xa000 | 1);
    // PSE-36: bit 13 is bit 32 of the address.
    guest.set_narrow(1, 2, 0x80_0000 | 0x2000 | 0x87);
    assert_eq!(guest.space().walk(0x40_3123, Access::Write), Ok(0x9123));
    assert_eq!(guest.space().walk(0x40_4123, Access::Read), Ok(0xa123));
    assert_eq!(guest.space().walk(0x40_4123, Access::Write), Err(Fault));
    assert_eq!(guest.space().walk(0x81_2345, Access::Read), Ok(0x1_0081_2345));
    let marked = guest.page(2).atomic_u32(12).expect("inside").load(Ordering::Relaxed);
    assert_eq!(marked, 0x9000 | 7 | 0x60);
    // Without PSE the bit means nothing, and the entry is a table.
    guest.paging.cr4 = 0;
    guest.set_narrow(1, 2, 0x2000 | 0x87);
    assert_eq!(guest.space().walk(0x80_3123, Access::Write), Ok(0x9123));
}

#[test]
fn a_window_walks_once_and_keeps_to_its_bounds() {
    let guest = Guest::long();
    for (index, frame) in [(0, 0x9000), (1, 0xb000), (2, 0xa000)] {
        guest.set_entry(4, index, frame | ALL_ON);
    }
    let space = guest.space();
    let window = space.window(0x40_0ff0, 0x1020, Access::Write).expect("mapped");
    assert_eq!(window.len(), 0x1020);
    // The tables are not looked at again.
    guest.set_entry(4, 1, 0);
    window.write(0xe, &[1, 2, 3, 4]).expect("inside");
    let mut back = [0; 4];
    window.read(0xe, &mut back).expect("inside");
    assert_eq!(back, [1, 2, 3, 4]);
    let mut second = [0; 2];
    guest.page(0xb).read(0, &mut second).expect("inside");
    assert_eq!(second, [3, 4]);
    assert_eq!(window.read(0x101d, &mut back), Err(Fault), "past the end");
    assert_eq!(window.read(usize::MAX, &mut back), Err(Fault));
    assert_eq!(space.window(0x40_0000, 0x2000, Access::Read).err(), Some(Fault), "a page is gone");
    assert_eq!(space.window(0x40_0000, 0x1000, Access::Read).map(|w| w.is_empty()), Ok(false));
    assert_eq!(space.window(0x123_4567, 0, Access::Write).map(|w| w.is_empty()), Ok(true));
    let too_long = space.window(0x40_0000, usize::MAX - 5, Access::Read);
    assert_eq!(too_long.err(), Some(Fault));
}

proptest! {
    /// What is written through scattered pages is what is read, and nothing beside it changes.
    #[test]
    fn bytes_go_where_they_belong(start in 0usize..0x2800, bytes in prop::collection::vec(any::<u8>(), 0..0x800)) {
        let guest = Guest::long();
        // Three linear pages over frames out of order.
        for (index, frame) in [(0, 0x9000), (1, 0xb000), (2, 0xa000)] {
            guest.set_entry(4, index, frame | ALL_ON);
        }
        let mut model = [0u8; 0x3000];
        model[start..start + bytes.len()].copy_from_slice(&bytes);
        let space = guest.space();
        space.write(0x40_0000 + start as u64, &bytes).expect("mapped");
        let mut seen = Vec::new();
        for gfn in [9, 0xb, 0xa] {
            let mut page = [0; PAGE_SIZE];
            guest.page(gfn).read(0, &mut page).expect("inside");
            seen.extend_from_slice(&page);
        }
        prop_assert_eq!(&seen[..], &model[..]);
        let mut back = std::vec![0; bytes.len()];
        space.read(0x40_0000 + start as u64, &mut back).expect("mapped");
        prop_assert_eq!(back, bytes);
    }
}

/// Structures are lent where they lie whole in the page, aligned, and where the guest could write them.
#[test]
fn cells_are_lent_from_writable_pages_only() {
    use gnttab_fast::CopyCells;
    let guest = Guest::unpaged();
    let space = GuestSpace::new(&guest.p2m, guest.paging, &guest.guard);
    let page = space.page(0x5000, Access::Read).expect("ram");
    for (offset, most, lent) in
        [(0, 64, 64), (0, 200, 102), (4056, 64, 1), (4064, 64, 0), (4096, 64, 0), (4, 64, 0), (8, 0, 0)]
    {
        assert_eq!(page.cells::<CopyCells>(offset, most).map(<[_]>::len), Ok(lent), "{offset}");
    }
    let page = space.page(READ_ONLY << PAGE_SHIFT, Access::Read).expect("there to be read");
    assert!(page.cells::<CopyCells>(0, 1).is_err());
}
