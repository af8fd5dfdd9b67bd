//! What happened in a domain: relaxed counters, read for the summary at its end.
#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayString;
use gnttab_fast::types::DomId;

use super::{Domain, NAME_MAX};
use crate::cmdline::LogLevel;
use crate::{error, info};

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
    /// Exits by kind; of hypercalls only those that were refused, as the others are in `hypercalls`.
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
    /// Counts an exit.
    #[inline]
    pub fn exit(&self, kind: ExitKind) {
        self.exits[kind as usize].add(1);
    }

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

/// What is told at the end of a domain.
#[derive(Debug)]
pub(super) struct Summary {
    /// Whose.
    pub(super) id: DomId,
    name: ArrayString<NAME_MAX>,
    loglvl: LogLevel,
    pub(super) code: u32,
    pub(super) ran_ns: u64,
    exits: [u64; ExitKind::COUNT],
    grants: [u64; 4],
    events_sent: u64,
    scheduled: u64,
    handles: u32,
}

impl Summary {
    /// The counters of a domain that ran for `ran_ns` and ended with this `SHUTDOWN_*` code.
    pub(super) fn of(domain: &Domain, code: u32, ran_ns: u64) -> Self {
        let from = &domain.counters;
        Self {
            id: domain.id,
            name: domain.name,
            loglvl: domain.loglvl,
            code,
            ran_ns,
            exits: core::array::from_fn(|kind| {
                let done =
                    if kind == ExitKind::Hypercall as usize { from.hypercalls.as_slice() } else { &[] };
                from.exits[kind].get() + done.iter().map(Counter::get).sum::<u64>()
            }),
            grants: [&from.grant_maps, &from.grant_unmaps, &from.grant_copies, &from.grant_copy_bytes]
                .map(Counter::get),
            events_sent: from.events_sent.get(),
            scheduled: from.scheduled.get(),
            handles: domain.grants.table().usage().handles,
        }
    }

    /// One line of what it did, one of what it left: both numbers are 0 unless the hypervisor has lost something.
    pub(super) fn print(&self, leaked: u32) {
        let Self { id, name, code, ran_ns, .. } = self;
        let [maps, unmaps, copies, bytes] = self.grants;
        info!(
            of self; "d{} {name}: ended with code {code} after {}.{:03} s; {} turns, {} events; grants: {maps} mapped, \
             {unmaps} unmapped, {copies} copies of {bytes} bytes",
            id.0,
            ran_ns / 1_000_000_000,
            ran_ns / 1_000_000 % 1000,
            self.scheduled,
            self.events_sent,
        );
        info!(of self; "d{} {name}: exits: {}", id.0, Exits(&self.exits));
        let handles = self.handles;
        if (leaked, handles) == (0, 0) {
            info!(of self; "d{} {name}: leaked frames: 0, handles: 0", id.0);
        } else {
            error!(of self; "d{} {name}: leaked frames: {leaked}, handles: {handles}", id.0);
        }
    }
}

/// Exits by kind, those that happened.
struct Exits<'a>(&'a [u64; ExitKind::COUNT]);

impl fmt::Display for Exits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut happened = ExitKind::NAMES.iter().zip(self.0).filter(|&(_, &count)| count != 0);
        if let Some((name, count)) = happened.next() {
            write!(f, "{name} {count}")?;
        }
        happened.try_for_each(|(name, count)| write!(f, ", {name} {count}"))
    }
}
