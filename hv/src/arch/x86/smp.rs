//! Starting the other pCPUs: INIT, then start-up interrupts to a page below 1 MiB.
//!
//! CPUs are started one after the other by the boot CPU, which prepares the next one's stacks, tables and
//! per-CPU block and hands them over in [`NEXT`]. A CPU that has come up waits until all have, the
//! trampoline's identity mapping is gone, and it has dropped that from its TLB; only then does it go on
//! to [`crate::boot::other_cpu`]. The trampoline page is not in the direct map: it is written under the
//! boot page tables, and afterwards nobody can write it.

use core::{
    arch::global_asm,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

use alloc::boxed::Box;

use super::{acpi::Acpi, apic, cpu, percpu::PerCpu, stacks::CpuStacks, tables::CpuTables, time};
use crate::{
    mm::{
        direct::{phys_to_virt, u64_of},
        paging,
    },
    warn,
};

global_asm!(
    include_str!("trampoline.S"),
    cr0 = const 0x8001_0033_u32,
    cr4 = const 0x620,
    stack = sym NEXT_STACK,
    main = sym other_cpu_main,
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_gdt_base: u8;
    static trampoline_far: u8;
    static trampoline_root: u8;
}

/// What the next CPU takes over.
struct Next {
    block: AtomicPtr<PerCpu>,
    tables: AtomicPtr<CpuTables>,
}

static NEXT: Next =
    Next { block: AtomicPtr::new(core::ptr::null_mut()), tables: AtomicPtr::new(core::ptr::null_mut()) };
/// The next CPU's stack pointer, read by the assembly.
static NEXT_STACK: AtomicU64 = AtomicU64::new(0);
/// CPUs that have come up, the boot CPU not counted.
static STARTED: AtomicU32 = AtomicU32::new(0);
/// All have come up, and the trampoline is gone.
static GO: AtomicBool = AtomicBool::new(false);

/// The page other CPUs start in.
#[derive(Debug)]
pub(crate) struct Trampoline {
    /// Its physical address.
    page: u64,
}

impl Trampoline {
    /// Writes the trampoline into its page; `root` is that of the final page tables.
    ///
    /// # Safety
    /// `page` is a free page below 1 MiB, and the boot page tables are in force.
    pub(crate) unsafe fn write(page: u64, root: u64) -> Self {
        let offset = |symbol: *const u8| symbol.addr() - (&raw const trampoline_start).addr();
        let target = phys_to_virt(page);
        let len = offset(&raw const trampoline_end);
        // SAFETY: the symbols frame the code in trampoline.S, less than a page; the page is free.
        unsafe { target.copy_from_nonoverlapping(&raw const trampoline_start, len) };
        let low = |address: u64| u32::try_from(address).expect("below 4 GiB");
        for (symbol, value) in [
            (&raw const trampoline_gdt_base, low(page)),
            (&raw const trampoline_far, low(page)),
            (&raw const trampoline_root, low(root)),
        ] {
            // SAFETY: the words lie in the copied code, aligned or not.
            unsafe {
                let word = target.add(offset(symbol)).cast::<u32>();
                word.write_unaligned(word.read_unaligned() + value);
            }
        }
        Self { page }
    }

    /// The page, which the direct map leaves out.
    pub(crate) const fn page(&self) -> u64 {
        self.page
    }

    /// Starts every CPU of the MADT, up to `max` with this one; how many run then.
    pub(crate) fn start_all(self, acpi: &Acpi, max: u32) -> u32 {
        let me = apic::id();
        let page = u8::try_from(self.page >> 12).expect("below 1 MiB");
        let others = acpi.cpus.iter().copied().filter(|&id| id != me);
        let mut running = 1;
        if max > 1 && paging::map_trampoline(self.page).is_none() {
            warn!("no memory to start other CPUs with");
            return running;
        }
        // A CPU that fails to start leaves its stacks behind, so these have numbers of their own.
        for (stacks, apic_id) in (1..max).zip(others) {
            match start(running, apic_id, stacks, page) {
                Ok(()) => running += 1,
                Err(why) => warn!("CPU with APIC id {apic_id} is left out: {why}"),
            }
        }
        if max > 1 {
            paging::unmap_trampoline(self.page);
            paging::load_root();
        }
        GO.store(true, Ordering::Release);
        running
    }
}

/// Starts one CPU under the number `id`, on the stacks of number `stacks`.
fn start(id: u32, apic_id: u32, stacks: u32, page: u8) -> Result<(), &'static str> {
    /// Generous: an emulated CPU may get little of its host.
    const PATIENCE_MS: u32 = 3000;
    if !apic::reaches(apic_id) {
        return Err("its number needs x2APIC");
    }
    let stacks = paging::map_stacks(stacks).ok_or("no memory for its stacks")?;
    let block = PerCpu::leak(id, apic_id, stacks);
    NEXT.block.store(core::ptr::from_ref(block).cast_mut(), Ordering::Relaxed);
    NEXT.tables.store(Box::into_raw(Box::new(CpuTables::new())), Ordering::Relaxed);
    NEXT_STACK.store(stacks + u64_of(CpuStacks::MAIN_TOP), Ordering::Release);
    let before = STARTED.load(Ordering::Acquire);
    // The times are the MultiProcessor Specification's (1.4, appendix B.4).
    apic::send_init(apic_id);
    time::delay_us(10_000);
    for _ in 0..2 {
        apic::send_startup(apic_id, page);
        time::delay_us(200);
        if STARTED.load(Ordering::Acquire) != before {
            return Ok(());
        }
    }
    for _ in 0..PATIENCE_MS {
        if STARTED.load(Ordering::Acquire) != before {
            return Ok(());
        }
        time::delay_us(1000);
    }
    // It must not wake up later, on what the next CPU is given.
    apic::send_init(apic_id);
    time::delay_us(10_000);
    Err("it did not start")
}

/// A started CPU's first Rust function, on its own stack, under the final page tables.
extern "sysv64" fn other_cpu_main() -> ! {
    cpu::init();
    // SAFETY: the boot CPU put them there for this CPU, leaked, and prepares the next one's only after
    // this one has counted itself.
    let (block, tables) =
        unsafe { (&*NEXT.block.load(Ordering::Acquire), &mut *NEXT.tables.load(Ordering::Acquire)) };
    tables.load(block.stacks);
    // SAFETY: this CPU's own block, for the first time; numbers are given without gaps.
    unsafe { block.install() };
    apic::init();
    let same = cpu::matches_boot_cpu();
    STARTED.fetch_add(1, Ordering::Release);
    if !same {
        warn!("CPU {} has other features than the boot CPU", block.id);
    }
    while !GO.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    paging::load_root();
    crate::boot::other_cpu()
}
