//! `GNTTABOP_copy`: which bytes go where, and what each side may be.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{Copy, copy_flags, gtf};
use hv::abi::xen::{DOMID_COW, DOMID_IDLE, DOMID_INVALID, DOMID_IO, DOMID_SELF, DOMID_XEN};

use super::bytes;
use super::lab::{GREF, Lab, NOBODY, Side};
use super::show::{Out, St, Use};
use super::{Case, both, v1};
use crate::rt::memory::gfn;

/// References of page 0 and page 1.
const FROM: u32 = GREF;
const TO: u32 = GREF + 1;

/// Grants page 0 and page 1.
fn granted(lab: &Lab) {
    lab.permit(FROM, 0, 0);
    lab.permit(TO, 1, 0);
}

/// Copies and tells the status, what became of page 1, and whether the entries are idle.
fn moved(lab: &Lab, out: &mut Out, source: Side, dest: Side, len: u16) -> fmt::Result {
    granted(lab);
    asked(lab, out, lab.copy_request(source, dest, len))
}

/// The same for a request made by hand and a table as the case has it.
fn asked(lab: &Lab, out: &mut Out, request: Copy) -> fmt::Result {
    let status = lab.copy_as(request);
    write!(out, "{} {:08x} {:08x}", St(status), lab.sum(0), lab.sum(1))?;
    write!(out, " {} {}", Use(lab.in_use(FROM)), Use(lab.in_use(TO)))
}

/// A good copy from reference to reference, changed by `change`.
fn changed(lab: &Lab, out: &mut Out, change: impl FnOnce(&mut Copy)) -> fmt::Result {
    granted(lab);
    changed_as_is(lab, out, change)
}

fn changed_as_is(lab: &Lab, out: &mut Out, change: impl FnOnce(&mut Copy)) -> fmt::Result {
    let mut request = lab.copy_request(Side::Ref(FROM, 16), Side::Ref(TO, 32), 64);
    change(&mut request);
    asked(lab, out, request)
}

/// With the source's entry as given.
fn source_entry(lab: &Lab, out: &mut Out, domid: u16, frame: u64, flags: u16) -> fmt::Result {
    granted(lab);
    lab.grant(FROM, domid, frame, flags);
    changed_as_is(lab, out, |_| {})
}

/// With the destination's entry as given.
fn dest_entry(lab: &Lab, out: &mut Out, domid: u16, frame: u64, flags: u16) -> fmt::Result {
    granted(lab);
    lab.grant(TO, domid, frame, flags);
    changed_as_is(lab, out, |_| {})
}

/// With the source a page by frame number, of this domain.
fn frame_of(lab: &Lab, out: &mut Out, domid: u16) -> fmt::Result {
    granted(lab);
    let mut request = lab.copy_request(Side::Page(0, 0), Side::Ref(TO, 0), 64);
    request.source.domid = domid;
    asked(lab, out, request)
}

pub const CASES: &[Case] = &[
    both("copy.ref_to_page", |lab, out| moved(lab, out, Side::Ref(FROM, 8), Side::Page(1, 16), 100)),
    both("copy.page_to_ref", |lab, out| moved(lab, out, Side::Page(0, 8), Side::Ref(TO, 16), 100)),
    both("copy.ref_to_ref", |lab, out| moved(lab, out, Side::Ref(FROM, 8), Side::Ref(TO, 16), 100)),
    both("copy.page_to_page", |lab, out| moved(lab, out, Side::Page(0, 8), Side::Page(1, 16), 100)),
    both("copy.one_byte", |lab, out| moved(lab, out, Side::Ref(FROM, 77), Side::Ref(TO, 78), 1)),
    both("copy.last_bytes", |lab, out| moved(lab, out, Side::Ref(FROM, 4095), Side::Ref(TO, 4095), 1)),
    both("copy.last_to_first", |lab, out| moved(lab, out, Side::Ref(FROM, 4095), Side::Ref(TO, 0), 1)),
    both("copy.whole_page", |lab, out| moved(lab, out, Side::Ref(FROM, 0), Side::Ref(TO, 0), 4096)),
    both("copy.whole_page_out", |lab, out| moved(lab, out, Side::Page(0, 0), Side::Ref(TO, 0), 4096)),
    both("copy.whole_page_in", |lab, out| moved(lab, out, Side::Ref(FROM, 0), Side::Page(1, 0), 4096)),
    v1("copy.odd_lengths", |lab, out| {
        granted(lab);
        for (index, len) in
            [1_u16, 2, 3, 5, 7, 9, 15, 17, 31, 33, 63, 65, 127, 129, 255, 257].iter().enumerate()
        {
            let at = u16::try_from(index).unwrap_or(0);
            let status = lab.copy(Side::Ref(FROM, at), Side::Ref(TO, at * 200 + 3), *len);
            if status != 0 {
                write!(out, "{len}:{} ", St(status))?;
            }
        }
        write!(out, "{:08x}", lab.sum(1))
    }),
    v1("copy.every_misalignment", |lab, out| {
        granted(lab);
        for from in 0..8 {
            for to in 0..8 {
                lab.copy(Side::Ref(FROM, from), Side::Ref(TO, from * 512 + to * 64 + to), 40);
            }
        }
        write!(out, "{:08x}", lab.sum(1))
    }),
    both("copy.len_zero", |lab, out| moved(lab, out, Side::Ref(FROM, 0), Side::Ref(TO, 0), 0)),
    both("copy.len_zero_at_end", |lab, out| moved(lab, out, Side::Ref(FROM, 4096), Side::Ref(TO, 4096), 0)),
    both("copy.len_zero_past_end", |lab, out| moved(lab, out, Side::Ref(FROM, 4097), Side::Ref(TO, 0), 0)),
    both("copy.len_zero_ungranted", |lab, out| {
        changed(lab, out, |copy| {
            copy.source.u = 900;
            copy.len = 0;
        })
    }),
    both("copy.len_zero_bad_ref", |lab, out| {
        changed(lab, out, |copy| {
            copy.source.u = u32::MAX.into();
            copy.len = 0;
        })
    }),
    both("copy.len_zero_nobody", |lab, out| {
        changed(lab, out, |copy| {
            copy.dest.domid = NOBODY;
            copy.len = 0;
        })
    }),
    both("copy.source_crosses_page", |lab, out| moved(lab, out, Side::Ref(FROM, 4090), Side::Ref(TO, 0), 7)),
    both("copy.dest_crosses_page", |lab, out| moved(lab, out, Side::Ref(FROM, 0), Side::Ref(TO, 4090), 7)),
    both("copy.page_source_crosses", |lab, out| moved(lab, out, Side::Page(0, 4000), Side::Ref(TO, 0), 97)),
    both("copy.page_dest_crosses", |lab, out| moved(lab, out, Side::Ref(FROM, 0), Side::Page(1, 4000), 97)),
    both("copy.ends_with_page", |lab, out| moved(lab, out, Side::Ref(FROM, 4090), Side::Ref(TO, 4090), 6)),
    v1("copy.len_4097", |lab, out| moved(lab, out, Side::Ref(FROM, 0), Side::Ref(TO, 0), 4097)),
    v1("copy.len_ffff", |lab, out| moved(lab, out, Side::Ref(FROM, 1), Side::Ref(TO, 0), 0xffff)),
    v1("copy.offset_4096", |lab, out| moved(lab, out, Side::Ref(FROM, 4096), Side::Ref(TO, 0), 1)),
    v1("copy.offset_ffff", |lab, out| moved(lab, out, Side::Ref(FROM, 0), Side::Ref(TO, 0xffff), 1)),
    v1("copy.offset_and_len_wrap", |lab, out| {
        moved(lab, out, Side::Ref(FROM, 0xffff), Side::Ref(TO, 0xffff), 0xffff)
    }),
    both("copy.same_ref_apart", |lab, out| moved(lab, out, Side::Ref(TO, 0), Side::Ref(TO, 2048), 2048)),
    both("copy.same_place", |lab, out| moved(lab, out, Side::Ref(TO, 64), Side::Ref(TO, 64), 512)),
    v1("copy.overlap_backward", |lab, out| moved(lab, out, Side::Ref(TO, 64), Side::Ref(TO, 0), 512)),
    v1("copy.overlap_forward", |lab, out| moved(lab, out, Side::Ref(TO, 0), Side::Ref(TO, 64), 512)),
    v1("copy.overlap_page_and_ref", |lab, out| moved(lab, out, Side::Page(1, 64), Side::Ref(TO, 0), 512)),
    both("copy.ref_of_dom_self", |lab, out| {
        changed(lab, out, |copy| {
            copy.source.domid = DOMID_SELF;
            copy.dest.domid = DOMID_SELF;
        })
    }),
    both("copy.source_of_nobody", |lab, out| changed(lab, out, |copy| copy.source.domid = NOBODY)),
    both("copy.dest_of_nobody", |lab, out| changed(lab, out, |copy| copy.dest.domid = NOBODY)),
    v1("copy.ref_of_dom_io", |lab, out| changed(lab, out, |copy| copy.source.domid = DOMID_IO)),
    v1("copy.ref_of_dom_xen", |lab, out| changed(lab, out, |copy| copy.source.domid = DOMID_XEN)),
    v1("copy.ref_of_dom_cow", |lab, out| changed(lab, out, |copy| copy.dest.domid = DOMID_COW)),
    v1("copy.ref_of_dom_invalid", |lab, out| changed(lab, out, |copy| copy.dest.domid = DOMID_INVALID)),
    v1("copy.ref_of_dom_idle", |lab, out| changed(lab, out, |copy| copy.dest.domid = DOMID_IDLE)),
    both("copy.frame_of_own_number", |lab, out| frame_of(lab, out, lab.own)),
    both("copy.frame_of_nobody", |lab, out| frame_of(lab, out, NOBODY)),
    v1("copy.frame_of_dom_io", |lab, out| frame_of(lab, out, DOMID_IO)),
    v1("copy.frame_of_dom_xen", |lab, out| frame_of(lab, out, DOMID_XEN)),
    both("copy.dest_frame_of_own_number", |lab, out| {
        granted(lab);
        let mut request = lab.copy_request(Side::Ref(FROM, 0), Side::Page(1, 0), 64);
        request.dest.domid = lab.own;
        asked(lab, out, request)
    }),
    both("copy.source_frame_nowhere", |lab, out| {
        granted(lab);
        let mut request = lab.copy_request(Side::Page(0, 0), Side::Ref(TO, 0), 64);
        request.source.u = gfn(lab.void());
        asked(lab, out, request)
    }),
    both("copy.dest_frame_nowhere", |lab, out| {
        granted(lab);
        let mut request = lab.copy_request(Side::Ref(FROM, 0), Side::Page(1, 0), 64);
        request.dest.u = gfn(lab.void());
        asked(lab, out, request)
    }),
    both("copy.source_frame_largest", |lab, out| {
        granted(lab);
        let mut request = lab.copy_request(Side::Page(0, 0), Side::Ref(TO, 0), 64);
        request.source.u = u32::MAX.into();
        asked(lab, out, request)
    }),
    both("copy.dest_frame_largest", |lab, out| {
        granted(lab);
        let mut request = lab.copy_request(Side::Ref(FROM, 0), Side::Page(1, 0), 64);
        request.dest.u = u32::MAX.into();
        asked(lab, out, request)
    }),
    both("copy.source_ref_ungranted", |lab, out| changed(lab, out, |copy| copy.source.u = 900)),
    both("copy.dest_ref_ungranted", |lab, out| changed(lab, out, |copy| copy.dest.u = 900)),
    both("copy.source_ref_outside", |lab, out| changed(lab, out, |copy| copy.source.u = 1 << 24)),
    both("copy.dest_ref_outside", |lab, out| changed(lab, out, |copy| copy.dest.u = 1 << 24)),
    both("copy.source_ref_max", |lab, out| changed(lab, out, |copy| copy.source.u = u32::MAX.into())),
    both("copy.dest_ref_max", |lab, out| changed(lab, out, |copy| copy.dest.u = u32::MAX.into())),
    both("copy.flags_swapped", |lab, out| {
        // Read as frame numbers, the references name the first pages.
        changed(lab, out, |copy| {
            copy.flags = 0;
            copy.source.domid = lab.own;
        })
    }),
    both("copy.unknown_flags", |lab, out| changed(lab, out, |copy| copy.flags |= 0xfffc)),
    both("copy.source_flag_alone", |lab, out| changed(lab, out, |copy| copy.flags = copy_flags::SOURCE_GREF)),
    both("copy.dest_flag_alone", |lab, out| changed(lab, out, |copy| copy.flags = copy_flags::DEST_GREF)),
    both("copy.source_entry_readonly", |lab, out| {
        source_entry(lab, out, lab.own, gfn(lab.page(0)), gtf::PERMIT_ACCESS | gtf::READONLY)
    }),
    both("copy.dest_entry_readonly", |lab, out| {
        dest_entry(lab, out, lab.own, gfn(lab.page(1)), gtf::PERMIT_ACCESS | gtf::READONLY)
    }),
    both("copy.source_entry_of_nobody", |lab, out| {
        source_entry(lab, out, NOBODY, gfn(lab.page(0)), gtf::PERMIT_ACCESS)
    }),
    both("copy.dest_entry_of_nobody", |lab, out| {
        dest_entry(lab, out, NOBODY, gfn(lab.page(1)), gtf::PERMIT_ACCESS)
    }),
    both("copy.entry_of_dom_self", |lab, out| {
        source_entry(lab, out, DOMID_SELF, gfn(lab.page(0)), gtf::PERMIT_ACCESS)
    }),
    both("copy.source_entry_transfer", |lab, out| {
        source_entry(lab, out, lab.own, gfn(lab.page(0)), gtf::ACCEPT_TRANSFER)
    }),
    both("copy.dest_entry_transfer", |lab, out| {
        dest_entry(lab, out, lab.own, gfn(lab.page(1)), gtf::ACCEPT_TRANSFER)
    }),
    v1("copy.source_entry_transitive_type", |lab, out| {
        source_entry(lab, out, lab.own, gfn(lab.page(0)), gtf::TRANSITIVE)
    }),
    v1("copy.dest_entry_transitive_type", |lab, out| {
        dest_entry(lab, out, lab.own, gfn(lab.page(1)), gtf::TRANSITIVE)
    }),
    v1("copy.entry_sub_page_flag", |lab, out| {
        source_entry(lab, out, lab.own, gfn(lab.page(0)), gtf::PERMIT_ACCESS | gtf::SUB_PAGE)
    }),
    both("copy.entry_cache_flags", |lab, out| {
        let flags = gtf::PERMIT_ACCESS | gtf::PWT | gtf::PCD | gtf::PAT;
        source_entry(lab, out, lab.own, gfn(lab.page(0)), flags)
    }),
    both("copy.source_entry_frame_nowhere", |lab, out| {
        source_entry(lab, out, lab.own, gfn(lab.void()), gtf::PERMIT_ACCESS)
    }),
    both("copy.dest_entry_frame_nowhere", |lab, out| {
        dest_entry(lab, out, lab.own, gfn(lab.void()), gtf::PERMIT_ACCESS)
    }),
    both("copy.entry_frame_largest", |lab, out| {
        source_entry(lab, out, lab.own, u32::MAX.into(), gtf::PERMIT_ACCESS)
    }),
    both("copy.two_refs_of_one_page", |lab, out| {
        lab.permit(FROM, 1, gtf::READONLY);
        lab.permit(TO, 1, 0);
        asked(lab, out, lab.copy_request(Side::Ref(FROM, 0), Side::Ref(TO, 1000), 500))
    }),
    both("copy.again_after_regrant", |lab, out| {
        granted(lab);
        lab.copy(Side::Ref(FROM, 0), Side::Ref(TO, 0), 100);
        lab.permit(FROM, 2, 0);
        asked(lab, out, lab.copy_request(Side::Ref(FROM, 0), Side::Ref(TO, 100), 100))
    }),
    both("copy.revoked_after_use", |lab, out| {
        granted(lab);
        lab.copy(Side::Ref(FROM, 0), Side::Ref(TO, 0), 100);
        lab.set_flags(FROM, 0);
        asked(lab, out, lab.copy_request(Side::Ref(FROM, 0), Side::Ref(TO, 100), 100))
    }),
    both("copy.while_source_mapped", |lab, out| {
        granted(lab);
        lab.map_ro(FROM);
        let status = lab.copy(Side::Ref(FROM, 0), Side::Ref(TO, 8), 100);
        write!(out, "{} {:08x} {}", St(status), lab.sum(1), Use(lab.in_use(FROM)))
    }),
    both("copy.while_dest_mapped_ro", |lab, out| {
        granted(lab);
        lab.map_ro(TO);
        let status = lab.copy(Side::Ref(FROM, 0), Side::Ref(TO, 8), 100);
        write!(out, "{} {:08x} {}", St(status), bytes::sum(lab.window(1), 200), Use(lab.in_use(TO)))
    }),
    both("copy.while_dest_mapped_rw", |lab, out| {
        granted(lab);
        lab.map_rw(TO);
        let status = lab.copy(Side::Ref(FROM, 0), Side::Ref(TO, 8), 100);
        write!(out, "{} {:08x} {}", St(status), bytes::sum(lab.window(0), 200), Use(lab.in_use(TO)))
    }),
    both("copy.revoked_while_mapped", |lab, out| {
        granted(lab);
        lab.map_ro(FROM);
        lab.set_flags(FROM, 0);
        let read = lab.copy(Side::Ref(FROM, 0), Side::Ref(TO, 8), 100);
        let write = lab.copy(Side::Page(2, 0), Side::Ref(FROM, 8), 100);
        write!(out, "read:{} write:{} {:08x} {}", St(read), St(write), lab.sum(1), Use(lab.in_use(FROM)))
    }),
    both("copy.frame_changed_while_mapped", |lab, out| {
        granted(lab);
        lab.map_ro(FROM);
        let flags = lab.flags(FROM);
        lab.grant(FROM, lab.own, gfn(lab.page(2)), flags);
        let read = lab.copy(Side::Ref(FROM, 0), Side::Ref(TO, 8), 100);
        let write = lab.copy(Side::Page(3, 0), Side::Ref(FROM, 8), 100);
        write!(out, "read:{} {:08x} write:{}", St(read), lab.sum(1), St(write))?;
        write!(out, " {:08x} {:08x}", bytes::sum(lab.window(1), 200), lab.sum(2))
    }),
    both("copy.by_frame_of_a_window", |lab, out| {
        granted(lab);
        lab.map_rw(FROM);
        let mut request = lab.copy_request(Side::Page(0, 0), Side::Ref(TO, 0), 64);
        request.source.u = gfn(lab.window(0));
        let status = lab.copy_as(request);
        write!(out, "{} {:08x}", St(status), lab.sum(1))
    }),
    both("copy.to_frame_of_a_window", |lab, out| {
        granted(lab);
        lab.map_rw(FROM);
        let mut request = lab.copy_request(Side::Page(1, 0), Side::Page(0, 0), 64);
        request.dest.u = gfn(lab.window(0));
        let status = lab.copy_as(request);
        write!(out, "{} {:08x}", St(status), bytes::sum(lab.window(0), 64))
    }),
    both("copy.to_frame_of_a_readonly_window", |lab, out| {
        granted(lab);
        lab.map_ro(FROM);
        let mut request = lab.copy_request(Side::Page(1, 0), Side::Page(0, 0), 64);
        request.dest.u = gfn(lab.window(1));
        let status = lab.copy_as(request);
        write!(out, "{} {:08x}", St(status), bytes::sum(lab.window(1), 64))
    }),
    v1("copy.from_the_table_itself", |lab, out| {
        granted(lab);
        let mut request = lab.copy_request(Side::Page(0, 0), Side::Page(1, 0), 4096);
        request.source.u = gfn(lab.shared(0));
        request.source.offset = 8 * 40;
        request.len = 2;
        let status = lab.copy_as(request);
        write!(out, "{} {:04x}", St(status), bytes::get::<u16>(lab.page(1)))
    }),
    v1("copy.into_the_table_itself", |lab, out| {
        granted(lab);
        bytes::put(lab.page(0), &0_u16);
        let mut request = lab.copy_request(Side::Page(0, 0), Side::Page(1, 0), 2);
        request.dest.u = gfn(lab.shared(0));
        request.dest.offset = 8 * 40;
        let status = lab.copy_as(request);
        write!(out, "{} {:04x}", St(status), lab.flags(GREF))
    }),
];
