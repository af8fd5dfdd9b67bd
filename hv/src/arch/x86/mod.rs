//! x86-64: CPU features, tables, the per-CPU block, interrupts, the local APIC, time, power.

pub mod apic;
pub mod cpu;
pub mod irq;
pub mod percpu;
pub mod power;
pub mod time;
pub mod vectors;
