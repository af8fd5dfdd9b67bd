//! How much of a table is in use: what a guest learns by CPUID, and what an operator is told.
//!
//! A moment's picture, taken without a lock and without a counter of its own: everything in it is read from
//! what the table keeps anyway, the handles in use from the CPUs' magazines. Numbers read one after the
//! other need not fit each other while other CPUs work; each of them was true at its moment.

use crate::active::{Frame, Pins};
use crate::host::Frames;
use crate::policy::Version;
use crate::shared::v2::WordsV2;
use crate::table::Table;
use crate::types::Gref;

/// What of a table's limits is used, and what its domain may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// The version in force.
    pub version: Version,
    /// The highest version `set_version` grants.
    pub max_version: Version,
    /// Whether the domain may take part in transitive grants: copy by them, pass grants on (in version 2), have
    /// its own passed on.
    pub transitive: bool,
    /// Shared frames.
    pub frames: u32,
    /// The most of them (`gnttab_max_frames`).
    pub max_frames: u32,
    /// Status frames.
    pub status_frames: u32,
    /// References the shared frames hold in the version in force.
    pub references: u32,
    /// Grants of other domains mapped by this one.
    pub handles: u32,
    /// The most of them.
    pub max_handles: u32,
    /// Handles for which there is memory now.
    pub handle_room: u32,
}

/// An entry in use, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pinned {
    /// Who pins it, and how.
    pub pins: Pins,
    /// The frame and the range granted. Of a passed-on grant, those of the entry it comes to.
    pub frame: Frame,
    /// The `GTF_*` flags the guest sees in the entry now. In version 2 `GTF_reading` and `GTF_writing` are
    /// not among them: they are in the status frames.
    pub flags: u16,
}

impl<F: Frames> Table<F> {
    /// What an entry in use says of itself; `None` when nobody pins it or there is none.
    #[must_use]
    pub fn pinned(&self, gref: Gref) -> Option<Pinned> {
        let entry = self.entry(gref)?;
        let pins = entry.active.pins();
        if pins.host_read == 0 && pins.host_write == 0 {
            return None;
        }
        // Not held: the last pin may go and another come between the looks.
        let flags = self.peek_v2(gref).map_or_else(|| entry.shared.load().flags(), WordsV2::flags);
        Some(Pinned { pins, frame: entry.active.frame(), flags })
    }

    /// How much of the table is in use now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let maptrack = self.maptrack();
        let max_version = self.policy().max_version();
        let frames = self.frames();
        Usage {
            version: self.version(),
            max_version,
            transitive: self.policy().transitive(),
            frames,
            max_frames: self.limits().frames,
            status_frames: self.status_frames(),
            references: self.entries(),
            // Frees seen before their allocations would make the difference larger than the limit.
            handles: u32::try_from(maptrack.in_use()).unwrap_or(u32::MAX).min(maptrack.limit()),
            max_handles: maptrack.limit(),
            handle_room: maptrack.capacity(),
        }
    }
}
