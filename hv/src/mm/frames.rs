//! Frames of RAM: who owns each, how many references it has, and which are free.

use gnttab_fast::types::{DomId, Mfn};

/// Whom a frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody: it can be allocated.
    Free,
    /// The hypervisor itself.
    Hypervisor,
    /// A domain.
    Domain(DomId),
}

/// The largest order [`alloc`] serves: 2^9 frames, 2 MiB.
pub const MAX_ORDER: u8 = 9;

/// Takes `1 << order` contiguous, naturally aligned, zeroed frames for `owner`; each starts with one
/// reference, the allocation's own. A domain's frame goes back by [`put_ref`], frame by frame; the
/// hypervisor's by [`free`].
#[must_use]
pub fn alloc(order: u8, owner: Owner) -> Option<Mfn> {
    let _ = (order, owner);
    todo!()
}

/// Gives back what [`alloc`] handed to [`Owner::Hypervisor`], at once. What other CPUs may still be
/// reading goes through [`crate::epoch::retire_frame`] instead.
pub fn free(mfn: Mfn, order: u8) {
    let _ = (mfn, order);
    todo!()
}

/// The owner of a frame; `None` when it is not RAM.
#[must_use]
pub fn owner(mfn: Mfn) -> Option<Owner> {
    let _ = mfn;
    todo!()
}

/// Takes a reference to a frame of `domain`; false when it is not (or no longer) that domain's.
#[must_use]
pub fn get_ref(mfn: Mfn, domain: DomId) -> bool {
    let _ = (mfn, domain);
    todo!()
}

/// Drops a reference to a domain's frame. After the last one the frame is nobody's, and is reused after
/// an epoch grace period.
pub fn put_ref(mfn: Mfn) {
    let _ = mfn;
    todo!()
}

/// How many frames `domain` owns now, for leak audits.
#[must_use]
pub fn owned_by(domain: DomId) -> u32 {
    let _ = domain;
    todo!()
}

/// What [`stats`] tells, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Under management.
    pub total: u64,
    /// Ready to be allocated.
    pub free: u64,
    /// Waiting for a grace period.
    pub retired: u64,
}

/// The state of the allocator.
#[must_use]
pub fn stats() -> Stats {
    todo!()
}
