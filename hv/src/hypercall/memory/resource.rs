//! `XENMEM_acquire_resource`: the control domain maps frames of another domain's grant table.
//!
//! # Lifetime
//! A mapping is a leaf of kind [`P2mKind::Foreign`] and holds a reference to its frame, and a place in the
//! owner's count of such leaves. Both go when the leaf goes: by `XENMEM_remove_from_physmap`, by something else put
//! in its place, or with the control domain. So a frame that a version switch takes out of the table is
//! not reused while it can be reached, and an owner that dies stays findable until the last leaf is gone, as a
//! domain does whose grants are mapped. An acquisition that found the owner alive ends before the owner is taken
//! apart: it holds an epoch guard, and a grace period lies between.
//!
//! # Errors
//! As in Xen 4.17, order included. A first frame of a chunk gives its own error, later ones `EIO`. Xen crashes
//! a caller that puts a frame over another special one; here it gets the `EPERM` alone.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use gnttab_fast::types::{DomId, Gfn};

use super::{Leaving, changes};
use crate::{
    abi::{
        errno::Errno,
        memory::{self as abi, RESOURCE_GRANT_TABLE, RESOURCE_VMTRACE_BUF, compat, op},
    },
    domain::{self, Domain},
    hypercall::{
        Call, Outcome,
        grant_table::{self, Resource},
    },
    mm::p2m::{P2mEntry, P2mError, P2mKind},
    sched,
    vt::Width,
};

/// Frames between two looks at the clock; the first of them has an error of its own.
const CHUNK: u32 = 32;

fn request(call: &Call<'_>, arg: u64) -> Result<abi::AcquireResource, Errno> {
    Ok(match call.width {
        Width::Bits64 => call.read(arg)?,
        Width::Bits32 => {
            let request: compat::AcquireResource = call.read(arg)?;
            abi::AcquireResource {
                domid: request.domid,
                kind: request.kind,
                id: request.id,
                nr_frames: request.nr_frames,
                pad: request.pad,
                frame: u64::from(request.frame_high) << 32 | u64::from(request.frame_low),
                frame_list: request.frame_list.into(),
            }
        }
    })
}

/// The hypercall; `start` frames are done.
pub(super) fn acquire(call: &mut Call<'_>, arg: u64, start: u64) -> Result<Outcome, Errno> {
    if !call.domain.control {
        return Err(Errno::EACCES);
    }
    let request = request(call, arg)?;
    let end = request.frame.checked_add(request.nr_frames.into()).ok_or(Errno::EINVAL)?;
    if request.pad != 0 || end >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let owner = domain::table::get(DomId(request.domid), call.guard).ok_or(Errno::ESRCH)?;
    if owner.id == call.domain.id {
        return Err(Errno::EPERM);
    }
    let resource = match request.kind {
        RESOURCE_GRANT_TABLE => Resource::new(request.id).ok_or(Errno::EINVAL)?,
        // No domain has a trace buffer.
        RESOURCE_VMTRACE_BUF => return Err(Errno::EINVAL),
        other => {
            call.refuse("XENMEM_resource", u64::from(other));
            return Err(Errno::EOPNOTSUPP);
        }
    };
    if request.frame_list == 0 {
        if request.nr_frames != 0 || start != 0 {
            return Err(Errno::EINVAL);
        }
        // The field stands at the same place in both widths.
        let at = arg.checked_add(8).ok_or(Errno::EFAULT)?;
        call.write(at, &resource.most(owner))?;
        return Ok(Outcome::Done(0));
    }
    let mut done = u32::try_from(start).map_err(|_| Errno::EINVAL)?;
    if done >= request.nr_frames || request.nr_frames > u32::MAX >> op::EXTENT_SHIFT {
        return Err(Errno::EINVAL);
    }
    while done < request.nr_frames {
        let todo = CHUNK.min(request.nr_frames - done);
        // Below 2^32, as `end` is.
        let first = u32::try_from(request.frame + u64::from(done)).map_err(|_| Errno::EINVAL)?;
        resource.grow(owner, first + (todo - 1))?;
        let mut gfns: ArrayVec<Gfn, { CHUNK as usize }> = ArrayVec::new();
        for index in done..done + todo {
            gfns.push(Gfn(call.read_word(request.frame_list, index.into())?));
        }
        for (index, gfn) in (first..).zip(gfns) {
            map(call.domain, owner, resource, index, gfn)
                .map_err(|error| if index == first { error } else { Errno::EIO })?;
        }
        done += todo;
        if done < request.nr_frames && sched::should_yield() {
            let cmd = u64::from(op::ACQUIRE_RESOURCE) | u64::from(done) << op::EXTENT_SHIFT;
            return Ok(call.again([cmd, arg, 0, 0, 0, 0]));
        }
    }
    Ok(Outcome::Done(0))
}

/// Puts frame `index` of the owner's resource at `gfn` of the caller.
fn map(caller: &Domain, owner: &Domain, resource: Resource, index: u32, gfn: Gfn) -> Result<(), Errno> {
    let _changes = changes(caller)?;
    let mfn = grant_table::foreign_added(owner, resource, index)?;
    let new = P2mEntry { mfn, kind: P2mKind::Foreign };
    let allowed = |old: Option<P2mEntry>| {
        old.is_none_or(|old| match old.kind {
            P2mKind::GrantRo | P2mKind::GrantRw => false,
            P2mKind::Foreign => old == new,
            P2mKind::RamRw | P2mKind::RamRo | P2mKind::Shared => true,
        })
    };
    match caller.p2m.set_if(gfn, mfn, P2mKind::Foreign, allowed) {
        Ok(None) => Ok(()),
        Ok(Some(old)) => {
            let mut leaving = Leaving { domain: caller, frames: ArrayVec::new() };
            leaving.add(gfn, old);
            Ok(())
        }
        Err(why) => {
            grant_table::foreign_removed(mfn);
            Err(match why {
                P2mError::NoMemory => Errno::ENOMEM,
                P2mError::Occupied => Errno::EPERM,
                P2mError::OutOfRange | P2mError::Misplaced => Errno::EINVAL,
            })
        }
    }
}
