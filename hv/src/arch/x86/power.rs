//! Switching the machine off and restarting it.

use core::arch::asm;

use spin::Once;

use super::{
    acpi::{Register, Sleep},
    port,
    time::delay_us,
};

/// What ACPI told, in the form that is used when all else may have failed.
#[derive(Debug)]
struct Ways {
    s5: Option<Sleep>,
    reset: Option<(Reset, u8)>,
}

/// The reset register, reachable.
#[derive(Clone, Copy, Debug)]
enum Reset {
    Port(u16),
    /// The mapped address.
    Memory(usize),
}

static WAYS: Once<Ways> = Once::new();

/// Remembers how the machine is switched off and reset.
pub(crate) fn init(acpi: &super::acpi::Acpi) {
    let reachable = |register| match register {
        Register::Port(port) => Some(Reset::Port(port)),
        Register::Memory(at) => {
            crate::mm::paging::map_device(at, 1).map(|at| Reset::Memory(at.expose_provenance()))
        }
    };
    let reset = acpi.reset.and_then(|(register, value)| reachable(register).map(|reset| (reset, value)));
    WAYS.call_once(|| Ways { s5: acpi.s5, reset });
}

/// Switches the machine off (ACPI S5); stops when it stays on.
pub fn off() -> ! {
    const SLEEP_TYPE: u16 = 7 << 10;
    const SLEEP_ENABLE: u16 = 1 << 13;
    if let Some(s5) = WAYS.get().and_then(|ways| ways.s5) {
        s5.enable();
        for (control, kind) in s5.control.into_iter().zip(s5.kind).filter(|&(control, _)| control != 0) {
            // SAFETY: the FADT names these ports as the PM1 control registers; what they do is to switch
            // the machine off.
            unsafe {
                let value = port::read16(control) & !SLEEP_TYPE;
                port::write16(control, value | u16::from(kind & 7) << 10 | SLEEP_ENABLE);
            }
        }
        delay_us(100_000);
    }
    crate::error!("this machine does not switch itself off: it can be switched off now");
    stop()
}

impl Sleep {
    /// Takes the machine into ACPI mode, in which the sleep registers work (ACPI 6.4, 4.8.2.5).
    fn enable(&self) {
        const SCI_ENABLED: u16 = 1;
        let Some((command, value)) = self.enable else { return };
        // SAFETY: the FADT names the command port and the value for exactly this.
        let enabled = || unsafe { port::read16(self.control[0]) } & SCI_ENABLED != 0;
        if enabled() {
            return;
        }
        // SAFETY: as above.
        unsafe { port::write8(command, value) };
        for _ in 0..300 {
            if enabled() {
                return;
            }
            delay_us(1000);
        }
    }
}

/// Restarts the machine: by ACPI's reset register, the keyboard controller, a triple fault.
pub fn reboot() -> ! {
    if let Some((reset, value)) = WAYS.get().and_then(|ways| ways.reset) {
        match reset {
            // SAFETY: the FADT names this port as the one that resets the machine.
            Reset::Port(at) => unsafe { port::write8(at, value) },
            Reset::Memory(at) => {
                let register = core::ptr::with_exposed_provenance_mut::<u8>(at);
                // SAFETY: as above, and `init` mapped it.
                unsafe { register.write_volatile(value) }
            }
        }
        delay_us(50_000);
    }
    // SAFETY: the keyboard controller's reset line (command 0xfe) ends the machine's life; nothing that
    // runs later can see a broken invariant.
    unsafe { port::write8(0x64, 0xfe) };
    delay_us(50_000);
    let no_idt = [0u16; 5];
    // SAFETY: an exception without an IDT shuts the CPU down, which resets the machine: nothing runs
    // afterwards.
    unsafe { asm!("lidt [{}]", "int3", in(reg) &raw const no_idt) };
    stop()
}

/// Halts this CPU for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: stopping with interrupts off touches nothing.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
