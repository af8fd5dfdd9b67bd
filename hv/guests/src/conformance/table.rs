//! The table as a whole: `GNTTABOP_setup_table`, `query_size`, `get_version`, `get_status_frames`, and the
//! operations a translated x86 guest is refused: `transfer`, `dump_table`, `cache_flush`.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{
    CacheFlush, DumpTable, GetStatusFrames, GetVersion, QuerySize, SetupTable, Transfer, cache_flags, gtf, op,
};
use hv::abi::xen::{DOMID_COW, DOMID_IDLE, DOMID_INVALID, DOMID_IO, DOMID_SELF, DOMID_XEN};

use super::bytes;
use super::lab::{FRAMES, GREF, Lab, NOBODY};
use super::request::{Width, low};
use super::show::{Out, Ret, St, Sts, UNSET, UNSET_WORD, Use};
use super::{Case, both, v1, v2};
use crate::rt::memory::{PAGE, gfn};

/// Asks the size of a domain's table.
fn size(lab: &Lab, dom: u16) -> (i64, QuerySize) {
    let request = QuerySize {
        dom,
        nr_frames: UNSET_WORD,
        max_nr_frames: UNSET_WORD,
        status: UNSET,
        ..Default::default()
    };
    lab.one(op::QUERY_SIZE, request)
}

fn told_size(lab: &Lab, out: &mut Out, dom: u16) -> fmt::Result {
    let (result, size) = size(lab, dom);
    let kept = |word| word == UNSET_WORD;
    write!(out, "{} {}", Ret(result), St(size.status))?;
    write!(out, " kept:{},{}", kept(size.nr_frames), kept(size.max_nr_frames))
}

/// Bytes of a frame number in a list.
fn word(lab: &Lab) -> u64 {
    if lab.width == Width::W64 { 8 } else { 4 }
}

/// What stands in a list of frame numbers.
fn listed(at: u64, width: u64) -> u64 {
    if width == 8 { bytes::get::<u64>(at) } else { bytes::get_word(at).into() }
}

/// `GNTTABOP_setup_table`, and what it wrote to the list: places of the shared frames, or not.
fn setup(lab: &Lab, out: &mut Out, dom: u16, nr_frames: u32, list: u64) -> fmt::Result {
    bytes::fill(lab.list(), 2048, 0x4d);
    let request = SetupTable { dom, nr_frames, status: UNSET, frame_list: list, ..Default::default() };
    let (result, request) = lab.one(op::SETUP_TABLE, request);
    write!(out, "{} {}", Ret(result), St(request.status))?;
    if list != lab.list() {
        return Ok(());
    }
    let right = (0..FRAMES)
        .take_while(|index| listed(list + index * word(lab), word(lab)) == gfn(lab.shared(*index)))
        .count();
    write!(out, " frames:{right}")
}

/// `GNTTABOP_get_status_frames`.
fn status(lab: &Lab, out: &mut Out, dom: u16, nr_frames: u32, list: u64) -> fmt::Result {
    bytes::fill(lab.list(), 2048, 0x4d);
    let request = GetStatusFrames { nr_frames, dom, status: UNSET, frame_list: list };
    let (result, request) = lab.one(op::GET_STATUS_FRAMES, request);
    write!(out, "{} {}", Ret(result), St(request.status))?;
    if list == lab.list() {
        let first = listed(list, 8);
        write!(out, " first:{}", if first == gfn(lab.status_frame(0)) { "ok" } else { "no" })?;
        write!(out, " second:{}", if bytes::get_word(list + 8) == UNSET_WORD { "kept" } else { "written" })?;
    }
    Ok(())
}

fn version(lab: &Lab, out: &mut Out, dom: u16) -> fmt::Result {
    let (result, told) = lab.one(op::GET_VERSION, GetVersion { dom, pad: 0, version: UNSET_WORD });
    write!(out, "{} {:x}", Ret(result), told.version)
}

/// `GNTTABOP_transfer` of a page of ours to `domid`.
fn transfer(lab: &Lab, out: &mut Out, mfn: u64, domid: u16, flags: u16) -> fmt::Result {
    lab.grant(GREF, lab.own, 0, flags);
    let request = Transfer { mfn, domid, gref: GREF, status: UNSET, ..Default::default() };
    let (result, request) = lab.one(op::TRANSFER, request);
    write!(out, "{} {} flags:{:x} {:08x}", Ret(result), St(request.status), lab.flags(GREF), lab.sum(0))
}

fn flush(lab: &Lab, out: &mut Out, a: u64, offset: u16, length: u16, operation: u32) -> fmt::Result {
    let (result, _) = lab.one(op::CACHE_FLUSH, CacheFlush { a, offset, length, op: operation });
    write!(out, "{}", Ret(result))
}

/// Before the table has grown.
pub const FIRST: &[Case] = &[
    v1("first.version", |lab, out| version(lab, out, DOMID_SELF)),
    v1("first.size", |lab, out| {
        let (result, size) = size(lab, DOMID_SELF);
        write!(out, "{} {} {} of {}", Ret(result), St(size.status), size.nr_frames, size.max_nr_frames)
    }),
    v1("first.setup_of_nothing", |lab, out| setup(lab, out, DOMID_SELF, 0, 0)),
    v1("first.setup_of_unplaced_frame", |lab, out| {
        bytes::fill(lab.list(), 64, 0x4d);
        let request = SetupTable {
            dom: DOMID_SELF,
            nr_frames: 1,
            status: UNSET,
            frame_list: lab.list(),
            ..Default::default()
        };
        let (result, request) = lab.one(op::SETUP_TABLE, request);
        // A frame number that is none: all ones.
        let all_ones =
            listed(lab.list(), word(lab)) == if word(lab) == 8 { u64::MAX } else { u32::MAX.into() };
        write!(out, "{} {} none:{all_ones}", Ret(result), St(request.status))
    }),
    v1("first.setup_grows", |lab, out| {
        let (_, before) = size(lab, DOMID_SELF);
        let request = SetupTable {
            dom: DOMID_SELF,
            nr_frames: 2,
            status: UNSET,
            frame_list: lab.list(),
            ..Default::default()
        };
        let (result, request) = lab.one(op::SETUP_TABLE, request);
        let (_, after) = size(lab, DOMID_SELF);
        write!(out, "{} {} {} {}", Ret(result), St(request.status), before.nr_frames, after.nr_frames)
    }),
    v1("first.entries_are_zero", |lab, out| {
        let placed = lab.place(0, lab.shared(0));
        // The toolstack's own two apart.
        let zero = (4..1024).all(|word| bytes::get_word(lab.shared(0) + word * 4) == 0);
        write!(out, "{} zero:{zero}", Ret(placed))
    }),
    v1("first.place_grows", |lab, out| {
        let placed = lab.place(2, lab.shared(2));
        let (_, after) = size(lab, DOMID_SELF);
        write!(out, "{} {}", Ret(placed), after.nr_frames)
    }),
];

pub const CASES: &[Case] = &[
    both("size.self", |lab, out| {
        let (result, size) = size(lab, DOMID_SELF);
        let sane = u64::from(size.nr_frames) >= FRAMES && size.nr_frames <= size.max_nr_frames;
        write!(out, "{} {} sane:{sane} most:{}", Ret(result), St(size.status), size.max_nr_frames)
    }),
    both("size.own_number", |lab, out| told_size(lab, out, lab.own)),
    v1("size.nobody", |lab, out| told_size(lab, out, NOBODY)),
    v1("size.dom_io", |lab, out| told_size(lab, out, DOMID_IO)),
    v1("size.dom_xen", |lab, out| told_size(lab, out, DOMID_XEN)),
    v1("size.dom_cow", |lab, out| told_size(lab, out, DOMID_COW)),
    v1("size.dom_invalid", |lab, out| told_size(lab, out, DOMID_INVALID)),
    v1("size.dom_idle", |lab, out| told_size(lab, out, DOMID_IDLE)),
    both("setup.what_is_there", |lab, out| setup(lab, out, DOMID_SELF, low(FRAMES), lab.list())),
    both("setup.fewer", |lab, out| setup(lab, out, DOMID_SELF, 1, lab.list())),
    both("setup.none", |lab, out| setup(lab, out, DOMID_SELF, 0, lab.list())),
    both("setup.own_number", |lab, out| setup(lab, out, lab.own, 2, lab.list())),
    v1("setup.nobody", |lab, out| setup(lab, out, NOBODY, 2, lab.list())),
    v1("setup.dom_io", |lab, out| setup(lab, out, DOMID_IO, 2, lab.list())),
    v1("setup.dom_invalid", |lab, out| setup(lab, out, DOMID_INVALID, 2, lab.list())),
    both("setup.past_most", |lab, out| setup(lab, out, DOMID_SELF, 65, lab.list())),
    v1("setup.far_past_most", |lab, out| setup(lab, out, DOMID_SELF, 1 << 20, lab.list())),
    v1("setup.count_wraps", |lab, out| setup(lab, out, DOMID_SELF, u32::MAX, lab.list())),
    v1("setup.list_nowhere", |lab, out| setup(lab, out, DOMID_SELF, 2, lab.void())),
    v1("setup.list_ends_midway", |lab, out| setup(lab, out, DOMID_SELF, 3, lab.void() - word(lab))),
    v1("setup.list_null_for_none", |lab, out| setup(lab, out, DOMID_SELF, 0, 0)),
    v1("setup.list_nowhere_for_none", |lab, out| setup(lab, out, DOMID_SELF, 0, lab.void())),
    v1("setup.list_nowhere_and_nobody", |lab, out| setup(lab, out, NOBODY, 2, lab.void())),
    both("setup.leaves_entries", |lab, out| {
        lab.permit(GREF, 3, 0);
        setup(lab, out, DOMID_SELF, low(FRAMES), lab.list())?;
        write!(out, " {:x}", lab.flags(GREF))
    }),
    both("version.of_self", |lab, out| version(lab, out, DOMID_SELF)),
    both("version.of_own_number", |lab, out| version(lab, out, lab.own)),
    v1("version.of_nobody", |lab, out| version(lab, out, NOBODY)),
    v1("version.of_dom_io", |lab, out| version(lab, out, DOMID_IO)),
    v1("version.of_dom_invalid", |lab, out| version(lab, out, DOMID_INVALID)),
    both("status_frames.one", |lab, out| status(lab, out, DOMID_SELF, 1, lab.list())),
    both("status_frames.none", |lab, out| status(lab, out, DOMID_SELF, 0, lab.list())),
    both("status_frames.own_number", |lab, out| status(lab, out, lab.own, 1, lab.list())),
    both("status_frames.nobody", |lab, out| status(lab, out, NOBODY, 1, lab.list())),
    both("status_frames.dom_io", |lab, out| status(lab, out, DOMID_IO, 1, lab.list())),
    both("status_frames.one_too_many", |lab, out| status(lab, out, DOMID_SELF, 2, lab.list())),
    both("status_frames.as_many_as_shared", |lab, out| status(lab, out, DOMID_SELF, low(FRAMES), lab.list())),
    v2("status_frames.eight_times", |lab, out| status(lab, out, DOMID_SELF, 8, lab.list())),
    v2("status_frames.count_max", |lab, out| status(lab, out, DOMID_SELF, u32::MAX, lab.list())),
    v2("status_frames.list_nowhere", |lab, out| status(lab, out, DOMID_SELF, 1, lab.void())),
    v2("status_frames.list_nowhere_for_none", |lab, out| status(lab, out, DOMID_SELF, 0, lab.void())),
    both("transfer.to_self", |lab, out| transfer(lab, out, gfn(lab.page(0)), lab.own, gtf::ACCEPT_TRANSFER)),
    v1("transfer.to_dom_self", |lab, out| {
        transfer(lab, out, gfn(lab.page(0)), DOMID_SELF, gtf::ACCEPT_TRANSFER)
    }),
    v1("transfer.to_nobody", |lab, out| transfer(lab, out, gfn(lab.page(0)), NOBODY, gtf::ACCEPT_TRANSFER)),
    v1("transfer.not_accepted", |lab, out| transfer(lab, out, gfn(lab.page(0)), lab.own, gtf::PERMIT_ACCESS)),
    v1("transfer.of_nothing", |lab, out| transfer(lab, out, gfn(lab.void()), lab.own, gtf::ACCEPT_TRANSFER)),
    v1("transfer.of_largest_frame", |lab, out| {
        transfer(lab, out, u32::MAX.into(), lab.own, gtf::ACCEPT_TRANSFER)
    }),
    v1("transfer.batch", |lab, out| {
        let request = Transfer {
            mfn: gfn(lab.page(0)),
            domid: lab.own,
            gref: GREF,
            status: UNSET,
            ..Default::default()
        };
        let mut batch = [request; 5];
        let result = lab.op(op::TRANSFER, &mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|transfer| transfer.status)))
    }),
    both("dump.self", |lab, out| {
        let (result, request) = lab.one(op::DUMP_TABLE, DumpTable { dom: DOMID_SELF, status: UNSET });
        write!(out, "{} {}", Ret(result), St(request.status))
    }),
    v1("dump.nobody", |lab, out| {
        let (result, request) = lab.one(op::DUMP_TABLE, DumpTable { dom: NOBODY, status: UNSET });
        write!(out, "{} {}", Ret(result), St(request.status))
    }),
    v1("flush.clean", |lab, out| flush(lab, out, lab.page(0), 0, 64, cache_flags::CLEAN)),
    v1("flush.clean_and_invalidate", |lab, out| {
        flush(lab, out, lab.page(0), 0, 64, cache_flags::CLEAN | cache_flags::INVAL)
    }),
    v1("flush.by_reference", |lab, out| {
        flush(lab, out, GREF.into(), 0, 64, cache_flags::CLEAN | cache_flags::SOURCE_GREF)
    }),
    v1("flush.past_the_page", |lab, out| flush(lab, out, lab.page(0), 4000, 200, cache_flags::CLEAN)),
    v1("flush.no_operation", |lab, out| flush(lab, out, lab.page(0), 0, 64, 0)),
    v1("flush.no_bytes", |lab, out| flush(lab, out, lab.page(0), 0, 0, cache_flags::CLEAN)),
    v1("flush.of_nowhere", |lab, out| flush(lab, out, u64::from(u32::MAX) << 12, 0, 64, cache_flags::CLEAN)),
    both("size.not_changed_by_refusals", |lab, out| {
        let (_, before) = size(lab, DOMID_SELF);
        let request = SetupTable { dom: DOMID_SELF, nr_frames: 1 << 16, status: UNSET, ..Default::default() };
        lab.one(op::SETUP_TABLE, request);
        lab.place(1 << 16, lab.spot(0));
        let (_, after) = size(lab, DOMID_SELF);
        write!(out, "{}", before.nr_frames == after.nr_frames)
    }),
    both("table.entry_of_every_frame", |lab, out| {
        let per_frame = lab.entries() / low(FRAMES);
        for frame in 0..low(FRAMES) {
            let gref = frame * per_frame + per_frame - 1;
            lab.permit(gref, u64::from(frame), 0);
            let map = lab.map_rw(gref);
            write!(out, "{} {} ", St(map.status), Use(lab.in_use(gref)))?;
            lab.unmap(&map);
        }
        write!(out, "{}", lab.shared(1) - lab.shared(0) == PAGE)
    }),
];
