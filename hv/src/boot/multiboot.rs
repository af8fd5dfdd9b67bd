//! The multiboot 1 information structure (Multiboot Specification 0.6.96, section 3.3).
#![forbid(unsafe_code)]

use super::{BootError, MemKind, MemRange, Raw, phys::PhysRead, strings::Strings};

/// What the loader leaves in EAX.
pub const MAGIC: u32 = 0x2bad_b002;

/// `flags`: the field at 16 holds the command line.
const HAS_CMDLINE: u32 = 1 << 2;
/// `flags`: the fields from 20 hold the modules.
const HAS_MODULES: u32 = 1 << 3;
/// `flags`: the fields from 44 hold the memory map.
const HAS_MAP: u32 = 1 << 6;

/// Reads the structure at `info`.
///
/// # Errors
/// [`BootError`] for a structure that is out of reach, too long or lacks a memory map.
pub fn read(memory: &impl PhysRead, info: u64, strings: &mut Strings) -> Result<Raw, BootError> {
    let word = |at: u64| memory.u32(info + at).ok_or(BootError::InfoUnreadable);
    let flags = word(0)?;
    let mut raw = Raw::new("multiboot");
    if flags & HAS_CMDLINE != 0 {
        let line = strings.keep(memory, word(16)?.into())?;
        // The first word is the image's own name.
        raw.cmdline =
            line.trim_start().split_once(|c: char| c.is_ascii_whitespace()).map_or("", |(_, rest)| rest);
    }
    if flags & HAS_MAP == 0 {
        return Err(BootError::NoMap);
    }
    let (len, at) = (u64::from(word(44)?), u64::from(word(48)?));
    let mut offset = 0;
    while offset < len {
        let entry = at + offset;
        let field = |offset: u64| memory.u64(entry + offset).ok_or(BootError::InfoUnreadable);
        let size = memory.u32(entry).ok_or(BootError::InfoUnreadable)?;
        let (start, bytes) = (field(4)?, field(12)?);
        let kind = MemKind::from_e820(memory.u32(entry + 20).ok_or(BootError::InfoUnreadable)?);
        raw.add_memory(MemRange { start, end: start.saturating_add(bytes), kind })?;
        // The size does not count its own field.
        offset += u64::from(size.max(20)) + 4;
    }
    if flags & HAS_MODULES != 0 {
        let (count, at) = (word(20)?, u64::from(word(24)?));
        for index in 0..u64::from(count) {
            let entry = at + index * 16;
            let field = |offset: u64| memory.u32(entry + offset).ok_or(BootError::InfoUnreadable);
            let (start, end, string) = (field(0)?, field(4)?, field(8)?);
            let string = if string == 0 { "" } else { strings.keep(memory, string.into())? };
            raw.add_module(start.into(), end.into(), string)?;
        }
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::{super::phys::TestMemory, *};

    /// A structure as QEMU lays it out: two modules, two ranges.
    fn sample() -> TestMemory {
        let mut memory = TestMemory::new(0x9000, 0x1000);
        let mut word = |at: u64, value: u32| memory.put(at, &value.to_le_bytes());
        word(0x9000, HAS_CMDLINE | HAS_MODULES | HAS_MAP);
        word(0x9010, 0x9400);
        word(0x9014, 2);
        word(0x9018, 0x9200);
        word(0x902c, 48);
        word(0x9030, 0x9100);
        for (at, start, end, kind) in [(0x9100, 0u32, 0x9_f000u32, 1), (0x9118, 0x10_0000, 0x800_0000, 1)] {
            word(at, 20);
            word(at + 4, start);
            word(at + 12, end - start);
            word(at + 20, kind);
        }
        for (at, start, end, string) in
            [(0x9200, 0x50_0000, 0x50_1234, 0x9500), (0x9210, 0x60_0000, 0x60_0001, 0)]
        {
            word(at, start);
            word(at + 4, end);
            word(at + 8, string);
        }
        memory.put(0x9400, b"tollgate loglvl=all noreboot\0");
        memory.put(0x9500, b"front domain=a -- x=1\0");
        memory
    }

    #[test]
    fn a_good_structure() {
        let raw = read(&sample(), 0x9000, &mut Strings::for_test()).expect("good");
        assert_eq!(raw.cmdline, "loglvl=all noreboot");
        assert_eq!(raw.memory.len(), 2);
        assert_eq!(raw.memory[1].end, 0x800_0000);
        assert_eq!(raw.modules.len(), 2);
        assert_eq!((raw.modules[0].start, raw.modules[0].len), (0x50_0000, 0x1234));
        assert_eq!(raw.modules[0].string, "front domain=a -- x=1");
        assert_eq!(raw.modules[1].string, "");
    }

    #[test]
    fn bad_structures() {
        let strings = &mut Strings::for_test();
        assert_eq!(read(&sample(), 0x1000, strings).err(), Some(BootError::InfoUnreadable));
        let mut memory = sample();
        memory.put(0x9000, &0u32.to_le_bytes());
        assert_eq!(read(&memory, 0x9000, strings).err(), Some(BootError::NoMap));
        let mut memory = sample();
        memory.put(0x902c, &u32::MAX.to_le_bytes());
        assert!(read(&memory, 0x9000, strings).is_err());
        let mut memory = sample();
        memory.put(0x9014, &u32::MAX.to_le_bytes());
        assert!(read(&memory, 0x9000, strings).is_err());
        let mut memory = sample();
        memory.put(0x9204, &0x40_0000u32.to_le_bytes());
        assert_eq!(read(&memory, 0x9000, strings).err(), Some(BootError::ModuleTruncated(0)));
    }
}
