//! What a workload needs of an implementation, and the cast of domains it plays with.

use crate::machine::{DATA_FRAMES, FRAMES_PER_DOMAIN, Machine};
use gnttab_fast::abi::{Copy, MapGrantRef, UnmapGrantRef, gtf};
use std::sync::atomic::Ordering;

/// The calling domain: the backend.
pub const ME: u16 = 1;
/// The granting domains: the frontends.
pub const GRANTERS: [u16; 2] = [2, 3];
/// Grant entries of each granter; entry `i` grants the granter's frame `i` for writing to [`ME`].
pub const GREFS: u32 = DATA_FRAMES;
/// CPUs, and vCPUs of the caller: one each.
pub const CPUS: usize = 2;
/// First guest frame at which the caller maps grants: beyond all machine frames.
pub const MAP_GFN: u32 = 4 * FRAMES_PER_DOMAIN;

/// The domain whose a frame is.
///
/// # Panics
/// If the frame number is beyond any machine.
#[must_use]
pub fn owner(mfn: u32) -> u16 {
    u16::try_from(mfn / FRAMES_PER_DOMAIN).expect("few domains")
}

/// A machine with every entry granted.
#[must_use]
pub fn machine() -> Machine {
    let m = Machine::new(4);
    grant_all(&m);
    m
}

/// Writes every entry of the granters.
pub fn grant_all(m: &Machine) {
    for g in GRANTERS {
        for gref in 0..GREFS {
            let (head, frame) = m.entry(g, gref);
            frame.store(Machine::frame_of(g, gref), Ordering::Relaxed);
            head.store(u32::from(gtf::PERMIT_ACCESS) | u32::from(ME) << 16, Ordering::Release);
        }
    }
}

/// True if no entry says that it is being read or written.
#[must_use]
pub fn unmarked(m: &Machine) -> bool {
    let marks = u32::from(gtf::READING | gtf::WRITING);
    GRANTERS.iter().all(|&g| (0..GREFS).all(|gref| m.entry(g, gref).0.load(Ordering::Relaxed) & marks == 0))
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
