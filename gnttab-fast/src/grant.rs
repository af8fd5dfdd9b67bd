//! A grant as map and copy take it: an entry of the granter's table with the granter's p2m behind it.
//!
//! [`Grant`] is the [`Backing`] of the shipped code. Its `MAPS` tells a mapping, which holds its frame by a
//! reference for as long as the handle lives, from a copy, which needs none: the caller's epoch keeps the
//! frame, so a copy only makes sure that the frame is its granter's within that epoch.

use crate::active::{Backing, Found, Frame, Pin};
use crate::host::{Domain, Host, Ram};
use crate::policy::Version;
use crate::shared::v2::WordsV2;
use crate::shared::{EntryV1, WordV1};
use crate::status::Status;
use crate::table::{Entry, Window};
use crate::types::{DomId, Gref};

/// The world around one entry.
pub(crate) struct Grant<'a, D, const MAPS: bool> {
    granter: &'a D,
    gref: Gref,
    shared: EntryV1<'a>,
}

/// A shared entry that was marked, as it was then.
#[derive(Clone, Copy)]
pub(crate) enum Mark {
    V1(WordV1),
    V2(WordsV2),
}

impl<D, const MAPS: bool> Clone for Grant<'_, D, MAPS> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D, const MAPS: bool> Copy for Grant<'_, D, MAPS> {}

impl<'a, D: Domain, const MAPS: bool> Grant<'a, D, MAPS> {
    #[inline(always)]
    pub(crate) fn new(granter: &'a D, gref: Gref, entry: Entry<'a>) -> Self {
        Self { granter, gref, shared: entry.shared }
    }

    #[cold]
    #[inline(never)]
    fn mark_v2(&self, grantee: Option<DomId>, pin: Pin) -> Result<Mark, Status> {
        // Version 2 has fewer entries: the reference was perhaps looked up before the switch.
        let entry = self.granter.grants().entry_v2(self.gref).ok_or(Status::BadGntref)?;
        entry.mark(grantee, pin, MAPS).map(Mark::V2)
    }

    /// The frame a marked entry names.
    #[inline(always)]
    fn ram(&self, mark: Mark) -> Option<Ram> {
        self.granter.ram(match mark {
            Mark::V1(word) => word.gfn(),
            Mark::V2(words) => words.gfn(),
        })
    }
}

impl Mark {
    /// The bytes granted of frame `ram`, and whether that is less than all of it.
    #[inline(always)]
    fn range(self, ram: Ram) -> (Frame, bool) {
        match self {
            Self::V1(_) => (Frame::whole(ram.mfn), false),
            Self::V2(words) => (words.range(ram.mfn), words.is_sub_page()),
        }
    }
}

impl<D: Domain, const MAPS: bool> Backing for Grant<'_, D, MAPS> {
    type Mark = Mark;

    #[inline(always)]
    fn mark(&self, version: Version, grantee: Option<DomId>, pin: Pin) -> Result<Mark, Status> {
        match version {
            Version::V1 => self.shared.mark(grantee, pin, MAPS).map(Mark::V1),
            Version::V2 => self.mark_v2(grantee, pin),
        }
    }

    #[inline(always)]
    fn unmark(&self, version: Version, bits: u16) {
        match version {
            Version::V1 => self.shared.unmark(bits),
            Version::V2 => self.granter.grants().unmark_v2(self.gref, bits),
        }
    }

    #[inline(always)]
    fn find(&self, mark: Mark, pin: Pin) -> Result<Found, Status> {
        let ram = self.ram(mark).ok_or(Status::BadPage)?;
        if pin.writes() && !ram.writable {
            return Err(Status::BadPage);
        }
        let (frame, sub_page) = mark.range(ram);
        if MAPS && !self.hold(frame) {
            return Err(Status::BadPage);
        }
        Ok(Found { frame, writable: ram.writable, sub_page })
    }

    fn recheck(&self, mark: Mark, recorded: Frame, sub_page: bool) -> Result<(), Status> {
        // A mapping uses the frame on record whatever the entry says now. A copy that finds another frame in
        // the entry fails: it must not use the new one (XSA-500), and Xen does not let it use the old one.
        if MAPS {
            return Ok(());
        }
        if matches!(mark, Mark::V2(words) if words.is_transitive()) {
            return Err(Status::GeneralError);
        }
        let ram = self.ram(mark).ok_or(Status::BadPage)?;
        let (frame, now_sub_page) = mark.range(ram);
        // Where all of the frame was granted, less of it is no matter: what is on record is used.
        let same_range = !sub_page || (now_sub_page && frame == recorded);
        if ram.mfn == recorded.mfn() && same_range { Ok(()) } else { Err(Status::GeneralError) }
    }

    fn passes_on(&self) -> bool {
        !MAPS && self.granter.grants().peek_v2(self.gref).is_some_and(WordsV2::is_transitive)
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

/// A domain to map grants of. The elements of a batch come in runs that name the same
/// one, so the last answer is kept.
pub(crate) struct Granter<'h, H: Host> {
    last: Option<(DomId, &'h H::Domain)>,
    /// Where the last entry was found in that domain's table.
    window: Option<Window<'h>>,
}

impl<'h, H: Host> Granter<'h, H> {
    pub(crate) const fn new() -> Self {
        Self { last: None, window: None }
    }

    /// As [`granter`].
    #[inline(always)]
    pub(crate) fn find(&mut self, host: &'h H, id: DomId) -> Result<&'h H::Domain, Status> {
        match self.last {
            Some((last, domain)) if last == id => Ok(domain),
            _ => self.look_up(host, id),
        }
    }

    #[cold]
    fn look_up(&mut self, host: &'h H, id: DomId) -> Result<&'h H::Domain, Status> {
        let domain = granter(host, id)?;
        *self = Self { last: Some((id, domain)), window: None };
        Ok(domain)
    }

    /// An entry of `domain`, which was found last.
    #[inline(always)]
    pub(crate) fn entry(&mut self, domain: &'h H::Domain, gref: Gref) -> Option<Entry<'h>> {
        match &self.window {
            Some(window) if window.holds(gref) => window.entry(gref),
            _ => self.look_up_entry(domain, gref),
        }
    }

    #[inline(never)]
    fn look_up_entry(&mut self, domain: &'h H::Domain, gref: Gref) -> Option<Entry<'h>> {
        self.window = domain.grants().window(gref);
        domain.grants().entry(gref)
    }
}

/// The domain of that number, `DOMID_SELF` excluded, unless it is dying.
#[inline]
pub(crate) fn granter<H: Host>(host: &H, id: DomId) -> Result<&H::Domain, Status> {
    host.domain(id).filter(|domain| !domain.is_dying()).ok_or(Status::BadDomain)
}
