//! The shipped code against a plain model of the interface, by random sequences of operations from several
//! domains. After every step all statuses, all memory (entries and their bits included), all pins, all page
//! references, all physical maps and all handles are equal.
//!
//! `PROPTEST_CASES=1000000` makes the run long.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use gnttab_fast::abi::{Copy, EntryV1, SwapGrantRef, copy_flags, gtf, map_flags, op};
use gnttab_fast::testing::{FIRST_MFN, Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{Domain, Gfn, Gref, Limits, Mfn, Outcome, Status, Width, active::Pins};
use proptest::prelude::*;
use std::collections::BTreeMap;

const DOMAINS: u16 = 3;
const MEMORY: u64 = 6;
const GFNS: u64 = 200;
const LIMITS: Limits = Limits { frames: 2, maptrack_frames: 1 };
const HANDLES: usize = 256;

/// A frame of the model.
struct Frame {
    bytes: Vec<u8>,
    refs: u32,
}

/// A pinned entry of the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Active {
    read: u8,
    write: u8,
    grantee: u16,
    mfn: u64,
    writable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mapping {
    granter: u16,
    gref: u32,
    readonly: bool,
}

#[derive(Default)]
struct Guest {
    map: Vec<(Kind, u64)>,
    table: Vec<u64>,
    active: BTreeMap<u32, Active>,
    handles: BTreeMap<u32, Mapping>,
}

/// The interface, as plainly as it can be said.
struct Model {
    frames: BTreeMap<u64, Frame>,
    guests: Vec<Guest>,
}

impl Model {
    /// The state of a fresh machine.
    fn of(m: &Machine) -> Self {
        let mut model = Self { frames: BTreeMap::new(), guests: Vec::new() };
        for domain in m.domains() {
            let map: Vec<_> = (0..GFNS).map(|g| domain.at(Gfn(g))).map(|(k, mfn)| (k, mfn.0)).collect();
            let table = vec![domain.grants().shared_frame(0).unwrap().0];
            for mfn in map.iter().filter(|(k, _)| *k != Kind::None).map(|(_, mfn)| mfn).chain(&table) {
                let bytes = m.ram().read(Mfn(*mfn)).to_vec();
                model.frames.insert(*mfn, Frame { bytes, refs: 1 });
            }
            model.guests.push(Guest { map, table, ..Guest::default() });
        }
        model
    }

    fn guest(&mut self, id: u16) -> &mut Guest {
        &mut self.guests[usize::from(id) - 1]
    }

    fn exists(id: u16) -> bool {
        (1..=DOMAINS).contains(&id)
    }

    fn entry_at(&mut self, d: u16, gref: u32) -> Option<(u64, usize)> {
        let frame = *self.guest(d).table.get(usize::try_from(gref / 512).unwrap())?;
        Some((frame, usize::try_from(gref % 512).unwrap() * 8))
    }

    fn entry(&mut self, d: u16, gref: u32) -> Option<EntryV1> {
        let (mfn, at) = self.entry_at(d, gref)?;
        Some(read_all(&self.frames[&mfn].bytes[at..at + 8])[0])
    }

    fn set_entry(&mut self, d: u16, gref: u32, entry: EntryV1) {
        let (mfn, at) = self.entry_at(d, gref).unwrap();
        self.frames.get_mut(&mfn).unwrap().bytes[at..at + 8].copy_from_slice(&bytes_of(&[entry]));
    }

    fn bits(&mut self, d: u16, gref: u32, set: u16, clear: u16) {
        let mut e = self.entry(d, gref).unwrap();
        e.flags = (e.flags | set) & !clear;
        self.set_entry(d, gref, e);
    }

    fn ram(&mut self, d: u16, gfn: u64) -> Option<(u64, bool)> {
        match *self.guest(d).map.get(usize::try_from(gfn).ok()?)? {
            (Kind::Ram, mfn) => Some((mfn, true)),
            (Kind::RamRo, mfn) => Some((mfn, false)),
            _ => None,
        }
    }

    fn pin(&mut self, d: u16, gref: u32, by: u16, write: bool, maps: bool) -> Result<u64, Status> {
        let e = self.entry(d, gref).ok_or(Status::BadGntref)?;
        let active = self.guest(d).active.get(&gref).copied();
        let set = gtf::READING | if write { gtf::WRITING } else { 0 };
        let (mfn, now) = match active {
            None => {
                let mask = gtf::TYPE_MASK | if maps { gtf::SUB_PAGE } else { 0 };
                let fits = e.flags & mask == gtf::PERMIT_ACCESS && e.domid == by;
                if !fits || (write && e.flags & gtf::READONLY != 0) {
                    return Err(Status::GeneralError);
                }
                let (mfn, writable) = match self.ram(d, e.frame.into()) {
                    Some((mfn, writable)) if writable || !write => (mfn, writable),
                    _ => {
                        // The bits were set, and the hypervisor's own are cleared again whatever they were.
                        self.bits(d, gref, set, set);
                        return Err(Status::BadPage);
                    }
                };
                (mfn, Active { read: 0, write: 0, grantee: by, mfn, writable })
            }
            Some(a) => {
                if a.grantee != by || (if write { a.write } else { a.read }) >= 128 {
                    return Err(Status::GeneralError);
                }
                if write && a.write == 0 {
                    if e.flags & gtf::READONLY != 0 {
                        return Err(Status::GeneralError);
                    }
                    let fault = if !a.writable {
                        Some(Status::BadPage)
                    } else if maps {
                        None
                    } else {
                        match self.ram(d, e.frame.into()) {
                            None => Some(Status::BadPage),
                            Some((mfn, _)) if mfn != a.mfn => Some(Status::GeneralError),
                            Some(_) => None,
                        }
                    };
                    if let Some(fault) = fault {
                        self.bits(d, gref, gtf::READING, gtf::WRITING);
                        return Err(fault);
                    }
                    self.bits(d, gref, set, 0);
                }
                (a.mfn, a)
            }
        };
        if active.is_none() {
            self.bits(d, gref, set, 0);
        }
        let now =
            if write { Active { write: now.write + 1, ..now } } else { Active { read: now.read + 1, ..now } };
        self.guest(d).active.insert(gref, now);
        Ok(mfn)
    }

    fn unpin(&mut self, d: u16, gref: u32, write: bool) {
        let active = self.guest(d).active.get_mut(&gref).unwrap();
        let mut clear = 0;
        if write {
            active.write -= 1;
            clear = if active.write == 0 { gtf::WRITING } else { 0 };
        } else {
            active.read -= 1;
        }
        if active.read == 0 && active.write == 0 {
            self.guest(d).active.remove(&gref);
            clear |= gtf::READING;
        }
        self.bits(d, gref, 0, clear);
    }

    fn put(&mut self, mfn: u64) {
        self.frames.get_mut(&mfn).unwrap().refs -= 1;
    }

    fn map(&mut self, by: u16, r: &gnttab_fast::abi::MapGrantRef, handle: u32) -> Status {
        match self.try_map(by, r, handle) {
            Ok(()) => Status::Okay,
            Err(status) => status,
        }
    }

    fn try_map(&mut self, by: u16, r: &gnttab_fast::abi::MapGrantRef, handle: u32) -> Result<(), Status> {
        if r.flags & 3 == 0 {
            return Err(Status::BadGntref);
        }
        if r.flags & 1 != 0 {
            return Err(Status::GeneralError);
        }
        if !Self::exists(r.dom) {
            return Err(Status::BadDomain);
        }
        if self.guest(by).handles.len() >= HANDLES {
            return Err(Status::NoSpace);
        }
        let readonly = r.flags & map_flags::READONLY != 0;
        let mfn = self.pin(r.dom, r.gref, by, !readonly, true)?;
        let gfn = usize::try_from(r.host_addr >> 12).unwrap();
        let kind = if readonly { Kind::GrantRo } else { Kind::GrantRw };
        let old = self.guest(by).map.get(gfn).copied();
        match old {
            None | Some((Kind::GrantRo | Kind::GrantRw | Kind::Special, _)) => {
                self.unpin(r.dom, r.gref, !readonly);
                return Err(Status::GeneralError);
            }
            Some((Kind::Ram | Kind::RamRo, old)) => self.put(old),
            Some((Kind::None, _)) => (),
        }
        self.guest(by).map[gfn] = (kind, mfn);
        self.frames.get_mut(&mfn).unwrap().refs += 1;
        self.guest(by).handles.insert(handle, Mapping { granter: r.dom, gref: r.gref, readonly });
        Ok(())
    }

    fn unmap(&mut self, by: u16, handle: u32, host_addr: u64) -> Status {
        let Some(mapping) = self.guest(by).handles.get(&handle).copied() else { return Status::BadHandle };
        if host_addr == 0 {
            return Status::Okay;
        }
        let Mapping { granter, gref, readonly } = mapping;
        let mfn = self.guest(granter).active[&gref].mfn;
        let kind = if readonly { Kind::GrantRo } else { Kind::GrantRw };
        match self.guest(by).map.get_mut(usize::try_from(host_addr >> 12).unwrap()) {
            Some(at) if *at == (kind, mfn) => *at = (Kind::None, 0),
            _ => return Status::GeneralError,
        }
        self.unpin(granter, gref, !readonly);
        self.put(mfn);
        self.guest(by).handles.remove(&handle);
        Status::Okay
    }

    fn copy(&mut self, by: u16, e: &Copy) -> Status {
        if e.len == 0 {
            return Status::Okay;
        }
        let gref = |flag| e.flags & flag != 0;
        let (from_gref, to_gref) = (gref(copy_flags::SOURCE_GREF), gref(copy_flags::DEST_GREF));
        for (p, by_gref) in [(&e.source, from_gref), (&e.dest, to_gref)] {
            if p.domid != SELF && !by_gref {
                return Status::PermissionDenied;
            }
            if p.domid != SELF && !Self::exists(p.domid) {
                return Status::BadDomain;
            }
        }
        let dom = |d: u16| if d == SELF { by } else { d };
        let low = |u: u64| u32::try_from(u & 0xffff_ffff).unwrap();
        let side = |model: &mut Self, p: &gnttab_fast::abi::CopyPtr, by_gref: bool, write: bool| {
            if by_gref {
                return model.pin(dom(p.domid), low(p.u), by, write, false);
            }
            match model.ram(by, p.u) {
                Some((mfn, writable)) if writable || !write => Ok(mfn),
                _ => Err(Status::BadPage),
            }
        };
        let source = match side(self, &e.source, from_gref, false) {
            Ok(mfn) => mfn,
            Err(status) => return status,
        };
        let status = match side(self, &e.dest, to_gref, true) {
            Err(status) => status,
            Ok(dest) => {
                let status = self.bytes(e, source, dest);
                if to_gref {
                    self.unpin(dom(e.dest.domid), low(e.dest.u), true);
                }
                status
            }
        };
        if from_gref {
            self.unpin(dom(e.source.domid), low(e.source.u), false);
        }
        status
    }

    fn bytes(&mut self, e: &Copy, source: u64, dest: u64) -> Status {
        let (from, to, len) = (usize::from(e.source.offset), usize::from(e.dest.offset), usize::from(e.len));
        if from + len > 4096 || to + len > 4096 {
            return Status::BadCopyArg;
        }
        let bytes = self.frames[&source].bytes[from..from + len].to_vec();
        self.frames.get_mut(&dest).unwrap().bytes[to..to + len].copy_from_slice(&bytes);
        Status::Okay
    }

    fn swap(&mut self, d: u16, a: u32, b: u32) -> Status {
        let (Some(ea), Some(eb)) = (self.entry(d, a), self.entry(d, b)) else { return Status::BadGntref };
        if a == b {
            return Status::Okay;
        }
        if self.guest(d).active.contains_key(&a) || self.guest(d).active.contains_key(&b) {
            return Status::Eagain;
        }
        self.set_entry(d, a, eb);
        self.set_entry(d, b, ea);
        Status::Okay
    }

    /// Everything there is, compared.
    fn check(&mut self, m: &Machine) -> Result<(), TestCaseError> {
        for (mfn, frame) in &self.frames {
            prop_assert_eq!(
                frame.refs,
                m.ram().refs(Mfn(*mfn)),
                "references of frame {:#x}",
                mfn - FIRST_MFN
            );
            prop_assert!(frame.bytes == m.ram().read(Mfn(*mfn)), "bytes of frame {:#x}", mfn - FIRST_MFN);
        }
        for (guest, domain) in self.guests.iter().zip(m.domains()) {
            for (gfn, &(kind, mfn)) in (0..).zip(&guest.map) {
                prop_assert_eq!(domain.at(Gfn(gfn)), (kind, Mfn(mfn)), "gfn {}", gfn);
            }
            for gref in GREFS.into_iter().filter(|&g| g < domain.grants().entries()) {
                let want = guest.active.get(&gref).map_or(Pins::default(), |a| Pins {
                    host_read: a.read,
                    host_write: a.write,
                    grantee: a.grantee,
                });
                prop_assert_eq!(domain.grants().pins(Gref(gref)), Some(want), "gref {}", gref);
            }
            prop_assert_eq!(domain.grants().maptrack().in_use(), guest.handles.len() as u64);
        }
        Ok(())
    }
}

/// References used: two neighbours, the last and first of frames, and one that never is.
const GREFS: [u32; 5] = [8, 9, 511, 512, 5000];

#[derive(Clone, Debug)]
enum Op {
    Entry {
        d: u16,
        gref: u32,
        entry: EntryV1,
    },
    /// Type, grantee, access or frame changed, in use or not, with the bits in use left alone.
    Change {
        d: u16,
        gref: u32,
        entry: EntryV1,
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
    prop_oneof![6 => Just(1u16), 1 => Just(2), 1 => Just(3)]
}

fn grantees() -> impl Strategy<Value = u16> + Clone {
    prop_oneof![1 => Just(1u16), 6 => Just(2), 1 => Just(3)]
}

fn grefs() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![6 => 0..2usize, 1 => 0..GREFS.len()].prop_map(|n| GREFS[n])
}

fn entries() -> impl Strategy<Value = EntryV1> {
    let types = prop_oneof![
        9 => Just(gtf::PERMIT_ACCESS),
        1 => Just(gtf::INVALID),
        1 => Just(gtf::ACCEPT_TRANSFER),
        1 => Just(gtf::TRANSITIVE),
    ];
    let flags = prop_oneof![
        6 => Just(0),
        2 => Just(gtf::READONLY),
        1 => Just(gtf::SUB_PAGE),
        1 => Just(gtf::READING | gtf::PCD),
    ];
    let frames = prop_oneof![9 => 0..MEMORY, 2 => 0..12u64, 1 => Just(u64::from(u32::MAX))];
    (types, flags, grantees(), frames)
        .prop_map(|(t, f, domid, frame)| entry(t | f, domid, u32::try_from(frame).unwrap()))
}

fn sides() -> impl Strategy<Value = (gnttab_fast::abi::CopyPtr, bool)> + Clone {
    let offsets = prop_oneof![4 => 0u16..64, 2 => 4000u16..=4096, 1 => any::<u16>()];
    let doms = prop_oneof![12 => granters(), 1 => Just(SELF), 1 => Just(9)];
    prop_oneof![
        6 => (doms, grefs(), offsets.clone()).prop_map(|(d, g, o)| by_gref(d, g, o)),
        3 => (0..MEMORY + 4, offsets.clone()).prop_map(|(g, o)| by_gfn(g, o)),
        1 => (granters(), offsets).prop_map(|(d, o)| {
            let (p, gref) = by_gfn(0, o);
            (gnttab_fast::abi::CopyPtr { domid: d, ..p }, gref)
        }),
    ]
}

fn elements() -> impl Strategy<Value = Vec<Copy>> {
    let lens = prop_oneof![1 => Just(0u16), 8 => 1u16..100, 2 => 3000u16..=4096, 1 => any::<u16>()];
    let one = (sides(), sides(), lens).prop_map(|(s, d, len)| element(s, d, len));
    prop_oneof![4 => proptest::collection::vec(one.clone(), 1..6), 1 => proptest::collection::vec(one, 60..140)]
}

fn ops() -> impl Strategy<Value = Op> {
    let map_flags = prop_oneof![5 => Just(2u32), 4 => Just(6), 1 => Just(0), 1 => Just(3)];
    let times = prop_oneof![12 => Just(1u64), 1 => 100..150u64];
    let picks = proptest::collection::vec(
        (0..200usize, prop_oneof![6 => Just(None), 1 => (0..40u64).prop_map(Some)]),
        1..90,
    );
    prop_oneof![
        4 => (granters(), grefs(), entries()).prop_map(|(d, gref, entry)| Op::Entry { d, gref, entry }),
        2 => (granters(), grefs(), entries()).prop_map(|(d, gref, entry)| Op::Change { d, gref, entry }),
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
                model.set_entry(d, gref, entry);
                m.domain(d).write_entry(Gref(gref), entry);
            }
        }
        Op::Change { d, gref, entry } => {
            if let Some(old) = model.entry(d, gref) {
                let bits = gtf::READING | gtf::WRITING;
                let entry = EntryV1 { flags: (entry.flags & !bits) | (old.flags & bits), ..entry };
                model.set_entry(d, gref, entry);
                prop_assert!(m.domain(d).exchange_entry(Gref(gref), old, entry));
            }
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
            if model.guest(d).table.len() < 2 {
                let mfn = m.domain(d).grants().shared_frame(1).unwrap().0;
                model.guest(d).table.push(mfn);
                model.frames.insert(mfn, Frame { bytes: vec![0; 4096], refs: 1 });
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_state_is_equal_after_every_step(
        steps in proptest::collection::vec((ops(), any::<bool>()), 1..80),
    ) {
        let memory = usize::try_from(MEMORY).unwrap();
        let gfns = usize::try_from(GFNS).unwrap();
        let m = MachineBuilder { memory, gfns, limits: LIMITS, ..MachineBuilder::default() }.build(DOMAINS);
        for (d, domain) in (1u8..).zip(m.domains()) {
            for g in 0..MEMORY {
                let bytes: Vec<u8> = (0..4096u32).map(|i| (i * 7 + u32::try_from(g).unwrap() * 31).to_le_bytes()[0] ^ d).collect();
                m.ram().write(domain.mfn(Gfn(g)), 0, &bytes);
            }
        }
        let mut model = Model::of(&m);
        for (op, yields) in &steps {
            step(&m, &mut model, op, *yields)?;
            model.check(&m)?;
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
