//! Time: the TSC and its rate.
//!
//! The TSC is taken to run at a constant rate and to be equal on all pCPUs (CPUID tells whether the CPU
//! promises it; the boot warns otherwise). Its rate comes from CPUID where the CPU or the hypervisor below
//! us knows it, else from a measurement against the ACPI power-management timer, else against the PIT.

use core::sync::atomic::{AtomicU64, Ordering};

const NS_PER_S: u64 = 1_000_000_000;

static HZ: AtomicU64 = AtomicU64::new(NS_PER_S);
/// TSC value at [`now_ns`]'s zero.
static START: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds for a tick, and ticks for a nanosecond, as 32.32 fixed-point numbers.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(1 << 32);
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(1 << 32);

/// The time-stamp counter.
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no effect on memory; CR4.TSD matters to user mode only.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The TSC's rate in Hz.
#[must_use]
pub fn tsc_hz() -> u64 {
    HZ.load(Ordering::Relaxed)
}

/// The TSC's rate in kHz.
#[must_use]
pub fn tsc_khz() -> u32 {
    u32::try_from(tsc_hz() / 1000).unwrap_or(u32::MAX)
}

/// Nanoseconds since boot.
#[must_use]
pub fn now_ns() -> u64 {
    tsc_to_ns(rdtsc())
}

/// Nanoseconds since boot of a TSC value.
#[must_use]
pub fn tsc_to_ns(tsc: u64) -> u64 {
    let ticks = tsc.saturating_sub(START.load(Ordering::Relaxed));
    scale(ticks, NS_PER_TICK.load(Ordering::Relaxed))
}

/// The TSC value of a time since boot (saturating).
#[must_use]
pub fn ns_to_tsc(ns: u64) -> u64 {
    scale(ns, TICKS_PER_NS.load(Ordering::Relaxed)).saturating_add(START.load(Ordering::Relaxed))
}

/// A number times a 32.32 fixed-point one, saturating.
pub(super) fn scale(value: u64, factor: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(factor)) >> 32).unwrap_or(u64::MAX)
}

/// `numerator / denominator` as a 32.32 fixed-point number, saturating.
#[cfg(any(test, feature = "bare-metal"))]
pub(super) fn ratio(numerator: u64, denominator: u64) -> u64 {
    u64::try_from((u128::from(numerator) << 32) / u128::from(denominator.max(1))).unwrap_or(u64::MAX)
}

/// Waits at least that long.
pub fn delay_us(us: u64) {
    let start = rdtsc();
    let ticks = scale(us * 1000, TICKS_PER_NS.load(Ordering::Relaxed));
    while rdtsc().wrapping_sub(start) < ticks {
        core::hint::spin_loop();
    }
}

#[cfg(feature = "bare-metal")]
pub(crate) use calibrate::init;

#[cfg(feature = "bare-metal")]
mod calibrate {
    use core::{
        arch::x86_64::{__cpuid, __cpuid_count},
        sync::atomic::Ordering,
    };

    use super::{
        super::{cpu, port},
        HZ, NS_PER_S, NS_PER_TICK, START, TICKS_PER_NS, ratio, rdtsc,
    };

    /// How long a measurement takes: an error of a microsecond in reading the reference is 40 ppm then.
    const WINDOW_MS: u32 = 25;

    /// Finds the TSC's rate and starts the clock. Returns where the rate came from, `None` when nothing
    /// told it.
    pub(crate) fn init(pm_timer: Option<u16>) -> Option<&'static str> {
        let start = rdtsc();
        let (hz, source) = from_cpuid()
            .map(|hz| (hz, "CPUID"))
            .or_else(|| pm_timer.and_then(by_pm_timer).map(|hz| (hz, "the PM timer")))
            .or_else(|| by_pit().map(|hz| (hz, "the PIT")))?;
        set_rate(hz, start);
        Some(source)
    }

    fn set_rate(hz: u64, start: u64) {
        HZ.store(hz, Ordering::Relaxed);
        START.store(start, Ordering::Relaxed);
        NS_PER_TICK.store(ratio(NS_PER_S, hz), Ordering::Relaxed);
        TICKS_PER_NS.store(ratio(hz, NS_PER_S), Ordering::Relaxed);
    }

    fn from_cpuid() -> Option<u64> {
        // A rate below 100 MHz is a leaf that says nothing.
        let plausible = |hz: u64| (hz >= 100_000_000).then_some(hz);
        if __cpuid(0).eax >= 0x15 {
            let leaf = __cpuid_count(0x15, 0);
            if leaf.eax != 0 {
                let hz = u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax);
                if let Some(hz) = plausible(hz) {
                    return Some(hz);
                }
            }
        }
        // The timing leaf that VMware defined and KVM offers: kHz in EAX.
        if cpu::features().hypervisor && __cpuid(0x4000_0000).eax >= 0x4000_0010 {
            return plausible(u64::from(__cpuid(0x4000_0010).eax) * 1000);
        }
        None
    }

    /// Counts TSC ticks over the window, by a reference counter of `rate` Hz that counts up modulo
    /// `mask + 1`. `None` when it stands still.
    fn measure(rate: u64, mask: u32, read: impl Fn() -> u32) -> Option<u64> {
        let wanted = u32::try_from(rate * u64::from(WINDOW_MS) / 1000).ok()?;
        // Begin on an edge of the reference.
        let edge = || {
            let first = read();
            (0..1_000_000).map(|_| read()).find(|&now| now != first)
        };
        let (first, start) = (edge()?, rdtsc());
        for _ in 0..10_000_000 {
            let passed = read().wrapping_sub(first) & mask;
            if passed >= wanted {
                let ticks = rdtsc() - start;
                return Some(ticks * rate / u64::from(passed));
            }
        }
        None
    }

    fn by_pm_timer(at: u16) -> Option<u64> {
        // 24 bits are there on every machine; 3.579545 MHz (ACPI 6.4, 4.8.3.3).
        // SAFETY: the FADT names this port as the PM timer's; reading it has no effect.
        measure(3_579_545, 0xff_ffff, || unsafe { port::read32(at) })
    }

    /// The PIT's channel 2, whose gate and output are bits of port 0x61.
    fn by_pit() -> Option<u64> {
        const RATE: u64 = 1_193_182;
        // SAFETY: channel 2 drives the speaker only, which stays off; these ports are the PIT's on every
        // PC, and nothing answers on a machine without one.
        unsafe {
            port::write8(0x61, (port::read8(0x61) & !2) | 1);
            port::write8(0x43, 0xb4); // channel 2, low byte then high, mode 2: counts down from 65536
            port::write8(0x42, 0);
            port::write8(0x42, 0);
        }
        let read = || {
            // SAFETY: as above; 0x80 latches channel 2's count.
            let [low, high] = unsafe {
                port::write8(0x43, 0x80);
                [port::read8(0x42), port::read8(0x42)]
            };
            u32::from(u16::MAX - u16::from_le_bytes([low, high]))
        };
        let hz = measure(RATE, 0xffff, read)?;
        // An empty bus never changes; a rate that no CPU has means something like it.
        (hz > 100_000_000 && hz < 100 * NS_PER_S).then_some(hz)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_point_is_precise_enough() {
        let hz = 2_596_123_456;
        let day = 86_400 * NS_PER_S;
        let ticks = scale(day, ratio(hz, NS_PER_S));
        let back = scale(ticks, ratio(NS_PER_S, hz));
        assert!(day.abs_diff(back) < 100_000, "off by {} ns in a day", day.abs_diff(back));
        assert_eq!(scale(u64::MAX, 2 << 32), u64::MAX);
    }

    #[test]
    fn time_goes_on() {
        let before = now_ns();
        delay_us(10);
        assert!(now_ns() > before);
    }
}
