//! Workloads: read from `definitions/*.toml`, made into arrays of operations, played and verified.

use crate::engine::{CPUS, Engine, GRANTERS, GREFS, MAP_GFN, ME};
use crate::machine::{Machine, PAGE};
use anyhow::{Context, Result, ensure};
use gnttab_fast::DomId;
use gnttab_fast::abi::{Copy, CopyPtr, MapGrantRef, UnmapGrantRef, copy_flags, map_flags};
use serde::Deserialize;
use std::collections::BTreeMap;

/// All definitions, by the names of their files.
pub const DEFINITIONS: [(&str, &str); 3] = [
    ("ops.toml", include_str!("../definitions/ops.toml")),
    ("netback.toml", include_str!("../definitions/netback.toml")),
    ("block.toml", include_str!("../definitions/block.toml")),
];

/// First reference used: those below are the toolstack's.
const FIRST_GREF: u32 = 8;

/// Which CPU a player calls from and which pages it uses, so that two can play at once.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Added to the CPUs of the definition.
    pub cpu: usize,
    /// First page, or reference, that is read or mapped.
    pub source: u32,
    /// First page, or reference, that is written; and how far into the mapping range it maps.
    pub dest: u32,
}

impl Seat {
    /// Alone on the machine.
    pub const ALONE: Self = Self { cpu: 0, source: FIRST_GREF, dest: FIRST_GREF };
    /// Beside [`ALONE`](Self::ALONE), on the other CPU, with references of its own.
    pub const OWN_GREFS: Self = Self { cpu: 1, source: GREFS / 4, dest: GREFS / 4 };
    /// Beside [`ALONE`](Self::ALONE), on the other CPU, reading or mapping the same references.
    pub const SAME_GREFS: Self = Self { cpu: 1, source: FIRST_GREF, dest: GREFS / 4 };
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workload: Vec<Workload>,
}

/// A named sequence of hypercalls, played round after round.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name in tables and filters.
    pub name: String,
    /// What it stands for.
    pub about: String,
    /// The hypercalls, in order.
    pub step: Vec<Step>,
}

/// One kind of operation, repeated.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Which operation.
    pub op: Op,
    /// Elements in a round.
    pub count: usize,
    /// Elements in a hypercall.
    pub batch: usize,
    /// The CPU that calls.
    #[serde(default)]
    pub cpu: usize,
    /// Where a copy reads.
    #[serde(default)]
    pub source: Side,
    /// Where a copy writes.
    #[serde(default)]
    pub dest: Side,
    /// Lengths of copies, in turn.
    #[serde(default)]
    pub lens: Vec<u16>,
    /// Offset in a fresh source page.
    #[serde(default)]
    pub source_offset: u16,
    /// Consecutive elements that use one source page.
    #[serde(default = "one")]
    pub per_source: usize,
    /// Consecutive elements that use one destination page.
    #[serde(default = "one")]
    pub per_dest: usize,
    /// Maps are read-only.
    #[serde(default)]
    pub readonly: bool,
}

fn one() -> usize {
    1
}

/// The operation of a step.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// `GNTTABOP_copy`
    Copy,
    /// `GNTTABOP_map_grant_ref`
    Map,
    /// `GNTTABOP_unmap_grant_ref` of what the map steps before it mapped, in their order.
    Unmap,
}

/// Whose page a side of a copy is.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The caller's own.
    #[default]
    Own,
    /// Granted by the first granter.
    Gref,
    /// Granted by the second granter.
    Gref2,
}

/// Reads every definition.
///
/// # Errors
/// If a file does not parse.
pub fn all() -> Result<Vec<Workload>> {
    let mut out = Vec::new();
    for (file, text) in DEFINITIONS {
        let parsed: File = toml::from_str(text).with_context(|| format!("definitions/{file}"))?;
        out.extend(parsed.workload);
    }
    Ok(out)
}

/// A side's next page and where in it the next element goes.
struct Cursor {
    side: Side,
    page: u32,
    used: usize,
    offset: u16,
    first_offset: u16,
    per_page: usize,
}

impl Cursor {
    fn new(side: Side, first_page: u32, first_offset: u16, per_page: usize) -> Self {
        Self { side, page: first_page, used: 0, offset: first_offset, first_offset, per_page }
    }

    /// The place of an element of `len` bytes, and the frame behind it.
    fn next(&mut self, len: u16) -> (CopyPtr, u32) {
        let fits = usize::from(self.offset) + usize::from(len) <= PAGE;
        if self.used == self.per_page || !fits {
            (self.page, self.used, self.offset) = (self.page + 1, 0, self.first_offset);
        }
        let (domid, frame) = match self.side {
            Side::Own => (DomId::SELF.0, Machine::frame_of(ME, self.page)),
            Side::Gref => (GRANTERS[0], Machine::frame_of(GRANTERS[0], self.page)),
            Side::Gref2 => (GRANTERS[1], Machine::frame_of(GRANTERS[1], self.page)),
        };
        let u = u64::from(if self.side == Side::Own { frame } else { self.page });
        let ptr = CopyPtr { u, domid, offset: self.offset, pad: 0 };
        self.used += 1;
        self.offset += len;
        (ptr, frame)
    }
}

enum Prepared {
    Copy { cpu: usize, batch: usize, ops: Vec<Copy>, frames: Vec<(u32, u32)> },
    Map { cpu: usize, batch: usize, ops: Vec<MapGrantRef> },
    Unmap { cpu: usize, batch: usize, ops: Vec<UnmapGrantRef>, from: usize },
}

/// A workload's operations, ready to be played by an engine.
pub struct Player {
    steps: Vec<Prepared>,
    elements: usize,
}

impl Player {
    /// Makes the operations of one round.
    ///
    /// # Errors
    /// If the definition asks for what the machine does not have.
    pub fn new(w: &Workload, seat: Seat) -> Result<Self> {
        let mut steps: Vec<Prepared> = Vec::new();
        let mut elements = 0;
        for s in &w.step {
            let cpu = s.cpu + seat.cpu;
            ensure!(s.batch > 0 && s.count > 0 && cpu < CPUS, "{}: empty step or no such CPU", w.name);
            steps.push(match s.op {
                Op::Copy => {
                    elements += s.count;
                    copies(w, s, seat)?
                }
                Op::Map => {
                    elements += s.count;
                    maps(w, s, seat)?
                }
                Op::Unmap => {
                    let from =
                        steps.len().checked_sub(1).with_context(|| format!("{}: nothing mapped", w.name))?;
                    unmaps(w, s, cpu, &steps[from], from)?
                }
            });
        }
        Ok(Self { steps, elements })
    }

    /// Copies and maps in a round: what a time per element is divided by. An unmap counts with its map.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Plays a round.
    #[inline(never)]
    pub fn round<E: Engine>(&mut self, engine: &E) {
        for at in 0..self.steps.len() {
            self.step(at, engine);
        }
    }

    fn step<E: Engine>(&mut self, at: usize, engine: &E) {
        let (before, rest) = self.steps.split_at_mut(at);
        match &mut rest[0] {
            Prepared::Copy { cpu, batch, ops, .. } => {
                ops.chunks_mut(*batch).for_each(|ops| engine.copy(*cpu, ops));
            }
            Prepared::Map { cpu, batch, ops } => ops.chunks_mut(*batch).for_each(|ops| engine.map(*cpu, ops)),
            Prepared::Unmap { cpu, batch, ops, from } => {
                if let Prepared::Map { ops: maps, .. } = &before[*from] {
                    maps.iter().zip(ops.iter_mut()).for_each(|(m, u)| u.handle = m.handle);
                }
                ops.chunks_mut(*batch).for_each(|ops| engine.unmap(*cpu, ops));
            }
        }
    }

    /// Poisons the destinations and the statuses, plays a round, and compares every byte of every page
    /// touched, every mapping and every status with what they ought to be.
    ///
    /// # Errors
    /// The first difference.
    pub fn verified_round<E: Engine>(&mut self, engine: &E, machine: &Machine, seed: u32) -> Result<()> {
        let name = E::NAME;
        for at in 0..self.steps.len() {
            let mut expected: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
            match &mut self.steps[at] {
                Prepared::Copy { ops, frames, .. } => {
                    for (op, &(from, to)) in ops.iter_mut().zip(frames.iter()) {
                        op.status = 1;
                        machine.fill(from, seed);
                        machine.fill(to, !seed);
                    }
                    for (op, &(from, to)) in ops.iter().zip(frames.iter()) {
                        let page = expected.entry(to).or_insert_with(|| machine.bytes(to, 0, PAGE));
                        let (at, len) = (usize::from(op.dest.offset), usize::from(op.len));
                        let bytes = machine.bytes(from, usize::from(op.source.offset), len);
                        page[at..at + len].copy_from_slice(&bytes);
                    }
                }
                Prepared::Map { ops, .. } => ops.iter_mut().for_each(|op| op.status = 1),
                Prepared::Unmap { ops, .. } => ops.iter_mut().for_each(|op| op.status = 1),
            }
            self.step(at, engine);
            for (mfn, page) in expected {
                let got = machine.bytes(mfn, 0, PAGE);
                let diff = page.iter().zip(&got).position(|(a, b)| a != b);
                ensure!(diff.is_none(), "{name}: frame {mfn} differs at byte {}", diff.unwrap_or(0));
            }
            match &self.steps[at] {
                Prepared::Copy { .. } => {}
                Prepared::Map { ops, .. } => {
                    for op in ops {
                        let gfn = u32::try_from(op.host_addr >> 12)?;
                        let want = Machine::frame_of(op.dom, op.gref);
                        ensure!(engine.mapped_at(gfn) == Some(want), "{name}: {op:?} mapped something else");
                        ensure!(op.dev_bus_addr == u64::from(want) << 12, "{name}: {op:?}: wrong address");
                    }
                }
                Prepared::Unmap { ops, .. } => {
                    for op in ops {
                        let gfn = u32::try_from(op.host_addr >> 12)?;
                        ensure!(engine.mapped_at(gfn).is_none(), "{name}: {op:?} left its mapping");
                    }
                }
            }
        }
        self.statuses_good::<E>()?;
        ensure!(engine.at_rest(), "{name}: a reference, pin or handle is left");
        ensure!(crate::engine::unmarked(machine), "{name}: a grant entry is still marked in use");
        Ok(())
    }

    /// Checks the statuses of the last round.
    ///
    /// # Errors
    /// The first that is not `GNTST_okay`.
    pub fn statuses_good<E: Engine>(&self) -> Result<()> {
        for step in &self.steps {
            let bad = match step {
                Prepared::Copy { ops, .. } => ops.iter().position(|o| o.status != 0),
                Prepared::Map { ops, .. } => ops.iter().position(|o| o.status != 0),
                Prepared::Unmap { ops, .. } => ops.iter().position(|o| o.status != 0),
            };
            ensure!(bad.is_none(), "{}: element {} failed", E::NAME, bad.unwrap_or(0));
        }
        Ok(())
    }
}

fn copies(w: &Workload, s: &Step, seat: Seat) -> Result<Prepared> {
    ensure!(!s.lens.is_empty(), "{}: copies need lengths", w.name);
    // Own pages read and own pages written are kept apart.
    let mut from = Cursor::new(s.source, seat.source, s.source_offset, s.per_source);
    let first_dest = if s.source == s.dest { seat.dest + GREFS / 2 } else { seat.dest };
    let mut to = Cursor::new(s.dest, first_dest, 0, s.per_dest);
    let flag = |side, flag| if side == Side::Own { 0 } else { flag };
    let flags = flag(s.source, copy_flags::SOURCE_GREF) | flag(s.dest, copy_flags::DEST_GREF);
    let (mut ops, mut frames) = (Vec::new(), Vec::new());
    for &len in s.lens.iter().cycle().take(s.count) {
        let ((source, from), (dest, to)) = (from.next(len), to.next(len));
        ops.push(Copy { source, dest, len, flags, status: 0, pad: 0 });
        frames.push((from, to));
    }
    ensure!(from.page < GREFS && to.page < GREFS, "{}: more pages than there are", w.name);
    Ok(Prepared::Copy { cpu: s.cpu + seat.cpu, batch: s.batch, ops, frames })
}

fn maps(w: &Workload, s: &Step, seat: Seat) -> Result<Prepared> {
    let count = u32::try_from(s.count)?;
    ensure!(seat.source.max(seat.dest) + count <= GREFS, "{}: more maps than references", w.name);
    let flags = map_flags::HOST_MAP | if s.readonly { map_flags::READONLY } else { 0 };
    let op = |i: u32| MapGrantRef {
        host_addr: u64::from(MAP_GFN + seat.dest + i) << 12,
        flags,
        gref: seat.source + i,
        dom: GRANTERS[0],
        ..MapGrantRef::default()
    };
    Ok(Prepared::Map { cpu: s.cpu + seat.cpu, batch: s.batch, ops: (0..count).map(op).collect() })
}

fn unmaps(w: &Workload, s: &Step, cpu: usize, maps: &Prepared, from: usize) -> Result<Prepared> {
    let Prepared::Map { ops, .. } = maps else { anyhow::bail!("{}: an unmap follows its map", w.name) };
    ensure!(ops.len() == s.count, "{}: {} mapped, {} unmapped", w.name, ops.len(), s.count);
    let ops = ops.iter().map(|m| UnmapGrantRef { host_addr: m.host_addr, ..UnmapGrantRef::default() });
    Ok(Prepared::Unmap { cpu, batch: s.batch, ops: ops.collect(), from })
}
