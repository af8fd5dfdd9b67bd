//! The boot, told in a page: console, CPU, ACPI, memory, time, other CPUs, virtualisation, domains; it ends
//! in the scheduler.

use super::{BootInfo, MemKind, entry::Image, fail, free::FreeRanges, phys::BootMap};
use crate::{
    arch::x86::{
        acpi::{self, Acpi},
        apic, cpu, ioapic,
        percpu::{self, PerCpu},
        power,
        smp::Trampoline,
        stacks, tables, time, vectors,
    },
    cmdline::{self, Com1, Options},
    dev::{console, uart::Uart},
    domain::launch,
    info,
    mm::{direct::phys_to_virt, frames, grants, paging},
    panic, sched, vt, warn,
};

/// Less RAM than this does not even hold the hypervisor's own tables and one small domain.
const LEAST_RAM: u64 = 32 << 20;

/// Boots. `memory` is the view of the boot page tables, which end in here.
pub fn start(info: &BootInfo, memory: BootMap) -> ! {
    tables::load_on_boot_cpu();
    let options = read_options(info.cmdline);
    info!("Tollgate {}, loaded by {}", env!("CARGO_PKG_VERSION"), info.loader);
    check_cpu();
    cpu::init();
    vectors::silence_pic();

    let acpi = read_acpi(info, &memory);
    if info.ram() < LEAST_RAM {
        fail(format_args!(
            "too little memory: {} MiB of RAM, at least {} MiB are needed",
            info.ram() >> 20,
            LEAST_RAM >> 20
        ));
    }
    let trampoline = take_over_memory(info, memory);
    power::init(&acpi);

    // SAFETY: the boot CPU's only block, before any other.
    unsafe { PerCpu::leak(0, 0, stacks::boot_stacks()).install() };
    start_clock(&acpi);
    grants::choose_copy_kernel(options.copy);
    open_input(&acpi, options.com1);
    let cpus = trampoline.start_all(&acpi, options.maxcpus);
    info!("CPUs: {cpus} running, of {}", acpi.cpus.len().max(1));

    enable_virtualisation();
    launch::launch(&info.modules, &options);
    sched::cpu_loop()
}

/// The other CPUs' way into the scheduler, once everybody is up.
pub fn other_cpu() -> ! {
    enable_virtualisation();
    sched::cpu_loop()
}

/// Reads the command line and opens the console as it says.
pub fn read_options(line: &str) -> Options {
    // Complaints wait until the console is the one that was asked for.
    let options = cmdline::parse(line, &mut |_| {});
    panic::set_options(options.noreboot, options.com1);
    console::init(options.com1, options.loglvl);
    cmdline::parse(line, &mut |complaint| warn!("{complaint}"));
    options
}

fn check_cpu() {
    let features = cpu::features();
    if !features.nx {
        fail(format_args!("this CPU has no no-execute pages"));
    }
    info!(
        "CPU: {}{}{}{}{}{} XCR0 {:#x}",
        if features.svm { "SVM " } else { "" },
        if features.npt { "NPT " } else { "" },
        if features.x2apic { "x2APIC " } else { "" },
        if features.smap { "SMAP " } else { "" },
        if features.erms { "ERMS " } else { "" },
        if features.invariant_tsc { "invariant-TSC" } else { "no-invariant-TSC" },
        features.host_xcr0(),
    );
}

fn read_acpi(info: &BootInfo, memory: &BootMap) -> Acpi {
    let Some(rsdp) = info.rsdp.or_else(|| acpi::find_rsdp(memory)) else {
        warn!("no ACPI tables: one CPU, and no way to switch off");
        return Acpi::default();
    };
    let acpi = Acpi::read(memory, rsdp);
    if acpi.cpus.is_empty() {
        warn!("ACPI names no processors: one CPU");
    }
    if acpi.cpus_left_out != 0 {
        warn!("{} CPUs are beyond what this hypervisor drives", acpi.cpus_left_out);
    }
    acpi
}

/// Ends the boot page tables, and with them their only view: final page tables, frame allocator, heap.
fn take_over_memory(info: &BootInfo, _view: BootMap) -> Trampoline {
    /// Below lies what firmware may still use; only the trampoline is taken from there.
    const LOW: u64 = 1 << 20;
    let ram = || {
        let usable = info.memory.iter().filter(|range| range.kind == MemKind::Ram);
        usable.map(|range| (range.start, range.end.min(paging::DIRECT_LIMIT).min(frames::LIMIT)))
    };
    let image = Image::get().phys();
    let mut free = FreeRanges::new(ram());
    free.remove(0, 4096);
    free.remove(image.0, image.1);
    for module in &info.modules {
        free.remove(module.start, module.start + module.len);
    }
    let page = free.take(4096, 0xa_0000);
    free.remove(0, LOW);
    let end = ram().map(|(_, end)| end).max().unwrap_or(0);
    let out_of_memory = || -> ! { fail(format_args!("too little memory for the hypervisor's own tables")) };

    let Some(page) = page else { fail(format_args!("no RAM below 640 KiB to start other CPUs from")) };
    // SAFETY: the boot page tables are in force, and the only view of them is given up; `free` and `page`
    // are what nobody uses.
    let trampoline = unsafe {
        let Some(root) = paging::choose_root(&mut free) else { out_of_memory() };
        let trampoline = Trampoline::write(page, root);
        if paging::install(info, &mut free, trampoline.page()).is_none() {
            out_of_memory();
        }
        trampoline
    };
    let Some(table) = free.take(frames::table_bytes(end), u64::MAX) else { out_of_memory() };
    // SAFETY: the table's bytes and the free ranges are nobody's; the final tables map all of them.
    unsafe { frames::init(phys_to_virt(table), end, ram(), free.iter()) };
    let stats = frames::stats();
    info!("memory: {} MiB of RAM, {} MiB free", stats.total >> 8, stats.free >> 8);
    trampoline
}

fn start_clock(acpi: &Acpi) {
    /// Where local APICs are unless the MADT says otherwise.
    const LOCAL_APIC: u64 = 0xfee0_0000;
    let Some(source) = time::init(acpi.pm_timer) else {
        fail(format_args!("no clock: neither CPUID, the PM timer nor the PIT gives the TSC's rate"))
    };
    let Some(mode) = apic::choose(acpi.local_apic.unwrap_or(LOCAL_APIC)) else {
        fail(format_args!("too little memory for the local APIC's registers"))
    };
    apic::init();
    apic::calibrate_timer();
    info!("TSC {} kHz by {source}, {mode}", time::tsc_khz());
}

/// Lets the console take debug keys. A machine that has no way to do so only has none.
fn open_input(acpi: &Acpi, com1: Com1) {
    let routed = Uart::isa_irq(com1)
        .ok_or("no interrupt is known for a port there")
        .and_then(|irq| ioapic::route(acpi, acpi.isa(irq), vectors::VEC_CONSOLE));
    match routed {
        Ok(()) if console::enable_receive() => info!("console: debug keys, h lists them"),
        Ok(()) => {}
        Err(why) => warn!("console: no debug keys: {why}"),
    }
}

fn enable_virtualisation() {
    if let Err(why) = vt::init_cpu(&percpu::this().vt) {
        fail(format_args!("{why}"));
    }
}
