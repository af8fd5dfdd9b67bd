//! `GNTTABOP_swap_grant_ref`.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{SwapGrantRef, gtf, op};

use super::lab::{GREF, Lab, NOBODY, Side};
use super::show::{Out, Ret, St, Sts, UNSET, Use};
use super::{Case, both, v2};
use crate::rt::memory::gfn;

const A: u32 = GREF;
const B: u32 = GREF + 300;

fn request(ref_a: u32, ref_b: u32) -> SwapGrantRef {
    SwapGrantRef { ref_a, ref_b, status: UNSET, pad: 0 }
}

/// Entries A and B: page 0 for ourselves, page 1 read-only for nobody.
fn entries(lab: &Lab) {
    lab.permit(A, 0, 0);
    lab.grant(B, NOBODY, gfn(lab.page(1)), gtf::PERMIT_ACCESS | gtf::READONLY);
}

fn swapped(lab: &Lab, out: &mut Out, ref_a: u32, ref_b: u32) -> fmt::Result {
    entries(lab);
    let (result, request) = lab.one(op::SWAP_GRANT_REF, request(ref_a, ref_b));
    write!(out, "{} {} ", Ret(result), St(request.status))?;
    let offset = if lab.version == 1 { 4 } else { 8 };
    for gref in [A, B] {
        let frame = u64::from(lab.entry_word(gref, offset));
        let page = (0..2).find(|page| gfn(lab.page(*page)) == frame);
        write!(out, "{:x}:{} ", lab.flags(gref), page.map_or(9, |page| page))?;
    }
    Ok(())
}

pub const CASES: &[Case] = &[
    both("swap.two", |lab, out| swapped(lab, out, A, B)),
    both("swap.and_use", |lab, out| {
        swapped(lab, out, A, B)?;
        let statuses = [A, B].map(|gref| lab.copy(Side::Ref(gref, 0), Side::Page(2, 0), 64));
        write!(out, "{} {:08x}", Sts(statuses.iter().copied()), lab.sum(2))
    }),
    both("swap.with_itself", |lab, out| swapped(lab, out, A, A)),
    both("swap.with_an_empty_one", |lab, out| swapped(lab, out, A, A + 1)),
    both("swap.two_empty_ones", |lab, out| swapped(lab, out, A + 1, A + 2)),
    both("swap.first_outside", |lab, out| swapped(lab, out, 1 << 24, B)),
    both("swap.second_outside", |lab, out| swapped(lab, out, A, 1 << 24)),
    both("swap.itself_outside", |lab, out| swapped(lab, out, 1 << 24, 1 << 24)),
    both("swap.ref_max", |lab, out| swapped(lab, out, u32::MAX, u32::MAX - 1)),
    both("swap.a_reserved_one", |lab, out| {
        swapped(lab, out, A, 5)?;
        write!(out, "{:x}", lab.flags(5))
    }),
    both("swap.mapped_first", |lab, out| {
        entries(lab);
        lab.map_ro(A);
        let (_, request) = lab.one(op::SWAP_GRANT_REF, request(A, B));
        write!(out, "{} {}", St(request.status), Use(lab.in_use(A)))
    }),
    both("swap.mapped_second", |lab, out| {
        entries(lab);
        lab.map_rw(A);
        let (_, request) = lab.one(op::SWAP_GRANT_REF, request(B, A));
        write!(out, "{} {}", St(request.status), Use(lab.in_use(A)))
    }),
    both("swap.mapped_with_itself", |lab, out| {
        entries(lab);
        lab.map_rw(A);
        let (_, request) = lab.one(op::SWAP_GRANT_REF, request(A, A));
        write!(out, "{} {}", St(request.status), Use(lab.in_use(A)))
    }),
    both("swap.after_unmap", |lab, out| {
        entries(lab);
        let map = lab.map_rw(A);
        let refused = lab.one(op::SWAP_GRANT_REF, request(A, B)).1.status;
        lab.unmap(&map);
        let (_, request) = lab.one(op::SWAP_GRANT_REF, request(A, B));
        write!(out, "{} {} {:x} {:x}", St(refused), St(request.status), lab.flags(A), lab.flags(B))
    }),
    both("swap.batch_of_a_cycle", |lab, out| {
        (0..3).for_each(|index| lab.permit(GREF + index, index.into(), 0));
        let mut batch = [request(GREF, GREF + 1), request(GREF + 1, GREF + 2), request(GREF, 1 << 24)];
        let result = lab.op(op::SWAP_GRANT_REF, &mut batch);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|swap| swap.status)))?;
        for gref in GREF..GREF + 3 {
            lab.copy(Side::Ref(gref, 0), Side::Page(4, u16::try_from(gref - GREF).unwrap_or(0) * 8), 8);
        }
        write!(out, "{:08x}", lab.sum(4))
    }),
    both("swap.batch_long", |lab, out| {
        entries(lab);
        let mut batch = [request(A, B); 201];
        let result = lab.op(op::SWAP_GRANT_REF, &mut batch);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|swap| swap.status)))?;
        write!(out, "{:x} {:x}", lab.flags(A), lab.flags(B))
    }),
    v2("swap.sub_page_with_full", |lab, out| {
        lab.permit_part(A, 0, 100, 50, 0);
        lab.permit(B, 1, 0);
        let (_, request) = lab.one(op::SWAP_GRANT_REF, request(A, B));
        write!(out, "{} {:x} {:x} ", St(request.status), lab.flags(A), lab.flags(B))?;
        let inside = lab.copy(Side::Ref(B, 100), Side::Page(2, 0), 50);
        let outside = lab.copy(Side::Ref(B, 100), Side::Page(2, 0), 51);
        write!(out, "{} {}", St(inside), St(outside))
    }),
    v2("swap.transitive_with_full", |lab, out| {
        lab.pass_on(A, NOBODY, 17, 0);
        lab.permit(B, 1, 0);
        let (_, request) = lab.one(op::SWAP_GRANT_REF, request(A, B));
        write!(out, "{} {:x} {:x} ", St(request.status), lab.flags(A), lab.flags(B))?;
        write!(out, "{:x} {:x}", lab.entry_word(B, 4), lab.entry_word(B, 8))
    }),
];
