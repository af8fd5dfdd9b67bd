//! x86-64: CPU features, tables, the per-CPU block, interrupts, the local APIC, time, power.

pub mod apic;
pub mod cpu;
pub mod irq;
pub mod mem_fns;
pub mod msr;
pub mod percpu;
pub mod port;
pub mod power;
pub mod stacks;
pub mod time;
pub mod vectors;
