//! The table that finds a domain by its number.
//!
//! Slots hold an `Arc` behind an epoch pointer: [`get`] is one load under the caller's guard, without
//! counting a reference. A domain that leaves the table is dropped after a grace period, and lives on as
//! long as somebody keeps an `Arc`. A number is used again only when
//! nothing of its last domain is left ([`restart`](super::restart)).
#![expect(unsafe_code, reason = "dereference of epoch pointers")]

use alloc::sync::Arc;

use core::sync::atomic::Ordering;
use crossbeam_epoch::{Atomic, Guard, Owned, Shared};
use gnttab_fast::types::DomId;

use super::Domain;
use maptrack::index_nospec;

/// Numbers a domain can have: `0..MAX_DOMAINS`.
pub const MAX_DOMAINS: usize = 64;

static TABLE: [Atomic<Arc<Domain>>; MAX_DOMAINS] = [const { Atomic::null() }; MAX_DOMAINS];

fn slot(id: DomId) -> Option<&'static Atomic<Arc<Domain>>> {
    let index = usize::from(id.0);
    // Guests choose the number: masked against speculation behind the check (Spectre v1).
    if index < MAX_DOMAINS { TABLE.get(index_nospec(index, MAX_DOMAINS)) } else { None }
}

/// The domain of that number, also a dying one.
#[must_use]
#[inline]
pub fn get(id: DomId, guard: &Guard) -> Option<&Domain> {
    arc(id, guard).map(|found| &**found)
}

/// The domain of that number, for who wants to keep it (clone the `Arc`).
#[must_use]
#[inline]
pub fn arc(id: DomId, guard: &Guard) -> Option<&Arc<Domain>> {
    let found = slot(id)?.load(Ordering::Acquire, guard);
    // SAFETY: a slot is null or points to an `Arc` that `insert` made and that `remove` destroys only after
    // a grace period; `guard` was pinned before the load and outlives the reference.
    unsafe { found.as_ref() }
}

/// Puts a domain under its number. False, and the domain is not in, when the number is out of range or taken.
#[must_use]
pub fn insert(domain: Arc<Domain>, guard: &Guard) -> bool {
    let Some(slot) = slot(domain.id) else { return false };
    slot.compare_exchange(Shared::null(), Owned::new(domain), Ordering::AcqRel, Ordering::Acquire, guard)
        .is_ok()
}

/// Takes a domain out of the table. It is dropped after a grace period and after its last `Arc`.
pub fn remove(id: DomId, guard: &Guard) {
    let Some(slot) = slot(id) else { return };
    let old = slot.swap(Shared::null(), Ordering::AcqRel, guard);
    if !old.is_null() {
        // SAFETY: the pointer came out of the slot by a swap, so nobody else destroys it and no new reader
        // can find it; readers that did hold guards.
        unsafe { guard.defer_destroy(old) };
    }
}

/// Every domain that is in the table now.
pub fn all(guard: &Guard) -> impl Iterator<Item = &Arc<Domain>> {
    (0..MAX_DOMAINS).filter_map(move |id| arc(DomId(u16::try_from(id).ok()?), guard))
}
