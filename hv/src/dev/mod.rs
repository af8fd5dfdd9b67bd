//! Devices the hypervisor drives itself.

pub mod console;
pub mod console_ring;
pub mod input;
pub mod lapic;
pub mod uart;
