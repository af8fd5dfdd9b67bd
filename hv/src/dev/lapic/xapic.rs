//! The same registers in xAPIC mode: a page of memory, one register every 16 bytes (Intel SDM vol. 3, 11.4.1; AMD
//! APM vol. 2, 16.3).
//!
//! What differs from the MSRs: identifiers have 8 bits and stand at the top of their word, a vCPU has a logical
//! identifier of its choice, an interrupt command has two halves, and nobody is refused: bits that mean nothing
//! are dropped, registers that are none read as zero.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use super::{Command, LVT_VALID, Lapic, Target, Written, id_of};

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const LOGICAL_ID: u32 = 0xd0;
const DESTINATION_FORMAT: u32 = 0xe0;
const SPURIOUS: u32 = 0xf0;
const ERRORS: u32 = 0x280;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LOCAL: core::ops::RangeInclusive<u32> = 0x320..=0x370;
const TIMER_START: u32 = 0x380;
const TIMER_DIVIDE: u32 = 0x3e0;

/// Bits of an interrupt command's low half that mean something: the rest is reserved, or for reading only.
const COMMAND_VALID: u32 = 0xc_cfff;

impl Lapic {
    /// Reads the register at `offset` of the page of `vcpu`, whose CR8 it is.
    #[must_use]
    pub fn read_page(&self, vcpu: u32, offset: u32, cr8: u8) -> u32 {
        let [low, high] = self.command_halves();
        match offset {
            ID => id_of(vcpu) << 24,
            LOGICAL_ID => self.logical_id.load(Ordering::Relaxed),
            DESTINATION_FORMAT => self.destination_format.load(Ordering::Relaxed),
            COMMAND => low,
            COMMAND_HIGH => high,
            // The MSR's own number, for the registers that are the same; the others are refused there.
            _ if offset.is_multiple_of(16) && offset < 0x3f0 => {
                let value = self.read(vcpu, 0x800 + offset / 16, cr8).unwrap_or(0);
                u32::try_from(value & 0xffff_ffff).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Writes the register at `offset` of the page.
    pub fn write_page(&self, offset: u32, value: u32) -> Written {
        let [low, high] = self.command_halves();
        let valid = match offset {
            ID | END_OF_INTERRUPT | ERRORS => 0,
            LOGICAL_ID => {
                self.logical_id.store(value & 0xff00_0000, Ordering::Relaxed);
                return Written::Done;
            }
            DESTINATION_FORMAT => {
                self.destination_format.store(value | 0x0fff_ffff, Ordering::Relaxed);
                return Written::Done;
            }
            COMMAND_HIGH => {
                self.store_command(low, value & 0xff00_0000);
                return Written::Done;
            }
            COMMAND => {
                let value = value & COMMAND_VALID;
                self.store_command(value, high);
                return Written::Command(Command::from_halves(value, high));
            }
            TASK_PRIORITY => 0xff,
            SPURIOUS => 0x1ff,
            TIMER_START => u32::MAX,
            TIMER_DIVIDE => 0xb,
            _ if LOCAL.contains(&offset) && offset.is_multiple_of(16) => {
                let entry = usize::try_from((offset - LOCAL.start()) / 16).unwrap_or(0);
                LVT_VALID.get(entry).copied().unwrap_or(0)
            }
            _ => return Written::Done,
        };
        self.write(0x800 + offset / 16, (value & valid).into()).unwrap_or(Written::Done)
    }

    fn command_halves(&self) -> [u32; 2] {
        let [a, b, c, d, e, f, g, h] = self.command.load(Ordering::Relaxed).to_le_bytes();
        [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
    }

    fn store_command(&self, low: u32, high: u32) {
        self.command.store(u64::from(high) << 32 | u64::from(low), Ordering::Relaxed);
    }

    /// Does an 8-bit logical destination mean this one?
    pub(super) fn is_logical(&self, dest: u8) -> bool {
        let [.., own] = self.logical_id.load(Ordering::Relaxed).to_le_bytes();
        if self.destination_format.load(Ordering::Relaxed) >> 28 == 0xf {
            // The flat model: a bit for each.
            return own & dest != 0;
        }
        (dest >> 4 == own >> 4 || dest >> 4 == 0xf) && own & dest & 0xf != 0
    }
}

impl Command {
    /// From the two halves of the interrupt command register.
    fn from_halves(low: u32, high: u32) -> Self {
        let mut command = Self::from_icr(low.into());
        let [.., dest] = high.to_le_bytes();
        command.to = match command.to {
            Target::Id(_) if dest == 0xff => Target::All,
            Target::Id(_) => Target::Id(dest.into()),
            Target::Logical(_) => Target::Logical8(dest),
            short => short,
        };
        command
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Kind, Mode, highest};
    use super::*;

    fn xapic() -> Lapic {
        let lapic = Lapic::default();
        assert!(lapic.set_mode(Mode::Off) && lapic.set_mode(Mode::XApic));
        lapic.write_page(SPURIOUS, 0x1ff);
        lapic
    }

    #[test]
    fn identifiers_stand_at_the_top() {
        let lapic = xapic();
        assert_eq!(lapic.read_page(3, ID, 0), 6 << 24);
        assert_eq!(lapic.read_page(3, 0x30, 0) & 0xff, 0x14);
        lapic.write_page(LOGICAL_ID, 0x0412_3456);
        lapic.write_page(DESTINATION_FORMAT, u32::MAX);
        assert_eq!(lapic.read_page(0, LOGICAL_ID, 0), 0x0400_0000);
        let takes = |dest| lapic.is_meant(Target::Logical8(dest), 0, 1);
        assert!(takes(0xff) && takes(4) && !takes(3));
        lapic.write_page(DESTINATION_FORMAT, 0);
        lapic.write_page(LOGICAL_ID, 0x2100_0000);
        assert!(takes(0x23) && takes(0xf1) && !takes(0x31) && !takes(0x22));
    }

    #[test]
    fn a_command_has_two_halves() {
        let lapic = xapic();
        assert_eq!(lapic.write_page(COMMAND_HIGH, 2 << 24), Written::Done);
        let written = lapic.write_page(COMMAND, 0x4608);
        assert_eq!(written, Written::Command(Command { kind: Kind::Startup(8), to: Target::Id(2) }));
        assert_eq!((lapic.read_page(0, COMMAND, 0), lapic.read_page(0, COMMAND_HIGH, 0)), (0x4608, 2 << 24));
        lapic.write_page(COMMAND_HIGH, 0x0300_0000);
        let Written::Command(command) = lapic.write_page(COMMAND, 0x08fd) else { panic!("a command") };
        assert_eq!(command, Command { kind: Kind::Fixed(0xfd), to: Target::Logical8(3) });
        let Written::Command(command) = lapic.write_page(COMMAND, 0xc_08fb) else { panic!("a command") };
        assert_eq!(command.to, Target::Others);
    }

    #[test]
    fn interrupts_end() {
        let lapic = xapic();
        assert!(lapic.request(0x41));
        lapic.delivered(0x41);
        assert_eq!(highest(&lapic.in_service), Some(0x41));
        assert_eq!(lapic.read_page(0, 0x120, 0), 1 << 1);
        // Any value ends it.
        assert_eq!(lapic.write_page(END_OF_INTERRUPT, 7), Written::Done);
        assert_eq!(highest(&lapic.in_service), None);
    }

    #[test]
    fn modes_change_as_a_cpu_allows() {
        let lapic = Lapic::default();
        assert_eq!(lapic.mode(), Mode::X2Apic);
        assert!(!lapic.set_mode(Mode::XApic), "only by way of off");
        assert!(lapic.set_mode(Mode::X2Apic) && lapic.set_mode(Mode::Off) && !lapic.set_mode(Mode::X2Apic));
        assert!(!lapic.request(0x41), "off");
        assert!(lapic.set_mode(Mode::XApic) && lapic.set_mode(Mode::X2Apic));
    }

    proptest! {
        /// Whatever a guest writes: no panic, and identifiers stay what they are.
        #[test]
        fn no_access_panics(accesses in proptest::collection::vec((0u32..0x1000, any::<u32>()), 0..50)) {
            let lapic = xapic();
            for (offset, value) in accesses {
                let _ = lapic.write_page(offset, value);
                let _ = lapic.read_page(1, offset, 3);
                let _ = lapic.write_page(offset & !15, value);
                let _ = lapic.read_page(1, offset & !15, 3);
            }
            prop_assert_eq!(lapic.read_page(1, ID, 0), 2 << 24);
        }
    }
}
