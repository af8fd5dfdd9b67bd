//! Workloads: read from `definitions/*.toml`, made into arrays of operations, played and verified.

use crate::engine::{Engine, GRANTERS, ME, SHAPE, map_gfn};
use crate::machine::{Machine, PAGE, Shape};
use anyhow::{Context, Result, ensure};
use gnttab_fast::DomId;
use gnttab_fast::abi::{Copy, CopyPtr, MapGrantRef, UnmapGrantRef, copy_flags, map_flags};
use serde::Deserialize;
use std::collections::BTreeMap;

/// All definitions, by the names of their files.
pub const DEFINITIONS: [(&str, &str); 4] = [
    ("ops.toml", include_str!("../definitions/ops.toml")),
    ("netback.toml", include_str!("../definitions/netback.toml")),
    ("block.toml", include_str!("../definitions/block.toml")),
    ("sweeps.toml", include_str!("../definitions/sweeps.toml")),
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

/// References a player may use from its seat on, when two play.
const PART: u32 = SHAPE.data_frames / 4;

impl Seat {
    /// Alone on the machine.
    pub const ALONE: Self = Self { cpu: 0, source: FIRST_GREF, dest: FIRST_GREF };
    /// Beside [`ALONE`](Self::ALONE), on the other CPU, with references of its own.
    pub const OWN_GREFS: Self = Self { cpu: 1, source: PART, dest: PART };
    /// Beside [`ALONE`](Self::ALONE), on the other CPU, reading or mapping the same references.
    pub const SAME_GREFS: Self = Self { cpu: 1, source: FIRST_GREF, dest: PART };
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    workload: Vec<Workload>,
    #[serde(default)]
    sweep: Vec<Sweep>,
}

/// A workload for each value of one of its numbers, or each pair of two. Rows are called
/// `name.value` or `name.value.offset`.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
struct Sweep {
    name: String,
    about: String,
    over: Over,
    values: Vec<u16>,
    /// Offsets in the destination page, each with each value.
    #[serde(default)]
    dest_offsets: Vec<u16>,
    step: Vec<Step>,
}

#[derive(Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum Over {
    Batch,
    Len,
}

impl Sweep {
    fn expand(&self) -> Vec<Workload> {
        let offsets: Vec<Option<u16>> = match &self.dest_offsets[..] {
            [] => vec![None],
            some => some.iter().copied().map(Some).collect(),
        };
        let with = |value: u16, offset: Option<u16>| {
            let mut step = self.step.clone();
            for s in &mut step {
                match self.over {
                    Over::Batch => s.batch = usize::from(value),
                    Over::Len => s.lens = vec![value],
                }
                s.dest_offset = offset.unwrap_or(s.dest_offset);
            }
            let name = match offset {
                Some(offset) => format!("{}.{value}.{offset}", self.name),
                None => format!("{}.{value}", self.name),
            };
            Workload { name, about: self.about.clone(), threads: false, pages: pages(), swept: true, step }
        };
        self.values
            .iter()
            .flat_map(|&v| offsets.iter().map(move |&o| (v, o)))
            // What does not fit a page is no copy.
            .filter(|&(v, o)| {
                matches!(self.over, Over::Batch) || usize::from(v) + usize::from(o.unwrap_or(0)) <= PAGE
            })
            .map(|(v, o)| with(v, o))
            .collect()
    }
}

/// A named sequence of hypercalls, played round after round.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Its name in tables and filters.
    pub name: String,
    /// What it stands for.
    pub about: String,
    /// Played by two threads as well, each with references of its own and both with the same.
    #[serde(default)]
    pub threads: bool,
    /// Pages and references of each domain: a power of two.
    #[serde(default = "pages")]
    pub pages: u32,
    /// One point of a sweep.
    #[serde(skip)]
    pub swept: bool,
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
    /// Offset in a fresh destination page.
    #[serde(default)]
    pub dest_offset: u16,
    /// Pages are taken in an order no prefetcher guesses.
    #[serde(default)]
    pub scattered: bool,
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

fn pages() -> u32 {
    SHAPE.data_frames
}

impl Workload {
    /// The machine it is played on.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape { data_frames: self.pages, ..SHAPE }
    }
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
        out.extend(parsed.sweep.iter().flat_map(Sweep::expand));
    }
    Ok(out)
}

/// A side's next page and where in it the next element goes.
struct Cursor<'m> {
    machine: &'m Machine,
    side: Side,
    page: u32,
    used: usize,
    offset: u16,
    first_offset: u16,
    per_page: usize,
    scattered: bool,
}

impl Cursor<'_> {
    /// The place of an element of `len` bytes, and the frame behind it.
    fn next(&mut self, len: u16) -> (CopyPtr, u32) {
        let fits = usize::from(self.offset) + usize::from(len) <= PAGE;
        if self.used == self.per_page || !fits {
            (self.page, self.used, self.offset) = (self.page + 1, 0, self.first_offset);
        }
        // An odd factor permutes the numbers below a power of two.
        let page = if self.scattered {
            self.page.wrapping_mul(0x9e37_79b1) % self.machine.grefs()
        } else {
            self.page
        };
        let domid = match self.side {
            Side::Own => ME,
            Side::Gref => GRANTERS[0],
            Side::Gref2 => GRANTERS[1],
        };
        let frame = self.machine.frame_of(domid, page);
        let own = self.side == Side::Own;
        let u = u64::from(if own { frame } else { page });
        let ptr = CopyPtr { u, domid: if own { DomId::SELF.0 } else { domid }, offset: self.offset, pad: 0 };
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
    pub fn new(w: &Workload, seat: Seat, machine: &Machine) -> Result<Self> {
        let cpus = usize::try_from(machine.shape().cpus)?;
        let mut steps: Vec<Prepared> = Vec::new();
        let mut elements = 0;
        for s in &w.step {
            let cpu = s.cpu + seat.cpu;
            ensure!(s.batch > 0 && s.count > 0 && cpu < cpus, "{}: empty step or no such CPU", w.name);
            steps.push(match s.op {
                Op::Copy => {
                    elements += s.count;
                    copies(w, s, seat, machine)?
                }
                Op::Map => {
                    elements += s.count;
                    maps(w, s, seat, machine)?
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
                        let want = machine.frame_of(op.dom, op.gref);
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

    /// Checks that the bytes of the last round's copies are where they belong, if nothing else wrote there.
    ///
    /// # Errors
    /// The first difference.
    pub fn copied_right(&self, machine: &Machine) -> Result<()> {
        for step in &self.steps {
            let Prepared::Copy { ops, frames, .. } = step else { continue };
            for (op, &(from, to)) in ops.iter().zip(frames) {
                let len = usize::from(op.len);
                let want = machine.bytes(from, usize::from(op.source.offset), len);
                let got = machine.bytes(to, usize::from(op.dest.offset), len);
                ensure!(want == got, "frame {to} is not what was copied from frame {from}");
            }
        }
        Ok(())
    }

    /// Checks the statuses of the last round.
    ///
    /// # Errors
    /// The first that is not `GNTST_okay`.
    pub fn statuses_good<E: Engine>(&self) -> Result<()> {
        for step in &self.steps {
            let statuses: Vec<i16> = match step {
                Prepared::Copy { ops, .. } => ops.iter().map(|o| o.status).collect(),
                Prepared::Map { ops, .. } => ops.iter().map(|o| o.status).collect(),
                Prepared::Unmap { ops, .. } => ops.iter().map(|o| o.status).collect(),
            };
            if let Some((at, status)) = statuses.iter().enumerate().find(|(_, status)| **status != 0) {
                anyhow::bail!("{}: element {at} failed with status {status}", E::NAME);
            }
        }
        Ok(())
    }
}

fn copies(w: &Workload, s: &Step, seat: Seat, machine: &Machine) -> Result<Prepared> {
    ensure!(!s.lens.is_empty(), "{}: copies need lengths", w.name);
    let side = |side, page, first_offset, per_page| Cursor {
        machine,
        side,
        page,
        used: 0,
        offset: first_offset,
        first_offset,
        per_page,
        scattered: s.scattered,
    };
    // Own pages read and own pages written are kept apart.
    let mut from = side(s.source, seat.source, s.source_offset, s.per_source);
    let first_dest = if s.source == s.dest { seat.dest + machine.grefs() / 2 } else { seat.dest };
    let mut to = side(s.dest, first_dest, s.dest_offset, s.per_dest);
    let flag = |side, flag| if side == Side::Own { 0 } else { flag };
    let flags = flag(s.source, copy_flags::SOURCE_GREF) | flag(s.dest, copy_flags::DEST_GREF);
    let (mut ops, mut frames) = (Vec::new(), Vec::new());
    for &len in s.lens.iter().cycle().take(s.count) {
        let ((source, from), (dest, to)) = (from.next(len), to.next(len));
        ops.push(Copy { source, dest, len, flags, status: 0, pad: 0 });
        frames.push((from, to));
    }
    ensure!(
        from.page < machine.grefs() && to.page < machine.grefs(),
        "{}: more pages than there are",
        w.name
    );
    Ok(Prepared::Copy { cpu: s.cpu + seat.cpu, batch: s.batch, ops, frames })
}

fn maps(w: &Workload, s: &Step, seat: Seat, machine: &Machine) -> Result<Prepared> {
    let count = u32::try_from(s.count)?;
    ensure!(seat.source.max(seat.dest) + count <= machine.grefs(), "{}: more maps than references", w.name);
    let flags = map_flags::HOST_MAP | if s.readonly { map_flags::READONLY } else { 0 };
    let op = |i: u32| MapGrantRef {
        host_addr: u64::from(map_gfn(machine) + seat.dest + i) << 12,
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
