//! What else than RAM stands in a guest's physical map: the shared info page, and frames of its grant table.
//!
//! A frame of the grant table stands in one place at a time: put elsewhere, it has moved. The table keeps the
//! place, and both change under the domain's memory lock, so a version switch that takes status frames away
//! finds each of them (XSA-255, XSA-379, XSA-486).
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use gnttab_fast::types::Gfn;

use super::{Leaving, changes, may_replace};
use crate::{
    abi::{
        errno::Errno,
        memory::{
            self as abi, MAPSPACE_DEV_MMIO, MAPSPACE_GMFN, MAPSPACE_GMFN_FOREIGN, MAPSPACE_GMFN_RANGE,
            MAPSPACE_GRANT_TABLE, MAPSPACE_SHARED_INFO, compat, op,
        },
    },
    domain::Domain,
    hypercall::{Call, Outcome, grant_table},
    mm::{
        frames,
        p2m::{MAX_GFN, P2mEntry, P2mError, P2mKind},
    },
    sched,
    vt::Width,
};

/// `INVALID_GFN`: no place, whatever the space.
const NOWHERE: u64 = u64::MAX;

/// An add request in the 64-bit layout.
fn add_request(call: &Call<'_>, arg: u64) -> Result<abi::AddToPhysmap, Errno> {
    Ok(match call.width {
        Width::Bits64 => call.read(arg)?,
        Width::Bits32 => {
            let request: compat::AddToPhysmap = call.read(arg)?;
            abi::AddToPhysmap {
                domid: request.domid,
                size: request.size,
                space: request.space,
                idx: request.idx.into(),
                gpfn: request.gpfn.into(),
            }
        }
    })
}

/// `XENMEM_add_to_physmap`. Only a range could be continued, and ranges are not there.
pub(super) fn add(call: &Call<'_>, arg: u64, first: u64) -> Result<(), Errno> {
    if first > u64::from(u16::MAX) {
        return Err(Errno::EDOM);
    }
    let request = add_request(call, arg)?;
    let target = call.target(request.domid)?;
    if request.gpfn == NOWHERE {
        return Err(Errno::EINVAL);
    }
    add_one(call, target, request.space, request.idx, Gfn(request.gpfn))
}

/// Maps a frame of the shared info or the grant table of `domain` into its own map. What stood there is given
/// back.
fn add_one(call: &Call<'_>, domain: &Domain, space: u32, index: u64, gfn: Gfn) -> Result<(), Errno> {
    if gfn.0 >= MAX_GFN {
        return Err(Errno::EINVAL);
    }
    let _changes = changes(domain)?;
    let mfn = match space {
        MAPSPACE_SHARED_INFO if index == 0 => domain.shared_info.mfn(),
        MAPSPACE_SHARED_INFO => return Err(Errno::EINVAL),
        MAPSPACE_GRANT_TABLE => grant_table::physmap_frame(domain, index)?,
        MAPSPACE_GMFN | MAPSPACE_GMFN_RANGE | MAPSPACE_GMFN_FOREIGN => {
            // Another name for an own frame, or a frame of another domain.
            call.refuse("XENMAPSPACE", u64::from(space));
            return Err(Errno::ENOSYS);
        }
        // Devices, which an x86 domain has no part in here, and what is no space at all.
        _ => return Err(Errno::EINVAL),
    };
    // The p2m's entry holds a reference of its own.
    if !frames::get_ref(mfn, domain.id) {
        return Err(Errno::EINVAL);
    }
    let old = domain.p2m.set_if(gfn, mfn, P2mKind::Shared, may_replace).map_err(|why| {
        frames::put_ref(mfn);
        if why == P2mError::NoMemory { Errno::ENOMEM } else { Errno::EINVAL }
    })?;
    let mut leaving = Leaving { domain, frames: ArrayVec::new() };
    if let Some(old) = old {
        leaving.add(gfn, old);
    }
    if space == MAPSPACE_SHARED_INFO {
        if domain.id == call.domain.id {
            domain.latch_width(call.width);
        }
    } else if let Some(before) = grant_table::physmap_placed(domain, index, gfn) {
        // A frame stands in one place: it has moved.
        let same = |entry: P2mEntry| entry.mfn == mfn && entry.kind == P2mKind::Shared;
        // Not split from anything, so nothing to be short of; should it fail, it just stays there too.
        if let Ok(Some(entry)) = domain.p2m.clear_if(before, same) {
            leaving.add(before, entry);
        }
    }
    Ok(())
}

/// `XENMEM_remove_from_physmap`
pub(super) fn remove(call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let (domid, gpfn) = match call.width {
        Width::Bits64 => {
            let request: abi::RemoveFromPhysmap = call.read(arg)?;
            (request.domid, request.gpfn)
        }
        Width::Bits32 => {
            let request: compat::RemoveFromPhysmap = call.read(arg)?;
            (request.domid, u64::from(request.gpfn))
        }
    };
    let (domain, gfn) = (call.target(domid)?, Gfn(gpfn));
    let _changes = changes(domain)?;
    let ours = |entry: P2mEntry| may_replace(Some(entry));
    // Beyond what the map can name there is nothing either.
    let old = domain.p2m.clear_if(gfn, ours).map_err(|_| Errno::ENOMEM)?.ok_or(Errno::ENOENT)?;
    let mut leaving = Leaving { domain, frames: ArrayVec::new() };
    leaving.add(gfn, old);
    Ok(())
}

/// `XENMEM_add_to_physmap_batch`: each element has its own result.
pub(super) fn add_batch(call: &mut Call<'_>, arg: u64, first: u64) -> Result<Outcome, Errno> {
    if first > u64::from(u16::MAX) {
        return Err(Errno::EDOM);
    }
    let request: abi::AddToPhysmapBatch = match call.width {
        Width::Bits64 => call.read(arg)?,
        Width::Bits32 => {
            let request: compat::AddToPhysmapBatch = call.read(arg)?;
            abi::AddToPhysmapBatch {
                domid: request.domid,
                space: request.space,
                size: request.size,
                u: request.u,
                idxs: request.idxs.into(),
                gpfns: request.gpfns.into(),
                errs: request.errs.into(),
            }
        }
    };
    let space = u32::from(request.space);
    if space == MAPSPACE_GMFN_RANGE {
        return Err(Errno::EOPNOTSUPP);
    }
    let target = call.target(request.domid)?;
    let size = u64::from(request.size);
    if size < first || size == first && first != 0 {
        return Err(Errno::EILSEQ);
    }
    if space == MAPSPACE_DEV_MMIO && request.u != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    for index in first..size {
        if index > first && sched::should_yield() {
            let [_, arg, ..] = call.args();
            let cmd = u64::from(op::ADD_TO_PHYSMAP_BATCH) | index << op::EXTENT_SHIFT;
            return Ok(call.again([cmd, arg, 0, 0, 0, 0]));
        }
        let idx = call.read_word(request.idxs, index)?;
        let gfn = call.read_word(request.gpfns, index)?;
        if gfn == NOWHERE {
            return Err(Errno::EINVAL);
        }
        let result = match add_one(call, target, space, idx, Gfn(gfn)) {
            Ok(()) => 0,
            Err(error) => -(error as i32),
        };
        let at = request.errs.checked_add(index * 4).ok_or(Errno::EFAULT)?;
        call.write(at, &result)?;
    }
    Ok(Outcome::Done(0))
}
