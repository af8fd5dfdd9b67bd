//! x86-64: CPU features, tables, the per-CPU block, interrupts, the local APIC, time, power.

pub mod acpi;
pub mod apic;
pub mod cpu;
pub mod irq;
pub mod mem_fns;
pub mod msr;
pub mod percpu;
pub mod port;
pub mod power;
#[cfg(feature = "bare-metal")]
pub mod smp;
pub mod stacks;
pub mod tables;
pub mod time;
pub mod traps;
pub mod vectors;
