//! Time: the paravirtual clock of the shared page, and cycles turned into nanoseconds by its scale.

use core::sync::atomic::{Ordering, fence};

use hv::abi::vcpu::{SetSingleshotTimer, op};
use hv::abi::xen::hypercall as number;
use hv::abi::xen::{VIRQ_TIMER, VcpuTimeInfo};

use super::cpu::tsc;
use super::{events, hypercall, wide};

/// The clock's parameters, read until they hold still.
fn parameters() -> VcpuTimeInfo {
    let info = events::time_info();
    loop {
        // SAFETY: the shared page stays mapped; the hypervisor writes it meanwhile, which the version tells.
        let first = unsafe { info.read_volatile() };
        fence(Ordering::Acquire);
        // SAFETY: as above.
        let version = unsafe { (&raw const (*info).version).read_volatile() };
        if first.version == version && version % 2 == 0 {
            return first;
        }
        core::hint::spin_loop();
    }
}

/// Cycles in nanoseconds.
fn scale(info: &VcpuTimeInfo, cycles: u64) -> u64 {
    let shift = u32::from(info.tsc_shift.unsigned_abs());
    let shifted = if info.tsc_shift < 0 { cycles >> shift } else { cycles << shift };
    let wide = u128::from(shifted) * u128::from(info.tsc_to_system_mul);
    u64::try_from(wide >> 32).unwrap_or(u64::MAX)
}

/// Cycles of the time-stamp counter in nanoseconds.
#[must_use]
pub fn to_ns(cycles: u64) -> u64 {
    scale(&parameters(), cycles)
}

/// System time: nanoseconds since the hypervisor started.
#[must_use]
pub fn now() -> u64 {
    let info = parameters();
    // The counter may have been taken before the guest's own began: the difference wraps.
    info.system_time + scale(&info, tsc().wrapping_sub(info.tsc_timestamp))
}

/// Binds and unmasks the timer's port, without the periodic tick that some vCPUs start with.
#[must_use]
pub fn bind_timer() -> u32 {
    // SAFETY: takes no address.
    let result =
        unsafe { hypercall::call(number::VCPU_OP, [u64::from(op::STOP_PERIODIC_TIMER), 0, 0, 0, 0]) };
    events::check("VCPUOP_stop_periodic_timer", result);
    let port = events::bind_virq(VIRQ_TIMER);
    events::unmask(port);
    port
}

/// Sets the one-shot timer to `after` nanoseconds from now.
pub fn set_timer(after: u64) {
    let mut request = SetSingleshotTimer { timeout_abs_ns: now() + after, flags: 0, pad: 0 };
    let address = wide((&raw mut request).addr());
    // SAFETY: the structure is read during the call.
    let result =
        unsafe { hypercall::call(number::VCPU_OP, [u64::from(op::SET_SINGLESHOT_TIMER), 0, address, 0, 0]) };
    events::check("VCPUOP_set_singleshot_timer", result);
}

/// Notices when nothing has happened for long.
#[derive(Debug)]
pub struct Watchdog {
    patience: u64,
    fed: u64,
    /// When the timer is set to, for those who sleep without a deadline of their own.
    timer: Option<u64>,
}

/// The longest sleep of a watched guest, ns.
pub const NAP: u64 = 1_000_000_000;

impl Watchdog {
    /// For a guest whose sleeps end by themselves.
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        Self { patience: seconds * 1_000_000_000, fed: now(), timer: None }
    }

    /// For a guest that sleeps until an event comes: the timer's wakes it.
    #[must_use]
    pub fn with_timer(seconds: u64) -> Self {
        // The port stays bound until the guest ends.
        let _ = bind_timer();
        Self { timer: Some(0), ..Self::new(seconds) }
    }

    /// Something has happened.
    pub fn feed(&mut self) {
        self.fed = now();
    }

    /// To be asked before each sleep: whether nothing has happened for too long.
    pub fn is_late(&mut self) -> bool {
        let now = now();
        if self.timer.is_some_and(|set| set <= now) {
            set_timer(NAP);
            self.timer = Some(now + NAP);
        }
        now - self.fed > self.patience
    }
}
