//! Time: the TSC and its rate.

/// The time-stamp counter.
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no effect on memory; CR4.TSD matters to user mode only.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The TSC's rate.
#[must_use]
pub fn tsc_khz() -> u32 {
    todo!()
}

/// Nanoseconds since boot.
#[must_use]
pub fn now_ns() -> u64 {
    todo!()
}

/// Nanoseconds since boot of a TSC value.
#[must_use]
pub fn tsc_to_ns(tsc: u64) -> u64 {
    let _ = tsc;
    todo!()
}

/// The TSC value of a time since boot (saturating).
#[must_use]
pub fn ns_to_tsc(ns: u64) -> u64 {
    let _ = ns;
    todo!()
}
