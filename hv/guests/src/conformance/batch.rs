//! Batches of `GNTTABOP_copy`: elements one after the other, whatever their number and whoever fails.
#![forbid(unsafe_code)]

use core::fmt::{self, Write as _};

use hv::abi::grant_table::{Copy, copy_flags, op};
use hv::abi::xen::DOMID_SELF;

use super::lab::{GREF, Lab, NOBODY, Side};
use super::show::{Out, Ret, Sts, Use};
use super::{Case, both};
use crate::rt::memory::gfn;

/// References of pages 0 to 7.
fn granted(lab: &Lab) {
    (0..8).for_each(|index| lab.permit(GREF + index, index.into(), 0));
}

/// Makes `N` requests, runs them as one batch, tells statuses and every page's checksum folded.
fn ran<const N: usize>(lab: &Lab, out: &mut Out, make: impl Fn(u16) -> Copy) -> fmt::Result {
    let mut batch: [Copy; N] = core::array::from_fn(|index| make(u16::try_from(index).unwrap_or(0)));
    let result = lab.op(op::COPY, &mut batch);
    write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|copy| copy.status)))?;
    told(lab, out)
}

fn told(lab: &Lab, out: &mut Out) -> fmt::Result {
    let sum = (0..8).fold(0, |sum: u32, page| sum.rotate_left(5) ^ lab.sum(page));
    let idle = (0..8).all(|index| lab.in_use(GREF + index) & 0x18 == 0);
    write!(out, "{sum:08x} idle:{idle}")
}

/// The same requests one hypercall each: the result must be that of the batch.
fn ran_singly<const N: usize>(lab: &Lab, out: &mut Out, make: impl Fn(u16) -> Copy) -> fmt::Result {
    let statuses: [i16; N] =
        core::array::from_fn(|index| lab.copy_as(make(u16::try_from(index).unwrap_or(0))));
    write!(out, "0 {} ", Sts(statuses.iter().copied()))?;
    told(lab, out)
}

fn gref(index: u16) -> u32 {
    GREF + u32::from(index % 8)
}

/// A long row in which each element reads what an earlier one has written.
fn chained(lab: &Lab, index: u16) -> Copy {
    let from = Side::Ref(gref(index), index * 8 % 4000);
    let to = Side::Ref(gref(index + 1), (index + 1) * 8 % 4000);
    lab.copy_request(from, to, 24)
}

/// A long row in which every third and every seventh element is refused.
fn mixed(lab: &Lab, index: u16) -> Copy {
    let mut request = chained(lab, index);
    match (index % 3, index % 7) {
        (0, 0) => request.dest.domid = NOBODY,
        (0, _) => request.source.u = 1 << 24,
        (_, 0) => request.len = 5000,
        _ => {}
    }
    request
}

pub const CASES: &[Case] = &[
    both("batch.copy_same_pair", |lab, out| {
        granted(lab);
        ran::<32>(lab, out, |index| {
            lab.copy_request(Side::Ref(GREF, index * 100), Side::Ref(GREF + 1, index * 64), 60)
        })
    }),
    both("batch.copy_new_dest_each", |lab, out| {
        granted(lab);
        ran::<7>(lab, out, |index| lab.copy_request(Side::Ref(GREF, 0), Side::Ref(gref(index + 1), 5), 60))
    }),
    both("batch.copy_new_source_each", |lab, out| {
        granted(lab);
        ran::<7>(lab, out, |index| {
            lab.copy_request(Side::Ref(gref(index + 1), 3), Side::Ref(GREF, index * 200), 60)
        })
    }),
    both("batch.copy_to_pages", |lab, out| {
        granted(lab);
        ran::<12>(lab, out, |index| {
            lab.copy_request(Side::Ref(gref(index), 9), Side::Page(u64::from(index / 2), 300), 70)
        })
    }),
    both("batch.copy_from_pages", |lab, out| {
        granted(lab);
        ran::<12>(lab, out, |index| {
            lab.copy_request(Side::Page(u64::from(index % 5), 9), Side::Ref(gref(index), 300), 70)
        })
    }),
    both("batch.copy_there_and_back", |lab, out| {
        granted(lab);
        ran::<2>(lab, out, |index| {
            let [from, to] = if index == 0 { [0, 1] } else { [1, 0] };
            lab.copy_request(Side::Ref(GREF + from, 0), Side::Ref(GREF + to, 2000), 100)
        })
    }),
    both("batch.copy_kinds_alternate", |lab, out| {
        granted(lab);
        ran::<20>(lab, out, |index| {
            let (offset, page) = (index * 50, u64::from(index % 6));
            match index % 4 {
                0 => lab.copy_request(Side::Ref(gref(index), offset), Side::Page(page, 0), 40),
                1 => lab.copy_request(Side::Page(page, offset), Side::Ref(gref(index), 40), 40),
                2 => lab.copy_request(Side::Page(page, offset), Side::Page(7, offset), 40),
                _ => lab.copy_request(Side::Ref(gref(index), offset), Side::Ref(gref(index + 1), 80), 40),
            }
        })
    }),
    both("batch.copy_dom_self_and_number_alternate", |lab, out| {
        granted(lab);
        ran::<10>(lab, out, |index| {
            let mut request = lab.copy_request(Side::Ref(GREF, index), Side::Ref(GREF + 1, index * 40), 30);
            if index % 2 == 1 {
                request.source.domid = DOMID_SELF;
            }
            request
        })
    }),
    both("batch.copy_ref_and_frame_of_one_number", |lab, out| {
        // A reference that equals the frame number before it is not the same side.
        granted(lab);
        lab.grant(GREF, lab.own, gfn(lab.page(0)), 1);
        ran::<4>(lab, out, |index| {
            let mut request = lab.copy_request(Side::Ref(GREF, 0), Side::Ref(GREF + 1, index * 100), 50);
            if index % 2 == 1 {
                request.flags = copy_flags::DEST_GREF;
                request.source.domid = DOMID_SELF;
                request.source.u = gfn(lab.page(2));
            }
            request
        })
    }),
    both("batch.copy_zero_lengths_between", |lab, out| {
        granted(lab);
        ran::<9>(lab, out, |index| {
            lab.copy_request(
                Side::Ref(GREF, 0),
                Side::Ref(gref(index), 0),
                if index % 2 == 0 { 0 } else { 33 },
            )
        })
    }),
    both("batch.copy_bad_first", |lab, out| {
        granted(lab);
        ran::<4>(lab, out, |index| {
            let mut request = chained(lab, index);
            if index == 0 {
                request.source.domid = NOBODY;
            }
            request
        })
    }),
    both("batch.copy_bad_last", |lab, out| {
        granted(lab);
        ran::<4>(lab, out, |index| {
            let mut request = chained(lab, index);
            if index == 3 {
                request.dest.u = 1 << 24;
            }
            request
        })
    }),
    both("batch.copy_bad_in_the_middle_of_a_pair", |lab, out| {
        granted(lab);
        ran::<9>(lab, out, |index| {
            let mut request = lab.copy_request(Side::Ref(GREF, 0), Side::Ref(GREF + 1, index * 100), 50);
            if index == 4 {
                request.len = 4097;
            }
            request
        })
    }),
    both("batch.copy_all_bad", |lab, out| {
        granted(lab);
        ran::<40>(lab, out, |index| {
            let mut request = chained(lab, index);
            request.source.u = 1 << 24;
            request
        })
    }),
    both("batch.copy_readonly_entry_both_ways", |lab, out| {
        granted(lab);
        lab.permit(GREF + 3, 3, 4);
        ran::<4>(lab, out, |index| {
            let sides = [Side::Ref(GREF + 3, 0), Side::Ref(GREF + 4, 0)];
            lab.copy_request(sides[usize::from(index % 2)], sides[usize::from((index + 1) % 2)], 44)
        })
    }),
    both("batch.copy_same_entry_read_then_written", |lab, out| {
        granted(lab);
        ran::<6>(lab, out, |index| {
            let (from, to) = if index % 2 == 0 { (GREF, GREF + 1) } else { (GREF + 1, GREF) };
            lab.copy_request(Side::Ref(from, index), Side::Ref(to, 1000 + index * 32), 32)
        })
    }),
    both("batch.copy_chain_of_200", |lab, out| {
        granted(lab);
        ran::<200>(lab, out, |index| chained(lab, index))
    }),
    both("batch.copy_chain_of_200_singly", |lab, out| {
        granted(lab);
        ran_singly::<200>(lab, out, |index| chained(lab, index))
    }),
    both("batch.copy_more_than_a_slice", |lab, out| {
        // Xen translates a 32-bit guest's batch by 204 elements.
        granted(lab);
        ran::<420>(lab, out, |index| chained(lab, index))
    }),
    both("batch.copy_bad_at_the_slice", |lab, out| {
        granted(lab);
        ran::<210>(lab, out, |index| {
            let mut request = chained(lab, index);
            if (203..=205).contains(&index) {
                request.dest.domid = NOBODY;
            }
            request
        })
    }),
    both("batch.copy_mixed_of_42", |lab, out| {
        granted(lab);
        ran::<42>(lab, out, |index| mixed(lab, index))
    }),
    both("batch.copy_mixed_of_42_singly", |lab, out| {
        granted(lab);
        ran_singly::<42>(lab, out, |index| mixed(lab, index))
    }),
    both("batch.copy_while_mapped", |lab, out| {
        granted(lab);
        lab.map_ro(GREF);
        let mut batch: [Copy; 8] = core::array::from_fn(|index| {
            let index = u16::try_from(index).unwrap_or(0);
            lab.copy_request(Side::Ref(GREF, index * 16), Side::Ref(GREF + 1, index * 16), 16)
        });
        let result = lab.op(op::COPY, &mut batch);
        write!(out, "{} {} ", Ret(result), Sts(batch.iter().map(|copy| copy.status)))?;
        write!(out, "{:08x} {}", lab.sum(1), Use(lab.in_use(GREF)))
    }),
];
