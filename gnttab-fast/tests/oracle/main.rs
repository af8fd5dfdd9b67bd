//! The shipped code against a plain model of the interface, by random sequences of operations from several
//! domains, in both versions. After every step all statuses, all memory (entries, their bits and status words
//! included), all pins, all page references, all physical maps and all handles are equal.
//!
//! `PROPTEST_CASES=65000 cargo test -p gnttab-fast --release --test oracle -- --nocapture` makes ten million steps
//! and says how many there were.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod model;
mod ops;

use common::*;
use gnttab_fast::abi::{EntryV1, SetVersion, SwapGrantRef, gtf, op};
use gnttab_fast::testing::{Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{Domain, Gfn, Gref, Limits, Mfn, NotGrown, Outcome, Policy, Version, Width};
use model::{Frame, Model};
use ops::{Entries, Op, ops};
use proptest::bool::weighted;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

const DOMAINS: u16 = 3;
const MEMORY: u64 = 6;
const GFNS: u64 = 200;
const LIMITS: Limits = Limits { frames: 2, maptrack_frames: 1 };
const HANDLES: usize = 256;
/// Frames for status frames.
const SPARE: usize = 100;
/// How often a sequence is gone through.
const ROUNDS: usize = 4;
/// Steps done so far, in all sequences.
static STEPS: AtomicU64 = AtomicU64::new(0);
/// References used: two neighbours, two reserved ones, the last and first of frames in each version, and one
/// that never is.
const GREFS: [u32; 9] = [8, 9, 0, 7, 255, 256, 511, 512, 5000];

/// Writes an entry as its guest, in the present version.
fn write(m: &Machine, model: &mut Model, d: u16, gref: u32, entry: Entries) {
    if model.guest(d).version == 1 {
        model.set_entry(d, gref, &bytes_of(&[entry.v1]));
        m.domain(d).write_entry(Gref(gref), entry.v1);
    } else {
        model.set_entry(d, gref, &entry.v2);
        m.domain(d).write_entry_v2(Gref(gref), &entry.v2);
    }
}

/// Carries one operation out in both, and compares what it told its caller.
fn step(m: &Machine, model: &mut Model, op: &Op, yields: bool) -> Result<(), TestCaseError> {
    let run = |by: u16| {
        let mut host = m.host(by, 0);
        host.yields = yields;
        host
    };
    match op.clone() {
        Op::Entry { d, gref, entry } => {
            // A well-behaved guest writes only entries that nobody uses.
            if model.entry(d, gref).is_some() && !model.guest(d).active.contains_key(&gref) {
                write(m, model, d, gref, entry);
            }
        }
        Op::Change { d, gref, entry } => {
            if let Some(old) = model.entry(d, gref) {
                let bits = gtf::READING | gtf::WRITING;
                let old = u16::from_le_bytes([old[0], old[1]]);
                let v1 = EntryV1 { flags: (entry.v1.flags & !bits) | (old & bits), ..entry.v1 };
                write(m, model, d, gref, Entries { v1, ..entry });
            }
        }
        // Each switch takes a frame that does not come back.
        Op::Version { .. } if model.switches >= SPARE => (),
        Op::Version { d, to } => {
            model.switches += 1;
            let (outcome, done) =
                call_on(&run(d), Width::Bits32, op::SET_VERSION, &[SetVersion { version: to }]);
            let want = model.set_version(m, d, to);
            let errno = match outcome {
                Outcome::Failed(errno) => errno.code(),
                _ => 0,
            };
            prop_assert_eq!(errno, want);
            prop_assert_eq!(done[0].version, model.guest(d).version);
        }
        Op::Starve { now } => {
            m.ram().starve(now);
            model.starved = now;
        }
        Op::Map { by, dom, gref, flags, gfn, times } => {
            let requests: Vec<_> = (0..times).map(|n| map_request(dom, gref, flags, gfn + n)).collect();
            let (outcome, done) = call_on(&run(by), Width::Bits64, op::MAP_GRANT_REF, &requests);
            prop_assert_eq!(outcome, Outcome::Done);
            for r in &done {
                prop_assert_eq!(r.status, model.map(by, r, r.handle).abi(), "{:?}", r);
                if r.status == 0 {
                    let mfn = model.guest(dom).active[&gref].mfn;
                    prop_assert_eq!(r.dev_bus_addr, mfn << 12);
                }
            }
        }
        Op::Unmap { by, picks } => {
            let live: Vec<_> = model.guest(by).handles.iter().map(|(h, m)| (*h, *m)).collect();
            if live.is_empty() {
                return Ok(());
            }
            let requests: Vec<_> = picks
                .iter()
                .map(|&(pick, elsewhere)| {
                    let (handle, mapping) = live[pick % live.len()];
                    let mfn = model.guest(mapping.granter).active[&mapping.gref].mfn;
                    let kind = if mapping.readonly { Kind::GrantRo } else { Kind::GrantRw };
                    let here = model.guest(by).map.iter().position(|at| *at == (kind, mfn));
                    unmap_request(handle, elsewhere.unwrap_or(here.unwrap_or(0) as u64))
                })
                .collect();
            let (outcome, done) = call_on(&run(by), Width::Bits32, op::UNMAP_GRANT_REF, &requests);
            prop_assert_eq!(outcome, Outcome::Done);
            for r in &done {
                prop_assert_eq!(r.status, model.unmap(by, r.handle, r.host_addr).abi(), "{:?}", r);
            }
        }
        Op::BadUnmap { by, handle, gfn } => {
            let (_, done) =
                call_on(&run(by), Width::Bits64, op::UNMAP_GRANT_REF, &[unmap_request(handle, gfn)]);
            prop_assert_eq!(done[0].status, model.unmap(by, handle, gfn << 12).abi());
        }
        Op::Copy { by, elements, narrow: small } => {
            let narrowed: Option<Vec<_>> = elements.iter().map(narrow).collect();
            let statuses: Vec<i16> = match narrowed {
                Some(args) if small => {
                    let (outcome, done) = call_on(&run(by), Width::Bits32, op::COPY, &args);
                    prop_assert_eq!(outcome, Outcome::Done);
                    done.iter().map(|e| e.status).collect()
                }
                _ => {
                    let (outcome, done) = call_on(&run(by), Width::Bits64, op::COPY, &elements);
                    prop_assert_eq!(outcome, Outcome::Done);
                    done.iter().map(|e| e.status).collect()
                }
            };
            for (e, status) in elements.iter().zip(statuses) {
                prop_assert_eq!(status, model.copy(by, e).abi(), "{:?}", e);
            }
        }
        Op::Swap { by, a, b } => {
            let (_, done) = call_on(
                &run(by),
                Width::Bits64,
                op::SWAP_GRANT_REF,
                &[SwapGrantRef { ref_a: a, ref_b: b, status: 77, pad: 0 }],
            );
            prop_assert_eq!(done[0].status, model.swap(by, a, b).abi());
        }
        Op::Balloon { d, gfn } => {
            if let Some((mfn, _)) = model.ram(d, gfn) {
                m.domain(d).balloon_out(Gfn(gfn));
                model.put(mfn);
                model.guest(d).map[usize::try_from(gfn).unwrap()] = (Kind::None, 0);
            }
        }
        Op::Kind { d, gfn, readonly } => {
            if let Some((mfn, _)) = model.ram(d, gfn) {
                let kind = if readonly { Kind::RamRo } else { Kind::Ram };
                m.domain(d).set(Gfn(gfn), kind, Mfn(mfn));
                model.guest(d).map[usize::try_from(gfn).unwrap()] = (kind, mfn);
            }
        }
        Op::Grow { d } => {
            let grown = m.domain(d).grants().shared_frame(1);
            if model.guest(d).table.len() < 2 {
                if model.starved {
                    prop_assert_eq!(grown, Err(NotGrown::NoMemory));
                    return Ok(());
                }
                let mfn = grown.unwrap().0;
                model.guest(d).table.push(mfn);
                model.frames.insert(mfn, Frame { bytes: vec![0; 4096], refs: 1 });
            }
        }
    }
    Ok(())
}

/// The property, and how many steps it held for.
#[test]
fn all_state_is_equal_after_every_step() {
    sequences();
    println!("{} steps", STEPS.load(Ordering::Relaxed));
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    fn sequences(
        steps in proptest::collection::vec((ops(), any::<bool>()), 1..80),
        policies in proptest::array::uniform3((weighted(0.9), weighted(0.9))),
    ) {
        let memory = usize::try_from(MEMORY).unwrap();
        let gfns = usize::try_from(GFNS).unwrap();
        let builder = MachineBuilder { memory, gfns, limits: LIMITS, spare: SPARE, ..MachineBuilder::default() };
        let m = builder.build_with(DOMAINS, |id| {
            let (second, transitive) = policies[usize::from(id) - 1];
            Policy::new(if second { Version::V2 } else { Version::V1 }, transitive)
        });
        for (d, domain) in (1u8..).zip(m.domains()) {
            for g in 0..MEMORY {
                let bytes: Vec<u8> = (0..4096u32).map(|i| (i * 7 + u32::try_from(g).unwrap() * 31).to_le_bytes()[0] ^ d).collect();
                m.ram().write(domain.mfn(Gfn(g)), 0, &bytes);
            }
        }
        let mut model = Model::of(&m);
        // What an operation does depends on what is there: the later rounds find what the first left.
        for (op, yields) in (0..ROUNDS).flat_map(|_| &steps) {
            step(&m, &mut model, op, *yields)?;
            model.check(&m)?;
            STEPS.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn any_bytes_are_an_argument(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        cmd in 0u32..14,
        count in 0u32..20,
        wide in any::<bool>(),
    ) {
        let m = MachineBuilder::default().build(2);
        let mut memory = Flat::new(ARGS, bytes);
        let width = if wide { Width::Bits64 } else { Width::Bits32 };
        let _ = m.call(1, &mut memory, width, cmd, ARGS, count);
    }
}
