//! Random operations of guests and of what is around them.

use crate::common::*;
use crate::{GREFS, MEMORY};
use gnttab_fast::abi::{Copy, CopyPtr, EntryV1, gtf};
use proptest::prelude::*;

/// What a guest writes to an entry, in either version.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    pub v1: EntryV1,
    pub v2: [u8; 16],
}

#[derive(Clone, Debug)]
pub enum Op {
    Entry {
        d: u16,
        gref: u32,
        entry: Entries,
    },
    /// Type, grantee, access or frame changed, in use or not, with the bits in use left alone.
    Change {
        d: u16,
        gref: u32,
        entry: Entries,
    },
    Version {
        d: u16,
        to: u32,
    },
    /// From now on there are no frames to be had, or there are again.
    Starve {
        now: bool,
    },
    Map {
        by: u16,
        dom: u16,
        gref: u32,
        flags: u32,
        gfn: u64,
        times: u64,
    },
    /// The n-th live handle of the domain, or a raw one; where it is mapped, or elsewhere.
    Unmap {
        by: u16,
        picks: Vec<(usize, Option<u64>)>,
    },
    BadUnmap {
        by: u16,
        handle: u32,
        gfn: u64,
    },
    Copy {
        by: u16,
        elements: Vec<Copy>,
        narrow: bool,
    },
    Swap {
        by: u16,
        a: u32,
        b: u32,
    },
    Balloon {
        d: u16,
        gfn: u64,
    },
    Kind {
        d: u16,
        gfn: u64,
        readonly: bool,
    },
    Grow {
        d: u16,
    },
}

/// Most operations meet: domain 1 grants to domain 2.
fn granters() -> impl Strategy<Value = u16> + Clone {
    prop_oneof![6 => Just(1u16), 1 => Just(2), 2 => Just(3)]
}

fn grantees() -> impl Strategy<Value = u16> + Clone {
    prop_oneof![1 => Just(1u16), 6 => Just(2), 1 => Just(3)]
}

fn grefs() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![6 => 0..2usize, 1 => 0..GREFS.len()].prop_map(|n| GREFS[n])
}

fn flags() -> impl Strategy<Value = u16> {
    prop_oneof![
        6 => Just(0),
        2 => Just(gtf::READONLY),
        2 => Just(gtf::SUB_PAGE),
        1 => Just(gtf::READING | gtf::PCD),
    ]
}

fn kinds(transitive: u32) -> impl Strategy<Value = u16> {
    prop_oneof![
        9 => Just(gtf::PERMIT_ACCESS),
        1 => Just(gtf::INVALID),
        1 => Just(gtf::ACCEPT_TRANSFER),
        transitive => Just(gtf::TRANSITIVE),
    ]
}

fn frames() -> impl Strategy<Value = u64> {
    prop_oneof![9 => 0..MEMORY, 2 => 0..12u64, 1 => Just(u64::from(u32::MAX))]
}

fn v1_entries() -> impl Strategy<Value = EntryV1> {
    (kinds(1), flags(), grantees(), frames())
        .prop_map(|(t, f, domid, frame)| entry(t | f, domid, u32::try_from(frame).unwrap()))
}

fn v2_entries() -> impl Strategy<Value = [u8; 16]> {
    let offsets = prop_oneof![4 => 0..80u16, 2 => 3900..4200u16, 1 => any::<u16>()];
    let lengths = prop_oneof![4 => 0..300u16, 2 => 3000..5000u16, 1 => any::<u16>()];
    let owners = prop_oneof![8 => Just(3u16), 1 => 1..=2u16, 1 => Just(9), 1 => Just(SELF)];
    let far = prop_oneof![12 => frames(), 1 => Just(1u64 << 32)];
    let parts = (kinds(7), flags(), grantees(), (offsets, lengths), (owners, grefs()), far);
    parts.prop_map(|(t, f, domid, (offset, length), (owner, gref), frame)| {
        let (low, body) = if t == gtf::TRANSITIVE { (owner, gref.into()) } else { (offset, frame) };
        let header = [(t | f).to_le_bytes(), domid.to_le_bytes(), low.to_le_bytes(), length.to_le_bytes()];
        [header.concat(), body.to_le_bytes().to_vec()].concat().try_into().unwrap()
    })
}

/// Whose entry, which, and what is in it: domain 3 grants to 1, which may pass it on to 2.
fn placed() -> impl Strategy<Value = (u16, u32, Entries)> {
    (granters(), grefs(), v1_entries(), v2_entries()).prop_map(|(d, gref, mut v1, mut v2)| {
        if d == 3 {
            v1.domid = 1;
            v2[2..4].copy_from_slice(&1u16.to_le_bytes());
        }
        (d, gref, Entries { v1, v2 })
    })
}

fn sides() -> impl Strategy<Value = (CopyPtr, bool)> + Clone {
    let offsets = prop_oneof![4 => 0u16..64, 2 => 4000u16..=4096, 1 => any::<u16>()];
    let doms = prop_oneof![12 => granters(), 1 => Just(SELF), 1 => Just(9)];
    prop_oneof![
        6 => (doms, grefs(), offsets.clone()).prop_map(|(d, g, o)| by_gref(d, g, o)),
        3 => (0..MEMORY + 4, offsets.clone()).prop_map(|(g, o)| by_gfn(g, o)),
        1 => (granters(), offsets).prop_map(|(d, o)| {
            let (p, gref) = by_gfn(0, o);
            (CopyPtr { domid: d, ..p }, gref)
        }),
    ]
}

fn elements() -> impl Strategy<Value = Vec<Copy>> {
    let lens = prop_oneof![1 => Just(0u16), 8 => 1u16..100, 2 => 3000u16..=4096, 1 => any::<u16>()];
    let one = (sides(), sides(), lens).prop_map(|(s, d, len)| element(s, d, len));
    prop_oneof![4 => proptest::collection::vec(one.clone(), 1..6), 1 => proptest::collection::vec(one, 60..140)]
}

pub fn ops() -> impl Strategy<Value = Op> {
    let map_flags = prop_oneof![5 => Just(2u32), 4 => Just(6), 1 => Just(0), 1 => Just(3)];
    let times = prop_oneof![12 => Just(1u64), 1 => 100..150u64];
    let picks = proptest::collection::vec(
        (0..200usize, prop_oneof![6 => Just(None), 1 => (0..40u64).prop_map(Some)]),
        1..90,
    );
    prop_oneof![
        6 => placed().prop_map(|(d, gref, entry)| Op::Entry { d, gref, entry }),
        2 => placed().prop_map(|(d, gref, entry)| Op::Change { d, gref, entry }),
        2 => (granters(), prop_oneof![1 => Just(1u32), 3 => Just(2), 1 => 0..4u32])
            .prop_map(|(d, to)| Op::Version { d, to }),
        1 => prop_oneof![1 => Just(true), 3 => Just(false)].prop_map(|now| Op::Starve { now }),
        6 => (grantees(), prop_oneof![12 => granters(), 1 => Just(9)], grefs(), map_flags, 4..16u64, times)
            .prop_map(|(by, dom, gref, flags, gfn, times)| Op::Map { by, dom, gref, flags, gfn, times }),
        4 => (grantees(), picks).prop_map(|(by, picks)| Op::Unmap { by, picks }),
        1 => (grantees(), any::<u32>(), 0..40u64)
            .prop_map(|(by, handle, gfn)| Op::BadUnmap { by, handle, gfn }),
        8 => (grantees(), elements(), any::<bool>())
            .prop_map(|(by, elements, narrow)| Op::Copy { by, elements, narrow }),
        1 => (granters(), grefs(), grefs()).prop_map(|(by, a, b)| Op::Swap { by, a, b }),
        1 => (granters(), 0..MEMORY).prop_map(|(d, gfn)| Op::Balloon { d, gfn }),
        1 => (granters(), 0..MEMORY, any::<bool>())
            .prop_map(|(d, gfn, readonly)| Op::Kind { d, gfn, readonly }),
        1 => granters().prop_map(|d| Op::Grow { d }),
    ]
}
