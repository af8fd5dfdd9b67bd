//! The 16550 serial port, polled, transmit only.
//!
//! The port is written with interrupts off and under the console's lock. Waiting for the transmitter is
//! bounded: a port that stops answering costs lines, not the machine.

use crate::{arch::x86::port, cmdline::Com1};

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
