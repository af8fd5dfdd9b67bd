//! x86-64: CPU features, tables, the per-CPU block, interrupts, the local APIC, time, power.
//!
//! What drives the machine itself is built into the image only; on a host [`host`] takes the place of the
//! modules that other rooms call.

pub mod acpi;
#[cfg(feature = "bare-metal")]
pub mod apic;
pub mod cpu;
#[cfg(not(feature = "bare-metal"))]
pub mod host;
#[cfg(feature = "bare-metal")]
pub mod ioapic;
pub mod irq;
pub mod mem_fns;
pub mod msr;
pub mod percpu;
pub mod port;
#[cfg(feature = "bare-metal")]
pub mod power;
pub mod rtc;
#[cfg(feature = "bare-metal")]
pub mod smp;
#[cfg(feature = "bare-metal")]
pub mod stacks;
#[cfg(feature = "bare-metal")]
pub mod tables;
pub mod time;
#[cfg(feature = "bare-metal")]
pub mod traps;
pub mod vectors;

#[cfg(not(feature = "bare-metal"))]
pub use host::{apic, power};
