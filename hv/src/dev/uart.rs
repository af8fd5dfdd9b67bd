//! The 16550 serial port.
