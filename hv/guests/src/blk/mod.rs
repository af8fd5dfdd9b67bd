//! The block pair: plain blkif requests of eleven whole pages, writes and reads in turn.
//!
//! The disk's content is the trace file on both sides, so each knows what a page must hold: the backend
//! checks what is written and fills what is read, the frontend checks that. One request is mapped by one
//! hypercall and unmapped by another, as a backend without persistent grants does.

pub mod back;
pub mod front;

use crate::net::frames::trace;
use crate::rt::{size, wide};

/// Pages of a request.
pub const SEGMENTS: usize = hv::abi::io::blkif::MAX_SEGMENTS;
/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Bytes of a request.
pub const BYTES: usize = SEGMENTS * PAGE;
/// Bytes of a sector.
const SECTOR: usize = 512;

/// The disk: as many whole requests as the trace has bytes for.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    bytes: &'static [u8],
}

impl Disk {
    /// Over the trace of our boot module.
    #[must_use]
    pub fn open() -> Self {
        let bytes = trace().bytes();
        if bytes.len() < BYTES {
            crate::fail!("trace: {} bytes are too few for profile=block, which needs {BYTES}", bytes.len());
        }
        Self { bytes }
    }

    /// Requests from its start to its end.
    #[must_use]
    pub fn requests(&self) -> u64 {
        wide(self.bytes.len() / BYTES)
    }

    /// The first sector of request number `number`.
    #[must_use]
    pub fn sector(&self, number: u64) -> u64 {
        number % self.requests() * wide(BYTES / SECTOR)
    }

    /// The page that starts at `sector`, if the disk reaches so far.
    #[must_use]
    pub fn page(&self, sector: u64) -> Option<&'static [u8]> {
        let start = size(sector).checked_mul(SECTOR)?;
        self.bytes.get(start..start.checked_add(PAGE)?)
    }
}

/// Sectors of a page.
pub const PAGE_SECTORS: u64 = (PAGE / SECTOR) as u64;
