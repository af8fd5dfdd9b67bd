//! A grant as map and copy take it: an entry of the granter's table with the granter's p2m behind it.
//!
//! [`Grant`] is the [`Backing`] of the shipped code. Its `MAPS` tells a mapping, which holds its frame by a
//! reference for as long as the handle lives, from a copy, which needs none: the caller's epoch keeps the
//! frame, so a copy only makes sure that the frame is its granter's within that epoch.

use crate::active::{Backing, Found, Frame, Pin};
use crate::host::{Domain, Host};
use crate::shared::{EntryV1, WordV1};
use crate::status::Status;
use crate::table::Entry;
use crate::types::DomId;

/// The world around one entry.
pub(crate) struct Grant<'a, D, const MAPS: bool> {
    granter: &'a D,
    shared: EntryV1<'a>,
}

impl<'a, D: Domain, const MAPS: bool> Grant<'a, D, MAPS> {
    #[inline]
    pub(crate) fn new(granter: &'a D, entry: Entry<'a>) -> Self {
        Self { granter, shared: entry.shared }
    }
}

impl<D: Domain, const MAPS: bool> Backing for Grant<'_, D, MAPS> {
    type Mark = WordV1;

    #[inline]
    fn mark(&self, grantee: Option<DomId>, pin: Pin) -> Result<WordV1, Status> {
        self.shared.mark(grantee, pin, MAPS)
    }

    #[inline]
    fn unmark(&self, bits: u16) {
        self.shared.unmark(bits);
    }

    #[inline]
    fn find(&self, mark: WordV1, pin: Pin) -> Result<Found, Status> {
        let ram = self.granter.ram(mark.gfn()).ok_or(Status::BadPage)?;
        if pin.writes() && !ram.writable {
            return Err(Status::BadPage);
        }
        let frame = Frame::whole(ram.mfn);
        if MAPS && !self.hold(frame) {
            return Err(Status::BadPage);
        }
        Ok(Found { frame, writable: ram.writable, sub_page: false })
    }

    fn recheck(&self, mark: WordV1, recorded: Frame) -> Result<(), Status> {
        // A mapping uses the frame on record whatever the entry says now. A copy that finds another frame in
        // the entry fails: it must not use the new one (XSA-500), and Xen does not let it use the old one.
        if MAPS {
            return Ok(());
        }
        match self.granter.ram(mark.gfn()) {
            None => Err(Status::BadPage),
            Some(ram) if ram.mfn == recorded.mfn() => Ok(()),
            Some(_) => Err(Status::GeneralError),
        }
    }

    fn hold(&self, frame: Frame) -> bool {
        if MAPS { self.granter.get_frame(frame.mfn()) } else { self.granter.owns(frame.mfn()) }
    }

    fn let_go(&self, frame: Frame) {
        if MAPS {
            self.granter.put_frame(frame.mfn());
        }
    }

    #[inline]
    fn maps(&self) -> bool {
        MAPS
    }
}

/// A domain to take grants from or put them to. The elements of a batch come in runs that name the same
/// one, so the last answer is kept.
pub(crate) struct Granter<'h, H: Host> {
    last: Option<(DomId, &'h H::Domain)>,
}

impl<'h, H: Host> Granter<'h, H> {
    pub(crate) const fn new() -> Self {
        Self { last: None }
    }

    /// The domain of that number, `DOMID_SELF` excluded, unless it is dying.
    #[inline(always)]
    pub(crate) fn find(&mut self, host: &'h H, id: DomId) -> Result<&'h H::Domain, Status> {
        match self.last {
            Some((last, domain)) if last == id => Ok(domain),
            _ => self.look_up(host, id),
        }
    }

    #[cold]
    fn look_up(&mut self, host: &'h H, id: DomId) -> Result<&'h H::Domain, Status> {
        let domain = host.domain(id).filter(|d| !d.is_dying()).ok_or(Status::BadDomain)?;
        self.last = Some((id, domain));
        Ok(domain)
    }
}
