//! What a workload needs of an implementation, and the cast of domains it plays with.

use crate::machine::{Machine, Shape};
use crate::primitive::Ordering;
use gnttab_fast::abi::{Copy, MapGrantRef, UnmapGrantRef, gtf};

/// The calling domain: the backend.
pub const ME: u16 = 1;
/// The granting domains: the frontends. Entry `i` of each grants its frame `i` for writing to [`ME`].
pub const GRANTERS: [u16; 2] = [2, 3];
/// The machine most workloads need.
pub const SHAPE: Shape = Shape { domains: 4, data_frames: 2048, cpus: 2 };
/// Pages of handles a domain may have: a few more than 262,144 handles fill.
pub const MAPTRACK_FRAMES: u32 = 1040;

/// First guest frame at which the caller maps grants: beyond all machine frames.
#[must_use]
pub const fn map_gfn(m: &Machine) -> u32 {
    m.frames()
}

/// A machine of that shape with every entry granted.
#[must_use]
pub fn machine(shape: Shape) -> Machine {
    let m = Machine::new(shape);
    grant_all(&m);
    m
}

/// Writes every entry of the granters.
pub fn grant_all(m: &Machine) {
    for g in GRANTERS {
        for gref in 0..m.grefs() {
            let (head, frame) = m.entry(g, gref);
            frame.store(m.frame_of(g, gref), Ordering::Relaxed);
            head.store(u32::from(gtf::PERMIT_ACCESS) | u32::from(ME) << 16, Ordering::Release);
        }
    }
}

/// True if no entry says that it is being read or written.
#[must_use]
pub fn unmarked(m: &Machine) -> bool {
    let marks = u32::from(gtf::READING | gtf::WRITING);
    GRANTERS
        .iter()
        .all(|&g| (0..m.grefs()).all(|gref| m.entry(g, gref).0.load(Ordering::Relaxed) & marks == 0))
}

/// Grant operations of [`ME`], from CPU `cpu`, as one hypercall each.
pub trait Engine: Sync {
    /// What the tables call it.
    const NAME: &'static str;

    /// `GNTTABOP_copy`.
    fn copy(&self, cpu: usize, ops: &mut [Copy]);
    /// `GNTTABOP_map_grant_ref`.
    fn map(&self, cpu: usize, ops: &mut [MapGrantRef]);
    /// `GNTTABOP_unmap_grant_ref`.
    fn unmap(&self, cpu: usize, ops: &mut [UnmapGrantRef]);
    /// The machine frame mapped at a guest frame of [`ME`], for checks.
    fn mapped_at(&self, gfn: u32) -> Option<u32>;
    /// True if no pin, reference, handle or mark of any operation is left, for checks.
    fn at_rest(&self) -> bool;
}
