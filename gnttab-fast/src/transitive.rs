//! Transitive grants: an entry of version 2 that passes on an entry of another domain's table. For copies
//! only, and one hop.
//!
//! # How
//! The shared entry is looked at first, without holding anything. If it passes something on to the caller,
//! the other end is pinned in its own table, for the domain that passes it on, as any grant is: so it must be
//! of the ordinary kind, and a second hop is refused (XSA-226). Then the entry itself is made busy, marked,
//! and checked to pass on that same grant; if its guest has changed it meanwhile, the other pin is dropped
//! and all begins anew, five times at most. Each pin of the entry is matched by one of the other end, taken
//! before it and dropped after it, on every way out. No entry is waited for while another is busy, so two
//! domains that pass each other's grants on cannot stop each other (XSA-411). The stack depth is what it is
//! for any copy.
//!
//! # Policy
//! All three domains must be let: the one that copies, the one that passes on, and the one whose frame it is. If
//! one is not, the other end is not looked at, and the element fails as an entry that grants nothing does.

use crate::active::{Frame, Passing, Pin};
use crate::grant::Grant;
use crate::host::{Domain, Host};
use crate::shared::TRIES;
use crate::status::Status;
use crate::table::Entry;
use crate::types::{DomId, Gref};

/// A pin of the other end.
pub(crate) struct Passed<'h, D> {
    domain: &'h D,
    gref: Gref,
    entry: Entry<'h>,
    pin: Pin,
}

impl<D: Domain> Passed<'_, D> {
    /// Drops the pin. The entry that passed it on is to be unpinned before.
    pub(crate) fn release(&self) {
        self.entry.unpin(self.pin, self.domain.grants(), self.gref);
    }
}

/// A transitive entry, and what it must pass on.
struct Link<'a, D> {
    granter: &'a D,
    gref: Gref,
    to: (DomId, Gref),
}

impl<D: Domain> Passing for Link<'_, D> {
    fn mark_transitive(&self, grantee: Option<DomId>, pin: Pin, set: u16) -> Result<(), Status> {
        let entry = self.granter.grants().entry_v2(self.gref).ok_or(Status::BadGntref)?;
        entry.mark_transitive(grantee, pin, set, self.to)
    }
}

/// Pins entry `gref` of `granter`, if it is transitive, and what it passes on. To be tried when the entry
/// could not be pinned as an ordinary one; `status` is why, and what remains to be said if the entry is not
/// transitive at all, or not for this caller, or policy does not let it be.
///
/// # Errors
/// The status for the guest; nothing is pinned.
pub(crate) fn pin<'h, H: Host>(
    host: &'h H,
    granter: &'h H::Domain,
    gref: Gref,
    entry: Entry<'h>,
    pin: Pin,
    status: Status,
) -> Result<(Frame, Passed<'h, H::Domain>), Status> {
    let caller = host.caller();
    if !allowed(caller) || !allowed(granter) {
        return Err(status);
    }
    for _ in 0..TRIES {
        let words = granter.grants().peek_v2(gref).ok_or(status)?;
        if !words.is_transitive_for(caller.id(), pin) {
            return Err(status);
        }
        let to @ (owner, other) = words.passes_on();
        // An entry of one's own is no other end.
        let owner = host.domain(owner).filter(|owner| owner.id() != granter.id() && !owner.is_dying());
        let owner = owner.filter(|owner| allowed(*owner)).ok_or(Status::GeneralError)?;
        let passed = owner.grants().entry(other).ok_or(Status::BadGntref)?;
        let frame = passed.active.pin(granter.id(), pin, Grant::<_, false>::new(owner, other, passed))?;
        let passed = Passed { domain: owner, gref: other, entry: passed, pin };
        match entry.active.pin_transitive(caller.id(), pin, frame, &Link { granter, gref, to }) {
            Ok(()) => return Ok((frame, passed)),
            Err(_) => passed.release(),
        }
    }
    Err(Status::GeneralError)
}

fn allowed<D: Domain>(domain: &D) -> bool {
    domain.grants().policy().transitive()
}
