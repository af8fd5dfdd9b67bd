//! Frames of a domain's table in another domain's p2m: what `XENMEM_acquire_resource` maps, and the count that
//! keeps their owner findable. See `memory/resource.rs` for the hypercall and for who races what.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use gnttab_fast::types::Mfn;

use crate::abi::{errno::Errno, memory};
use crate::domain::{self, Domain};
use crate::epoch;
use crate::mm::frames::{self, Owner};

/// What `XENMEM_acquire_resource` can be asked of a grant table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Shared frames.
    Shared,
    /// Status frames, of which version 1 has none.
    Status,
}

impl Resource {
    /// By its number in the ABI.
    #[must_use]
    pub const fn new(id: u32) -> Option<Self> {
        match id {
            memory::RESOURCE_GRANT_TABLE_SHARED => Some(Self::Shared),
            memory::RESOURCE_GRANT_TABLE_STATUS => Some(Self::Status),
            _ => None,
        }
    }

    /// The most frames of it there can be.
    #[must_use]
    pub fn most(self, owner: &Domain) -> u32 {
        let frames = owner.grants.table.limits().frames;
        match self {
            Self::Shared => frames,
            Self::Status => frames.div_ceil(SHARED_PER_STATUS),
        }
    }

    /// Makes sure that frame `index` is there.
    ///
    /// # Errors
    /// `EINVAL`: it cannot be, or there is no memory for it.
    pub fn grow(self, owner: &Domain, index: u32) -> Result<(), Errno> {
        self.frame(owner, index).map(|_| ())
    }

    pub(super) fn frame(self, owner: &Domain, index: u32) -> Result<Mfn, Errno> {
        let table = &owner.grants.table;
        match self {
            Self::Shared => table.shared_frame(index),
            Self::Status => table.status_frame(index),
        }
        .map_err(|_| Errno::EINVAL)
    }
}

/// Shared frames of version 2 whose entries have their status in one status frame.
const SHARED_PER_STATUS: u32 = 8;

/// Takes a frame of the owner's table for a place in another domain's p2m: a reference to it, and a count in
/// the owner, until [`foreign_removed`]. Under the guard that found the owner.
///
/// # Errors
/// `EINVAL` if there is no such frame, or no more; `ESRCH` if the owner is dying.
pub fn foreign_added(owner: &Domain, resource: Resource, index: u32) -> Result<Mfn, Errno> {
    if owner.is_dying() {
        return Err(Errno::ESRCH);
    }
    let mfn = resource.frame(owner, index)?;
    if !frames::get_ref(mfn, owner.id) {
        return Err(Errno::EINVAL);
    }
    owner.grants.foreign.fetch_add(1, Ordering::Relaxed);
    Ok(mfn)
}

/// The opposite of [`foreign_added`], once no CPU reaches the frame by that place any more.
pub fn foreign_removed(mfn: Mfn) {
    let guard = epoch::pin();
    // Our reference keeps it the owner's; our count keeps the owner in the table of domains.
    let owner = match frames::owner(mfn) {
        Some(Owner::Domain(id)) => domain::table::get(id, &guard),
        _ => None,
    };
    frames::put_ref(mfn);
    if let Some(owner) = owner {
        // Release: who sees zero sees the reference gone.
        owner.grants.foreign.fetch_sub(1, Ordering::Release);
    }
}
