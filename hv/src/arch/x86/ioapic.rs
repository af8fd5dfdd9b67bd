//! The I/O APIC, for the one device whose interrupt the hypervisor takes: the console's serial port.
//!
//! Registers are reached through an index and a window (Intel 82093AA, 3.1), so two users would disturb each
//! other: the only one is the boot CPU, once, before the others run.

use super::{
    acpi::{Acpi, Override},
    apic,
};
use crate::mm::paging;

/// The window's distance from the index register.
const WINDOW: usize = 0x10;
/// Bits 16 to 23: number of the last pin.
const VERSION: u32 = 1;
/// Two registers a pin from here on.
const REDIRECTION: u32 = 0x10;
/// Of a pin's low register.
const LOW: u32 = 1 << 13;
const MASKED: u32 = 1 << 16;

/// Registers of one I/O APIC.
struct Registers(*mut u8);

impl Registers {
    fn select(&self, register: u32) -> *mut u32 {
        // SAFETY: the mapping has the index register at its beginning and the window behind it, is uncached
        // and stays; choosing a register has no effect.
        unsafe {
            self.0.cast::<u32>().write_volatile(register);
            self.0.add(WINDOW).cast()
        }
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: as in `select`; reading a register has no effect.
        unsafe { self.select(register).read_volatile() }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as in `select`; what is written masks a pin, or routes it to a vector that has a handler.
        unsafe { self.select(register).write_volatile(value) }
    }
}

/// Sends a device's interrupt to the running CPU as `vector`, and masks what firmware left open on the same I/O
/// APIC.
///
/// # Errors
/// Why not.
pub(crate) fn route(acpi: &Acpi, wired: Override, vector: u8) -> Result<(), &'static str> {
    // Its handler does not end what raises the interrupt, so a level would raise it for ever.
    if wired.level {
        return Err("its interrupt is of a level, not of an edge");
    }
    let below = acpi.ioapics.iter().filter(|ioapic| ioapic.first <= wired.gsi);
    let Some(ioapic) = below.max_by_key(|ioapic| ioapic.first) else {
        return Err("ACPI names no I/O APIC for its interrupt");
    };
    // The destination has eight bits, and 255 means everybody.
    let to = Some(apic::id()).filter(|&id| id < 0xff).ok_or("the I/O APIC does not reach this CPU")?;
    let Some(at) = paging::map_device(ioapic.address.into(), 0x20) else {
        return Err("too little memory for the I/O APIC's registers");
    };
    let registers = Registers(at);
    let pin = wired.gsi - ioapic.first;
    let last = registers.read(VERSION) >> 16 & 0xff;
    if pin > last {
        return Err("no I/O APIC has a pin for its interrupt");
    }
    for other in 0..=last {
        registers.write(REDIRECTION + 2 * other, MASKED);
    }
    let low = if wired.low { LOW } else { 0 };
    registers.write(REDIRECTION + 2 * pin + 1, to << 24);
    registers.write(REDIRECTION + 2 * pin, low | u32::from(vector));
    Ok(())
}
