//! The 16550 serial port: sending is polled, receiving raises an interrupt.
//!
//! The port is used with interrupts off and under the console's lock. Waiting for the transmitter is
//! bounded: a port that stops answering costs lines, not the machine.

use crate::{arch::x86::port, cmdline::Com1};

/// Line status: a byte has been received.
const LSR_DATA_READY: u8 = 1;
/// Line status: room for another byte.
const LSR_THR_EMPTY: u8 = 1 << 5;

/// A serial port that answered.
#[derive(Debug)]
pub struct Uart {
    port: u16,
}

impl Uart {
    /// Sets the port up; `None` when nothing is there.
    #[must_use]
    pub fn new(com1: Com1) -> Option<Self> {
        let uart = Self { port: com1.port };
        // The scratch register keeps what is written to it; an empty bus reads as ones.
        for probe in [0x5a, 0xa5] {
            uart.write(7, probe);
            if uart.read(7) != probe {
                return None;
            }
        }
        let [low, high, ..] = (Com1::MAX_BAUD / com1.baud.max(1)).to_le_bytes();
        uart.write(1, 0); // no interrupts
        uart.write(3, 0x80); // divisor
        uart.write(0, low);
        uart.write(1, high);
        uart.write(3, 3); // 8n1
        uart.write(2, 7); // FIFOs on and empty
        uart.write(4, 3); // DTR, RTS
        Some(uart)
    }

    /// The port as somebody else has set it up. When nothing is there, what is sent is lost.
    #[must_use]
    pub const fn opened(com1: Com1) -> Self {
        Self { port: com1.port }
    }

    /// Sends one byte.
    pub fn send(&self, byte: u8) {
        // At 110 baud and a microsecond for each read of the port a byte takes 90,000 turns.
        for _ in 0..200_000 {
            if self.read(5) & LSR_THR_EMPTY != 0 {
                break;
            }
            core::hint::spin_loop();
        }
        self.write(0, byte);
    }

    /// The interrupt line of a port at one of the places a PC has them.
    #[must_use]
    pub const fn isa_irq(com1: Com1) -> Option<u8> {
        match com1.port {
            0x3f8 | 0x3e8 => Some(4),
            0x2f8 | 0x2e8 => Some(3),
            _ => None,
        }
    }

    /// Makes the port raise its interrupt when a byte has come. What came before is dropped.
    pub fn enable_receive(&self) {
        self.write(2, 7); // FIFOs on and empty, an interrupt for each byte
        self.write(4, 0xb); // DTR, RTS, and OUT2, which lets a PC's port have its interrupt line
        self.write(1, 1); // interrupt: data received
    }

    /// A byte that has come.
    #[must_use]
    pub fn receive(&self) -> Option<u8> {
        (self.read(5) & LSR_DATA_READY != 0).then(|| self.read(0))
    }

    fn read(&self, register: u16) -> u8 {
        // SAFETY: the eight registers from `port` are a 16550's by the operator's word (`com1=`), and
        // reading them touches no memory.
        unsafe { port::read8(self.port + register) }
    }

    fn write(&self, register: u16, value: u8) {
        // SAFETY: as in `read`; a 16550 has no DMA.
        unsafe { port::write8(self.port + register, value) }
    }
}

impl core::fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}
