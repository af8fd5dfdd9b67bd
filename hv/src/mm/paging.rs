//! The hypervisor's own page tables.
//!
//! | from | what | rights |
//! |---|---|---|
//! | [`DIRECT_BASE`] | all RAM but the image and the trampoline page | read, write |
//! | [`STACKS`] | stacks of the pCPUs but the first, each above a guard page | read, write |
//! | [`DEVICES`] | device registers, uncached | read, write |
//! | the image's link address | text; read-only data; data and the first pCPU's stacks | read, execute; read; read, write |
//!
//! Nothing is both writable and executable, under any address: the image has no second mapping. Guests are
//! hardware-assisted and share nothing of this. The tables are built once on the boot CPU from memory the
//! boot page tables reach; later only stacks and devices are added, and the trampoline's identity
//! mapping comes and goes, all under one lock. A mapping that is added needs no TLB flush: absent entries
//! are not cached.

use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};

use gnttab_fast::types::{PAGE_SHIFT, PAGE_SIZE};
use spin::Mutex;

use super::{
    direct::{DIRECT_BASE, phys_to_virt, u64_of},
    frames::{self, Owner},
};
use crate::{
    arch::x86::{
        cpu,
        stacks::{self, CpuStacks, GUARD},
    },
    boot::{BootInfo, MemKind, entry::Image, free::FreeRanges},
};

/// Stacks of the pCPUs from the second on.
const STACKS: u64 = 0xffff_c800_0000_0000;
/// From one pCPU's stacks to the next's.
const STACKS_STRIDE: u64 = 256 * 1024;
/// Device registers.
const DEVICES: u64 = 0xffff_c880_0000_0000;
/// The direct map ends here at the latest; RAM beyond is left out.
pub(crate) const DIRECT_LIMIT: u64 = STACKS - DIRECT_BASE;

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
/// Accessed and dirty, set beforehand so that the CPU never has to.
const TOUCHED: u64 = 1 << 5 | 1 << 6;
/// PWT and PCD: entry 3 of the PAT, uncached in its reset state.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What a mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
enum Rights {
    Execute = PRESENT | TOUCHED,
    Read = PRESENT | TOUCHED | NO_EXECUTE,
    Write = PRESENT | TOUCHED | NO_EXECUTE | WRITE,
    Device = PRESENT | TOUCHED | NO_EXECUTE | WRITE | UNCACHED,
}

/// No frame for another table.
#[derive(Clone, Copy, Debug)]
struct OutOfFrames;

/// The tables, by the physical address of their root, and where the next device goes.
#[derive(Debug)]
struct Tables {
    root: u64,
    next_device: u64,
}

static TABLES: Mutex<Tables> = Mutex::new(Tables { root: 0, next_device: DEVICES });
/// The root again, where it can be read without the lock.
static ROOT: AtomicU64 = AtomicU64::new(0);

/// One entry of the table at physical address `table`.
fn slot(table: u64, virt: u64, level: u32) -> *mut u64 {
    let index = virt >> (PAGE_SHIFT + 9 * level) & 0x1ff;
    phys_to_virt(table + index * 8).cast()
}

/// Bytes an entry of that level covers.
const fn span(level: u32) -> u64 {
    1 << (PAGE_SHIFT + 9 * level)
}

impl Tables {
    /// Maps `len` bytes with pages as large as alignment and the CPU let them be. `new_table` gives zeroed
    /// frames.
    fn map(
        &self,
        virt: u64,
        phys: u64,
        len: u64,
        rights: Rights,
        new_table: &mut dyn FnMut() -> Option<u64>,
    ) -> Result<(), OutOfFrames> {
        let page = u64_of(PAGE_SIZE);
        assert!(
            virt.is_multiple_of(page) && phys.is_multiple_of(page) && len.is_multiple_of(page),
            "whole pages"
        );
        let largest = if cpu::features().gib_pages { 2 } else { 1 };
        let mut done = 0;
        while done < len {
            let (virt, phys, left) = (virt + done, phys + done, len - done);
            let fits = |&level: &u32| (virt | phys).is_multiple_of(span(level)) && left >= span(level);
            let leaf = (0..=largest).rev().find(fits).unwrap_or(0);
            let mut table = self.root;
            for level in (leaf + 1..4).rev() {
                let entry = slot(table, virt, level);
                // SAFETY: `table` is one of our tables, in RAM and mapped; the lock or, at boot, being
                // alone keeps others away. The CPU only reads: accessed bits are set beforehand.
                let value = unsafe { entry.read() };
                assert!(value & LARGE == 0, "{virt:#x} is mapped already");
                table = if value & PRESENT == 0 {
                    let new = new_table().ok_or(OutOfFrames)?;
                    // SAFETY: as above; the new table is zeroed and nobody else's.
                    unsafe { entry.write(new | PRESENT | WRITE | TOUCHED) };
                    new
                } else {
                    value & ADDRESS
                };
            }
            let entry = slot(table, virt, leaf);
            let large = if leaf == 0 { 0 } else { LARGE };
            // SAFETY: as above.
            unsafe {
                assert!(entry.read() == 0, "{virt:#x} is mapped already");
                entry.write(phys | rights as u64 | large);
            }
            done += span(leaf);
        }
        Ok(())
    }

    /// Takes one 4 KiB mapping away. The caller sees to the TLBs.
    fn unmap_page(&self, virt: u64) {
        let mut table = self.root;
        for level in (1..4).rev() {
            // SAFETY: as in `map`.
            table = unsafe { slot(table, virt, level).read() } & ADDRESS;
            assert!(table != 0, "{virt:#x} is not mapped");
        }
        // SAFETY: as in `map`.
        unsafe { slot(table, virt, 0).write(0) };
    }
}

/// A zeroed frame for a table, once the allocator runs.
fn table_frame() -> Option<u64> {
    frames::alloc(0, Owner::Hypervisor).map(|mfn| mfn.0 << PAGE_SHIFT)
}

/// A zeroed page of free memory, as long as the boot page tables are in force.
fn boot_page(free: &mut FreeRanges) -> Option<u64> {
    /// What the boot page tables reach.
    const REACH: u64 = 1 << 32;
    let at = free.take(u64_of(PAGE_SIZE), REACH)?;
    // SAFETY: free memory, within the boot tables' direct map; the callers' callers promise both.
    unsafe { phys_to_virt(at).write_bytes(0, PAGE_SIZE) };
    Some(at)
}

/// Chooses where the tables' root will be, below 4 GiB.
///
/// # Safety
/// As for [`install`].
pub(crate) unsafe fn choose_root(free: &mut FreeRanges) -> Option<u64> {
    let root = boot_page(free)?;
    TABLES.lock().root = root;
    ROOT.store(root, Ordering::Relaxed);
    Some(root)
}

/// Builds the final tables from `free` memory and installs them on the boot CPU; [`choose_root`] came before.
///
/// # Safety
/// The boot page tables are in force, `free` is memory nobody uses, and no pointer from the boot page
/// tables' low mapping is used afterwards.
pub(crate) unsafe fn install(info: &BootInfo, free: &mut FreeRanges, trampoline: u64) -> Option<()> {
    let page = u64_of(PAGE_SIZE);
    let mut new_table = || boot_page(free);
    let tables = TABLES.lock();
    let image = Image::get();

    let ram = info.memory.iter().filter(|range| range.kind == MemKind::Ram);
    let mut direct = FreeRanges::new(ram.map(|range| (range.start, range.end.min(DIRECT_LIMIT))));
    direct.remove(image.phys().0, image.phys().1);
    direct.remove(trampoline, trampoline + page);
    for (start, end) in direct.iter() {
        tables.map(DIRECT_BASE + start, start, end - start, Rights::Write, &mut new_table).ok()?;
    }

    for (start, end, rights) in
        [(image.start, image.text_end, Rights::Execute), (image.text_end, image.rodata_end, Rights::Read)]
    {
        tables.map(start, Image::to_phys(start), end - start, rights, &mut new_table).ok()?;
    }
    // The boot CPU's stacks begin the writable part's zeroed data; their guard pages are left out.
    let guards = CpuStacks::ALL.map(|stack| stacks::boot_stacks() + u64_of(stack.guard));
    for at in (image.rodata_end..image.end).step_by(PAGE_SIZE) {
        if !guards.contains(&at) {
            tables.map(at, Image::to_phys(at), page, Rights::Write, &mut new_table).ok()?;
        }
    }
    drop(tables);
    load_root();
    Some(())
}

/// Loads the root again: drops what this CPU's TLB holds.
pub(crate) fn load_root() {
    // SAFETY: the tables map all that running code uses, at the same addresses as before.
    unsafe { asm!("mov cr3, {}", in(reg) ROOT.load(Ordering::Relaxed), options(nostack, preserves_flags)) };
}

/// Maps a pCPU's stacks, each time under another number; where they begin.
pub(crate) fn map_stacks(number: u32) -> Option<u64> {
    let tables = TABLES.lock();
    let base = STACKS + u64::from(number) * STACKS_STRIDE;
    const { assert!(CpuStacks::SIZE as u64 <= STACKS_STRIDE) };
    for stack in CpuStacks::ALL {
        for offset in (stack.guard + GUARD..stack.top).step_by(PAGE_SIZE) {
            let frame = table_frame()?;
            let at = base + u64_of(offset);
            tables.map(at, frame, u64_of(PAGE_SIZE), Rights::Write, &mut table_frame).ok()?;
        }
    }
    Some(base)
}

/// Maps device registers, uncached.
pub(crate) fn map_device(phys: u64, len: u64) -> Option<*mut u8> {
    let page = u64_of(PAGE_SIZE);
    let first = phys & !(page - 1);
    let len = (phys - first + len).next_multiple_of(page);
    let mut tables = TABLES.lock();
    let virt = tables.next_device;
    tables.map(virt, first, len, Rights::Device, &mut table_frame).ok()?;
    tables.next_device += len;
    let at = virt + (phys - first);
    Some(core::ptr::with_exposed_provenance_mut(super::direct::usize_of(at)))
}

/// Maps the trampoline page where it lies, executable and not writable.
pub(crate) fn map_trampoline(page: u64) -> Option<()> {
    TABLES.lock().map(page, page, u64_of(PAGE_SIZE), Rights::Execute, &mut table_frame).ok()
}

/// Takes the trampoline's mapping away again. Each CPU that went through it must [`load_root`].
pub(crate) fn unmap_trampoline(page: u64) {
    TABLES.lock().unmap_page(page);
}
