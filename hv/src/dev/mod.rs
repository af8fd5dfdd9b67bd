//! Devices the hypervisor drives itself.

pub mod console;
pub mod input;
pub mod lapic;
pub mod uart;
