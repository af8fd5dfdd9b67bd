//! Grace periods: one collector for the machine, one handle for each pCPU.

use crossbeam_epoch::{Collector, Guard};
use gnttab_fast::types::Mfn;

/// The machine's one collector.
#[must_use]
pub fn collector() -> &'static Collector {
    todo!()
}

/// Pins this pCPU: until the guard is dropped nothing that was reachable is freed or reused.
#[must_use]
pub fn pin() -> Guard {
    todo!()
}

/// Frees one frame of the hypervisor (a page-table page, a grant frame ...) after a grace period.
pub fn retire_frame(mfn: Mfn) {
    let _ = mfn;
    todo!()
}

/// Moves retirement on: a bounded piece of work, for the idle loop and the ends of slow paths.
pub fn collect_some() {
    todo!()
}
