//! Grace periods: one collector for the machine, one handle for each pCPU.
//!
//! A pCPU that follows pointers another may be replacing pins first ([`pin`]); what was reachable then
//! stays until it unpins. What is retired here is *structure and frames*, in bulk: never anything for
//! each map, unmap or copy, since the collector runs destructors in whoever happens to advance it.
//!
//! Frames go through [`crate::mm::frames`]' limbo list: any CPU pushes there in a few instructions, and
//! [`collect_some`] hands the whole list to the collector as one deferred call, which in turn only moves
//! it to the ready list. So a collection costs the same for one frame and for a million, and the work of
//! merging them is done in bounded pieces.

use crossbeam_epoch::{Collector, Guard};
use gnttab_fast::types::Mfn;
use spin::Once;

use crate::mm::frames;

/// Frames merged in one [`collect_some`].
const BUDGET: u32 = 512;

/// The machine's one collector.
#[must_use]
pub fn collector() -> &'static Collector {
    static COLLECTOR: Once<Collector> = Once::new();
    COLLECTOR.call_once(Collector::new)
}

/// A pCPU's registration, in its per-CPU block.
#[derive(Debug, Default)]
pub struct CpuEpoch {
    #[cfg(feature = "bare-metal")]
    handle: core::cell::UnsafeCell<Option<crossbeam_epoch::LocalHandle>>,
}

// SAFETY: the handle is written by `register` and read by `pin`, both through the running CPU's own block
// and with interrupts off; no other CPU and no NMI handler reaches it.
unsafe impl Sync for CpuEpoch {}
// SAFETY: a block is moved only before its CPU has registered, when there is no handle in it.
unsafe impl Send for CpuEpoch {}

impl CpuEpoch {
    /// Registers the running CPU, whose block this is part of.
    ///
    /// # Safety
    /// `self` belongs to the running CPU's own block; called once, before [`pin`].
    #[cfg(feature = "bare-metal")]
    pub(crate) unsafe fn register(&self) {
        // SAFETY: the caller's promise: nobody else looks.
        unsafe { *self.handle.get() = Some(collector().register()) };
    }
}

impl CpuEpoch {
    /// What pins this pCPU, whose block this is part of: for who pins again and again.
    pub(crate) fn pins(&self) -> Pins<'_> {
        #[cfg(feature = "bare-metal")]
        {
            // SAFETY: the running CPU's own block (callers use their own); only `register` writes, and it ran before.
            let handle = unsafe { &*self.handle.get() };
            Pins(handle.as_ref().expect("a CPU registers before it pins"))
        }
        #[cfg(not(feature = "bare-metal"))]
        Pins(core::marker::PhantomData)
    }
}

/// See [`CpuEpoch::pins`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pins<'a>(
    #[cfg(feature = "bare-metal")] &'a crossbeam_epoch::LocalHandle,
    #[cfg(not(feature = "bare-metal"))] core::marker::PhantomData<&'a CpuEpoch>,
);

impl Pins<'_> {
    /// As [`pin`].
    #[inline(always)]
    pub(crate) fn pin(self) -> Guard {
        #[cfg(feature = "bare-metal")]
        return self.0.pin();
        // A host's threads share the one block there, so each pin has a handle of its own.
        #[cfg(not(feature = "bare-metal"))]
        return collector().register().pin();
    }
}

/// Pins this pCPU: until the guard is dropped nothing that was reachable is freed or reused. Pins nest.
#[must_use]
pub fn pin() -> Guard {
    crate::arch::x86::percpu::this().epoch.pins().pin()
}

/// Frees one frame of the hypervisor (a page-table page, a grant frame ...) after a grace period.
pub fn retire_frame(mfn: Mfn) {
    frames::retire(mfn);
}

/// Moves retirement on: a bounded piece of work, for the idle loop and the ends of slow paths.
pub fn collect_some() {
    let guard = pin();
    if let Some(chain) = frames::take_limbo() {
        // SAFETY: the frames in the chain were made unreachable before they were pushed, and the call
        // itself touches nothing but the frame table, which lives for ever.
        unsafe { guard.defer_unchecked(move || frames::ready(chain)) };
    }
    guard.flush();
    drop(guard);
    frames::reclaim(BUDGET);
}
