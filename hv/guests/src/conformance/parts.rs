//! Version 2: sub-page and transitive entries, and what only its full-page entries can hold.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{Copy, gtf, map_flags, op};
use hv::abi::xen::DOMID_SELF;

use super::bytes;
use super::lab::{GREF, Lab, NOBODY, Side};
use super::show::{Mapped, Out, Ret, St, Sts, Use};
use super::{Case, v2};
use crate::rt::memory::gfn;

/// An entry for bytes 100 to 150 of page 0.
const PART: u32 = GREF;
const FIRST: u16 = 100;
const LENGTH: u16 = 50;
/// An entry for page 1.
const WHOLE: u32 = GREF + 1;
/// An entry that passes one on.
const OUTER: u32 = GREF + 2;

/// Reads `len` bytes from `offset` through the part.
fn part_read(lab: &Lab, out: &mut Out, offset: u16, len: u16) -> fmt::Result {
    lab.permit_part(PART, 0, FIRST, LENGTH, 0);
    read(lab, out, PART, offset, len)
}

/// Writes them.
fn part_written(lab: &Lab, out: &mut Out, offset: u16, len: u16) -> fmt::Result {
    lab.permit_part(PART, 0, FIRST, LENGTH, 0);
    written(lab, out, PART, offset, len)
}

fn read(lab: &Lab, out: &mut Out, gref: u32, offset: u16, len: u16) -> fmt::Result {
    let status = lab.copy(Side::Ref(gref, offset), Side::Page(2, 8), len);
    write!(out, "{} {:08x} {}", St(status), lab.sum(2), Use(lab.in_use(gref)))
}

fn written(lab: &Lab, out: &mut Out, gref: u32, offset: u16, len: u16) -> fmt::Result {
    let status = lab.copy(Side::Page(2, 8), Side::Ref(gref, offset), len);
    write!(out, "{} {:08x} {}", St(status), lab.sum(0), Use(lab.in_use(gref)))
}

/// A part from `first`, `length` bytes long, read whole.
fn shaped(lab: &Lab, out: &mut Out, first: u16, length: u16, offset: u16, len: u16) -> fmt::Result {
    lab.permit_part(PART, 0, first, length, 0);
    read(lab, out, PART, offset, len)
}

/// Maps an entry.
fn mapped(lab: &mut Lab, out: &mut Out, gref: u32, flags: u32) -> fmt::Result {
    let map = lab.map(lab.map_request(gref, 0, flags));
    write!(out, "{} {}", Mapped(map), Use(lab.in_use(gref)))
}

/// Passes on `inner` of `domid` and reads through it.
fn passed_read(lab: &Lab, out: &mut Out, domid: u16, inner: u32) -> fmt::Result {
    lab.permit(WHOLE, 0, 0);
    lab.pass_on(OUTER, domid, inner, 0);
    read(lab, out, OUTER, 0, 64)?;
    write!(out, " {}", Use(lab.in_use(WHOLE)))
}

pub const CASES: &[Case] = &[
    v2("part.read_all", |lab, out| part_read(lab, out, FIRST, LENGTH)),
    v2("part.read_first_byte", |lab, out| part_read(lab, out, FIRST, 1)),
    v2("part.read_last_byte", |lab, out| part_read(lab, out, FIRST + LENGTH - 1, 1)),
    v2("part.read_byte_before", |lab, out| part_read(lab, out, FIRST - 1, 1)),
    v2("part.read_byte_after", |lab, out| part_read(lab, out, FIRST + LENGTH, 1)),
    v2("part.read_one_too_early", |lab, out| part_read(lab, out, FIRST - 1, LENGTH)),
    v2("part.read_one_too_long", |lab, out| part_read(lab, out, FIRST, LENGTH + 1)),
    v2("part.read_offset_zero", |lab, out| part_read(lab, out, 0, 1)),
    v2("part.read_past_page", |lab, out| part_read(lab, out, 4090, 10)),
    v2("part.read_nothing_inside", |lab, out| part_read(lab, out, FIRST, 0)),
    v2("part.read_nothing_outside", |lab, out| part_read(lab, out, 0, 0)),
    v2("part.write_all", |lab, out| part_written(lab, out, FIRST, LENGTH)),
    v2("part.write_one_too_long", |lab, out| part_written(lab, out, FIRST, LENGTH + 1)),
    v2("part.write_one_too_early", |lab, out| part_written(lab, out, FIRST - 1, 2)),
    v2("part.write_readonly", |lab, out| {
        lab.permit_part(PART, 0, FIRST, LENGTH, gtf::READONLY);
        written(lab, out, PART, FIRST, LENGTH)
    }),
    v2("part.read_readonly", |lab, out| {
        lab.permit_part(PART, 0, FIRST, LENGTH, gtf::READONLY);
        read(lab, out, PART, FIRST, LENGTH)
    }),
    v2("part.of_nobody", |lab, out| {
        lab.permit_part(PART, 0, FIRST, LENGTH, 0);
        bytes::put_half(lab.shared(0) + u64::from(PART) * 16 + 2, NOBODY);
        read(lab, out, PART, FIRST, LENGTH)
    }),
    v2("part.whole_page", |lab, out| shaped(lab, out, 0, 4096, 0, 4096)),
    v2("part.empty", |lab, out| shaped(lab, out, 100, 0, 100, 1)),
    v2("part.empty_and_nothing", |lab, out| shaped(lab, out, 100, 0, 100, 0)),
    v2("part.beyond_the_page", |lab, out| shaped(lab, out, 4090, 100, 4090, 6)),
    v2("part.beyond_the_page_read_beyond", |lab, out| shaped(lab, out, 4090, 100, 4090, 7)),
    v2("part.starts_beyond_the_page", |lab, out| shaped(lab, out, 5000, 100, 5000, 1)),
    v2("part.start_of_15_bits", |lab, out| shaped(lab, out, 0x8000, 100, 0, 1)),
    v2("part.start_wraps_in_15_bits", |lab, out| shaped(lab, out, 0x8064, 50, 100, 50)),
    v2("part.length_max", |lab, out| shaped(lab, out, 0, u16::MAX, 0, 4096)),
    v2("part.start_and_length_wrap", |lab, out| shaped(lab, out, u16::MAX, u16::MAX, 0, 1)),
    v2("part.frame_nowhere", |lab, out| {
        lab.permit_part(PART, 0, FIRST, LENGTH, 0);
        bytes::put(lab.shared(0) + u64::from(PART) * 16 + 8, &gfn(lab.void()));
        read(lab, out, PART, FIRST, LENGTH)
    }),
    v2("part.map_rw", |lab, out| {
        lab.permit_part(PART, 0, FIRST, LENGTH, 0);
        mapped(lab, out, PART, map_flags::HOST_MAP)
    }),
    v2("part.map_ro", |lab, out| {
        lab.permit_part(PART, 0, FIRST, LENGTH, 0);
        mapped(lab, out, PART, map_flags::HOST_MAP | map_flags::READONLY)
    }),
    v2("part.map_of_whole_page", |lab, out| {
        lab.permit_part(PART, 0, 0, 4096, 0);
        mapped(lab, out, PART, map_flags::HOST_MAP)
    }),
    v2("part.both_sides_of_one_page", |lab, out| {
        lab.permit_part(PART, 0, 0, 64, gtf::READONLY);
        lab.permit_part(WHOLE, 0, 64, 64, 0);
        let status = lab.copy(Side::Ref(PART, 0), Side::Ref(WHOLE, 64), 64);
        write!(out, "{} {:08x}", St(status), lab.sum(0))
    }),
    v2("part.same_entry_both_sides", |lab, out| {
        lab.permit_part(PART, 0, 0, 128, 0);
        let status = lab.copy(Side::Ref(PART, 0), Side::Ref(PART, 64), 64);
        write!(out, "{} {:08x} {}", St(status), lab.sum(0), Use(lab.in_use(PART)))
    }),
    v2("part.batch_walks_the_part", |lab, out| {
        lab.permit_part(PART, 0, FIRST, LENGTH, 0);
        let mut batch: [Copy; 16] = core::array::from_fn(|index| {
            let at = u16::try_from(index).unwrap_or(0) * 4;
            lab.copy_request(Side::Ref(PART, FIRST - 4 + at), Side::Page(2, at), 4)
        });
        let result = lab.op(op::COPY, &mut batch);
        write!(out, "{} {} {:08x}", Ret(result), Sts(batch.iter().map(|copy| copy.status)), lab.sum(2))
    }),
    v2("part.widened_between_batches", |lab, out| {
        part_read(lab, out, FIRST, LENGTH + 1)?;
        lab.permit_part(PART, 0, FIRST, LENGTH + 1, 0);
        write!(out, " ")?;
        read(lab, out, PART, FIRST, LENGTH + 1)
    }),
    v2("part.made_while_full_page_is_mapped", |lab, out| {
        lab.permit(PART, 0, 0);
        lab.map_ro(PART);
        lab.permit_part(PART, 0, FIRST, LENGTH, 0);
        let map = lab.map(lab.map_request(PART, 3, map_flags::HOST_MAP | map_flags::READONLY));
        let copy = lab.copy(Side::Ref(PART, 0), Side::Page(2, 0), 64);
        write!(out, "{} {} {}", Mapped(map), St(copy), Use(lab.in_use(PART)))
    }),
    v2("whole.frame_above_32_bits", |lab, out| {
        lab.grant(PART, lab.own, gfn(lab.page(0)) | 1 << 32, gtf::PERMIT_ACCESS);
        read(lab, out, PART, 0, 64)
    }),
    v2("whole.frame_above_32_bits_mapped", |lab, out| {
        lab.grant(PART, lab.own, gfn(lab.page(0)) | 1 << 32, gtf::PERMIT_ACCESS);
        mapped(lab, out, PART, map_flags::HOST_MAP)
    }),
    v2("whole.frame_all_ones", |lab, out| {
        lab.grant(PART, lab.own, u64::MAX, gtf::PERMIT_ACCESS);
        read(lab, out, PART, 0, 64)
    }),
    v2("whole.padding_is_ignored", |lab, out| {
        lab.permit(PART, 0, 0);
        bytes::put(lab.shared(0) + u64::from(PART) * 16 + 4, &u32::MAX);
        read(lab, out, PART, 4000, 96)
    }),
    v2("whole.use_bits_in_flags_are_ignored", |lab, out| {
        lab.permit(PART, 0, gtf::READING | gtf::WRITING);
        read(lab, out, PART, 0, 64)?;
        write!(out, " {:x}", lab.flags(PART))
    }),
    v2("whole.flags_are_the_guests", |lab, out| {
        lab.permit(PART, 0, 0);
        lab.map_rw(PART);
        write!(out, "{:x} {}", lab.flags(PART), Use(lab.in_use(PART)))
    }),
    v2("whole.status_words_apart", |lab, out| {
        lab.permit(PART, 0, 0);
        lab.map_rw(PART);
        write!(out, "{} {}", Use(lab.in_use(PART - 1)), Use(lab.in_use(PART + 1)))
    }),
    v2("whole.status_scribbled", |lab, out| {
        lab.permit(PART, 0, 0);
        bytes::put_half(lab.status_frame(0) + u64::from(PART) * 2, 0xffff);
        let map = lab.map_rw(PART);
        let during = lab.in_use(PART);
        let status = lab.unmap(&map);
        write!(out, "{} {during:x} {} {:x}", St(map.status), St(status), lab.in_use(PART))?;
        bytes::put_half(lab.status_frame(0) + u64::from(PART) * 2, 0);
        Ok(())
    }),
    v2("passed.to_itself", |lab, out| passed_read(lab, out, lab.own, WHOLE)),
    v2("passed.dom_self", |lab, out| passed_read(lab, out, DOMID_SELF, WHOLE)),
    v2("passed.nobody", |lab, out| passed_read(lab, out, NOBODY, WHOLE)),
    v2("passed.nobody_written", |lab, out| {
        lab.pass_on(OUTER, NOBODY, WHOLE, 0);
        written(lab, out, OUTER, 0, 64)
    }),
    v2("passed.nobody_ref_max", |lab, out| passed_read(lab, out, NOBODY, u32::MAX)),
    v2("passed.own_entry_outside", |lab, out| passed_read(lab, out, lab.own, 1 << 24)),
    v2("passed.circle", |lab, out| passed_read(lab, out, lab.own, OUTER)),
    v2("passed.readonly_written", |lab, out| {
        lab.pass_on(OUTER, NOBODY, WHOLE, gtf::READONLY);
        written(lab, out, OUTER, 0, 64)
    }),
    v2("passed.of_nobody", |lab, out| {
        lab.pass_on(OUTER, lab.own, WHOLE, 0);
        bytes::put_half(lab.shared(0) + u64::from(OUTER) * 16 + 2, NOBODY);
        read(lab, out, OUTER, 0, 64)
    }),
    v2("passed.with_sub_page_flag", |lab, out| {
        lab.pass_on(OUTER, NOBODY, WHOLE, gtf::SUB_PAGE);
        read(lab, out, OUTER, 0, 64)
    }),
    v2("passed.map_ro", |lab, out| {
        lab.permit(WHOLE, 0, 0);
        lab.pass_on(OUTER, lab.own, WHOLE, 0);
        mapped(lab, out, OUTER, map_flags::HOST_MAP | map_flags::READONLY)
    }),
    v2("passed.map_rw", |lab, out| {
        lab.pass_on(OUTER, NOBODY, WHOLE, 0);
        mapped(lab, out, OUTER, map_flags::HOST_MAP)
    }),
    v2("passed.read_nothing", |lab, out| {
        lab.pass_on(OUTER, NOBODY, WHOLE, 0);
        read(lab, out, OUTER, 0, 0)
    }),
    v2("passed.read_past_page", |lab, out| {
        lab.pass_on(OUTER, NOBODY, WHOLE, 0);
        read(lab, out, OUTER, 4090, 10)
    }),
    v2("passed.batch_with_good_ones", |lab, out| {
        lab.permit(WHOLE, 0, 0);
        lab.pass_on(OUTER, lab.own, WHOLE, 0);
        let mut batch: [Copy; 9] = core::array::from_fn(|index| {
            let at = u16::try_from(index).unwrap_or(0) * 16;
            let gref = if index % 3 == 1 { OUTER } else { WHOLE };
            lab.copy_request(Side::Ref(gref, at), Side::Page(2, at), 16)
        });
        let result = lab.op(op::COPY, &mut batch);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|copy| copy.status)))?;
        write!(out, "{:08x} {} {}", lab.sum(2), Use(lab.in_use(WHOLE)), Use(lab.in_use(OUTER)))
    }),
    v2("passed.made_while_full_page_is_mapped", |lab, out| {
        lab.permit(PART, 0, 0);
        lab.map_ro(PART);
        lab.pass_on(PART, NOBODY, WHOLE, 0);
        let copy = lab.copy(Side::Ref(PART, 0), Side::Page(2, 0), 64);
        let map = lab.map(lab.map_request(PART, 3, map_flags::HOST_MAP));
        write!(out, "{} {} {}", St(copy), Mapped(map), Use(lab.in_use(PART)))
    }),
];
