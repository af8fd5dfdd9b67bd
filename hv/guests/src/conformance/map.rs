//! `GNTTABOP_map_grant_ref`.
#![forbid(unsafe_code)]

use core::fmt::Write as _;

use hv::abi::grant_table::{MapGrantRef, gtf, map_flags};
use hv::abi::xen::{DOMID_COW, DOMID_IDLE, DOMID_INVALID, DOMID_IO, DOMID_SELF, DOMID_XEN};

use super::bytes;
use super::lab::{GREF, Lab, NOBODY, Side};
use super::show::{Mapped, Out, Ret, St, Sts, Use};
use super::{Case, both, v1};
use crate::rt::memory::{PAGE, gfn};

const RW: u32 = map_flags::HOST_MAP;
const RO: u32 = map_flags::HOST_MAP | map_flags::READONLY;

/// Tries one map of a good grant, changed by `change`.
fn tried(lab: &mut Lab, out: &mut Out, change: impl FnOnce(&mut MapGrantRef)) -> core::fmt::Result {
    lab.permit(GREF, 0, 0);
    tried_as_is(lab, out, change)
}

/// The same with the table as the case has it.
fn tried_as_is(lab: &mut Lab, out: &mut Out, change: impl FnOnce(&mut MapGrantRef)) -> core::fmt::Result {
    let mut request = lab.map_request(GREF, 0, RW);
    change(&mut request);
    let map = lab.map(request);
    write!(out, "{} {}", Mapped(map), Use(lab.in_use(GREF)))
}

/// For whom the grant is looked up.
fn of_domain(lab: &mut Lab, out: &mut Out, dom: u16) -> core::fmt::Result {
    tried(lab, out, |request| request.dom = dom)
}

/// Maps with an entry of these flags.
fn entry_flags(lab: &mut Lab, out: &mut Out, flags: u16, map: u32) -> core::fmt::Result {
    lab.permit(GREF, 0, 0);
    lab.set_flags(GREF, flags);
    tried_as_is(lab, out, |request| request.flags = map)
}

/// Maps an entry that names this frame.
fn frame(lab: &mut Lab, out: &mut Out, frame: u64) -> core::fmt::Result {
    lab.grant(GREF, lab.own, frame, gtf::PERMIT_ACCESS);
    tried_as_is(lab, out, |_| {})
}

/// `count` mappings of one grant with these flags, at windows from `from`: statuses.
fn many(lab: &mut Lab, count: usize, from: u64, flags: u32) -> [i16; 140] {
    let mut statuses = [0; 140];
    for (status, window) in statuses.iter_mut().zip(from..).take(count) {
        *status = lab.map(lab.map_request(GREF, window, flags)).status;
    }
    statuses
}

pub const CASES: &[Case] = &[
    both("map.rw", |lab, out| {
        tried(lab, out, |_| {})?;
        write!(out, " {:08x}", bytes::sum(lab.window(0), PAGE))
    }),
    both("map.ro", |lab, out| {
        tried(lab, out, |request| request.flags = RO)?;
        write!(out, " {:08x}", bytes::sum(lab.window(0), PAGE))
    }),
    both("map.rw_is_written_through", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_rw(GREF);
        bytes::put(lab.window(0) + 5, &0x55_u8);
        let status = lab.copy(Side::Ref(GREF, 4), Side::Page(1, 0), 4);
        write!(out, "{} {:08x}", St(status), bytes::get_word(lab.page(1)))
    }),
    both("map.seen_after_copy_into_it", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        let status = lab.copy(Side::Page(1, 0), Side::Ref(GREF, 100), 300);
        write!(out, "{} {:08x}", St(status), bytes::sum(lab.window(1), PAGE))
    }),
    both("map.no_half", |lab, out| tried(lab, out, |request| request.flags = 0)),
    both("map.readonly_without_half", |lab, out| {
        tried(lab, out, |request| request.flags = map_flags::READONLY)
    }),
    both("map.device_only", |lab, out| tried(lab, out, |request| request.flags = map_flags::DEVICE_MAP)),
    both("map.device_and_host", |lab, out| tried(lab, out, |request| request.flags |= map_flags::DEVICE_MAP)),
    both("map.application", |lab, out| {
        tried(lab, out, |request| request.flags |= map_flags::APPLICATION_MAP)
    }),
    both("map.contains_pte", |lab, out| tried(lab, out, |request| request.flags |= map_flags::CONTAINS_PTE)),
    both("map.can_fail_flag", |lab, out| tried(lab, out, |request| request.flags |= 1 << 5)),
    both("map.flag_6", |lab, out| tried(lab, out, |request| request.flags |= 1 << 6)),
    both("map.avail_bits", |lab, out| tried(lab, out, |request| request.flags |= 7 << 16)),
    both("map.all_flags", |lab, out| tried(lab, out, |request| request.flags = u32::MAX)),
    both("map.dom_self", |lab, out| of_domain(lab, out, DOMID_SELF)),
    both("map.dom_nobody", |lab, out| of_domain(lab, out, NOBODY)),
    v1("map.dom_io", |lab, out| of_domain(lab, out, DOMID_IO)),
    v1("map.dom_xen", |lab, out| of_domain(lab, out, DOMID_XEN)),
    v1("map.dom_cow", |lab, out| of_domain(lab, out, DOMID_COW)),
    v1("map.dom_invalid", |lab, out| of_domain(lab, out, DOMID_INVALID)),
    v1("map.dom_idle", |lab, out| of_domain(lab, out, DOMID_IDLE)),
    v1("map.dom_ffff", |lab, out| of_domain(lab, out, u16::MAX)),
    both("map.ref_zero_is_not_granted", |lab, out| {
        lab.grant(2, 0, 0, 0);
        tried(lab, out, |request| request.gref = 2)
    }),
    both("map.ref_last_of_table", |lab, out| {
        let last = lab.entries() - 1;
        lab.permit(last, 0, 0);
        tried(lab, out, |request| request.gref = last)
    }),
    both("map.ref_past_most_frames", |lab, out| tried(lab, out, |request| request.gref = 1 << 24)),
    both("map.ref_max", |lab, out| tried(lab, out, |request| request.gref = u32::MAX)),
    both("map.ref_top_bit", |lab, out| tried(lab, out, |request| request.gref = 1 << 31 | GREF)),
    both("map.entry_invalid", |lab, out| entry_flags(lab, out, gtf::INVALID, RW)),
    both("map.entry_invalid_but_readonly", |lab, out| entry_flags(lab, out, gtf::READONLY, RO)),
    both("map.entry_accepts_transfer", |lab, out| entry_flags(lab, out, gtf::ACCEPT_TRANSFER, RW)),
    v1("map.entry_transitive_type", |lab, out| entry_flags(lab, out, gtf::TRANSITIVE, RO)),
    both("map.entry_readonly_rw", |lab, out| entry_flags(lab, out, gtf::PERMIT_ACCESS | gtf::READONLY, RW)),
    both("map.entry_readonly_ro", |lab, out| entry_flags(lab, out, gtf::PERMIT_ACCESS | gtf::READONLY, RO)),
    both("map.entry_pwt", |lab, out| entry_flags(lab, out, gtf::PERMIT_ACCESS | gtf::PWT, RW)),
    both("map.entry_pcd", |lab, out| entry_flags(lab, out, gtf::PERMIT_ACCESS | gtf::PCD, RW)),
    both("map.entry_pat", |lab, out| entry_flags(lab, out, gtf::PERMIT_ACCESS | gtf::PAT, RW)),
    v1("map.entry_sub_page_flag", |lab, out| entry_flags(lab, out, gtf::PERMIT_ACCESS | gtf::SUB_PAGE, RW)),
    v1("map.entry_stale_use_bits", |lab, out| {
        // A guest may have left bits that are the hypervisor's.
        lab.permit(GREF, 0, gtf::READING | gtf::WRITING);
        let map = lab.map_ro(GREF);
        let during = lab.in_use(GREF);
        let status = lab.unmap(&map);
        write!(out, "{} {} {} {}", Mapped(map), Use(during), St(status), Use(lab.in_use(GREF)))?;
        lab.set_flags(GREF, 0);
        Ok(())
    }),
    both("map.entry_high_flags", |lab, out| entry_flags(lab, out, gtf::PERMIT_ACCESS | 0xfe00, RW)),
    both("map.entry_of_nobody", |lab, out| {
        lab.grant(GREF, NOBODY, gfn(lab.page(0)), gtf::PERMIT_ACCESS);
        tried_as_is(lab, out, |_| {})
    }),
    both("map.entry_of_dom_self", |lab, out| {
        lab.grant(GREF, DOMID_SELF, gfn(lab.page(0)), gtf::PERMIT_ACCESS);
        tried_as_is(lab, out, |_| {})
    }),
    both("map.frame_nowhere", |lab, out| frame(lab, out, gfn(lab.window(9)))),
    both("map.frame_given_back", |lab, out| frame(lab, out, gfn(lab.void()))),
    both("map.frame_largest_of_32_bits", |lab, out| frame(lab, out, u32::MAX.into())),
    v1("map.frame_lapic", |lab, out| frame(lab, out, 0xf_ee00)),
    both("map.window_unaligned", |lab, out| {
        lab.permit(GREF, 0, 0);
        let mut request = lab.map_request(GREF, 0, RW);
        request.host_addr += 0x123;
        let map = lab.map(request);
        let seen = if map.status == 0 { bytes::sum(lab.window(0), PAGE) } else { 0 };
        write!(out, "{} {seen:08x} {}", Mapped(map), Use(lab.in_use(GREF)))
    }),
    both("map.window_beyond_addresses", |lab, out| tried(lab, out, |request| request.host_addr = 1 << 56)),
    both("map.over_own_memory", |lab, out| {
        lab.permit(GREF, 0, 0);
        let mut request = lab.map_request(GREF, 0, RW);
        request.host_addr = lab.page(3);
        let map = lab.map(request);
        let seen = bytes::sum(lab.page(3), PAGE);
        let status = lab.unmap(&map);
        // What was there before is gone.
        let left = lab.copy(Side::Page(3, 0), Side::Page(4, 0), 8);
        write!(out, "{} {seen:08x} unmap:{} then:{}", Mapped(map), St(status), St(left))
    }),
    both("map.twice_rw", |lab, out| {
        lab.permit(GREF, 0, 0);
        let first = lab.map(lab.map_request(GREF, 0, RW));
        let second = lab.map(lab.map_request(GREF, 1, RW));
        write!(out, "{} {} ", Mapped(first), Mapped(second))?;
        write!(out, "{}", Use(lab.in_use(GREF)))?;
        bytes::put(lab.window(0) + 8, &0x1234_u32);
        write!(out, " {:08x}", bytes::get_word(lab.window(1) + 8))?;
        let status = lab.unmap(&first);
        write!(out, " {} {}", St(status), Use(lab.in_use(GREF)))?;
        let status = lab.unmap(&second);
        write!(out, " {} {}", St(status), Use(lab.in_use(GREF)))
    }),
    both("map.handles_differ", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.permit(GREF + 1, 1, 0);
        let maps = [lab.map_rw(GREF), lab.map_ro(GREF), lab.map(lab.map_request(GREF + 1, 2, RW))];
        let differ = maps[0].handle != maps[1].handle
            && maps[1].handle != maps[2].handle
            && maps[0].handle != maps[2].handle;
        write!(out, "{differ} bus:{}", maps[0].dev_bus_addr == maps[1].dev_bus_addr)
    }),
    both("map.bus_address_is_a_page's", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        write!(out, "{} {}", St(map.status), map.dev_bus_addr % PAGE)
    }),
    both("map.rw_then_ro", |lab, out| {
        lab.permit(GREF, 0, 0);
        let rw = lab.map_rw(GREF);
        write!(out, "{}", Use(lab.in_use(GREF)))?;
        let ro = lab.map_ro(GREF);
        write!(out, " {}", Use(lab.in_use(GREF)))?;
        let status = lab.unmap(&rw);
        write!(out, " {} {}", St(status), Use(lab.in_use(GREF)))?;
        let status = lab.unmap(&ro);
        write!(out, " {} {}", St(status), Use(lab.in_use(GREF)))
    }),
    both("map.ro_then_rw", |lab, out| {
        lab.permit(GREF, 0, 0);
        let ro = lab.map_ro(GREF);
        write!(out, "{}", Use(lab.in_use(GREF)))?;
        let rw = lab.map_rw(GREF);
        write!(out, " {}", Use(lab.in_use(GREF)))?;
        let status = lab.unmap(&ro);
        write!(out, " {} {}", St(status), Use(lab.in_use(GREF)))?;
        let status = lab.unmap(&rw);
        write!(out, " {} {}", St(status), Use(lab.in_use(GREF)))
    }),
    both("map.revoked_while_ro_then_ro", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        lab.set_flags(GREF, 0);
        let again = lab.map(lab.map_request(GREF, 2, RO));
        write!(out, "{} {}", Mapped(again), Use(lab.in_use(GREF)))
    }),
    both("map.revoked_while_ro_then_rw", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        lab.set_flags(GREF, 0);
        let again = lab.map_rw(GREF);
        write!(out, "{} {}", Mapped(again), Use(lab.in_use(GREF)))
    }),
    both("map.made_readonly_while_ro_then_rw", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        lab.set_flags(GREF, lab.flags(GREF) | gtf::READONLY);
        let again = lab.map_rw(GREF);
        write!(out, "{} {}", Mapped(again), Use(lab.in_use(GREF)))
    }),
    both("map.made_readonly_while_rw_then_rw", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_rw(GREF);
        lab.set_flags(GREF, lab.flags(GREF) | gtf::READONLY);
        let again = lab.map(lab.map_request(GREF, 2, RW));
        write!(out, "{} {}", Mapped(again), Use(lab.in_use(GREF)))
    }),
    both("map.domain_changed_while_ro_then_rw", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        let flags = lab.flags(GREF);
        lab.grant(GREF, NOBODY, gfn(lab.page(0)), flags);
        let again = lab.map_rw(GREF);
        write!(out, "{} {}", Mapped(again), Use(lab.in_use(GREF)))
    }),
    both("map.frame_changed_while_ro_then_ro", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        let flags = lab.flags(GREF);
        lab.grant(GREF, lab.own, gfn(lab.page(1)), flags);
        let again = lab.map(lab.map_request(GREF, 2, RO));
        write!(out, "{} {:08x}", Mapped(again), bytes::sum(lab.window(2), PAGE))
    }),
    both("map.frame_changed_while_ro_then_rw", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.map_ro(GREF);
        let flags = lab.flags(GREF);
        lab.grant(GREF, lab.own, gfn(lab.page(1)), flags);
        let again = lab.map_rw(GREF);
        write!(out, "{} {:08x}", Mapped(again), bytes::sum(lab.window(0), PAGE))
    }),
    both("map.two_grants_of_one_page", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.permit(GREF + 1, 0, gtf::READONLY);
        let first = lab.map_rw(GREF);
        let second = lab.map(lab.map_request(GREF + 1, 2, RO));
        write!(out, "{} {} ", Mapped(first), Mapped(second))?;
        write!(out, "{} {}", Use(lab.in_use(GREF)), Use(lab.in_use(GREF + 1)))
    }),
    both("map.again_after_unmap", |lab, out| {
        lab.permit(GREF, 0, 0);
        let ro = lab.map_ro(GREF);
        let rw = lab.map_rw(GREF);
        lab.unmap(&ro);
        let again = lab.map_ro(GREF);
        lab.unmap(&rw);
        write!(out, "{} {} {:08x}", Mapped(again), Use(lab.in_use(GREF)), bytes::sum(lab.window(1), PAGE))
    }),
    both("map.limit_of_ro_pins", |lab, out| {
        lab.permit(GREF, 0, 0);
        let statuses = many(lab, 130, 0, RO);
        write!(out, "{} {}", Sts(statuses[..130].iter().copied()), Use(lab.in_use(GREF)))
    }),
    both("map.limit_of_rw_pins", |lab, out| {
        lab.permit(GREF, 0, 0);
        let statuses = many(lab, 130, 0, RW);
        write!(out, "{} {}", Sts(statuses[..130].iter().copied()), Use(lab.in_use(GREF)))
    }),
    v1("map.limits_are_apart", |lab, out| {
        lab.permit(GREF, 0, 0);
        let ro = many(lab, 120, 0, RO);
        let rw = many(lab, 120, 150, RW);
        write!(out, "{} {}", Sts(ro[..120].iter().copied()), Sts(rw[..120].iter().copied()))
    }),
    both("map.batch", |lab, out| {
        (0..8).for_each(|index| lab.permit(GREF + index, index.into(), 0));
        let mut batch: [MapGrantRef; 8] = core::array::from_fn(|index| {
            let index = u32::try_from(index).unwrap_or(0);
            lab.map_request(GREF + index, index.into(), RW)
        });
        let result = lab.maps(&mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|map| map.status)))?;
        (0..8).try_for_each(|index| write!(out, " {:08x}", bytes::get_word(lab.window(index))))
    }),
    both("map.batch_mixed", |lab, out| {
        (0..8).for_each(|index| lab.permit(GREF + index, index.into(), 0));
        let mut batch: [MapGrantRef; 8] = core::array::from_fn(|index| {
            let index = u32::try_from(index).unwrap_or(0);
            lab.map_request(GREF + index, index.into(), RW)
        });
        batch[1].dom = NOBODY;
        batch[2].flags = 0;
        batch[4].gref = u32::MAX;
        batch[5].flags |= map_flags::DEVICE_MAP;
        lab.set_flags(GREF + 6, 0);
        let result = lab.maps(&mut batch);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|map| map.status)))?;
        (0..8).try_for_each(|index| write!(out, "{},", Use(lab.in_use(GREF + index))))
    }),
    both("map.batch_long", |lab, out| {
        (0..8).for_each(|index| lab.permit(GREF + index, index.into(), 0));
        let mut batch: [MapGrantRef; 240] = core::array::from_fn(|index| {
            let index = u32::try_from(index).unwrap_or(0);
            lab.map_request(GREF + index % 9, index.into(), RO)
        });
        let result = lab.maps(&mut batch);
        let wrong = (0..240).filter(|index| batch[*index].status != if index % 9 == 8 { -1 } else { 0 });
        write!(out, "{} others:{} {}", Ret(result), wrong.count(), Use(lab.in_use(GREF)))
    }),
];
