//! Where the table's frames appear: `XENMEM_add_to_physmap` (and its batch) in the grant-table space,
//! `XENMEM_remove_from_physmap`, `XENMEM_acquire_resource`.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::memory as mem;
use hv::abi::xen::{DOMID_INVALID, DOMID_IO, DOMID_SELF};

use super::bytes;
use super::lab::{GREF, Lab, NOBODY, Side};
use super::request::{Width, low};
use super::show::{Out, Ret, St};
use super::{Case, both, v1, v2};
use crate::rt::memory::gfn;

/// The bit that names a status frame.
const STATUS: u64 = 0x8000_0000;

/// Whether frame 0 shows at `address`: an entry written by its usual place is seen there.
fn shows(lab: &Lab, address: u64) -> bool {
    bytes::put(lab.shared(0) + 4080, &0x1234_5678_u32);
    let seen = bytes::get_word(address + 4080) == 0x1234_5678;
    bytes::put(lab.shared(0) + 4080, &0_u32);
    seen
}

/// Whether there is memory behind an address, without touching it.
fn there(lab: &Lab, address: u64) -> bool {
    let mut request = lab.copy_request(Side::Page(0, 0), Side::Page(1, 0), 8);
    request.source.u = gfn(address);
    lab.copy_as(request) == 0
}

fn add(lab: &Lab, domid: u16, space: u32, idx: u64, address: u64) -> i64 {
    let request = mem::AddToPhysmap { domid, size: 0, space, idx, gpfn: gfn(address) };
    lab.memory(mem::op::ADD_TO_PHYSMAP, request).0
}

/// Adds a frame and takes it away again.
fn added(lab: &Lab, out: &mut Out, domid: u16, space: u32, idx: u64) -> fmt::Result {
    let result = add(lab, domid, space, idx, lab.spot(0));
    write!(out, "{}", Ret(result))?;
    if result == 0 {
        write!(out, " {}", Ret(lab.remove(lab.spot(0))))?;
    }
    Ok(())
}

/// A batch of additions; indexes and places are by number of the spot.
fn batch<const N: usize>(lab: &Lab, out: &mut Out, domid: u16, idxs: [u64; N]) -> fmt::Result {
    let word = if lab.width == Width::W64 { 8 } else { 4 };
    let (list, gpfns, errs) = (lab.list(), lab.list() + 512, lab.list() + 1024);
    for (index, idx) in (0_u64..).zip(idxs) {
        for (at, value) in [(list, idx), (gpfns, gfn(lab.spot(10 + index)))] {
            if word == 8 {
                bytes::put(at + index * 8, &value);
            } else {
                bytes::put(at + index * 4, &low(value));
            }
        }
        bytes::put(errs + index * 4, &77_u32);
    }
    let request = mem::AddToPhysmapBatch {
        domid,
        space: 1,
        size: u16::try_from(N).unwrap_or(0),
        u: 0,
        idxs: list,
        gpfns,
        errs,
    };
    let (result, _) = lab.memory(mem::op::ADD_TO_PHYSMAP_BATCH, request);
    write!(out, "{}", Ret(result))?;
    for index in 0..idxs.len() {
        let index = u64::try_from(index).unwrap_or(0);
        let err: i32 = bytes::get(errs + index * 4);
        write!(out, " {}", Ret(err.into()))?;
        if err == 0 {
            lab.remove(lab.spot(10 + index));
        }
    }
    Ok(())
}

/// `XENMEM_acquire_resource`.
fn acquired(lab: &Lab, out: &mut Out, change: impl FnOnce(&mut mem::AcquireResource)) -> fmt::Result {
    bytes::put(lab.list(), &gfn(lab.spot(30)));
    if lab.width == Width::W32 {
        bytes::put(lab.list(), &low(gfn(lab.spot(30))));
    }
    let mut request = mem::AcquireResource {
        domid: DOMID_SELF,
        kind: mem::RESOURCE_GRANT_TABLE,
        id: mem::RESOURCE_GRANT_TABLE_SHARED,
        nr_frames: 1,
        pad: 0,
        frame: 0,
        frame_list: lab.list(),
    };
    change(&mut request);
    let (result, request) = lab.memory(mem::op::ACQUIRE_RESOURCE, request);
    write!(out, "{} nr:{}", Ret(result), request.nr_frames)
}

pub const CASES: &[Case] = &[
    both("place.again_where_it_is", |lab, out| {
        lab.permit(GREF, 0, 0);
        let result = lab.place(0, lab.shared(0));
        write!(out, "{} {:x}", Ret(result), lab.flags(GREF))
    }),
    both("place.moved_and_back", |lab, out| {
        lab.permit(GREF, 0, 0);
        let moved = lab.place(0, lab.spot(0));
        let back = lab.place(0, lab.shared(0));
        write!(out, "{} {} {:x} {}", Ret(moved), Ret(back), lab.flags(GREF), shows(lab, lab.shared(0)))
    }),
    both("place.moved_leaves_nothing", |lab, out| {
        let moved = lab.place(3, lab.spot(0));
        let gone = lab.remove(lab.shared(3));
        let back = lab.place(3, lab.shared(3));
        write!(out, "{} {} {}", Ret(moved), Ret(gone), Ret(back))
    }),
    both("place.index_past_most", |lab, out| added(lab, out, DOMID_SELF, mem::MAPSPACE_GRANT_TABLE, 64)),
    v1("place.index_far", |lab, out| added(lab, out, DOMID_SELF, mem::MAPSPACE_GRANT_TABLE, 0x7fff_ffff)),
    v1("place.index_bit_30", |lab, out| added(lab, out, DOMID_SELF, mem::MAPSPACE_GRANT_TABLE, 1 << 30)),
    v1("place.status_frame_in_version_1", |lab, out| {
        added(lab, out, DOMID_SELF, mem::MAPSPACE_GRANT_TABLE, STATUS)
    }),
    v2("place.status_frame_again", |lab, out| write!(out, "{}", Ret(lab.place(STATUS, lab.status_frame(0))))),
    v2("place.status_frame_moved_and_back", |lab, out| {
        let moved = lab.place(STATUS, lab.spot(0));
        let back = lab.place(STATUS, lab.status_frame(0));
        write!(out, "{} {}", Ret(moved), Ret(back))
    }),
    v2("place.status_frame_past_shared", |lab, out| {
        added(lab, out, DOMID_SELF, mem::MAPSPACE_GRANT_TABLE, STATUS | 8)
    }),
    v2("place.status_index_far", |lab, out| {
        added(lab, out, DOMID_SELF, mem::MAPSPACE_GRANT_TABLE, STATUS | 0x7fff_ffff)
    }),
    v2("place.status_frame_over_shared_frame", |lab, out| {
        // Takes the shared frame's place; both are put back.
        let over = lab.place(STATUS, lab.shared(3));
        let shared = lab.place(3, lab.shared(3));
        let status = lab.place(STATUS, lab.status_frame(0));
        write!(out, "{} {} {}", Ret(over), Ret(shared), Ret(status))
    }),
    v1("place.for_own_number", |lab, out| added(lab, out, lab.own, mem::MAPSPACE_GRANT_TABLE, 0)),
    v1("place.for_nobody", |lab, out| added(lab, out, NOBODY, mem::MAPSPACE_GRANT_TABLE, 0)),
    v1("place.for_dom_io", |lab, out| added(lab, out, DOMID_IO, mem::MAPSPACE_GRANT_TABLE, 0)),
    v1("place.for_dom_invalid", |lab, out| added(lab, out, DOMID_INVALID, mem::MAPSPACE_GRANT_TABLE, 0)),
    v1("place.unknown_space", |lab, out| added(lab, out, DOMID_SELF, 99, 0)),
    both("place.over_own_memory", |lab, out| {
        let result = lab.place(0, lab.page(3));
        let shows = result == 0 && shows_moved(lab, lab.page(3));
        let back = lab.place(0, lab.shared(0));
        write!(out, "{} {shows} {} {}", Ret(result), Ret(back), there(lab, lab.page(3)))
    }),
    v1("place.at_nothing_addressable", |lab, out| {
        let request = mem::AddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space: mem::MAPSPACE_GRANT_TABLE,
            idx: 3,
            gpfn: u64::from(u32::MAX),
        };
        let (result, _) = lab.memory(mem::op::ADD_TO_PHYSMAP, request);
        write!(out, "{} {}", Ret(result), Ret(lab.place(3, lab.shared(3))))
    }),
    both("remove.shared_frame", |lab, out| {
        let removed = lab.remove(lab.shared(3));
        let again = lab.remove(lab.shared(3));
        write!(out, "{} {} {}", Ret(removed), Ret(again), Ret(lab.place(3, lab.shared(3))))
    }),
    both("remove.entries_still_work", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.remove(lab.shared(0));
        let status = lab.copy(Side::Ref(GREF, 0), Side::Page(1, 0), 64);
        let back = lab.place(0, lab.shared(0));
        write!(out, "{} {} {:x}", St(status), Ret(back), lab.flags(GREF))
    }),
    v2("remove.status_frame", |lab, out| {
        let removed = lab.remove(lab.status_frame(0));
        let back = lab.place(STATUS, lab.status_frame(0));
        write!(out, "{} {}", Ret(removed), Ret(back))
    }),
    v2("remove.status_frame_then_version_1", |lab, out| {
        let removed = lab.remove(lab.status_frame(0));
        let (result, told) = lab.set_version(1);
        write!(out, "{} {}:{told}", Ret(removed), Ret(result))
    }),
    v1("remove.nothing", |lab, out| write!(out, "{}", Ret(lab.remove(lab.spot(1))))),
    v1("remove.nothing_addressable", |lab, out| {
        let request = mem::RemoveFromPhysmap { domid: DOMID_SELF, pad: [0; 3], gpfn: u32::MAX.into() };
        write!(out, "{}", Ret(lab.memory(mem::op::REMOVE_FROM_PHYSMAP, request).0))
    }),
    v1("remove.for_nobody", |lab, out| {
        let request = mem::RemoveFromPhysmap { domid: NOBODY, pad: [0; 3], gpfn: gfn(lab.spot(1)) };
        write!(out, "{}", Ret(lab.memory(mem::op::REMOVE_FROM_PHYSMAP, request).0))
    }),
    v1("place.batch_one", |lab, out| batch(lab, out, DOMID_SELF, [3])),
    v1("place.batch_several", |lab, out| batch(lab, out, DOMID_SELF, [2, 3])),
    v1("place.batch_with_a_bad_one", |lab, out| batch(lab, out, DOMID_SELF, [2, 1000, 3])),
    v1("place.batch_of_none", |lab, out| batch(lab, out, DOMID_SELF, [])),
    v1("place.batch_for_nobody", |lab, out| batch(lab, out, NOBODY, [0])),
    v2("place.batch_status_frame", |lab, out| batch(lab, out, DOMID_SELF, [STATUS, STATUS | 1, 3])),
    both("acquire.own", |lab, out| acquired(lab, out, |_| {})),
    both("acquire.own_number", |lab, out| {
        let own = lab.own;
        acquired(lab, out, |request| request.domid = own)
    }),
    v1("acquire.nobody", |lab, out| acquired(lab, out, |request| request.domid = NOBODY)),
    v1("acquire.size", |lab, out| {
        acquired(lab, out, |request| {
            request.nr_frames = 0;
            request.frame_list = 0;
        })
    }),
    v1("acquire.padding", |lab, out| acquired(lab, out, |request| request.pad = 1)),
    v1("acquire.unknown_type", |lab, out| acquired(lab, out, |request| request.kind = 9)),
    v1("acquire.unknown_id", |lab, out| acquired(lab, out, |request| request.id = 7)),
    v1("acquire.status_in_version_1", |lab, out| {
        acquired(lab, out, |request| request.id = mem::RESOURCE_GRANT_TABLE_STATUS)
    }),
    v2("acquire.status", |lab, out| {
        acquired(lab, out, |request| request.id = mem::RESOURCE_GRANT_TABLE_STATUS)
    }),
    v1("acquire.past_the_end", |lab, out| acquired(lab, out, |request| request.frame = 1 << 20)),
];

/// [`shows`] for a frame that has left its place: seen by copying an entry's use.
fn shows_moved(lab: &Lab, address: u64) -> bool {
    let entry = address + u64::from(GREF) * if lab.version == 1 { 8 } else { 16 };
    bytes::put_half(entry, 0x8000);
    let seen = bytes::get::<u16>(entry) == 0x8000;
    bytes::put_half(entry, 0);
    seen
}
