//! The PVH start info (public/arch-x86/hvm/start_info.h).
#![forbid(unsafe_code)]

use super::{BootError, MemKind, MemRange, Raw, phys::PhysRead, strings::Strings};

/// `XEN_HVM_START_MAGIC_VALUE`, first word of the structure; our entry code passes it on in the place
/// of multiboot's.
pub const MAGIC: u32 = 0x336e_c578;

/// Reads the structure at `info`.
///
/// # Errors
/// [`BootError`] for a structure that is out of reach, too long or lacks a memory map.
pub fn read(memory: &impl PhysRead, info: u64, strings: &mut Strings) -> Result<Raw, BootError> {
    let word = |at: u64| memory.u32(info + at).ok_or(BootError::InfoUnreadable);
    let long = |at: u64| memory.u64(info + at).ok_or(BootError::InfoUnreadable);
    if word(0)? != MAGIC {
        return Err(BootError::InfoUnreadable);
    }
    // Version 0 has no memory map, and there is nobody to ask for one.
    if word(4)? == 0 {
        return Err(BootError::NoMap);
    }
    let mut raw = Raw::new("PVH");
    raw.rsdp = Some(long(32)?).filter(|&at| at != 0);
    let cmdline = long(24)?;
    if cmdline != 0 {
        raw.cmdline = strings.keep(memory, cmdline)?;
    }
    let at = long(40)?;
    for index in 0..u64::from(word(48)?) {
        let entry = at.checked_add(index * 24).ok_or(BootError::InfoUnreadable)?;
        let start = memory.u64(entry).ok_or(BootError::InfoUnreadable)?;
        let [bytes, kind] = [8, 16].map(|offset| memory.u64(entry.saturating_add(offset)));
        let (Some(bytes), Some(kind)) = (bytes, kind) else { return Err(BootError::InfoUnreadable) };
        // The upper half of the second word is reserved.
        let kind = MemKind::from_e820(u32::try_from(kind & 0xffff_ffff).unwrap_or(0));
        raw.add_memory(MemRange { start, end: start.saturating_add(bytes), kind })?;
    }
    let at = long(16)?;
    for index in 0..u64::from(word(12)?) {
        let entry = at.checked_add(index * 32).ok_or(BootError::InfoUnreadable)?;
        let fields = [0, 8, 16].map(|offset| memory.u64(entry.saturating_add(offset)));
        let [Some(start), Some(len), Some(string)] = fields else { return Err(BootError::InfoUnreadable) };
        let string = if string == 0 { "" } else { strings.keep(memory, string)? };
        raw.add_module(start, start.saturating_add(len), string)?;
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::{super::phys::TestMemory, *};

    fn sample() -> TestMemory {
        let mut memory = TestMemory::new(0x5000, 0x1000);
        let mut long = |at: u64, value: u64| memory.put(at, &value.to_le_bytes());
        long(0x5000, u64::from(MAGIC) | 1 << 32);
        long(0x5008, 1 << 32);
        long(0x5010, 0x5100);
        long(0x5018, 0x5400);
        long(0x5020, 0xf_5b00);
        long(0x5028, 0x5200);
        long(0x5030, 1);
        long(0x5100, 0x700_0000);
        long(0x5108, 0x999);
        long(0x5110, 0x5500);
        long(0x5200, 0x10_0000);
        long(0x5208, 0x7f0_0000);
        long(0x5210, 1);
        memory.put(0x5400, b"maxcpus=1\0");
        memory.put(0x5500, b"store data\0");
        memory
    }

    #[test]
    fn a_good_structure() {
        let raw = read(&sample(), 0x5000, &mut Strings::for_test()).expect("good");
        assert_eq!((raw.cmdline, raw.rsdp), ("maxcpus=1", Some(0xf_5b00)));
        assert_eq!(
            raw.memory.as_slice(),
            [MemRange { start: 0x10_0000, end: 0x800_0000, kind: MemKind::Ram }]
        );
        assert_eq!((raw.modules[0].start, raw.modules[0].len), (0x700_0000, 0x999));
        assert_eq!(raw.modules[0].string, "store data");
    }

    #[test]
    fn bad_structures() {
        let strings = &mut Strings::for_test();
        let mut memory = sample();
        memory.put(0x5000, &[0]);
        assert_eq!(read(&memory, 0x5000, strings).err(), Some(BootError::InfoUnreadable));
        let mut memory = sample();
        memory.put(0x5004, &[0]);
        assert_eq!(read(&memory, 0x5000, strings).err(), Some(BootError::NoMap));
        for list in [0x5010, 0x5028] {
            let mut memory = sample();
            memory.put(list, &(u64::MAX - 7).to_le_bytes());
            assert_eq!(read(&memory, 0x5000, strings).err(), Some(BootError::InfoUnreadable));
        }
        let mut memory = sample();
        memory.put(0x5030, &u32::MAX.to_le_bytes());
        assert!(read(&memory, 0x5000, strings).is_err());
    }
}
