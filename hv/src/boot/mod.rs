//! From the boot loader's hands to the first guest.

use arrayvec::ArrayVec;

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

/// A file the boot loader placed in RAM, with its string.
#[derive(Clone, Copy, Debug)]
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
        todo!()
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
    pub modules: ArrayVec<Module, 64>,
    /// The ACPI root pointer, when the loader gave it.
    pub rsdp: Option<u64>,
    /// Which protocol brought us here.
    pub loader: &'static str,
}

/// Boots: console, CPU, memory, ACPI, other CPUs, virtualisation, domains; ends in the scheduler.
pub fn start(info: BootInfo) -> ! {
    let _ = info;
    todo!()
}
