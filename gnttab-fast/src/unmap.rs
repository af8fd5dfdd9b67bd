//! `GNTTABOP_unmap_grant_ref`, `GNTTABOP_unmap_and_replace`, and giving mappings back at a domain's death.
//!
//! Elements are taken in chunks. For a chunk, the handles are claimed and the mappings taken out of the
//! caller's physical map, one by one, and their statuses written; then one TLB flush; and only then are
//! guest-visible bits cleared, pins dropped, references put and handles freed, in this order for each element
//! (XSA-218, XSA-236: a page reference goes after the pin). If the argument array ends in a fault, what was
//! taken out before is completed all the same. A status says what will be so when the hypercall returns: as in
//! Xen, who reads it earlier on another CPU learns nothing of the flush.
//!
//! A handle is claimed by one unmap at a time (crate `maptrack`), so racing and repeated unmaps of one
//! handle find [`Status::BadHandle`]. An unmap that names no half of it changes nothing and is okay
//! (XSA-394).

use crate::active::{Frame, Pin};
use crate::args::Args;
use crate::cells::UnmapCells;
use crate::host::{Domain, Domains, Fault, GuestMemory, Host};
use crate::op::Progress;
use crate::status::Status;
use crate::table::{Entry, Window};
use crate::types::{DomId, Gfn, Gref, PAGE_SHIFT};
use arrayvec::ArrayVec;
use maptrack::{Halves, Handle, Taken};

/// Elements to a TLB flush.
pub const CHUNK: usize = 64;
/// [`CHUNK`] as the ABI counts.
const CHUNK_U32: u32 = 64;
const _: () = assert!(CHUNK_U32 as usize == CHUNK);

/// A mapping that a handle claimed stands for.
struct Mapping<'h, D> {
    claim: Taken<'h>,
    granter: &'h D,
    entry: Entry<'h>,
}

impl<'h, D: Domain> Mapping<'h, D> {
    /// Finds the granter's side of a claim.
    ///
    /// # Errors
    /// The claim, if there is none, which no handle should come to.
    #[inline(always)]
    fn new<S: Domains<Domain = D>>(
        granters: &mut Owners<'h, S>,
        domains: &'h S,
        claim: Taken<'h>,
    ) -> Result<Self, Taken<'h>> {
        let info = claim.info();
        match granters.entry(domains, DomId(info.domid), Gref(info.gref)) {
            Some((granter, entry)) => Ok(Self { claim, granter, entry }),
            None => Err(claim),
        }
    }

    /// Its frame: the handle's own pin keeps the frame word.
    #[inline(always)]
    fn frame(&self) -> Frame {
        self.entry.active.frame()
    }

    #[inline(always)]
    fn pin(&self) -> Pin {
        Pin::for_access(!self.claim.info().readonly)
    }

    /// Drops pin and page reference, in this order, once nothing reaches the frame any more.
    #[inline(always)]
    fn release(self) -> Taken<'h> {
        let (frame, pin) = (self.frame(), self.pin());
        let Self { claim, granter, entry } = self;
        entry.unpin(pin, granter.grants(), Gref(claim.info().gref));
        granter.put_frame(frame.mfn());
        claim
    }
}

/// The domain whose entries handles came to last, dying or not, and the part of its table.
struct Owners<'h, S: Domains> {
    last: Option<(DomId, &'h S::Domain, Window<'h>)>,
}

impl<'h, S: Domains> Owners<'h, S> {
    #[inline(always)]
    fn entry(&mut self, domains: &'h S, id: DomId, gref: Gref) -> Option<(&'h S::Domain, Entry<'h>)> {
        match &self.last {
            Some((last, domain, window)) if *last == id && window.holds(gref) => {
                Some((domain, window.entry(gref)?))
            }
            _ => self.look_up(domains, id, gref),
        }
    }

    #[inline(never)]
    fn look_up(&mut self, domains: &'h S, id: DomId, gref: Gref) -> Option<(&'h S::Domain, Entry<'h>)> {
        let domain = domains.domain(id)?;
        self.last = domain.grants().window(gref).map(|window| (id, domain, window));
        Some((domain, domain.grants().entry(gref)?))
    }
}

/// The operation on `count` elements at the start of `args`; with `REPLACES`, `unmap_and_replace`.
pub(crate) fn unmap<H: Host, M: GuestMemory, const REPLACES: bool>(
    host: &H,
    args: &mut Args<'_, M, UnmapCells>,
    count: u32,
) -> Result<Progress, Fault> {
    let mut done = 0;
    while done < count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        let mut out = ArrayVec::new_const();
        let next = count.min(done + CHUNK_U32);
        let fault = chunk::<H, M, REPLACES>(host, args, done, next, &mut out);
        if !out.is_empty() {
            complete(host, &mut out);
        }
        fault?;
        done = next;
    }
    Ok(Progress::Done)
}

/// Takes out what the elements from `at` up to `end` name, [`CHUNK`] at most, and writes their statuses.
///
/// # Errors
/// [`Fault`]; what `out` holds by then is to be completed all the same.
#[inline(never)]
fn chunk<'h, H: Host, M: GuestMemory, const REPLACES: bool>(
    host: &'h H,
    args: &mut Args<'_, M, UnmapCells>,
    mut at: u32,
    end: u32,
    out: &mut ArrayVec<Mapping<'h, H::Domain>, CHUNK>,
) -> Result<(), Fault> {
    let mut owners = Owners { last: None };
    let mut one = |cell: &UnmapCells| match take_out::<H, REPLACES>(host, &mut owners, cell, out) {
        Ok(()) => Status::Okay,
        Err(status) => status,
    };
    while at < end {
        let cells = args.in_place(at, end - at)?;
        for cell in cells {
            cell.set_status(one(cell).abi());
            at += 1;
        }
        if cells.is_empty() {
            let status = one(&args.read(at)?);
            args.write_status(at, UnmapCells::STATUS, status)?;
            at += 1;
        }
    }
    Ok(())
}

/// Flushes, and then gives back what was taken out.
#[inline(never)]
fn complete<H: Host>(host: &H, out: &mut ArrayVec<Mapping<'_, H::Domain>, CHUNK>) {
    host.caller().flush();
    let mut handles = host.caller().grants().maptrack().local(host.cpu());
    for mapping in out.drain(..) {
        handles.finish_taken(mapping.release());
    }
}

/// Claims one handle, takes its mapping out of the physical map and adds it to `out`, with what this chunk has
/// taken out before. If nothing was asked for, that is all.
#[inline(always)]
fn take_out<'h, H: Host, const REPLACES: bool>(
    host: &'h H,
    owners: &mut Owners<'h, H>,
    cell: &UnmapCells,
    out: &mut ArrayVec<Mapping<'h, H::Domain>, CHUNK>,
) -> Result<(), Status> {
    let (host_addr, other_addr, handle) = cell.load();
    // No mapping has a device half, so its address is not looked at.
    let new_addr = if REPLACES { other_addr } else { 0 };
    let caller = host.caller();
    let maptrack = caller.grants().maptrack();
    let asked = if host_addr == 0 { Halves::NONE } else { Halves::HOST };
    let claim = maptrack.take(Handle::from_raw(handle), asked).map_err(|_| Status::BadHandle)?;
    if claim.halves().is_empty() {
        claim.give_back();
        // To the guest, a handle taken out earlier in the chunk is gone already.
        let gone = out.iter().any(|before| before.claim.handle().raw() == handle);
        return if gone { Err(Status::BadHandle) } else { Ok(()) };
    }
    let mapping = match Mapping::new(owners, host, claim) {
        Ok(mapping) => mapping,
        Err(claim) => {
            claim.give_back();
            host.crash_caller("a grant handle names a domain that is gone");
            return Err(Status::BadDomain);
        }
    };
    // A translated guest's mapping cannot be replaced by another.
    let gfn = Gfn(host_addr >> PAGE_SHIFT);
    if new_addr != 0 || caller.unmap_frame(gfn, mapping.frame().mfn(), mapping.pin().writes()).is_err() {
        mapping.claim.give_back();
        return Err(Status::GeneralError);
    }
    out.push(mapping);
    Ok(())
}

/// Gives back, on CPU `cpu`, what the dead domain `dead` has mapped: the handles among the next `budget`
/// from `from` on. Returns where to go on, `None` when all is done. Its vCPUs have stopped for good and no
/// CPU reaches memory through its physical map any more.
pub fn teardown_step<S: Domains>(
    domains: &S,
    dead: &S::Domain,
    cpu: u32,
    from: u32,
    budget: u32,
) -> Option<u32> {
    let maptrack = dead.grants().maptrack();
    let mut owners = Owners { last: None };
    maptrack.walk(from, budget, |handle, _| {
        let Ok(claim) = maptrack.take(handle, Halves::BOTH) else { return };
        let claim = match Mapping::new(&mut owners, domains, claim) {
            Ok(mapping) => mapping.release(),
            // The granter is gone, and its table with it.
            Err(claim) => claim,
        };
        maptrack.local(cpu).finish_taken(claim);
    })
}
