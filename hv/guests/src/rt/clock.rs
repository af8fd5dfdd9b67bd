//! Time: the paravirtual clock of the shared page, and cycles turned into nanoseconds by its scale.

use core::sync::atomic::{Ordering, fence};

use hv::abi::xen::VcpuTimeInfo;

use super::{cpu::tsc, events};

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
