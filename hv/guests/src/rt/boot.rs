//! What the loader left: command line, modules, memory map (`public/arch-x86/hvm/start_info.h`).

use core::sync::atomic::{AtomicU64, Ordering};

use hv::abi::hvm::start_info::{MAGIC, MEMMAP_RAM, MemmapEntry, ModlistEntry, StartInfo};
use hv::abi::memory::{E820Entry, MemoryMap, op};
use hv::abi::xen::hypercall as number;
use spin::Once;
use zerocopy::FromZeros as _;

use super::events::check;
use super::{hypercall, size, wide};

static START_INFO: AtomicU64 = AtomicU64::new(0);

/// Everything below this is mapped.
pub const MAPPED: u64 = 1 << 32;
/// A longer command line is taken for a missing NUL.
const LONGEST_CMDLINE: usize = 4096;

pub(super) fn init(start_info: u64) {
    START_INFO.store(start_info, Ordering::Relaxed);
    let info = info();
    if info.magic != MAGIC {
        crate::fail!("start info at {start_info:#x} has no magic number");
    }
    MAP.call_once(|| {
        let mut map = Map { entries: [MemmapEntry::new_zeroed(); MAP_ENTRIES], count: 0 };
        if info.version >= 1 && info.memmap_entries > 0 {
            table(info.memmap_paddr, info.memmap_entries).for_each(|entry| map.push(entry));
        } else {
            map.ask();
        }
        map
    });
}

const MAP_ENTRIES: usize = 64;

/// The memory map.
struct Map {
    entries: [MemmapEntry; MAP_ENTRIES],
    count: usize,
}

static MAP: Once<Map> = Once::new();

impl Map {
    fn push(&mut self, entry: MemmapEntry) {
        let Some(slot) = self.entries.get_mut(self.count) else {
            crate::fail!("the memory map has more than {MAP_ENTRIES} entries");
        };
        *slot = entry;
        self.count += 1;
    }

    /// Older loaders leave no map in the start info; the hypervisor knows it as well.
    fn ask(&mut self) {
        let mut entries = [E820Entry::default(); MAP_ENTRIES];
        let mut request = MemoryMap {
            nr_entries: u32::try_from(MAP_ENTRIES).expect("a small number"),
            pad: 0,
            buffer: wide(entries.as_mut_ptr().addr()),
        };
        check("XENMEM_memory_map", hypercall::op(number::MEMORY_OP, op::MEMORY_MAP, &mut request));
        for entry in &entries[..size(request.nr_entries.into())] {
            self.push(MemmapEntry { addr: entry.addr, size: entry.size, kind: entry.kind, reserved: 0 });
        }
    }
}

/// The start info.
#[must_use]
pub fn info() -> StartInfo {
    read(START_INFO.load(Ordering::Relaxed))
}

/// The table of `count` structures at `address`.
fn table<T: zerocopy::FromBytes + Copy>(address: u64, count: u32) -> impl Iterator<Item = T> + Clone {
    (0..u64::from(count)).map(move |index| read(address + index * wide(size_of::<T>())))
}

fn read<T: zerocopy::FromBytes + Copy>(address: u64) -> T {
    if address >= MAPPED - 4096 {
        crate::fail!("the loader left something above 4 GiB, at {address:#x}");
    }
    let pointer = core::ptr::with_exposed_provenance::<T>(size(address));
    // SAFETY: the loader says that a `T` stands there; the address is mapped, and any bytes are a `T`.
    unsafe { pointer.read_unaligned() }
}

/// The memory map.
pub fn memory_map() -> impl Iterator<Item = MemmapEntry> + Clone {
    MAP.get().into_iter().flat_map(|map| map.entries[..map.count].iter().copied())
}

/// Usable RAM, as (start, end), below 4 GiB.
pub fn ram() -> impl Iterator<Item = (u64, u64)> + Clone {
    memory_map()
        .filter(|entry| entry.kind == MEMMAP_RAM && entry.addr < MAPPED)
        .map(|entry| (entry.addr, entry.addr.saturating_add(entry.size).min(MAPPED)))
}

/// The modules.
pub fn modules() -> impl Iterator<Item = ModlistEntry> + Clone {
    let info = info();
    table(info.modlist_paddr, info.nr_modules)
}

/// The bytes of the first module.
#[must_use]
pub fn module() -> Option<&'static [u8]> {
    let module = modules().next()?;
    let end = module.paddr.checked_add(module.size)?;
    if end > MAPPED {
        crate::fail!("the module at {:#x} does not lie below 4 GiB", module.paddr);
    }
    let pointer = core::ptr::with_exposed_provenance::<u8>(size(module.paddr));
    // SAFETY: the loader says that the module stands there; the frame allocator leaves it out, and nobody
    // writes it.
    Some(unsafe { core::slice::from_raw_parts(pointer, size(module.size)) })
}

/// The command line.
#[must_use]
pub fn cmdline() -> &'static str {
    let address = info().cmdline_paddr;
    if address == 0 {
        return "";
    }
    let start = core::ptr::with_exposed_provenance::<u8>(size(address));
    // SAFETY: the loader says that a NUL-terminated string stands there; each byte before the NUL is its.
    let end = (0..LONGEST_CMDLINE).find(|&at| unsafe { start.wrapping_add(at).read() } == 0);
    let Some(length) = end else { crate::fail!("the command line has no end") };
    // SAFETY: the bytes were just read; nobody writes them.
    let line = unsafe { core::slice::from_raw_parts(start, length) };
    core::str::from_utf8(line).unwrap_or_else(|_| crate::fail!("the command line is not UTF-8"))
}

/// What the loader used beside RAM that is free, as (start, end).
pub(super) fn in_use() -> impl Iterator<Item = (u64, u64)> + Clone {
    let info = info();
    let line = cmdline();
    let tables = [
        (START_INFO.load(Ordering::Relaxed), size_of::<StartInfo>()),
        (info.modlist_paddr, size_of::<ModlistEntry>() * size(u64::from(info.nr_modules))),
        (wide(line.as_ptr().addr()), line.len() + 1),
    ];
    let tables = tables.into_iter().map(|(start, length)| (start, start + wide(length)));
    // A module's own command line is not read, so it need not be kept.
    tables.chain(modules().map(|module| (module.paddr, module.paddr + module.size)))
}
