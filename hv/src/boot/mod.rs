//! From the boot loader's hands to the first guest.
//!
//! `entry.S` meets the loader, builds provisional page tables and calls the image's `image_main`, which
//! calls [`BootInfo::read`] and then `start`. Everything the loader says is checked here once: the
//! rest of the hypervisor may believe a [`BootInfo`]. A boot that cannot go on ends in [`fail`] with
//! one line that says why.

use core::fmt;

use arrayvec::ArrayVec;

#[cfg(feature = "bare-metal")]
pub mod entry;
pub mod free;
pub mod memmap;
pub mod multiboot;
pub mod phys;
pub mod pvh;
#[cfg(feature = "bare-metal")]
mod story;
pub mod strings;

use phys::PhysRead;
#[cfg(feature = "bare-metal")]
pub use story::{other_cpu, read_options, start};
use strings::Strings;

/// What kind of memory a range of the loader's map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemKind {
    /// Usable RAM.
    Ram,
    /// ACPI tables, reclaimable.
    AcpiData,
    /// ACPI non-volatile storage.
    AcpiNvs,
    /// Anything else.
    Reserved,
}

/// A range of the loader's memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemRange {
    /// First physical address.
    pub start: u64,
    /// First physical address behind it.
    pub end: u64,
    /// What it is.
    pub kind: MemKind,
}

/// The most modules a boot may bring.
pub const MAX_MODULES: usize = 64;

/// A file the boot loader placed in RAM, with its string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module {
    /// Physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// The loader's string: file name and arguments.
    pub string: &'static str,
}

impl Module {
    /// The file.
    #[must_use]
    pub fn bytes(&self) -> &'static [u8] {
        crate::mm::direct::module_bytes(self)
    }

    /// First physical address behind the file.
    const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// What the boot loader told, checked.
#[derive(Debug)]
pub struct BootInfo {
    /// The hypervisor's options, without the image's own name.
    pub cmdline: &'static str,
    /// Sorted, without overlaps.
    pub memory: ArrayVec<MemRange, 64>,
    /// In the loader's order; inside RAM, without overlaps.
    pub modules: ArrayVec<Module, MAX_MODULES>,
    /// The ACPI root pointer, when the loader gave it.
    pub rsdp: Option<u64>,
    /// Which protocol brought us here.
    pub loader: &'static str,
}

/// What the loader told, as it came: bounded, not yet believed.
#[derive(Debug)]
pub struct Raw {
    cmdline: &'static str,
    memory: memmap::RawMap,
    modules: ArrayVec<Module, MAX_MODULES>,
    rsdp: Option<u64>,
    loader: &'static str,
}

impl Raw {
    const fn new(loader: &'static str) -> Self {
        Self {
            cmdline: "",
            memory: ArrayVec::new_const(),
            modules: ArrayVec::new_const(),
            rsdp: None,
            loader,
        }
    }

    fn add_memory(&mut self, range: MemRange) -> Result<(), BootError> {
        self.memory.try_push(range).map_err(|_| BootError::MapTooLong)
    }

    fn add_module(&mut self, start: u64, end: u64, string: &'static str) -> Result<(), BootError> {
        let len = end
            .checked_sub(start)
            .filter(|&len| len != 0)
            .ok_or(BootError::ModuleTruncated(self.modules.len()))?;
        self.modules.try_push(Module { start, len, string }).map_err(|_| BootError::TooManyModules)
    }
}

/// Why the loader's information cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootError {
    /// Neither multiboot's magic nor PVH's.
    UnknownLoader(u32),
    /// A structure lies outside of the first 4 GiB, or is not what it should be.
    InfoUnreadable,
    /// No memory map.
    NoMap,
    /// More entries in the memory map than we take.
    MapTooLong,
    /// The memory map has no RAM.
    NoRam,
    /// The loader's strings do not fit.
    StringTooLong,
    /// More modules than [`MAX_MODULES`].
    TooManyModules,
    /// A module of no length, or of less than none.
    ModuleTruncated(usize),
    /// A module that lies outside of RAM, at least in part.
    ModuleNotInRam(usize),
    /// Two modules share memory, or one shares it with the image (then both numbers are its own).
    ModulesOverlap(usize, usize),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownLoader(magic) => {
                write!(
                    f,
                    "started by neither multiboot 1 nor PVH (magic {magic:#x}); use `-kernel` or GRUB's `multiboot`"
                )
            }
            Self::InfoUnreadable => f.write_str("the boot loader's information is damaged or out of reach"),
            Self::NoMap => f.write_str("the boot loader gave no memory map"),
            Self::MapTooLong => f.write_str("the memory map has too many entries"),
            Self::NoRam => f.write_str("the memory map names no RAM"),
            Self::StringTooLong => f.write_str("the command line and module strings are longer than 16 KiB"),
            Self::TooManyModules => write!(f, "more than {MAX_MODULES} modules"),
            // People count modules from 1.
            Self::ModuleTruncated(which) => write!(f, "module {} is empty or truncated", which + 1),
            Self::ModuleNotInRam(which) => write!(
                f,
                "module {} is truncated or lies outside of RAM; give the machine more memory",
                which + 1
            ),
            Self::ModulesOverlap(one, other) if one == other => {
                write!(f, "module {} overlaps the hypervisor's image", one + 1)
            }
            Self::ModulesOverlap(one, other) => {
                write!(f, "modules {} and {} overlap", one + 1, other + 1)
            }
        }
    }
}

impl BootInfo {
    /// Reads and checks what the loader left. `protocol` is the word that says which one it was,
    /// `image` the physical range of the hypervisor.
    ///
    /// # Errors
    /// [`BootError`], and the command line when it was found: it says where to complain.
    pub fn read(
        memory: &impl PhysRead,
        protocol: u32,
        info: u64,
        image: (u64, u64),
        strings: &mut Strings,
    ) -> Result<Self, (BootError, &'static str)> {
        let raw = match protocol {
            multiboot::MAGIC => multiboot::read(memory, info, strings),
            pvh::MAGIC => pvh::read(memory, info, strings),
            other => Err(BootError::UnknownLoader(other)),
        };
        let raw = raw.map_err(|why| (why, ""))?;
        let cmdline = raw.cmdline;
        Self::check(raw, image).map_err(|why| (why, cmdline))
    }

    fn check(raw: Raw, image: (u64, u64)) -> Result<Self, BootError> {
        let memory = memmap::normalise(&raw.memory)?;
        for (index, module) in raw.modules.iter().enumerate() {
            if !memmap::is_ram(&memory, module.start, module.end()) {
                return Err(BootError::ModuleNotInRam(index));
            }
            if module.start < image.1 && image.0 < module.end() {
                return Err(BootError::ModulesOverlap(index, index));
            }
            for (earlier, other) in raw.modules.iter().enumerate().take(index) {
                if module.start < other.end() && other.start < module.end() {
                    return Err(BootError::ModulesOverlap(earlier, index));
                }
            }
        }
        Ok(Self { cmdline: raw.cmdline, memory, modules: raw.modules, rsdp: raw.rsdp, loader: raw.loader })
    }

    /// Bytes of RAM the loader told of.
    #[must_use]
    pub fn ram(&self) -> u64 {
        self.memory
            .iter()
            .filter(|range| range.kind == MemKind::Ram)
            .map(|range| range.end - range.start)
            .sum()
    }
}

/// Ends a boot that cannot go on: one line, then restart or stop as `noreboot` says.
pub fn fail(why: fmt::Arguments<'_>) -> ! {
    crate::error!("cannot boot: {why}");
    crate::panic::end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(modules: &[(u64, u64)]) -> Raw {
        let mut raw = Raw::new("test");
        raw.add_memory(MemRange { start: 0, end: 0xa_0000, kind: MemKind::Ram }).expect("room");
        raw.add_memory(MemRange { start: 0x10_0000, end: 0x800_0000, kind: MemKind::Ram }).expect("room");
        for &(start, end) in modules {
            raw.add_module(start, end, "").expect("room");
        }
        raw
    }

    const IMAGE: (u64, u64) = (0x20_0000, 0x40_0000);

    #[test]
    fn modules_must_be_in_ram_and_apart() {
        let check = |modules: &[(u64, u64)]| BootInfo::check(raw(modules), IMAGE).err();
        assert_eq!(check(&[(0x40_0000, 0x50_0000), (0x50_0000, 0x50_0001)]), None);
        assert_eq!(check(&[(0x700_0000, 0x800_0001)]), Some(BootError::ModuleNotInRam(0)));
        assert_eq!(check(&[(0x9_0000, 0x11_0000)]), Some(BootError::ModuleNotInRam(0)));
        assert_eq!(check(&[(0x10_0000, 0x20_0001)]), Some(BootError::ModulesOverlap(0, 0)));
        assert_eq!(
            check(&[(0x50_0000, 0x60_0000), (0x5f_ffff, 0x70_0000)]),
            Some(BootError::ModulesOverlap(0, 1))
        );
    }

    #[test]
    fn too_many_modules() {
        let mut raw = raw(&[]);
        for _ in 0..MAX_MODULES {
            raw.add_module(1, 2, "").expect("room");
        }
        assert_eq!(raw.add_module(1, 2, ""), Err(BootError::TooManyModules));
        assert_eq!(raw.add_module(2, 2, ""), Err(BootError::ModuleTruncated(MAX_MODULES)));
    }

    #[test]
    fn an_unknown_protocol() {
        let memory = phys::TestMemory::new(0, 0);
        let read = BootInfo::read(&memory, 0xbad, 0, IMAGE, &mut Strings::for_test());
        assert_eq!(read.err(), Some((BootError::UnknownLoader(0xbad), "")));
    }
}
