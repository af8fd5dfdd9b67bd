//! The ring between a domain and the store: its page, where Xen's toolstack has it (`special_pfn` of
//! `tools/libs/guest`), and what leads there: parameters, an event channel, and the reserved grant by which
//! the store's domain maps the page (`GNTTAB_RESERVED_XENSTORE`).
//!
//! The page is RAM of the domain like any other and counts as such. Every domain has it; it is told of it, and
//! tied to a store, when a module says `store`. All of it is done between building and starting, when nobody
//! else looks.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use gnttab_fast::abi::RESERVED_XENSTORE;
use gnttab_fast::types::{DomId, Gfn, Gref, PAGE_SHIFT};

use super::{Domain, layout};
use crate::abi::hvm::params;
use crate::event::ops;
use crate::mm::{
    frames::{self, Owner},
    p2m::P2mKind,
    shared::SharedFrame,
};

/// `SPECIALPAGE_XENSTORE`
const STORE: Gfn = Gfn((layout::SPECIAL.0 >> PAGE_SHIFT) + 4);
/// How many pages there are of this kind.
pub const PAGES: u64 = 1;
/// `evtchn_port` of `struct xenstore_domain_interface`.
const STORE_PORT: usize = 2076;

/// Gives a domain under construction the page, zeroed. `None`: no memory.
pub(super) fn fill(domain: &Domain) -> Option<()> {
    let mfn = frames::alloc(0, Owner::Domain(domain.id))?;
    if domain.p2m.set(STORE, mfn, 0, P2mKind::RamRw).is_err() {
        frames::put_ref(mfn);
        return None;
    }
    domain.pages.fetch_add(PAGES, Ordering::Relaxed);
    Some(())
}

/// Ties a complete domain to the store's, if there is one. `None`: no memory.
pub(super) fn connect(domain: &Domain, store: Option<DomId>) -> Option<()> {
    // The store is no client of itself.
    let Some(store) = store.filter(|&store| store != domain.id) else { return Some(()) };
    let page = SharedFrame::pin(domain.p2m.ram(STORE)?.mfn, domain.id)?;
    let port = ops::alloc_unbound(domain, store).ok()?;
    page.u32(STORE_PORT).store(port, Ordering::Relaxed);
    domain.grants.table().preset(Gref(RESERVED_XENSTORE), store, STORE);
    domain.params.set(params::STORE_PFN, STORE.0);
    domain.params.set(params::STORE_EVTCHN, u64::from(port));
    Some(())
}
