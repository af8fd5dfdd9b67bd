//! What happened in a domain: relaxed counters, read for the summary at its end.

#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

/// One counter. Adding is relaxed: nothing is ordered by it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds.
    #[inline]
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The sum so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Kinds of exits that are counted apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ExitKind {
    /// A hypercall.
    Hypercall,
    /// CPUID.
    Cpuid,
    /// RDMSR or WRMSR.
    Msr,
    /// An I/O port.
    Io,
    /// HLT.
    Hlt,
    /// A nested page fault.
    NestedFault,
    /// A physical interrupt or NMI.
    Interrupt,
    /// The guest can take an interrupt now.
    Window,
    /// Anything else.
    Other,
}

impl ExitKind {
    /// How many there are.
    pub const COUNT: usize = 9;
    /// Their names in the summary, in order.
    pub const NAMES: [&'static str; Self::COUNT] =
        ["hypercall", "cpuid", "msr", "io", "hlt", "npf", "interrupt", "window", "other"];
}

/// The counters of a domain.
#[derive(Debug)]
pub struct Counters {
    /// Exits by kind.
    pub exits: [Counter; ExitKind::COUNT],
    /// Hypercalls by number.
    pub hypercalls: [Counter; 64],
    /// Grants mapped.
    pub grant_maps: Counter,
    /// Grants unmapped.
    pub grant_unmaps: Counter,
    /// Elements of grant copies.
    pub grant_copies: Counter,
    /// Bytes of grant copies.
    pub grant_copy_bytes: Counter,
    /// Events sent to other domains or vCPUs.
    pub events_sent: Counter,
    /// Times a vCPU was put on a pCPU.
    pub scheduled: Counter,
}

impl Counters {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            exits: [const { Counter::new() }; ExitKind::COUNT],
            hypercalls: [const { Counter::new() }; 64],
            grant_maps: Counter::new(),
            grant_unmaps: Counter::new(),
            grant_copies: Counter::new(),
            grant_copy_bytes: Counter::new(),
            events_sent: Counter::new(),
            scheduled: Counter::new(),
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
