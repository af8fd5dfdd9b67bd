//! GDT, TSS and IDT.
//!
//! Each pCPU has a GDT and a TSS of its own; the IDT is one, filled before any CPU loads it and constant
//! afterwards. Selectors are the same everywhere, so the world switch can restore them as constants.

use x86_64::{
    VirtAddr,
    instructions::{
        segmentation::{CS, DS, ES, FS, GS, SS, Segment},
        tables::load_tss,
    },
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        idt::InterruptDescriptorTable,
        tss::TaskStateSegment,
    },
};

use super::{
    stacks::{CpuStacks, Stack},
    traps,
};

/// Places in the interrupt stack table, from 0.
#[derive(Clone, Copy, Debug)]
#[repr(u16)]
pub(super) enum Ist {
    Exception = 0,
    DoubleFault = 1,
    Nmi = 2,
    MachineCheck = 3,
    Interrupt = 4,
}

impl Ist {
    const ALL: [(Self, Stack); 5] = [
        (Self::Exception, CpuStacks::EXCEPTION),
        (Self::DoubleFault, CpuStacks::DOUBLE_FAULT),
        (Self::Nmi, CpuStacks::NMI),
        (Self::MachineCheck, CpuStacks::MACHINE_CHECK),
        (Self::Interrupt, CpuStacks::INTERRUPT),
    ];
}

/// One pCPU's descriptor tables.
#[derive(Debug)]
pub(crate) struct CpuTables {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
}

impl CpuTables {
    /// Empty tables.
    pub(crate) const fn new() -> Self {
        Self { gdt: GlobalDescriptorTable::new(), tss: TaskStateSegment::new() }
    }

    /// Fills the tables for a CPU whose [`CpuStacks`] begin at `stacks`, and loads them.
    pub(crate) fn load(&'static mut self, stacks: u64) {
        let base = VirtAddr::new(stacks);
        for (ist, stack) in Ist::ALL {
            self.tss.interrupt_stack_table[ist as usize] = base + crate::mm::direct::u64_of(stack.top);
        }
        let tss: &'static TaskStateSegment = &self.tss;
        let code = self.gdt.append(Descriptor::kernel_code_segment());
        let task = self.gdt.append(Descriptor::tss_segment(tss));
        let gdt: &'static GlobalDescriptorTable = &self.gdt;
        gdt.load();
        // SAFETY: the selectors were just made in the table just loaded; data segments are ignored in
        // 64-bit mode, and loading GS clears the GS base, which the per-CPU block sets afterwards.
        unsafe {
            CS::set_reg(code);
            for load in [DS::set_reg, ES::set_reg, SS::set_reg, FS::set_reg, GS::set_reg] {
                load(SegmentSelector::NULL);
            }
            load_tss(task);
        }
        idt().load();
    }
}

/// Fills the boot CPU's tables and loads them; to be called first of all.
pub(crate) fn load_on_boot_cpu() {
    use core::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    static mut TABLES: CpuTables = CpuTables::new();
    assert!(!TAKEN.swap(true, Ordering::Relaxed), "the boot CPU has one set of tables");
    let tables = &raw mut TABLES;
    // SAFETY: the flag lets this be reached once, so the reference is the only one.
    let tables = unsafe { &mut *tables };
    tables.load(super::stacks::boot_stacks());
}

fn idt() -> &'static InterruptDescriptorTable {
    static IDT: spin::Once<InterruptDescriptorTable> = spin::Once::new();
    IDT.call_once(|| {
        let mut idt = InterruptDescriptorTable::new();
        traps::fill(&mut idt);
        idt
    })
}
