//! The interface of grant tables, as plainly as it can be said: sequential, nothing cached, nothing clever.

use crate::common::*;
use crate::{DOMAINS, GFNS, GREFS, HANDLES};
use gnttab_fast::abi::{Copy, CopyPtr, EntryV1, MapGrantRef, copy_flags, gtf, map_flags};
use gnttab_fast::testing::{FIRST_MFN, Kind, Machine};
use gnttab_fast::{Domain, Gfn, Gref, Mfn, Policy, Status, Version, active::Pins};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A frame of the model.
pub struct Frame {
    pub bytes: Vec<u8>,
    pub refs: u32,
}

/// A pinned entry of the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Active {
    read: u8,
    write: u8,
    grantee: u16,
    pub mfn: u64,
    /// First byte granted, and the one behind the last.
    range: (usize, usize),
    sub_page: bool,
    transitive: bool,
    writable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    pub granter: u16,
    pub gref: u32,
    pub readonly: bool,
}

pub struct Guest {
    pub map: Vec<(Kind, u64)>,
    /// Shared frames, status frames.
    pub table: Vec<u64>,
    pub status: Vec<u64>,
    pub version: u32,
    policy: Policy,
    pub active: BTreeMap<u32, Active>,
    pub handles: BTreeMap<u32, Mapping>,
}

/// A shared entry as the hypervisor reads it.
#[derive(Clone, Copy, Debug)]
struct Shared {
    flags: u16,
    domid: u16,
    /// Words 2 and 3 of a version-2 header.
    low: u16,
    high: u16,
    body: u64,
}

impl Shared {
    fn kind(self) -> u16 {
        self.flags & gtf::TYPE_MASK
    }

    fn is_sub_page(self) -> bool {
        self.flags & gtf::SUB_PAGE != 0
    }
}

/// What a side of a copy came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Bytes {
    mfn: u64,
    range: (usize, usize),
}

const WHOLE: (usize, usize) = (0, 4096);

/// What a side of a copy has pinned.
enum Held {
    Nothing,
    Pin(u16, u32),
    Passed { outer: (u16, u32), inner: (u16, u32) },
}

pub struct Model {
    pub frames: BTreeMap<u64, Frame>,
    pub guests: Vec<Guest>,
    /// No frame is to be had.
    pub starved: bool,
    /// Version switches asked for.
    pub switches: usize,
}

impl Model {
    /// The state of a fresh machine.
    pub fn of(m: &Machine) -> Self {
        let mut model = Self { frames: BTreeMap::new(), guests: Vec::new(), starved: false, switches: 0 };
        for domain in m.domains() {
            let map: Vec<_> = (0..GFNS).map(|g| domain.at(Gfn(g))).map(|(k, mfn)| (k, mfn.0)).collect();
            let table = vec![domain.grants().shared_frame(0).unwrap().0];
            for mfn in map.iter().filter(|(k, _)| *k != Kind::None).map(|(_, mfn)| mfn).chain(&table) {
                let bytes = m.ram().read(Mfn(*mfn)).to_vec();
                model.frames.insert(*mfn, Frame { bytes, refs: 1 });
            }
            model.guests.push(Guest {
                map,
                table,
                status: Vec::new(),
                version: 1,
                policy: domain.grants().policy(),
                active: BTreeMap::new(),
                handles: BTreeMap::new(),
            });
        }
        model
    }

    pub fn guest(&mut self, id: u16) -> &mut Guest {
        &mut self.guests[usize::from(id) - 1]
    }

    fn exists(id: u16) -> bool {
        (1..=DOMAINS).contains(&id)
    }

    /// Bytes of an entry in the present version.
    fn size(&mut self, d: u16) -> usize {
        if self.guest(d).version == 1 { 8 } else { 16 }
    }

    fn entry_at(&mut self, d: u16, gref: u32) -> Option<(u64, usize)> {
        let size = self.size(d);
        let per_frame = 4096 / size;
        let gref = usize::try_from(gref).unwrap();
        let frame = *self.guest(d).table.get(gref / per_frame)?;
        Some((frame, gref % per_frame * size))
    }

    /// The bytes of a shared entry.
    pub fn entry(&mut self, d: u16, gref: u32) -> Option<Vec<u8>> {
        let (mfn, at) = self.entry_at(d, gref)?;
        let size = self.size(d);
        Some(self.frames[&mfn].bytes[at..at + size].to_vec())
    }

    pub fn set_entry(&mut self, d: u16, gref: u32, entry: &[u8]) {
        let (mfn, at) = self.entry_at(d, gref).unwrap();
        assert_eq!(entry.len(), self.size(d));
        self.frames.get_mut(&mfn).unwrap().bytes[at..at + entry.len()].copy_from_slice(entry);
    }

    fn shared(&mut self, d: u16, gref: u32) -> Option<Shared> {
        let bytes = self.entry(d, gref)?;
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Some(if bytes.len() == 8 {
            let e: EntryV1 = read_all(&bytes)[0];
            Shared { flags: e.flags, domid: e.domid, low: 0, high: 0, body: e.frame.into() }
        } else {
            Shared {
                flags: u16_at(0),
                domid: u16_at(2),
                low: u16_at(4),
                high: u16_at(6),
                body: u64::from_le_bytes(bytes[8..].try_into().unwrap()),
            }
        })
    }

    /// Sets and clears bits in use: in the entry, or in its status word.
    fn bits(&mut self, d: u16, gref: u32, set: u16, clear: u16) {
        let (mfn, at) = if self.guest(d).version == 1 {
            self.entry_at(d, gref).unwrap()
        } else {
            let gref = usize::try_from(gref).unwrap();
            (self.guest(d).status[gref / 2048], gref % 2048 * 2)
        };
        let bytes = &mut self.frames.get_mut(&mfn).unwrap().bytes[at..at + 2];
        let now = (u16::from_le_bytes([bytes[0], bytes[1]]) | set) & !clear;
        bytes.copy_from_slice(&now.to_le_bytes());
    }

    pub fn ram(&mut self, d: u16, gfn: u64) -> Option<(u64, bool)> {
        match *self.guest(d).map.get(usize::try_from(gfn).ok()?)? {
            (Kind::Ram, mfn) => Some((mfn, true)),
            (Kind::RamRo, mfn) => Some((mfn, false)),
            _ => None,
        }
    }

    /// The bytes an ordinary entry grants of its frame.
    fn range(&mut self, d: u16, e: Shared) -> (usize, usize) {
        if self.guest(d).version == 1 || !e.is_sub_page() {
            return WHOLE;
        }
        let (start, len) = (usize::from(e.low), usize::from(e.high));
        if len == 0 || start >= 4096 { (4096, 4096) } else { (start, (start + len).min(4096)) }
    }

    fn pin(&mut self, d: u16, gref: u32, by: u16, write: bool, maps: bool) -> Result<Bytes, Status> {
        let e = self.shared(d, gref).ok_or(Status::BadGntref)?;
        let active = self.guest(d).active.get(&gref).copied();
        let set = gtf::READING | if write { gtf::WRITING } else { 0 };
        let now = match active {
            None => {
                let mask = gtf::TYPE_MASK | if maps { gtf::SUB_PAGE } else { 0 };
                let fits = e.flags & mask == gtf::PERMIT_ACCESS && e.domid == by;
                if !fits || (write && e.flags & gtf::READONLY != 0) {
                    return Err(Status::GeneralError);
                }
                let (mfn, writable) = match self.ram(d, e.body) {
                    Some((mfn, writable)) if writable || !write => (mfn, writable),
                    _ => {
                        // The bits were set, and the hypervisor's own are cleared again whatever they were.
                        self.bits(d, gref, set, set);
                        return Err(Status::BadPage);
                    }
                };
                self.bits(d, gref, set, 0);
                let sub_page = self.guest(d).version == 2 && e.is_sub_page();
                let range = self.range(d, e);
                Active { read: 0, write: 0, grantee: by, mfn, range, sub_page, transitive: false, writable }
            }
            Some(a) => {
                let full = (if write { a.write } else { a.read }) >= 128;
                if a.grantee != by || full || a.transitive || (maps && a.sub_page) {
                    return Err(Status::GeneralError);
                }
                let joins = !(write && a.write == 0);
                if joins && !maps && self.guest(d).version == 2 && e.kind() == gtf::TRANSITIVE {
                    return Err(Status::GeneralError);
                }
                if write && a.write == 0 {
                    if e.flags & gtf::READONLY != 0 {
                        return Err(Status::GeneralError);
                    }
                    if let Err(fault) = self.another_writer(d, e, a, maps) {
                        self.bits(d, gref, gtf::READING, gtf::WRITING);
                        return Err(fault);
                    }
                    self.bits(d, gref, set, 0);
                }
                a
            }
        };
        self.count(d, gref, now, write);
        Ok(Bytes { mfn: now.mfn, range: now.range })
    }

    /// Whether a pinned entry may be pinned by its first writer.
    fn another_writer(&mut self, d: u16, e: Shared, a: Active, maps: bool) -> Result<(), Status> {
        if !a.writable {
            return Err(Status::BadPage);
        }
        if maps {
            return Ok(());
        }
        if self.guest(d).version == 2 && e.kind() == gtf::TRANSITIVE {
            return Err(Status::GeneralError);
        }
        let (mfn, _) = self.ram(d, e.body).ok_or(Status::BadPage)?;
        let less = a.sub_page && (!e.is_sub_page() || self.range(d, e) != a.range);
        if mfn != a.mfn || less { Err(Status::GeneralError) } else { Ok(()) }
    }

    fn count(&mut self, d: u16, gref: u32, now: Active, write: bool) {
        let now =
            if write { Active { write: now.write + 1, ..now } } else { Active { read: now.read + 1, ..now } };
        self.guest(d).active.insert(gref, now);
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

    /// Pins a transitive entry and what it passes on.
    fn pass_on(&mut self, d: u16, gref: u32, by: u16, write: bool) -> Option<Result<(Bytes, Held), Status>> {
        let e = self.shared(d, gref)?;
        let may = |model: &mut Self, d| model.guest(d).policy.transitive();
        let ours = self.guest(d).version == 2 && e.kind() == gtf::TRANSITIVE && e.domid == by;
        let lets = !write || e.flags & gtf::READONLY == 0;
        if !ours || !lets || !may(self, by) || !may(self, d) {
            return None;
        }
        let (owner, other) = (e.low, u32::try_from(e.body & 0xffff_ffff).unwrap());
        if !Self::exists(owner) || owner == d || !may(self, owner) {
            return Some(Err(Status::GeneralError));
        }
        let bytes = match self.pin(owner, other, d, write, false) {
            Ok(bytes) => bytes,
            Err(status) => return Some(Err(status)),
        };
        let set = gtf::READING | if write { gtf::WRITING } else { 0 };
        let Bytes { mfn, range } = bytes;
        let fresh = Active {
            read: 0,
            write: 0,
            grantee: by,
            mfn,
            range,
            sub_page: true,
            transitive: true,
            writable: true,
        };
        match self.guest(d).active.get(&gref).copied() {
            Some(a) => {
                let full = (if write { a.write } else { a.read }) >= 128;
                if !a.transitive || a.grantee != by || full || (a.mfn, a.range) != (mfn, range) {
                    self.unpin(owner, other, write);
                    return Some(Err(Status::GeneralError));
                }
                self.bits(d, gref, set, 0);
                self.count(d, gref, a, write);
            }
            None => {
                self.bits(d, gref, set, 0);
                self.count(d, gref, fresh, write);
            }
        }
        Some(Ok((bytes, Held::Passed { outer: (d, gref), inner: (owner, other) })))
    }

    fn release(&mut self, held: &Held, write: bool) {
        match *held {
            Held::Nothing => (),
            Held::Pin(d, gref) => self.unpin(d, gref, write),
            Held::Passed { outer, inner } => {
                self.unpin(outer.0, outer.1, write);
                self.unpin(inner.0, inner.1, write);
            }
        }
    }

    fn side(&mut self, by: u16, p: &CopyPtr, by_gref: bool, write: bool) -> Result<(Bytes, Held), Status> {
        if !by_gref {
            return match self.ram(by, p.u) {
                Some((mfn, writable)) if writable || !write => {
                    Ok((Bytes { mfn, range: WHOLE }, Held::Nothing))
                }
                _ => Err(Status::BadPage),
            };
        }
        let d = if p.domid == SELF { by } else { p.domid };
        let gref = u32::try_from(p.u & 0xffff_ffff).unwrap();
        match self.pin(d, gref, by, write, false) {
            Ok(bytes) => Ok((bytes, Held::Pin(d, gref))),
            Err(status) => self.pass_on(d, gref, by, write).unwrap_or(Err(status)),
        }
    }

    pub fn put(&mut self, mfn: u64) {
        self.frames.get_mut(&mfn).unwrap().refs -= 1;
    }

    pub fn map(&mut self, by: u16, r: &MapGrantRef, handle: u32) -> Status {
        match self.try_map(by, r, handle) {
            Ok(()) => Status::Okay,
            Err(status) => status,
        }
    }

    fn try_map(&mut self, by: u16, r: &MapGrantRef, handle: u32) -> Result<(), Status> {
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
        let Bytes { mfn, .. } = self.pin(r.dom, r.gref, by, !readonly, true)?;
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

    pub fn unmap(&mut self, by: u16, handle: u32, host_addr: u64) -> Status {
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

    pub fn copy(&mut self, by: u16, e: &Copy) -> Status {
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
        let (source, held_source) = match self.side(by, &e.source, from_gref, false) {
            Ok(side) => side,
            Err(status) => return status,
        };
        let status = match self.side(by, &e.dest, to_gref, true) {
            Err(status) => status,
            Ok((dest, held_dest)) => {
                let status = self.bytes(e, source, dest);
                self.release(&held_dest, true);
                status
            }
        };
        self.release(&held_source, false);
        status
    }

    fn bytes(&mut self, e: &Copy, source: Bytes, dest: Bytes) -> Status {
        let (from, to, len) = (usize::from(e.source.offset), usize::from(e.dest.offset), usize::from(e.len));
        if from + len > 4096 || to + len > 4096 {
            return Status::BadCopyArg;
        }
        let outside = |at: usize, (first, end): (usize, usize)| at < first || at + len > end;
        if outside(from, source.range) || outside(to, dest.range) {
            return Status::GeneralError;
        }
        let bytes = self.frames[&source.mfn].bytes[from..from + len].to_vec();
        self.frames.get_mut(&dest.mfn).unwrap().bytes[to..to + len].copy_from_slice(&bytes);
        Status::Okay
    }

    pub fn swap(&mut self, d: u16, a: u32, b: u32) -> Status {
        let (Some(ea), Some(eb)) = (self.entry(d, a), self.entry(d, b)) else { return Status::BadGntref };
        if a == b {
            return Status::Okay;
        }
        if self.guest(d).active.contains_key(&a) || self.guest(d).active.contains_key(&b) {
            return Status::Eagain;
        }
        self.set_entry(d, a, &eb);
        self.set_entry(d, b, &ea);
        if self.guest(d).version == 2 {
            let [at_a, at_b] = [a, b].map(|gref| usize::try_from(gref).unwrap() * 2);
            let mfn = self.guest(d).status[0];
            let bytes = &mut self.frames.get_mut(&mfn).unwrap().bytes;
            bytes.swap(at_a, at_b);
            bytes.swap(at_a + 1, at_b + 1);
        }
        Status::Okay
    }

    /// A switch: the errno it ends with, 0 for none.
    pub fn set_version(&mut self, m: &Machine, d: u16, to: u32) -> i32 {
        if to != 1 && to != 2 {
            return 22;
        }
        if to == 2 && self.guest(d).policy.max_version() == Version::V1 {
            return 38;
        }
        if to == self.guest(d).version {
            return 0;
        }
        if to == 2 && self.starved {
            return 12;
        }
        if self.guest(d).active.keys().any(|&gref| gref >= 8) {
            return 16;
        }
        let mut kept = Vec::new();
        for gref in 0..8 {
            let e = self.shared(d, gref).unwrap();
            let in_use = gtf::READING | gtf::WRITING;
            kept.push(match (to, e.kind()) {
                (2, _) => (e.flags & !in_use, e.domid, e.body, e.flags & in_use),
                (_, gtf::PERMIT_ACCESS) if e.body >> 32 == 0 => {
                    let mfn = self.guest(d).status[0];
                    let at = usize::try_from(gref).unwrap() * 2;
                    let status = &self.frames[&mfn].bytes[at..at + 2];
                    let flags = e.flags | u16::from_le_bytes([status[0], status[1]]);
                    (flags, e.domid, e.body, 0)
                }
                (_, gtf::PERMIT_ACCESS | gtf::TRANSITIVE) => return 34,
                _ => (0, 0, 0, 0),
            });
        }
        for mfn in self.guest(d).table.clone() {
            self.frames.get_mut(&mfn).unwrap().bytes.fill(0);
        }
        for mfn in std::mem::take(&mut self.guest(d).status) {
            self.frames.get_mut(&mfn).unwrap().refs = 0;
        }
        self.guest(d).version = to;
        self.status_frames(m, d);
        for (gref, (flags, domid, body, status)) in (0..).zip(kept) {
            let mut bytes = [flags.to_le_bytes(), domid.to_le_bytes()].concat();
            if to == 1 {
                bytes.extend(&body.to_le_bytes()[..4]);
            } else {
                bytes.extend([0; 4]);
                bytes.extend(body.to_le_bytes());
                self.bits(d, gref, status, 0);
            }
            self.set_entry(d, gref, &bytes);
        }
        0
    }

    /// Takes the status frames that the machine has by now; zeroes.
    pub fn status_frames(&mut self, m: &Machine, d: u16) {
        if self.guest(d).version == 2 && self.guest(d).status.is_empty() {
            let mfn = m.domain(d).grants().status_frame(0).unwrap().0;
            self.guest(d).status.push(mfn);
            self.frames.insert(mfn, Frame { bytes: vec![0; 4096], refs: 1 });
        }
    }

    /// Everything there is, compared.
    pub fn check(&mut self, m: &Machine) -> Result<(), TestCaseError> {
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
            prop_assert_eq!(domain.grants().version().number(), guest.version);
            prop_assert_eq!(domain.grants().status_frames() as usize, guest.status.len());
        }
        Ok(())
    }
}
