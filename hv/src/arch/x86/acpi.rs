//! ACPI tables: the processors, the power-management timer, how to switch off and how to reset.
//!
//! The tables are firmware's, and read once at boot; still every length is checked and every loop is
//! bounded, and a table whose bytes do not add up to zero is left alone. Of the DSDT only the value of
//! `\_S5` is taken, by its bytes: there is no AML interpreter. ACPI 6.4, sections 5.2.5 (RSDP), 5.2.7
//! (RSDT), 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.12 (MADT), 7.4.2 (sleep states).
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use crate::{boot::phys::PhysRead, cmdline::MAX_CPUS};

/// A register of the reset or power-management kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// A byte of memory-mapped device space.
    Memory(u64),
}

/// How S5 is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sleep {
    /// PM1a control, and PM1b where it exists.
    pub control: [u16; 2],
    /// The SLP_TYP values for the two.
    pub kind: [u8; 2],
    /// The SMI command port and the value that enable ACPI mode, on machines that start without.
    pub enable: Option<(u16, u8)>,
}

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Where its registers are.
    pub address: u32,
    /// The global system interrupt of its first pin.
    pub first: u32,
}

/// An ISA interrupt whose global system interrupt has another number or another kind than the usual.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Override {
    /// The ISA interrupt.
    pub irq: u8,
    /// Its global system interrupt.
    pub gsi: u32,
    /// It is active when low.
    pub low: bool,
    /// It is of a level, not of an edge.
    pub level: bool,
}

/// What the tables told.
#[derive(Clone, Debug, Default)]
pub struct Acpi {
    /// Local APIC ids of the usable processors, in the table's order.
    pub cpus: ArrayVec<u32, { MAX_CPUS as usize }>,
    /// Usable processors that found no room in `cpus`.
    pub cpus_left_out: u32,
    /// Where the local APICs appear.
    pub local_apic: Option<u64>,
    /// The interrupt controllers of devices. More than fit are left out.
    pub ioapics: ArrayVec<IoApic, 8>,
    /// ISA interrupts that are wired differently. More than fit are left out.
    pub overrides: ArrayVec<Override, 16>,
    /// The PM timer's port.
    pub pm_timer: Option<u16>,
    /// How to switch off.
    pub s5: Option<Sleep>,
    /// How to reset: the register and the value.
    pub reset: Option<(Register, u8)>,
}

/// The most tables an RSDT or XSDT is believed to have.
const MAX_TABLES: u64 = 256;
/// The largest table that is read.
const MAX_TABLE: u32 = 4 << 20;
/// Bytes of a table's common header.
const HEADER: u64 = 36;

/// A table whose length and checksum are right.
#[derive(Clone, Copy)]
struct Table<'m, M> {
    memory: &'m M,
    at: u64,
    len: u64,
}

impl<'m, M: PhysRead> Table<'m, M> {
    fn at(memory: &'m M, at: u64) -> Option<Self> {
        let len = memory.u32(at.checked_add(4)?)?;
        if u64::from(len) < HEADER || len > MAX_TABLE {
            return None;
        }
        let table = Self { memory, at, len: len.into() };
        sums_to_zero(memory, at, table.len).then_some(table)
    }

    fn signature(&self) -> Option<[u8; 4]> {
        self.bytes(0)
    }

    fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let end = offset.checked_add(u64::try_from(N).ok()?)?;
        if end > self.len {
            return None;
        }
        self.memory.bytes(self.at.checked_add(offset)?)
    }

    fn u8(&self, offset: u64) -> Option<u8> {
        self.bytes::<1>(offset).map(|[byte]| byte)
    }

    fn u16(&self, offset: u64) -> Option<u16> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: u64) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

fn sums_to_zero(memory: &impl PhysRead, at: u64, len: u64) -> bool {
    let mut sum = 0u8;
    let mut done = 0;
    while done < len {
        let mut piece = [0; 64];
        let size = (len - done).min(64);
        let Some(piece) = usize::try_from(size).ok().and_then(|size| piece.get_mut(..size)) else {
            return false;
        };
        if !at.checked_add(done).is_some_and(|at| memory.read(at, piece)) {
            return false;
        }
        sum = piece.iter().fold(sum, |sum, &byte| sum.wrapping_add(byte));
        done += size;
    }
    sum == 0
}

/// Whether a root pointer with a good checksum is at `at`.
fn is_rsdp(memory: &impl PhysRead, at: u64) -> bool {
    memory.bytes(at) == Some(*b"RSD PTR ") && sums_to_zero(memory, at, 20)
}

/// Looks for the root pointer where a BIOS leaves it: the first KiB of the EBDA, and the BIOS ROM.
#[must_use]
pub fn find_rsdp(memory: &impl PhysRead) -> Option<u64> {
    let ebda = memory.u16(0x40e).map_or(0, |segment| u64::from(segment) << 4);
    let in_ebda = if ebda >= 0x400 { ebda..ebda + 1024 } else { 0..0 };
    in_ebda.step_by(16).chain((0xe_0000..0x10_0000).step_by(16)).find(|&at| is_rsdp(memory, at))
}

impl Acpi {
    /// How an ISA interrupt is wired; the usual is an edge, to the pin of the same number.
    #[must_use]
    pub fn isa(&self, irq: u8) -> Override {
        let usual = Override { irq, gsi: irq.into(), low: false, level: false };
        self.overrides.iter().find(|wired| wired.irq == irq).copied().unwrap_or(usual)
    }

    /// Reads the tables below the root pointer at `rsdp`. Nothing is required: what is missing or
    /// damaged is left out.
    #[must_use]
    pub fn read(memory: &impl PhysRead, rsdp: u64) -> Self {
        let mut acpi = Self::default();
        if !is_rsdp(memory, rsdp) {
            return acpi;
        }
        // The XSDT is newer and wider; revision 0 has none.
        let xsdt = memory
            .u8(rsdp + 15)
            .filter(|&revision| revision >= 2)
            .and_then(|_| memory.u64(rsdp + 24))
            .and_then(|at| Table::at(memory, at))
            .filter(|table| table.signature() == Some(*b"XSDT"));
        let rsdt = || {
            let table = Table::at(memory, memory.u32(rsdp + 16)?.into())?;
            (table.signature() == Some(*b"RSDT")).then_some(table)
        };
        if let Some(table) = xsdt {
            acpi.read_all(memory, table, 8, |table, offset| table.u64(offset));
        } else if let Some(table) = rsdt() {
            acpi.read_all(memory, table, 4, |table, offset| table.u32(offset).map(u64::from));
        }
        acpi
    }

    fn read_all<M: PhysRead>(
        &mut self,
        memory: &M,
        root: Table<'_, M>,
        width: u64,
        pointer: impl Fn(&Table<'_, M>, u64) -> Option<u64>,
    ) {
        for index in 0..((root.len - HEADER) / width).min(MAX_TABLES) {
            let table = pointer(&root, HEADER + index * width).and_then(|at| Table::at(memory, at));
            let Some(table) = table else { continue };
            match table.signature().as_ref() {
                Some(b"APIC") => self.read_madt(&table),
                Some(b"FACP") => self.read_fadt(&table),
                _ => {}
            }
        }
    }

    fn read_madt<M: PhysRead>(&mut self, madt: &Table<'_, M>) {
        const LOCAL_APIC: u8 = 0;
        const IO_APIC: u8 = 1;
        const OVERRIDE: u8 = 2;
        const LOCAL_APIC_ADDRESS: u8 = 5;
        const LOCAL_X2APIC: u8 = 9;
        const ENABLED: u32 = 1;
        self.local_apic = madt.u32(36).map(u64::from);
        let mut at = 44;
        while let (Some(kind), Some(len)) = (madt.u8(at), madt.u8(at + 1)) {
            let cpu = match kind {
                LOCAL_APIC => (madt.u8(at + 3).map(u32::from), madt.u32(at + 4)),
                LOCAL_X2APIC => (madt.u32(at + 4), madt.u32(at + 8)),
                _ => (None, None),
            };
            if let (Some(id), Some(flags)) = cpu
                && flags & ENABLED != 0
                && !self.cpus.contains(&id)
                && self.cpus.try_push(id).is_err()
            {
                self.cpus_left_out += 1;
            }
            match kind {
                LOCAL_APIC_ADDRESS => self.local_apic = madt.u64(at + 4),
                IO_APIC => {
                    if let Some((address, first)) = madt.u32(at + 4).zip(madt.u32(at + 8)) {
                        let _ = self.ioapics.try_push(IoApic { address, first });
                    }
                }
                OVERRIDE => {
                    if let (Some(irq), Some(gsi), Some(flags)) =
                        (madt.u8(at + 3), madt.u32(at + 4), madt.u16(at + 8))
                    {
                        // Polarity in bits 0 and 1, trigger mode in 2 and 3; 3 is low, and level.
                        let (low, level) = (flags & 3 == 3, flags >> 2 & 3 == 3);
                        let _ = self.overrides.try_push(Override { irq, gsi, low, level });
                    }
                }
                _ => {}
            }
            // An entry shorter than its own header would be read for ever.
            at += u64::from(len.max(2));
        }
    }

    fn read_fadt<M: PhysRead>(&mut self, fadt: &Table<'_, M>) {
        const RESET_SUPPORTED: u32 = 1 << 10;
        const HARDWARE_REDUCED: u32 = 1 << 20;
        let flags = fadt.u32(112).unwrap_or(0);
        if flags & HARDWARE_REDUCED == 0 {
            let port =
                |offset| fadt.u32(offset).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0);
            self.pm_timer = port(76);
            let dsdt = fadt.u64(140).filter(|&at| at != 0).or_else(|| fadt.u32(40).map(u64::from));
            let kind = dsdt.and_then(|at| Table::at(fadt.memory, at)).and_then(|dsdt| find_s5(&dsdt));
            let enable = port(48).zip(fadt.u8(52).filter(|&value| value != 0));
            self.s5 = port(64).zip(kind).map(|(control, kind)| Sleep {
                control: [control, port(68).unwrap_or(0)],
                kind,
                enable,
            });
        }
        if flags & RESET_SUPPORTED != 0 {
            // A generic address: space, width, offset, access size, then the address.
            let register = match (fadt.u8(116), fadt.u64(120)) {
                (Some(0), Some(address)) if address != 0 => Some(Register::Memory(address)),
                (Some(1), Some(port)) => u16::try_from(port).ok().map(Register::Port),
                _ => None,
            };
            self.reset = register.zip(fadt.u8(128));
        }
    }
}

/// Finds `Name (\_S5, Package () { a, b, ... })` in the bytes of a DSDT and returns `a` and `b`.
fn find_s5<M: PhysRead>(dsdt: &Table<'_, M>) -> Option<[u8; 2]> {
    const PACKAGE: u8 = 0x12;
    let name = (HEADER..dsdt.len).find(|&at| dsdt.bytes(at) == Some(*b"_S5_"))?;
    if dsdt.u8(name + 4)? != PACKAGE {
        return None;
    }
    // The package's length: the top two bits of its first byte count the bytes that follow it.
    let lead = dsdt.u8(name + 5)?;
    let elements = name + 6 + u64::from(lead >> 6) + 1;
    let (first, next) = small_integer(dsdt, elements)?;
    let (second, _) = small_integer(dsdt, next)?;
    Some([first, second])
}

/// An AML integer that fits a byte, and where the next thing begins.
fn small_integer<M: PhysRead>(dsdt: &Table<'_, M>, at: u64) -> Option<(u8, u64)> {
    const BYTE: u8 = 0x0a;
    const WORD: u8 = 0x0b;
    match dsdt.u8(at)? {
        zero_or_one @ (0 | 1) => Some((zero_or_one, at + 1)),
        BYTE => Some((dsdt.u8(at + 1)?, at + 2)),
        WORD => u8::try_from(dsdt.u16(at + 1)?).ok().map(|value| (value, at + 3)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::boot::phys::TestMemory;

    fn with_sum(mut bytes: Vec<u8>, sum_at: usize, len: usize) -> Vec<u8> {
        bytes[sum_at] = 0;
        bytes[sum_at] = bytes[..len].iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte));
        bytes
    }

    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend(u32::try_from(36 + body.len()).expect("small").to_le_bytes());
        bytes.resize(36, 0);
        bytes.extend(body);
        let len = bytes.len();
        with_sum(bytes, 9, len)
    }

    /// Tables as a QEMU machine has them, with an x2APIC entry and a disabled processor added.
    fn sample(xsdt: bool) -> TestMemory {
        let mut memory = TestMemory::new(0xe_0000, 0x2_0000);
        let mut rsdp = b"RSD PTR ".to_vec();
        rsdp.resize(36, 0);
        rsdp[15] = if xsdt { 2 } else { 0 };
        rsdp[16..20].copy_from_slice(&0xe_1000u32.to_le_bytes());
        rsdp[24..32].copy_from_slice(&0xe_1100u64.to_le_bytes());
        memory.put(0xf_5b40, &with_sum(rsdp, 8, 20));
        let pointers = [0xe_2000u32, 0xe_3000];
        memory.put(0xe_1000, &table(b"RSDT", &pointers.map(u32::to_le_bytes).concat()));
        memory.put(0xe_1100, &table(b"XSDT", &pointers.map(|at| u64::from(at).to_le_bytes()).concat()));

        let mut madt = 0xfee0_0000u32.to_le_bytes().to_vec();
        madt.extend([1, 0, 0, 0]);
        madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        madt.extend([0, 8, 1, 4, 1, 0, 0, 0]);
        madt.extend([0, 8, 2, 5, 0, 0, 0, 0]);
        madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        madt.extend([2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0]);
        madt.extend([2, 10, 0, 3, 19, 0, 0, 0, 0xf, 0]);
        madt.extend([9, 16, 0, 0, 0x34, 0x12, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        memory.put(0xe_2000, &table(b"APIC", &madt));

        let mut fadt = alloc::vec![0u8; 244 - 36];
        let mut put = |at: usize, bytes: &[u8]| fadt[at - 36..at - 36 + bytes.len()].copy_from_slice(bytes);
        put(40, &0xe_4000u32.to_le_bytes());
        put(48, &0xb2u32.to_le_bytes());
        put(52, &[0xf1]);
        put(64, &0x604u32.to_le_bytes());
        put(76, &0x608u32.to_le_bytes());
        put(112, &(1u32 << 10).to_le_bytes());
        put(116, &[1, 8, 0, 1]);
        put(120, &0xcf9u64.to_le_bytes());
        put(128, &[0x0f]);
        memory.put(0xe_3000, &table(b"FACP", &fadt));
        memory.put(0xe_4000, &table(b"DSDT", b"\x14\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00"));
        memory
    }

    #[test]
    fn everything_is_found_through_either_root() {
        for xsdt in [false, true] {
            let memory = sample(xsdt);
            assert_eq!(find_rsdp(&memory), Some(0xf_5b40));
            let acpi = Acpi::read(&memory, 0xf_5b40);
            assert_eq!(acpi.cpus.as_slice(), [0, 4, 0x1234]);
            assert_eq!(acpi.local_apic, Some(0xfee0_0000));
            assert_eq!(acpi.ioapics.as_slice(), [IoApic { address: 0xfec0_0000, first: 0 }]);
            assert_eq!(acpi.isa(4), Override { irq: 4, gsi: 4, low: false, level: false });
            assert_eq!(acpi.isa(9), Override { irq: 9, gsi: 9, low: false, level: true });
            assert_eq!(acpi.isa(3), Override { irq: 3, gsi: 19, low: true, level: true });
            assert_eq!(acpi.pm_timer, Some(0x608));
            assert_eq!(
                acpi.s5,
                Some(Sleep { control: [0x604, 0], kind: [5, 0], enable: Some((0xb2, 0xf1)) })
            );
            assert_eq!(acpi.reset, Some((Register::Port(0xcf9), 0x0f)));
        }
    }

    #[test]
    fn damage_costs_only_the_damaged_table() {
        let mut memory = sample(true);
        memory.put(0xe_2030, &[0xff]);
        let acpi = Acpi::read(&memory, 0xf_5b40);
        assert!(acpi.cpus.is_empty() && acpi.local_apic.is_none());
        assert!(acpi.s5.is_some());
        memory.put(0xf_5b40, b"X");
        assert_eq!(find_rsdp(&memory), None);
    }

    proptest! {
        /// Checksums are repaired after the damage, so that what is behind them is read.
        #[test]
        fn no_table_makes_the_reader_run_away(
            hits in prop::collection::vec((36usize..240, any::<u8>()), 0..12),
            which in 0usize..4,
        ) {
            let mut memory = sample(true);
            let at = [0x1100, 0x2000, 0x3000, 0x4000][which];
            let len = usize::from(u16::from_le_bytes([memory.bytes[at + 4], memory.bytes[at + 5]]));
            for (offset, value) in hits.into_iter().filter(|&(offset, _)| offset < len) {
                memory.bytes[at + offset] = value;
            }
            let fixed = with_sum(memory.bytes[at..at + len].to_vec(), 9, len);
            memory.put(0xe_0000 + u64::try_from(at).expect("small"), &fixed);
            let _ = Acpi::read(&memory, 0xf_5b40);
        }
    }
}
