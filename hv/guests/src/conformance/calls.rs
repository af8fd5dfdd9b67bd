//! What the call itself refuses: counts, stray bits of the command, unknown operations, bad addresses.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{
    Copy, GetStatusFrames, GetVersion, MapGrantRef, QuerySize, SetVersion, SetupTable, SwapGrantRef,
    Transfer, UnmapAndReplace, UnmapGrantRef, map_flags, op,
};
use hv::abi::xen::DOMID_SELF;

use super::bytes;
use super::lab::{GREF, Lab, Side};
use super::request::Request;
use super::show::{Out, Ret, Sts, UNSET, Use};
use super::{Case, both, v1};

/// The operations by number.
const OPS: core::ops::Range<u32> = 0..13;

/// What each operation returns for this address and count.
fn each(lab: &Lab, out: &mut Out, address: u64, count: u32, bits: u32) -> fmt::Result {
    for op in OPS {
        // What there is to read names no domain and no version.
        bytes::fill(lab.list(), 64, 0x4d);
        write!(out, "{} ", Ret(lab.grant_op(op | bits, address, count)))?;
    }
    Ok(())
}

/// A batch of three of which the last one, or the last two, lie outside memory.
fn edge<T: Request>(lab: &Lab, out: &mut Out, cmd: u32, request: T, status: fn(&T) -> i16) -> fmt::Result {
    for good in [0, 1, 2] {
        let mut batch = [request; 3];
        let result = lab.op_over_the_edge(cmd, &mut batch, good);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(status)))?;
    }
    Ok(())
}

pub const CASES: &[Case] = &[
    v1("call.count_zero", |lab, out| each(lab, out, lab.list(), 0, 0)),
    v1("call.count_zero_at_nowhere", |lab, out| each(lab, out, lab.void(), 0, 0)),
    v1("call.count_negative", |lab, out| each(lab, out, lab.list(), 1 << 31, 0)),
    v1("call.count_minus_one", |lab, out| each(lab, out, lab.list(), u32::MAX, 0)),
    v1("call.count_largest", |lab, out| each(lab, out, lab.void(), u32::MAX >> 1, 0)),
    v1("call.one_at_nowhere", |lab, out| each(lab, out, lab.void(), 1, 0)),
    v1("call.one_at_null_page", |lab, out| each(lab, out, lab.void() + 8, 1, 0)),
    v1("call.one_over_the_edge", |lab, out| each(lab, out, lab.void() - 2, 1, 0)),
    v1("call.two_at_nowhere", |lab, out| each(lab, out, lab.void(), 2, 0)),
    v1("call.bit_12", |lab, out| each(lab, out, lab.void(), 1, 1 << 12)),
    v1("call.bit_31", |lab, out| each(lab, out, lab.void(), 1, 1 << 31)),
    v1("call.bits_all", |lab, out| each(lab, out, lab.void(), 1, !0xfff)),
    v1("call.bit_12_and_count_zero", |lab, out| each(lab, out, lab.void(), 0, 1 << 12)),
    v1("call.unknown_ops", |lab, out| {
        [13, 14, 31, 32, 63, 64, 255, 256, 0xffe, 0xfff]
            .iter()
            .try_for_each(|op| write!(out, "{} ", Ret(lab.grant_op(*op, lab.list(), 1))))
    }),
    v1("call.unknown_op_and_bits", |lab, out| {
        write!(out, "{} {}", Ret(lab.grant_op(0x100d, 0, 0)), Ret(lab.grant_op(u32::MAX, 0, 0)))
    }),
    v1("call.unknown_op_negative_count", |lab, out| {
        write!(out, "{}", Ret(lab.grant_op(99, lab.list(), u32::MAX)))
    }),
    v1("call.address_wraps", |lab, out| {
        let address = if lab.width == super::Width::W64 { u64::MAX - 15 } else { 0xffff_fff0 };
        each(lab, out, address, 1, 0)
    }),
    v1("call.setup_count_two", |lab, out| {
        let request = SetupTable { dom: DOMID_SELF, status: UNSET, ..Default::default() };
        let mut batch = [request; 2];
        let result = lab.op(op::SETUP_TABLE, &mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|setup| setup.status)))
    }),
    v1("call.size_count_two", |lab, out| {
        let request = QuerySize { dom: DOMID_SELF, status: UNSET, ..Default::default() };
        let mut batch = [request; 2];
        let result = lab.op(op::QUERY_SIZE, &mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|size| size.status)))
    }),
    v1("call.set_version_count_two", |lab, out| {
        let mut batch = [SetVersion { version: 1 }; 2];
        write!(out, "{}", Ret(lab.op(op::SET_VERSION, &mut batch)))
    }),
    v1("call.get_version_count_two", |lab, out| {
        let mut batch = [GetVersion { dom: DOMID_SELF, pad: 0, version: 77 }; 2];
        let result = lab.op(op::GET_VERSION, &mut batch);
        write!(out, "{} {} {}", Ret(result), batch[0].version, batch[1].version)
    }),
    both("call.status_frames_count_two", |lab, out| {
        let request = GetStatusFrames { nr_frames: 0, dom: DOMID_SELF, status: UNSET, frame_list: 0 };
        let mut batch = [request; 2];
        let result = lab.op(op::GET_STATUS_FRAMES, &mut batch);
        write!(out, "{} {}", Ret(result), Sts(batch.iter().map(|frames| frames.status)))
    }),
    both("edge.map", |lab, out| {
        for good in [0, 1, 2] {
            // A page of its own each time: what has been unmapped may be gone.
            let gref = GREF + good;
            lab.permit(gref, u64::from(good), 0);
            let good = usize::try_from(good).unwrap_or(0);
            let mut batch: [MapGrantRef; 3] =
                [0, 1, 2].map(|window| lab.map_request(gref, window, map_flags::HOST_MAP));
            let result = lab.op_over_the_edge(op::MAP_GRANT_REF, &mut batch, good);
            write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|map| map.status)))?;
            for map in batch.iter().filter(|map| map.status == 0) {
                lab.remember(core::slice::from_ref(map));
                lab.unmap(map);
            }
            write!(out, "{} ", Use(lab.in_use(gref)))?;
        }
        Ok(())
    }),
    both("edge.unmap", |lab, out| {
        for good in [0, 1, 2] {
            let gref = GREF + good;
            lab.permit(gref, u64::from(good), 0);
            let good = usize::try_from(good).unwrap_or(0);
            let maps = [0, 1, 2].map(|window| lab.map(lab.map_request(gref, window, map_flags::HOST_MAP)));
            let mut batch: [UnmapGrantRef; 3] = maps.each_ref().map(|map| lab.unmap_request(map));
            let result = lab.op_over_the_edge(op::UNMAP_GRANT_REF, &mut batch, good);
            lab.forget(&batch);
            write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|unmap| unmap.status)))?;
            // Those beyond the edge are still mapped.
            for map in &maps {
                write!(out, "{},", Sts(core::iter::once(lab.unmap(map))))?;
            }
            write!(out, "{} ", Use(lab.in_use(gref)))?;
        }
        Ok(())
    }),
    both("edge.copy", |lab, out| {
        lab.permit(GREF, 0, 0);
        lab.permit(GREF + 1, 1, 0);
        let request = lab.copy_request(Side::Ref(GREF, 0), Side::Ref(GREF + 1, 8), 16);
        edge(lab, out, op::COPY, request, |copy: &Copy| copy.status)?;
        write!(out, "{:08x} {}", lab.sum(1), Use(lab.in_use(GREF + 1)))
    }),
    v1("edge.swap", |lab, out| {
        lab.permit(GREF, 0, 0);
        let request = SwapGrantRef { ref_a: GREF, ref_b: GREF + 1, status: UNSET, pad: 0 };
        edge(lab, out, op::SWAP_GRANT_REF, request, |swap: &SwapGrantRef| swap.status)?;
        write!(out, "{:x} {:x}", lab.flags(GREF), lab.flags(GREF + 1))
    }),
    v1("edge.transfer", |lab, out| {
        let request =
            Transfer { mfn: 0xffff_ffff, domid: lab.own, gref: GREF, status: UNSET, ..Default::default() };
        edge(lab, out, op::TRANSFER, request, |transfer: &Transfer| transfer.status)
    }),
    v1("edge.replace", |lab, out| {
        let request = UnmapAndReplace { host_addr: 0, new_addr: 0, handle: u32::MAX, status: UNSET, pad: 0 };
        edge(lab, out, op::UNMAP_AND_REPLACE, request, |replace: &UnmapAndReplace| replace.status)
    }),
    both("edge.copy_long", |lab, out| {
        // The edge lies after 60 of 100.
        lab.permit(GREF, 0, 0);
        lab.permit(GREF + 1, 1, 0);
        let mut batch: [Copy; 100] = core::array::from_fn(|index| {
            let at = u16::try_from(index).unwrap_or(0) * 40;
            lab.copy_request(Side::Ref(GREF, at), Side::Ref(GREF + 1, at), 20)
        });
        let result = lab.op_over_the_edge(op::COPY, &mut batch, 60);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|copy| copy.status)))?;
        write!(out, "{:08x} {}", lab.sum(1), Use(lab.in_use(GREF)))
    }),
    both("edge.unmap_in_second_chunk", |lab, out| {
        lab.permit(GREF, 0, 0);
        let maps: [MapGrantRef; 45] = core::array::from_fn(|window| {
            let flags = map_flags::HOST_MAP | map_flags::READONLY;
            lab.map(lab.map_request(GREF, u64::try_from(window).unwrap_or(0), flags))
        });
        let mut batch = maps.each_ref().map(|map| lab.unmap_request(map));
        let result = lab.op_over_the_edge(op::UNMAP_GRANT_REF, &mut batch, 40);
        lab.forget(&batch);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|unmap| unmap.status)))?;
        write!(out, "{}", Use(lab.in_use(GREF)))
    }),
];
