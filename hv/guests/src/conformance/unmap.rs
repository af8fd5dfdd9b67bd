//! `GNTTABOP_unmap_grant_ref` and `GNTTABOP_unmap_and_replace`.
#![forbid(unsafe_code)]

use core::fmt::Write as _;

use hv::abi::grant_table::{MapGrantRef, UnmapAndReplace, UnmapGrantRef, gtf, map_flags, op};

use super::bytes;
use super::lab::{GREF, Lab, Side};
use super::show::{Out, Ret, St, Sts, UNSET, Use};
use super::{Case, both, v1};
use crate::rt::memory::PAGE;

const RO: u32 = map_flags::HOST_MAP | map_flags::READONLY;

/// Unmaps with a request changed by `change`, then as it should be: both statuses, the use in between.
fn changed(lab: &mut Lab, out: &mut Out, change: impl FnOnce(&mut UnmapGrantRef)) -> core::fmt::Result {
    lab.permit(GREF, 0, 0);
    let map = lab.map_rw(GREF);
    let mut request = lab.unmap_request(&map);
    change(&mut request);
    lab.unmaps(core::slice::from_mut(&mut request));
    write!(out, "{} {}", St(request.status), Use(lab.in_use(GREF)))?;
    if request.status == 0 && request.host_addr != 0 {
        return Ok(());
    }
    let status = lab.unmap(&map);
    write!(out, " then:{} {}", St(status), Use(lab.in_use(GREF)))
}

/// Unmaps a handle that no mapping has.
fn handle(lab: &mut Lab, out: &mut Out, handle: u32) -> core::fmt::Result {
    let request = UnmapGrantRef { host_addr: lab.window(0), dev_bus_addr: 0, handle, status: UNSET, pad: 0 };
    let (result, request) = lab.one(op::UNMAP_GRANT_REF, request);
    write!(out, "{} {}", Ret(result), St(request.status))
}

/// Replaces a mapping.
fn replaced(lab: &mut Lab, out: &mut Out, change: impl FnOnce(&mut UnmapAndReplace)) -> core::fmt::Result {
    lab.permit(GREF, 0, 0);
    let map = lab.map_rw(GREF);
    let mut request = UnmapAndReplace {
        host_addr: map.host_addr,
        new_addr: lab.window(5),
        handle: map.handle,
        status: UNSET,
        pad: 0,
    };
    change(&mut request);
    let (result, request) = lab.one(op::UNMAP_AND_REPLACE, request);
    write!(out, "{} {} {}", Ret(result), St(request.status), Use(lab.in_use(GREF)))?;
    if request.status == 0 && request.host_addr != 0 {
        lab.forget(&[UnmapGrantRef { status: 0, ..lab.unmap_request(&map) }]);
    }
    Ok(())
}

pub const CASES: &[Case] = &[
    both("unmap.host", |lab, out| changed(lab, out, |_| {})),
    both("unmap.nothing", |lab, out| changed(lab, out, |request| request.host_addr = 0)),
    both("unmap.nothing_twice", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        let mut request = UnmapGrantRef { host_addr: 0, ..lab.unmap_request(&map) };
        for _ in 0..2 {
            lab.unmaps(core::slice::from_mut(&mut request));
            write!(out, "{} {} ", St(request.status), Use(lab.in_use(GREF)))?;
        }
        let status = lab.unmap(&map);
        write!(out, "{} {}", St(status), Use(lab.in_use(GREF)))
    }),
    both("unmap.with_wrong_bus_address", |lab, out| {
        changed(lab, out, |request| request.dev_bus_addr = 0x1000)
    }),
    both("unmap.with_unaligned_bus_address", |lab, out| {
        changed(lab, out, |request| request.dev_bus_addr = 0x123)
    }),
    both("unmap.with_right_bus_address", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        let mut request = lab.unmap_request(&map);
        request.dev_bus_addr = map.dev_bus_addr;
        lab.unmaps(core::slice::from_mut(&mut request));
        write!(out, "{} {}", St(request.status), Use(lab.in_use(GREF)))
    }),
    both("unmap.bus_address_alone", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        let mut request = UnmapGrantRef { host_addr: 0, ..lab.unmap_request(&map) };
        request.dev_bus_addr = map.dev_bus_addr;
        lab.unmaps(core::slice::from_mut(&mut request));
        write!(out, "{} {}", St(request.status), Use(lab.in_use(GREF)))
    }),
    both("unmap.at_empty_address", |lab, out| {
        let other = lab.window(7);
        changed(lab, out, |request| request.host_addr = other)
    }),
    both("unmap.at_own_memory", |lab, out| {
        let other = lab.page(5);
        changed(lab, out, |request| request.host_addr = other)?;
        write!(out, " {:08x}", lab.sum(5))
    }),
    both("unmap.at_beyond_addresses", |lab, out| changed(lab, out, |request| request.host_addr = 1 << 56)),
    both("unmap.at_unaligned_address", |lab, out| changed(lab, out, |request| request.host_addr += 0x321)),
    both("unmap.at_another_grants_window", |lab, out| {
        lab.permit(GREF + 1, 1, 0);
        let other = lab.map(lab.map_request(GREF + 1, 3, map_flags::HOST_MAP));
        changed(lab, out, |request| request.host_addr = other.host_addr)?;
        let status = lab.unmap(&other);
        write!(out, " other:{}", St(status))
    }),
    both("unmap.at_the_same_grants_other_window", |lab, out| {
        // Which window goes is told by the address, which pin by the handle.
        lab.permit(GREF, 0, 0);
        let [a, b] = [0, 1].map(|window| lab.map(lab.map_request(GREF, window, map_flags::HOST_MAP)));
        let mut crossed = [lab.unmap_request(&a), lab.unmap_request(&b)];
        crossed[0].host_addr = b.host_addr;
        crossed[1].host_addr = a.host_addr;
        let result = lab.unmaps(&mut crossed);
        write!(out, "{} {}", Ret(result), Sts(crossed.iter().map(|unmap| unmap.status)))?;
        write!(out, " {}", Use(lab.in_use(GREF)))
    }),
    both("unmap.twice", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        let statuses = [lab.unmap(&map), lab.unmap(&map)];
        write!(out, "{} {}", Sts(statuses.iter().copied()), Use(lab.in_use(GREF)))
    }),
    both("unmap.twice_in_a_batch", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        let mut batch = [lab.unmap_request(&map); 3];
        let result = lab.unmaps(&mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|unmap| unmap.status)))?;
        write!(out, " {}", Use(lab.in_use(GREF)))
    }),
    both("unmap.stale_handle_with_another_mapping_live", |lab, out| {
        lab.permit(GREF, 0, 0);
        let first = lab.map_rw(GREF);
        let second = lab.map_ro(GREF);
        lab.unmap(&first);
        let status = lab.unmap(&first);
        write!(out, "{} {}", St(status), Use(lab.in_use(GREF)))?;
        let status = lab.unmap(&second);
        write!(out, " {} {}", St(status), Use(lab.in_use(GREF)))
    }),
    both("unmap.handle_max", |lab, out| handle(lab, out, u32::MAX)),
    v1("unmap.handle_top_bit", |lab, out| handle(lab, out, 1 << 31)),
    v1("unmap.handle_past_the_limit", |lab, out| handle(lab, out, 0x00ff_0000)),
    v1("unmap.handle_in_unused_frame", |lab, out| handle(lab, out, 200_000)),
    both("unmap.after_revocation", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        lab.set_flags(GREF, 0);
        let status = lab.unmap(&map);
        write!(out, "{} flags:{:x} {}", St(status), lab.flags(GREF), Use(lab.in_use(GREF)))
    }),
    both("unmap.after_type_changed", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        lab.set_flags(GREF, gtf::ACCEPT_TRANSFER | lab.flags(GREF) & (gtf::READING | gtf::WRITING));
        let status = lab.unmap(&map);
        write!(out, "{} flags:{:x} {}", St(status), lab.flags(GREF), Use(lab.in_use(GREF)))
    }),
    both("unmap.leaves_the_other_flags", |lab, out| {
        lab.permit(GREF, 0, gtf::PWT | 0x8000);
        let map = lab.map_rw(GREF);
        let during = lab.flags(GREF) & !(gtf::READING | gtf::WRITING);
        let status = lab.unmap(&map);
        write!(out, "{during:x} {} {:x}", St(status), lab.flags(GREF))
    }),
    both("unmap.readonly_does_not_clear_writing", |lab, out| {
        lab.permit(GREF, 0, 0);
        let ro = lab.map_ro(GREF);
        lab.map_rw(GREF);
        let status = lab.unmap(&ro);
        write!(out, "{} {}", St(status), Use(lab.in_use(GREF)))
    }),
    both("unmap.window_is_empty_after", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        lab.unmap(&map);
        let mut request = lab.copy_request(Side::Page(1, 0), Side::Page(2, 0), 8);
        request.source.u = map.host_addr / PAGE;
        write!(out, "{}", St(lab.copy_as(request)))
    }),
    both("unmap.window_can_be_used_again", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.permit(GREF + 1, 1, 0);
        let map = lab.map_rw(GREF);
        let status = lab.unmap(&map);
        let again = lab.map(lab.map_request(GREF + 1, 0, RO));
        write!(out, "{} {} {:08x}", St(status), St(again.status), bytes::sum(lab.window(0), PAGE))
    }),
    both("unmap.batch_mixed", |lab, out| {
        (0..6).for_each(|index| lab.permit(GREF + index, index.into(), 0));
        let maps: [MapGrantRef; 6] = core::array::from_fn(|index| {
            let index = u32::try_from(index).unwrap_or(0);
            lab.map(lab.map_request(GREF + index, index.into(), RO))
        });
        let mut batch = maps.each_ref().map(|map| lab.unmap_request(map));
        batch[1].handle = u32::MAX;
        batch[3].host_addr = lab.window(9);
        batch[4].host_addr = 0;
        let result = lab.unmaps(&mut batch);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|unmap| unmap.status)))?;
        (0..6).try_for_each(|index| write!(out, "{},", Use(lab.in_use(GREF + index))))
    }),
    both("unmap.batch_over_two_chunks", |lab, out| {
        lab.permit(GREF, 0, 0);
        let maps: [MapGrantRef; 70] = core::array::from_fn(|index| {
            lab.map(lab.map_request(GREF, u64::try_from(index).unwrap_or(0), RO))
        });
        let mut batch = maps.each_ref().map(|map| lab.unmap_request(map));
        batch[33].handle = u32::MAX - 1;
        let result = lab.unmaps(&mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|unmap| unmap.status)))?;
        write!(out, " {}", Use(lab.in_use(GREF)))
    }),
    both("unmap.batch_long", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.permit(GREF + 1, 1, 0);
        let maps: [MapGrantRef; 240] = core::array::from_fn(|index| {
            let index = u32::try_from(index).unwrap_or(0);
            lab.map(lab.map_request(GREF + index % 2, index.into(), RO))
        });
        let mut batch = maps.each_ref().map(|map| lab.unmap_request(map));
        let result = lab.unmaps(&mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|unmap| unmap.status)))?;
        write!(out, " {} {}", Use(lab.in_use(GREF)), Use(lab.in_use(GREF + 1)))
    }),
    both("unmap.batch_pages_seen_until_unmapped", |lab, out| {
        lab.permit(GREF, 0, 0);
        let ro = lab.map_ro(GREF);
        let rw = lab.map_rw(GREF);
        bytes::put(lab.window(0) + 4000, &0x7777_u32);
        lab.unmap(&rw);
        let seen = bytes::get_word(lab.window(1) + 4000);
        let status = lab.unmap(&ro);
        write!(out, "{seen:x} {}", St(status))
    }),
    both("replace.mapping", |lab, out| replaced(lab, out, |_| {})),
    both("replace.with_nothing", |lab, out| replaced(lab, out, |request| request.new_addr = 0)),
    both("replace.nothing", |lab, out| replaced(lab, out, |request| request.host_addr = 0)),
    both("replace.at_wrong_address", |lab, out| {
        let other = lab.window(7);
        replaced(lab, out, |request| request.host_addr = other)
    }),
    both("replace.bad_handle", |lab, out| replaced(lab, out, |request| request.handle = u32::MAX)),
    both("replace.with_a_mapping", |lab, out| {
        lab.permit(GREF + 1, 1, 0);
        let other = lab.map(lab.map_request(GREF + 1, 3, map_flags::HOST_MAP));
        replaced(lab, out, |request| request.new_addr = other.host_addr)
    }),
    v1("replace.batch", |lab, out| {
        lab.permit(GREF, 0, 0);
        let map = lab.map_rw(GREF);
        let mut batch = [UnmapAndReplace {
            host_addr: map.host_addr,
            new_addr: lab.window(4),
            handle: u32::MAX,
            status: UNSET,
            pad: 0,
        }; 40];
        batch[35].handle = map.handle;
        let result = lab.op(op::UNMAP_AND_REPLACE, &mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|replace| replace.status)))?;
        write!(out, " {}", Use(lab.in_use(GREF)))
    }),
];
