//! `GNTTABOP_unmap_grant_ref`, `GNTTABOP_unmap_and_replace`, and giving mappings back at a domain's death.
//!
//! Elements are taken in chunks. For a chunk, the handles are claimed and the mappings taken out of the
//! caller's physical map, one by one; then one TLB flush; and only then are guest-visible bits cleared, pins
//! dropped, references put and handles freed, in this order for each element (XSA-218, XSA-236: a page
//! reference goes after the pin), and the statuses written. If the argument array ends in a fault, what was
//! taken out before is completed all the same.
//!
//! A handle is claimed by one unmap at a time (crate `maptrack`), so racing and repeated unmaps of one
//! handle find [`Status::BadHandle`]. An unmap that names no half of it changes nothing and is okay
//! (XSA-394).

use crate::abi::{UnmapAndReplace, UnmapGrantRef};
use crate::active::{Frame, Pin};
use crate::args::Args;
use crate::host::{Domain, Domains, Fault, GuestMemory, Host};
use crate::op::Progress;
use crate::status::Status;
use crate::table::Entry;
use crate::types::{DomId, Gfn, Gref, PAGE_SHIFT};
use arrayvec::ArrayVec;
use maptrack::{Claim, Halves, Handle};
use zerocopy::{FromBytes, IntoBytes};

/// Elements to a TLB flush.
pub const CHUNK: usize = 64;
/// [`CHUNK`] as the ABI counts.
const CHUNK_U32: u32 = 64;
const _: () = assert!(CHUNK_U32 as usize == CHUNK);

/// The structure of an operation.
pub(crate) trait UnmapArg: FromBytes + IntoBytes {
    /// Where its status is.
    const STATUS: usize;
    /// Host address, replacement address, handle.
    fn parts(&self) -> (u64, u64, u32);
}

impl UnmapArg for UnmapGrantRef {
    const STATUS: usize = core::mem::offset_of!(Self, status);

    fn parts(&self) -> (u64, u64, u32) {
        // No mapping has a device half, so the device address is not looked at.
        (self.host_addr, 0, self.handle)
    }
}

impl UnmapArg for UnmapAndReplace {
    const STATUS: usize = core::mem::offset_of!(Self, status);

    fn parts(&self) -> (u64, u64, u32) {
        (self.host_addr, self.new_addr, self.handle)
    }
}

/// A mapping that a handle claimed stands for.
struct Mapping<'h, D> {
    claim: Claim,
    granter: &'h D,
    entry: Entry<'h>,
    frame: Frame,
    pin: Pin,
}

impl<'h, D: Domain> Mapping<'h, D> {
    /// Finds the granter's side of a claim. `None` if there is none, which no handle should come to.
    fn new<S: Domains<Domain = D>>(domains: &'h S, claim: Claim) -> Result<Self, Claim> {
        let info = claim.info();
        let found = domains
            .domain(DomId(info.domid))
            .and_then(|granter| Some((granter, granter.grants().entry(Gref(info.gref))?)));
        match found {
            Some((granter, entry)) => {
                let pin = Pin::for_access(!info.readonly);
                // The handle's own pin keeps the frame word.
                Ok(Self { claim, granter, entry, frame: entry.active.frame(), pin })
            }
            None => Err(claim),
        }
    }

    /// Drops pin and page reference, in this order, once nothing reaches the frame any more.
    fn release(self) -> Claim {
        let Self { claim, granter, entry, frame, pin } = self;
        entry.unpin(pin, granter.grants(), Gref(claim.info().gref));
        granter.put_frame(frame.mfn());
        claim
    }
}

/// The operation on `count` elements at the start of `args`.
pub(crate) fn unmap<H: Host, M: GuestMemory, T: UnmapArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
    count: u32,
) -> Result<Progress, Fault> {
    let mut done = 0;
    while done < count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        done += chunk(host, args, done, count - done)?;
    }
    Ok(Progress::Done)
}

fn chunk<H: Host, M: GuestMemory, T: UnmapArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
    first: u32,
    left: u32,
) -> Result<u32, Fault> {
    let mut statuses = ArrayVec::<Status, CHUNK>::new();
    let mut out = ArrayVec::<Mapping<'_, H::Domain>, CHUNK>::new();
    let mut fault = Ok(());
    for index in first..first + left.min(CHUNK_U32) {
        match args.read(index) {
            Ok(arg) => {
                let status = match take_out(host, &arg, &out) {
                    Ok(mapping) => {
                        out.extend(mapping);
                        Status::Okay
                    }
                    Err(status) => status,
                };
                statuses.push(status);
            }
            Err(at) => {
                fault = Err(at);
                break;
            }
        }
    }
    if !out.is_empty() {
        host.caller().flush();
        let mut handles = host.caller().grants().maptrack().local(host.cpu());
        for mapping in out.drain(..) {
            handles.finish_unmap(mapping.release());
        }
    }
    let mut index = first;
    for status in &statuses {
        args.write_status(index, T::STATUS, *status)?;
        index += 1;
    }
    fault.map(|()| index - first)
}

/// Claims one handle and takes its mapping out of the physical map. `None` if nothing was asked for. `out` is
/// what this chunk has taken out before.
fn take_out<'h, H: Host, T: UnmapArg>(
    host: &'h H,
    arg: &T,
    out: &[Mapping<'h, H::Domain>],
) -> Result<Option<Mapping<'h, H::Domain>>, Status> {
    let (host_addr, new_addr, handle) = arg.parts();
    let caller = host.caller();
    let maptrack = caller.grants().maptrack();
    let asked = if host_addr == 0 { Halves::NONE } else { Halves::HOST };
    let claim = maptrack.begin_unmap(Handle::from_raw(handle), asked).map_err(|_| Status::BadHandle)?;
    if claim.halves().is_empty() {
        maptrack.rollback(claim);
        // To the guest, a handle taken out earlier in the chunk is gone already.
        let gone = out.iter().any(|before| before.claim.handle().raw() == handle);
        return if gone { Err(Status::BadHandle) } else { Ok(None) };
    }
    let mapping = match Mapping::new(host, claim) {
        Ok(mapping) => mapping,
        Err(claim) => {
            maptrack.rollback(claim);
            host.crash_caller("a grant handle names a domain that is gone");
            return Err(Status::BadDomain);
        }
    };
    // A translated guest's mapping cannot be replaced by another.
    let gfn = Gfn(host_addr >> PAGE_SHIFT);
    if new_addr != 0 || caller.unmap_frame(gfn, mapping.frame.mfn(), mapping.pin.writes()).is_err() {
        maptrack.rollback(mapping.claim);
        return Err(Status::GeneralError);
    }
    Ok(Some(mapping))
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
    maptrack.walk(from, budget, |handle, _| {
        let Ok(claim) = maptrack.begin_unmap(handle, Halves::BOTH) else { return };
        let claim = match Mapping::new(domains, claim) {
            Ok(mapping) => mapping.release(),
            // The granter is gone, and its table with it.
            Err(claim) => claim,
        };
        maptrack.finish_unmap(cpu, claim);
    })
}
