//! One vCPU of a domain: what other CPUs may ask of it, and the guest state the running pCPU holds.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use gnttab_fast::types::DomId;
use spin::{Mutex, Once};

use super::Domain;
use crate::abi::xen::{LEGACY_MAX_VCPUS, vcpu_info};
use crate::mm::shared::SharedFrame;
use crate::sched::{cpuset::CpuSet, state::RunState};
use crate::vt;

/// A virtual CPU.
#[derive(Debug)]
pub struct Vcpu {
    /// Its number in the domain.
    pub id: u32,
    /// Whose it is.
    pub domain: DomId,
    /// The machine-wide number the scheduler's sets use.
    pub slot: usize,
    /// The pCPUs it may run on.
    pub affinity: CpuSet,
    /// Whether and where it runs.
    pub run: RunState,
    /// The guest's registers. Held by the pCPU that runs the vCPU, from switch-in to switch-out; taken by
    /// others only while the vCPU is down.
    pub arch: Mutex<vt::Vcpu>,
    /// `HVMOP_set_evtchn_upcall_vector`: the vector, and bit 8 while one is to be injected. 0: none is set.
    pub(crate) upcall_vector: AtomicU32,
    /// System time at which the single-shot timer fires; [`NO_TIMER`] when it is off.
    pub(crate) timer_ns: AtomicU64,
    /// System time at which a `SCHEDOP_poll` gives up; [`NO_TIMER`]: never.
    pub(crate) poll_until_ns: AtomicU64,
    /// The port a `SCHEDOP_poll` waits for, [`POLLING_ANY`] for several, or [`NOT_POLLING`].
    pub(crate) poll: AtomicU32,
    info: Once<InfoPlace>,
}

/// The single-shot timer is off.
pub(crate) const NO_TIMER: u64 = u64::MAX;
/// Not in `SCHEDOP_poll`.
pub(crate) const NOT_POLLING: u32 = 0;
/// In `SCHEDOP_poll` for more than one port.
pub(crate) const POLLING_ANY: u32 = u32::MAX;
/// What a `SCHEDOP_poll` waited for has come, or its time is over.
pub(crate) const POLL_DONE: u32 = u32::MAX - 1;

#[derive(Debug)]
struct InfoPlace {
    frame: SharedFrame,
    offset: usize,
}

/// A vCPU's `struct vcpu_info`, wherever it stands.
#[derive(Clone, Copy, Debug)]
pub struct Info<'a> {
    /// The frame.
    pub frame: &'a SharedFrame,
    /// Where in it.
    pub offset: usize,
}

impl Info<'_> {
    /// `evtchn_upcall_pending`: not zero when an event waits.
    #[must_use]
    #[inline]
    pub fn upcall_pending(&self) -> &AtomicU8 {
        self.frame.u8(self.offset + vcpu_info::UPCALL_PENDING)
    }

    /// `evtchn_upcall_mask`.
    #[must_use]
    #[inline]
    pub fn upcall_mask(&self) -> &AtomicU8 {
        self.frame.u8(self.offset + vcpu_info::UPCALL_MASK)
    }
}

impl Vcpu {
    /// A vCPU that is down.
    #[must_use]
    pub fn new(domain: DomId, id: u32, slot: usize, affinity: CpuSet, arch: vt::Vcpu) -> Self {
        Self {
            id,
            domain,
            slot,
            affinity,
            run: RunState::new(affinity.first().unwrap_or(0)),
            arch: Mutex::new(arch),
            info: Once::new(),
            upcall_vector: AtomicU32::new(0),
            timer_ns: AtomicU64::new(NO_TIMER),
            poll_until_ns: AtomicU64::new(NO_TIMER),
            poll: AtomicU32::new(NOT_POLLING),
        }
    }

    /// Its `vcpu_info`: the registered one, or the one in the shared page for the first 32. `None` for a later
    /// vCPU that registered nothing yet; it gets no events.
    #[must_use]
    #[inline]
    pub fn info<'a>(&'a self, domain: &'a Domain) -> Option<Info<'a>> {
        if let Some(place) = self.info.get() {
            return Some(Info { frame: &place.frame, offset: place.offset });
        }
        let id = usize::try_from(self.id).ok().filter(|&id| id < LEGACY_MAX_VCPUS)?;
        Some(Info { frame: &domain.shared_info, offset: id * vcpu_info::SIZE })
    }
}
