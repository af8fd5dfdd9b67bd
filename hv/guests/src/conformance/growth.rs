//! The table at its largest. It never shrinks, so these come last.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{QuerySize, SetupTable, gtf, map_flags, op};
use hv::abi::memory::MAPIDX_GRANT_TABLE_STATUS;
use hv::abi::xen::DOMID_SELF;

use super::bytes;
use super::lab::{GREF, Lab, Side};
use super::request::low;
use super::show::{Out, Ret, St, UNSET, Use};
use super::{Case, v1};
use crate::rt::memory::{PAGE, gfn};

/// Where the last frame is looked at, and the last status frame.
const FRAME: u64 = 40;
const STATUS: u64 = 41;

fn size(lab: &Lab) -> QuerySize {
    lab.one(op::QUERY_SIZE, QuerySize { dom: DOMID_SELF, status: UNSET, ..Default::default() }).1
}

fn most(lab: &Lab) -> u32 {
    size(lab).max_nr_frames
}

/// Asks for `nr_frames`; the list is written, but what it says is not looked at.
fn setup(lab: &Lab, out: &mut Out, nr_frames: u32) -> fmt::Result {
    let request = SetupTable {
        dom: DOMID_SELF,
        nr_frames,
        status: UNSET,
        frame_list: lab.list(),
        ..Default::default()
    };
    let (result, request) = lab.one(op::SETUP_TABLE, request);
    write!(out, "{} {} now:{} ", Ret(result), St(request.status), size(lab).nr_frames)
}

/// The last entry there is in this version, for page 0, made and used.
fn last_entry(lab: &mut Lab, out: &mut Out) -> fmt::Result {
    let frames = most(lab);
    let entry_size: u16 = if lab.version == 1 { 8 } else { 16 };
    let gref = frames * low(PAGE) / u32::from(entry_size) - 1;
    write!(out, "{} ", Ret(lab.place(u64::from(frames) - 1, lab.spot(FRAME))))?;
    let entry = lab.spot(FRAME) + PAGE - u64::from(entry_size);
    bytes::put_half(entry + 2, lab.own);
    if lab.version == 1 {
        bytes::put(entry + 4, &low(gfn(lab.page(0))));
    } else {
        bytes::put(entry + 8, &gfn(lab.page(0)));
    }
    bytes::put_half(entry, gtf::PERMIT_ACCESS);
    let read = lab.copy(Side::Ref(gref, 0), Side::Page(1, 0), 64);
    write!(out, "{} {:08x} ", St(read), lab.sum(1))?;
    let map = lab.map(lab.map_request(gref, 0, map_flags::HOST_MAP));
    let in_use = if lab.version == 1 {
        entry
    } else {
        let status = u64::from(gref / 2048);
        write!(out, "{} ", Ret(lab.place(MAPIDX_GRANT_TABLE_STATUS | status, lab.spot(STATUS))))?;
        lab.spot(STATUS) + u64::from(gref % 2048) * 2
    };
    write!(out, "{} {}", St(map.status), Use(bytes::get(in_use)))?;
    let unmapped = lab.unmap(&map);
    write!(out, " {} {} ", St(unmapped), Use(bytes::get(in_use)))?;
    // The first reference that is none.
    let outside = lab.copy(Side::Ref(gref + 1, 0), Side::Page(1, 0), 64);
    let mapped = lab.map(lab.map_request(gref + 1, 1, map_flags::HOST_MAP));
    write!(out, "{} {}", St(outside), St(mapped.status))?;
    bytes::put_half(entry, 0);
    bytes::put_half(entry + 2, 0);
    bytes::put(entry + 4, &0_u32);
    if lab.version == 2 {
        bytes::put(entry + 8, &0_u64);
        lab.remove(lab.spot(STATUS));
    }
    lab.remove(lab.spot(FRAME));
    Ok(())
}

/// In version 2, and back.
fn in_version_2(
    lab: &mut Lab,
    out: &mut Out,
    run: impl FnOnce(&mut Lab, &mut Out) -> fmt::Result,
) -> fmt::Result {
    let (result, told) = lab.set_version(2);
    write!(out, "{}:{told} ", Ret(result))?;
    if lab.version == 2 {
        run(lab, out)?;
        let (result, told) = lab.set_version(1);
        write!(out, " {}:{told}", Ret(result))?;
    }
    Ok(())
}

pub const CASES: &[Case] = &[
    v1("growth.by_one", |lab, out| setup(lab, out, size(lab).nr_frames + 1)),
    v1("growth.by_one_in_version_2", |lab, out| {
        in_version_2(lab, out, |lab, out| setup(lab, out, size(lab).nr_frames + 1))
    }),
    v1("growth.keeps_entries_and_mappings", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        setup(lab, out, size(lab).nr_frames + 3)?;
        bytes::put(lab.window(0), &0x4321_u32);
        let read = lab.copy(Side::Ref(GREF, 0), Side::Page(1, 0), 4);
        write!(out, "{} {:x} ", St(read), bytes::get_word(lab.page(1)))?;
        let status = lab.unmap(&map);
        write!(out, "{} {}", St(status), Use(lab.in_use(GREF)))
    }),
    v1("growth.by_placing_a_status_frame", |lab, out| {
        in_version_2(lab, out, |lab, out| {
            // One for each eight shared frames: the third needs seventeen.
            let placed = lab.place(MAPIDX_GRANT_TABLE_STATUS | 2, lab.spot(STATUS));
            write!(out, "{} now:{} ", Ret(placed), size(lab).nr_frames)?;
            write!(out, "{}", Ret(lab.remove(lab.spot(STATUS))))
        })
    }),
    v1("growth.by_placing_a_shared_frame_in_version_2", |lab, out| {
        in_version_2(lab, out, |lab, out| {
            let frames = size(lab).nr_frames;
            let placed = lab.place(u64::from(frames) + 8, lab.spot(FRAME));
            write!(out, "{} {} ", Ret(placed), size(lab).nr_frames - frames)?;
            write!(out, "{}", Ret(lab.remove(lab.spot(FRAME))))
        })
    }),
    v1("growth.one_past_most", |lab, out| setup(lab, out, most(lab) + 1)),
    v1("growth.to_most", |lab, out| setup(lab, out, most(lab))),
    v1("growth.to_most_again", |lab, out| setup(lab, out, most(lab))),
    v1("growth.place_past_most", |lab, out| {
        write!(out, "{}", Ret(lab.place(most(lab).into(), lab.spot(FRAME))))
    }),
    v1("growth.last_entry", last_entry),
    v1("growth.last_entry_in_version_2", |lab, out| in_version_2(lab, out, last_entry)),
    v1("growth.last_status_frame", |lab, out| {
        in_version_2(lab, out, |lab, out| {
            let last = u64::from(most(lab)) / 8 - 1;
            let placed = lab.place(MAPIDX_GRANT_TABLE_STATUS | last, lab.spot(STATUS));
            let beyond = lab.place(MAPIDX_GRANT_TABLE_STATUS | (last + 1), lab.spot(FRAME));
            write!(out, "{} {} {}", Ret(placed), Ret(beyond), Ret(lab.remove(lab.spot(STATUS))))
        })
    }),
    v1("growth.every_status_frame_placed_then_version_1", |lab, out| {
        in_version_2(lab, out, |lab, out| {
            let frames = u64::from(most(lab)) / 8;
            let placed = (0..frames)
                .filter(|frame| lab.place(MAPIDX_GRANT_TABLE_STATUS | frame, lab.spot(42 + frame)) == 0)
                .count();
            write!(out, "{placed}")
        })?;
        // What they were is gone.
        write!(out, " {} {}", Ret(lab.remove(lab.spot(42))), Ret(lab.remove(lab.spot(43))))
    }),
];
