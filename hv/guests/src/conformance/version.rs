//! `GNTTABOP_set_version`: both ways, with entries mapped, with reserved entries, with what does not fit.
//!
//! All begin in version 1 and may end in either; [`Lab`] asks for the version it needs.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{GetVersion, SetVersion, gtf, op};
use hv::abi::memory as mem;
use hv::abi::xen::DOMID_SELF;

use super::bytes;
use super::lab::{GREF, Lab, NOBODY, Side};
use super::request::low;
use super::show::{Out, Ret, St, Use};
use super::{Case, v1};
use crate::rt::memory::gfn;

/// A reserved entry that no toolstack uses.
const RESERVED: u32 = 5;

/// Switches, and tells the result and the version written back.
fn switch(lab: &mut Lab, out: &mut Out, version: u32) -> fmt::Result {
    let (result, told) = lab.set_version(version);
    write!(out, "{}:{told} ", Ret(result))
}

fn read(lab: &Lab, gref: u32) -> i16 {
    lab.copy(Side::Ref(gref, 0), Side::Page(7, 0), 64)
}

/// From 1 to 2 with an entry that `make` has made; what is there after, and after going back.
fn kept(lab: &mut Lab, out: &mut Out, gref: u32, make: impl FnOnce(&Lab)) -> fmt::Result {
    make(lab);
    switch(lab, out, 2)?;
    write!(out, "{:x} {:x} {:x}", lab.flags(gref), lab.entry_word(gref, 4), lab.entry_word(gref, 12))?;
    write!(out, " {} ", St(read(lab, gref)))?;
    switch(lab, out, 1)?;
    write!(out, "{:x} {}", lab.flags(gref), St(read(lab, gref)))
}

/// In version 2, an entry that `make` has made; then to 1.
fn back(lab: &mut Lab, out: &mut Out, gref: u32, make: impl FnOnce(&Lab)) -> fmt::Result {
    switch(lab, out, 2)?;
    if lab.version != 2 {
        return Ok(());
    }
    make(lab);
    switch(lab, out, 1)?;
    write!(out, "{:x} ", lab.flags(gref))?;
    if lab.version == 2 {
        // What was refused is undone so that the next case gets its version.
        lab.grant(gref, 0, 0, 0);
        return switch(lab, out, 1);
    }
    Ok(())
}

pub const CASES: &[Case] = &[
    v1("switch.to_1_from_1", |lab, out| switch(lab, out, 1)),
    v1("switch.keeps_entries_if_no_change", |lab, out| {
        lab.permit(GREF, 0, 0);
        switch(lab, out, 1)?;
        write!(out, "{:x} {}", lab.flags(GREF), St(read(lab, GREF)))
    }),
    v1("switch.no_change_while_mapped", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        switch(lab, out, 1)?;
        write!(out, "{}", Use(lab.in_use(GREF)))
    }),
    v1("switch.to_0", |lab, out| switch(lab, out, 0)),
    v1("switch.to_3", |lab, out| switch(lab, out, 3)),
    v1("switch.to_max", |lab, out| switch(lab, out, u32::MAX)),
    v1("switch.to_2_and_back", |lab, out| {
        switch(lab, out, 2)?;
        switch(lab, out, 1)
    }),
    v1("switch.to_2_from_2", |lab, out| {
        switch(lab, out, 2)?;
        lab.permit(GREF, 0, 0);
        switch(lab, out, 2)?;
        write!(out, "{:x} {}", lab.flags(GREF), St(read(lab, GREF)))
    }),
    v1("switch.to_3_from_2", |lab, out| {
        switch(lab, out, 2)?;
        switch(lab, out, 3)
    }),
    v1("switch.version_told_after", |lab, out| {
        for version in [2, 1] {
            switch(lab, out, version)?;
            let request = GetVersion { dom: DOMID_SELF, pad: 0, version: 0 };
            write!(out, "{} ", lab.one(op::GET_VERSION, request).1.version)?;
        }
        Ok(())
    }),
    v1("switch.many_times", |lab, out| {
        let failed = (0..20).filter(|round| lab.set_version(2 - round % 2).0 != 0).count();
        write!(out, "failed:{failed} {}", lab.version)
    }),
    v1("switch.wipes_entries", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.permit(8, 1, 0);
        switch(lab, out, 2)?;
        if lab.version == 2 {
            let zero = (0..1024)
                .filter(|word| *word >= 32)
                .all(|word| bytes::get_word(lab.shared(0) + word * 4) == 0);
            write!(out, "zero:{zero} ")?;
            lab.permit(GREF, 0, 0);
        }
        switch(lab, out, 1)?;
        let zero = (16..1024).all(|word| bytes::get_word(lab.shared(0) + word * 4) == 0);
        write!(out, "zero:{zero}")
    }),
    v1("switch.wipes_every_frame", |lab, out| {
        let last = lab.entries() - 1;
        lab.permit(last, 0, 0);
        switch(lab, out, 2)?;
        if lab.version == 1 {
            return Ok(());
        }
        let zero = (0..1024).all(|word| bytes::get_word(lab.shared(3) + word * 4) == 0);
        write!(out, "zero:{zero}")
    }),
    v1("switch.to_2_while_mapped", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_ro(GREF);
        switch(lab, out, 2)?;
        write!(out, "{:x} {} ", lab.flags(GREF), Use(lab.in_use(GREF)))?;
        lab.unmap(&map);
        switch(lab, out, 2)
    }),
    v1("switch.to_1_while_mapped", |lab, out| {
        switch(lab, out, 2)?;
        if lab.version == 1 {
            return Ok(());
        }
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        switch(lab, out, 1)?;
        write!(out, "{:x} {} ", lab.flags(GREF), Use(lab.in_use(GREF)))?;
        lab.unmap(&map);
        switch(lab, out, 1)
    }),
    v1("switch.after_revoked_while_mapped", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_ro(GREF);
        lab.set_flags(GREF, 0);
        switch(lab, out, 2)?;
        lab.unmap(&map);
        switch(lab, out, 2)
    }),
    v1("switch.keeps_reserved", |lab, out| kept(lab, out, RESERVED, |lab| lab.permit(RESERVED, 0, 0))),
    v1("switch.keeps_reserved_readonly", |lab, out| {
        kept(lab, out, RESERVED, |lab| lab.permit(RESERVED, 0, gtf::READONLY))
    }),
    v1("switch.keeps_reserved_of_nobody", |lab, out| {
        kept(lab, out, RESERVED, |lab| lab.grant(RESERVED, NOBODY, 77, gtf::PERMIT_ACCESS))
    }),
    v1("switch.reserved_accepting_transfer", |lab, out| {
        kept(lab, out, RESERVED, |lab| lab.grant(RESERVED, lab.own, 0, gtf::ACCEPT_TRANSFER))
    }),
    v1("switch.reserved_of_transitive_type", |lab, out| {
        kept(lab, out, RESERVED, |lab| lab.grant(RESERVED, lab.own, 0, gtf::TRANSITIVE))
    }),
    v1("switch.reserved_with_cache_flags", |lab, out| {
        kept(lab, out, RESERVED, |lab| lab.permit(RESERVED, 0, gtf::PWT | gtf::PCD))
    }),
    v1("switch.reserved_invalid_with_rest", |lab, out| {
        kept(lab, out, RESERVED, |lab| lab.grant(RESERVED, lab.own, 55, 0))
    }),
    v1("switch.reserved_last", |lab, out| kept(lab, out, 7, |lab| lab.permit(7, 0, 0))),
    v1("switch.first_unreserved", |lab, out| kept(lab, out, 8, |lab| lab.permit(8, 0, 0))),
    v1("switch.reserved_mapped", |lab, out| {
        lab.permit(RESERVED, 0, 0);
        let map = lab.map_ro(RESERVED);
        switch(lab, out, 2)?;
        write!(out, "{:x} {} ", lab.flags(RESERVED), Use(lab.in_use(RESERVED)))?;
        let status = lab.unmap(&map);
        write!(out, "{} {} ", St(status), Use(lab.in_use(RESERVED)))?;
        lab.grant(RESERVED, 0, 0, 0);
        switch(lab, out, 1)
    }),
    v1("switch.reserved_mapped_in_2", |lab, out| {
        switch(lab, out, 2)?;
        lab.permit(RESERVED, 0, 0);
        let map = lab.map_rw(RESERVED);
        switch(lab, out, 1)?;
        write!(out, "{:x} {} ", lab.flags(RESERVED), Use(lab.in_use(RESERVED)))?;
        let status = lab.unmap(&map);
        write!(out, "{} {} ", St(status), Use(lab.in_use(RESERVED)))?;
        lab.grant(RESERVED, 0, 0, 0);
        switch(lab, out, 1)
    }),
    v1("switch.reserved_full_page_back", |lab, out| {
        back(lab, out, RESERVED, |lab| lab.permit(RESERVED, 0, 0))?;
        write!(out, "{:x}", u64::from(lab.entry_word(RESERVED, 4)) - gfn(lab.page(0)))
    }),
    v1("switch.reserved_sub_page_back", |lab, out| {
        back(lab, out, RESERVED, |lab| lab.permit_part(RESERVED, 0, 0, 100, 0))
    }),
    v1("switch.reserved_transitive_back", |lab, out| {
        back(lab, out, RESERVED, |lab| lab.pass_on(RESERVED, NOBODY, 1, 0))
    }),
    v1("switch.reserved_large_frame_back", |lab, out| {
        back(lab, out, RESERVED, |lab| lab.grant(RESERVED, lab.own, 1 << 32, gtf::PERMIT_ACCESS))
    }),
    v1("switch.reserved_largest_small_frame_back", |lab, out| {
        let frame = u64::from(u32::MAX);
        back(lab, out, RESERVED, |lab| lab.grant(RESERVED, lab.own, frame, gtf::PERMIT_ACCESS))
    }),
    v1("switch.reserved_invalid_large_frame_back", |lab, out| {
        back(lab, out, RESERVED, |lab| lab.grant(RESERVED, lab.own, 1 << 32, 0))
    }),
    v1("switch.unreserved_large_frame_back", |lab, out| {
        back(lab, out, GREF, |lab| lab.grant(GREF, lab.own, 1 << 40, gtf::PERMIT_ACCESS))
    }),
    v1("switch.unreserved_transitive_back", |lab, out| {
        back(lab, out, GREF, |lab| lab.pass_on(GREF, NOBODY, 1, 0))
    }),
    v1("switch.status_is_zero_in_2", |lab, out| {
        lab.permit(RESERVED, 0, 0);
        switch(lab, out, 2)?;
        if lab.version == 1 {
            return Ok(());
        }
        let zero = (0..1024).all(|word| bytes::get_word(lab.status_frame(0) + word * 4) == 0);
        write!(out, "zero:{zero}")
    }),
    v1("switch.status_frame_gone_in_1", |lab, out| {
        switch(lab, out, 2)?;
        if lab.version == 1 {
            return Ok(());
        }
        switch(lab, out, 1)?;
        // By frame number: reading it ourselves could end the domain.
        let mut request = lab.copy_request(Side::Page(0, 0), Side::Page(1, 0), 8);
        request.source.u = gfn(lab.status_frame(0));
        write!(out, "{}", St(lab.copy_as(request)))
    }),
    v1("switch.with_status_frame_at_two_places", |lab, out| {
        switch(lab, out, 2)?;
        if lab.version == 1 {
            return Ok(());
        }
        let placed = lab.place(u64::from(low(mem::MAPIDX_GRANT_TABLE_STATUS)), lab.spot(3));
        write!(out, "{} ", Ret(placed))?;
        switch(lab, out, 1)
    }),
    v1("switch.raw_leaves_argument_of_a_fault", |lab, out| {
        // The version in force comes back even when the wanted one is refused.
        let (result, told) = lab.one(op::SET_VERSION, SetVersion { version: 9 });
        write!(out, "{} {}", Ret(result), told.version)
    }),
];
