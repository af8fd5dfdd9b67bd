//! The local APIC, by MMIO (xAPIC) or MSR (x2APIC): interrupts between pCPUs and the one-shot timer.
//!
//! Root mode runs with interrupts off, so no register sequence here is interrupted; each CPU touches its
//! own local APIC only. The mode is chosen once on the boot CPU and is the same everywhere. While none is
//! chosen, early in the boot, the calls do nothing.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use super::{
    cpu, msr, percpu,
    time::{rdtsc, scale},
    vectors::{VEC_SPURIOUS, VEC_TIMER},
};

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Mode {
    None = 0,
    Xapic = 1,
    X2apic = 2,
}

static MODE: AtomicU8 = AtomicU8::new(Mode::None as u8);
/// Where the xAPIC's registers are mapped.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// Timer ticks for a TSC tick, as a 32.32 fixed-point number; 0: the timer takes a TSC deadline.
static TICKS_PER_TSC: AtomicU64 = AtomicU64::new(0);

/// Register numbers: MMIO offset / 16, MSR - 0x800.
mod register {
    pub(super) const ID: u32 = 0x02;
    pub(super) const TASK_PRIORITY: u32 = 0x08;
    pub(super) const EOI: u32 = 0x0b;
    pub(super) const SPURIOUS: u32 = 0x0f;
    pub(super) const ERROR_STATUS: u32 = 0x28;
    pub(super) const ICR: u32 = 0x30;
    pub(super) const ICR_HIGH: u32 = 0x31;
    pub(super) const LVT_TIMER: u32 = 0x32;
    pub(super) const LVT_LINT0: u32 = 0x35;
    pub(super) const LVT_LINT1: u32 = 0x36;
    pub(super) const LVT_ERROR: u32 = 0x37;
    pub(super) const TIMER_INITIAL: u32 = 0x38;
    pub(super) const TIMER_CURRENT: u32 = 0x39;
    pub(super) const TIMER_DIVIDE: u32 = 0x3e;
}

const MASKED: u32 = 1 << 16;
const DEADLINE_MODE: u32 = 2 << 17;
/// ICR: delivery modes, level, shorthand.
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;
const ALL_BUT_SELF: u32 = 3 << 18;

fn mode() -> Mode {
    match MODE.load(Ordering::Relaxed) {
        1 => Mode::Xapic,
        2 => Mode::X2apic,
        _ => Mode::None,
    }
}

fn mmio(register: u32) -> *mut u32 {
    let at = REGISTERS.load(Ordering::Relaxed) + u64::from(register) * 16;
    core::ptr::with_exposed_provenance_mut(crate::mm::direct::usize_of(at))
}

fn read(register: u32) -> u32 {
    match mode() {
        Mode::None => 0,
        // SAFETY: the mapping was made when the mode was set and stays; reading these has no effect.
        Mode::Xapic => unsafe { mmio(register).read_volatile() },
        Mode::X2apic => {
            // SAFETY: the mode says that this CPU has the x2APIC's registers.
            let value = unsafe { msr::read(msr::X2APIC + register) };
            u32::try_from(value & 0xffff_ffff).unwrap_or(0)
        }
    }
}

fn write(register: u32, value: u32) {
    match mode() {
        Mode::None => {}
        // SAFETY: as in `read`; what is written is interrupt routing and the timer, to vectors that have
        // handlers.
        Mode::Xapic => unsafe { mmio(register).write_volatile(value) },
        // SAFETY: as above.
        Mode::X2apic => unsafe { msr::write(msr::X2APIC + register, value.into()) },
    }
}

/// Chooses the mode on the boot CPU; `None` when the registers cannot be mapped.
pub(crate) fn choose(registers: u64) -> Option<&'static str> {
    const X2APIC_ENABLED: u64 = 1 << 10;
    // SAFETY: every 64-bit CPU has this register.
    let enabled = unsafe { msr::read(msr::APIC_BASE) } & X2APIC_ENABLED != 0;
    if enabled || cpu::features().x2apic {
        MODE.store(Mode::X2apic as u8, Ordering::Relaxed);
        return Some("x2APIC");
    }
    let at = crate::mm::paging::map_device(registers, 4096)?;
    REGISTERS.store(crate::mm::direct::u64_of(at.expose_provenance()), Ordering::Relaxed);
    MODE.store(Mode::Xapic as u8, Ordering::Relaxed);
    Some("xAPIC")
}

/// Sets up the running CPU's local APIC, with the timer stopped.
pub(crate) fn init() {
    const ENABLE: u64 = 1 << 11;
    const ENABLE_X2APIC: u64 = 1 << 10;
    const SOFTWARE_ENABLE: u32 = 1 << 8;
    const DIVIDE_BY_1: u32 = 0b1011;
    let enable = if mode() == Mode::X2apic { ENABLE | ENABLE_X2APIC } else { ENABLE };
    // SAFETY: enabling, in steps the architecture allows (off or xAPIC to x2APIC), moves no registers.
    unsafe { msr::write(msr::APIC_BASE, msr::read(msr::APIC_BASE) | enable) };
    write(register::LVT_TIMER, MASKED);
    write(register::LVT_LINT0, MASKED);
    write(register::LVT_LINT1, DELIVER_NMI);
    write(register::LVT_ERROR, MASKED);
    write(register::TASK_PRIORITY, 0);
    write(register::SPURIOUS, SOFTWARE_ENABLE | u32::from(VEC_SPURIOUS));
    write(register::ERROR_STATUS, 0);
    write(register::TIMER_DIVIDE, DIVIDE_BY_1);
    write(register::TIMER_INITIAL, 0);
    let kind = if cpu::features().tsc_deadline { DEADLINE_MODE } else { 0 };
    write(register::LVT_TIMER, kind | u32::from(VEC_TIMER));
    // In deadline mode the mode must be seen before the first deadline (Intel SDM 3A, 11.5.4.1).
    fence(Ordering::SeqCst);
}

/// Measures the timer's rate against the TSC, unless it takes deadlines. Ten milliseconds, once.
pub(crate) fn calibrate_timer() {
    if cpu::features().tsc_deadline {
        return;
    }
    write(register::LVT_TIMER, MASKED | u32::from(VEC_TIMER));
    let start = rdtsc();
    write(register::TIMER_INITIAL, u32::MAX);
    super::time::delay_us(10_000);
    let ticks = u32::MAX - read(register::TIMER_CURRENT);
    let tsc = rdtsc() - start;
    write(register::TIMER_INITIAL, 0);
    write(register::LVT_TIMER, VEC_TIMER.into());
    TICKS_PER_TSC.store(super::time::ratio(ticks.into(), tsc).max(1), Ordering::Relaxed);
}

/// The running CPU's APIC id.
#[must_use]
pub fn id() -> u32 {
    match mode() {
        Mode::X2apic => read(register::ID),
        Mode::Xapic | Mode::None => read(register::ID) >> 24,
    }
}

/// Whether commands can be sent to that APIC id: 8 bits by MMIO, 255 meaning all.
pub(crate) fn reaches(apic_id: u32) -> bool {
    apic_id < 0xff || mode() == Mode::X2apic
}

/// Ends the interrupt in service.
pub fn eoi() {
    write(register::EOI, 0);
}

fn send(apic_id: u32, command: u32) {
    match mode() {
        Mode::None => {}
        Mode::Xapic => {
            // One command at a time; the wait is a few bus cycles.
            for _ in 0..1_000_000 {
                if read(register::ICR) & PENDING == 0 {
                    break;
                }
                core::hint::spin_loop();
            }
            write(register::ICR_HIGH, apic_id << 24);
            write(register::ICR, command);
        }
        Mode::X2apic => {
            // Stores before the command must be seen by its receiver, and WRMSR to the x2APIC orders
            // nothing (Intel SDM 3A, 11.12.3).
            fence(Ordering::SeqCst);
            // SAFETY: the mode says that this CPU has the register; what is sent is an interrupt to a
            // CPU of ours.
            unsafe {
                core::arch::x86_64::_mm_lfence();
                msr::write(msr::X2APIC + register::ICR, u64::from(apic_id) << 32 | u64::from(command));
            }
        }
    }
}

/// Sends `vector` to the pCPU of that number (not its APIC id); nothing happens when there is none.
pub fn send_ipi(cpu: u32, vector: u8) {
    if let Some(target) = percpu::get(cpu) {
        send(target.apic_id, ASSERT | u32::from(vector));
    }
}

/// Sends an NMI to every CPU but this one.
pub(crate) fn nmi_others() {
    send(0, ALL_BUT_SELF | ASSERT | DELIVER_NMI);
}

/// Puts a CPU into its wait-for-startup state.
pub(crate) fn send_init(apic_id: u32) {
    send(apic_id, ASSERT | DELIVER_INIT);
}

/// Starts a waiting CPU at the page `page << 12`.
pub(crate) fn send_startup(apic_id: u32, page: u8) {
    send(apic_id, ASSERT | DELIVER_STARTUP | u32::from(page));
}

/// Arms this pCPU's timer for a TSC value (at once when it is past), or stops it.
///
/// The timer may fire early where its counter is too narrow for the distance, so a handler's caller looks
/// at the time and arms it again.
pub fn arm_oneshot(deadline_tsc: Option<u64>) {
    let ticks_per_tsc = TICKS_PER_TSC.load(Ordering::Relaxed);
    if ticks_per_tsc == 0 {
        if mode() != Mode::None && cpu::features().tsc_deadline {
            // SAFETY: CPUID offers the register, and the timer is in deadline mode. 0 disarms.
            unsafe { msr::write(msr::TSC_DEADLINE, deadline_tsc.map_or(0, |deadline| deadline.max(1))) };
        }
        return;
    }
    let ticks = deadline_tsc.map_or(0, |deadline| {
        let left = scale(deadline.saturating_sub(rdtsc()), ticks_per_tsc);
        u32::try_from(left).unwrap_or(u32::MAX).max(1)
    });
    write(register::TIMER_INITIAL, ticks);
}
