//! One vCPU of a domain: what other CPUs may ask of it, and the guest state the running pCPU holds.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use gnttab_fast::types::DomId;
use spin::{Mutex, Once};

use super::{Domain, runstate::Runstate};
use crate::abi::xen::{LEGACY_MAX_VCPUS, vcpu_info};
use crate::dev::lapic::Lapic;
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
    /// System time of the periodic timer's next tick, or [`NO_TIMER`], and the time between two of them.
    pub(crate) tick_ns: AtomicU64,
    pub(crate) tick_period_ns: AtomicU64,
    /// System time at which a `SCHEDOP_poll` gives up; [`NO_TIMER`]: never.
    pub(crate) poll_until_ns: AtomicU64,
    /// The port a `SCHEDOP_poll` waits for, [`POLLING_ANY`] for several, or [`NOT_POLLING`].
    pub(crate) poll: AtomicU32,
    /// Its local APIC.
    pub lapic: Lapic,
    /// How long it has been in which state.
    pub runstate: Runstate,
    info: Once<InfoPlace>,
    up: AtomicBool,
    /// Its registers have been set: it can be brought up.
    initialised: AtomicBool,
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

impl<'a> Info<'a> {
    /// `evtchn_upcall_pending`: not zero when an event waits.
    #[must_use]
    #[inline]
    pub fn upcall_pending(&self) -> &'a AtomicU8 {
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
            tick_ns: AtomicU64::new(NO_TIMER),
            tick_period_ns: AtomicU64::new(0),
            poll_until_ns: AtomicU64::new(NO_TIMER),
            poll: AtomicU32::new(NOT_POLLING),
            lapic: Lapic::default(),
            runstate: Runstate::default(),
            up: AtomicBool::new(false),
            initialised: AtomicBool::new(false),
        }
    }

    /// Whether it shall run (`VCPUOP_up`, `VCPUOP_down`).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }

    /// Says whether it shall run; true when that is news. The scheduler has to be told.
    pub fn set_up(&self, up: bool) -> bool {
        if up {
            self.initialised.store(true, Ordering::SeqCst);
        }
        self.up.swap(up, Ordering::SeqCst) != up
    }

    /// Whether its registers have been set.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.initialised.load(Ordering::SeqCst)
    }

    /// Says that its registers are set; false when they were before.
    pub fn set_initialised(&self) -> bool {
        !self.initialised.swap(true, Ordering::SeqCst)
    }

    /// Registers another place for its `vcpu_info` (`VCPUOP_register_vcpu_info`); false when one is registered.
    /// The old contents are copied; the caller marks every event as pending behind this, since a sender may
    /// have written to the old place meanwhile.
    pub fn register_info(&self, domain: &Domain, frame: SharedFrame, offset: usize) -> bool {
        let mut fresh = false;
        self.info.call_once(|| {
            fresh = true;
            let id = usize::try_from(self.id).unwrap_or(usize::MAX);
            if id < LEGACY_MAX_VCPUS {
                for byte in (0..vcpu_info::SIZE).step_by(4) {
                    let old = domain.shared_info.u32(id * vcpu_info::SIZE + byte).load(Ordering::Relaxed);
                    frame.u32(offset + byte).store(old, Ordering::Relaxed);
                }
            }
            InfoPlace { frame, offset }
        });
        fresh
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
