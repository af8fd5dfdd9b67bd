//! The paravirtual clock: how a guest turns its TSC into nanoseconds since boot, and the time of day.
//!
//! The TSC is the machine's own, so one pair of scale factors serves every vCPU for ever: a vCPU's
//! `vcpu_time_info` is written before the domain starts, and again where it is registered elsewhere, with an
//! even-odd version around the change for a guest that reads at the same time (public/xen.h).
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering, fence};

use spin::Once;

use crate::{
    abi::xen::{PVCLOCK_TSC_STABLE, VcpuTimeInfo, shared_info, shared_info_compat, vcpu_info},
    arch::x86::{rtc, time},
    domain::Domain,
    mm::shared::SharedFrame,
    vt::Width,
    warn,
};

/// Multiplier and shift for `ns = ((tsc << shift) * mul) >> 32` (right shift when negative).
#[must_use]
pub fn scale(tsc_khz: u32) -> (u32, i8) {
    let hz = u64::from(tsc_khz.max(1)) * 1000;
    let mut shift = 0i8;
    // Scaled frequency in (0.5, 1] GHz: then the multiplier is in [1, 2) * 2^32 less what fits 32 bits.
    let mut scaled = hz;
    while scaled > 2_000_000_000 {
        scaled >>= 1;
        shift -= 1;
    }
    while scaled <= 1_000_000_000 {
        scaled <<= 1;
        shift += 1;
    }
    // Computed from the exact frequency, so that the shift's lost bits do not matter: 2^32 * 10^9 / scaled.
    let exact = if shift < 0 {
        ((1_000_000_000u128 << 32) << shift.unsigned_abs()) / u128::from(hz)
    } else {
        (1_000_000_000u128 << 32) / (u128::from(hz) << shift.unsigned_abs())
    };
    (u32::try_from(exact).unwrap_or(u32::MAX), shift)
}

/// What `vcpu_time_info` says now; the version is the writer's business.
#[must_use]
pub fn now() -> VcpuTimeInfo {
    let (mul, shift) = scale(time::tsc_khz());
    let tsc = time::rdtsc();
    VcpuTimeInfo {
        version: 0,
        pad0: 0,
        tsc_timestamp: tsc,
        system_time: time::tsc_to_ns(tsc),
        tsc_to_system_mul: mul,
        tsc_shift: shift,
        flags: PVCLOCK_TSC_STABLE,
        pad1: [0; 2],
    }
}

/// Writes a `vcpu_time_info` at an offset of a shared frame; the offset is a multiple of 8.
pub fn publish(frame: &SharedFrame, at: usize) {
    let clock = now();
    versioned(frame.u32(at), || {
        frame.u64(at + 8).store(clock.tsc_timestamp, Ordering::Relaxed);
        frame.u64(at + 16).store(clock.system_time, Ordering::Relaxed);
        frame.u32(at + 24).store(clock.tsc_to_system_mul, Ordering::Relaxed);
        frame.u8(at + 28).store(clock.tsc_shift.cast_unsigned(), Ordering::Relaxed);
        frame.u8(at + 29).store(clock.flags, Ordering::Relaxed);
    });
}

/// Writes the clock of every vCPU whose `vcpu_info` is in the shared page, for a domain that is about to start.
pub fn publish_all(domain: &Domain) {
    publish_wallclock(domain);
    for info in domain.vcpus().iter().filter_map(|vcpu| vcpu.info(domain)) {
        publish(info.frame, info.offset + vcpu_info::TIME);
    }
}

/// The time of day at the zero of system time, in seconds since 1970, UTC. 0: unknown, which is said once.
fn boot_seconds() -> u64 {
    static SECONDS: Once<u64> = Once::new();
    *SECONDS.call_once(|| {
        let Some(now) = rtc::seconds() else {
            warn!("no CMOS clock: guests are told that it is 1970");
            return 0;
        };
        now.saturating_sub(time::now_ns() / 1_000_000_000)
    })
}

/// Writes the wall clock at the zero of system time into a domain's shared page, in its present layout.
pub fn publish_wallclock(domain: &Domain) {
    let (seconds, ns) = (boot_seconds(), 0);
    let (version, sec, nsec, high) = match domain.width() {
        Width::Bits64 => {
            (shared_info::WC_VERSION, shared_info::WC_SEC, shared_info::WC_NSEC, shared_info::WC_SEC_HI)
        }
        Width::Bits32 => (
            shared_info_compat::WC_VERSION,
            shared_info_compat::WC_SEC,
            shared_info_compat::WC_NSEC,
            shared_info_compat::WC_SEC_HI,
        ),
    };
    let frame = &domain.shared_info;
    let [a, b, c, d, e, f, g, h] = seconds.to_le_bytes();
    versioned(frame.u32(version), || {
        frame.u32(sec).store(u32::from_le_bytes([a, b, c, d]), Ordering::Relaxed);
        frame.u32(nsec).store(ns, Ordering::Relaxed);
        frame.u32(high).store(u32::from_le_bytes([e, f, g, h]), Ordering::Relaxed);
    });
}

/// The writer's half of the version protocol: odd while `write` runs, another even number after it. The
/// guest may have left any number there; only one CPU writes a given place at a time.
fn versioned(version: &AtomicU32, write: impl FnOnce()) {
    let odd = version.load(Ordering::Relaxed) | 1;
    version.store(odd, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    write();
    version.store(odd.wrapping_add(1), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(tsc: u64, (mul, shift): (u32, i8)) -> u64 {
        let scaled = if shift < 0 { tsc >> shift.unsigned_abs() } else { tsc << shift.unsigned_abs() };
        u64::try_from((u128::from(scaled) * u128::from(mul)) >> 32).expect("fits")
    }

    #[test]
    fn an_hour_is_right_to_a_microsecond_at_every_usual_frequency() {
        for khz in [100_000, 999_999, 1_000_000, 1_000_001, 2_000_000, 2_596_123, 3_999_999, 5_700_000] {
            let tsc = u64::from(khz) * 1000 * 3600;
            let error = ns(tsc, scale(khz)).abs_diff(3_600_000_000_000);
            assert!(error < 3_000, "{khz} kHz: {error} ns");
        }
    }
}
