//! `public/io/blkif.h`: the plain request, in the 64-bit layout (`x86_64-abi`).

use crate::abi::{abi_struct, layout};

/// `BLKIF_OP_READ`
pub const OP_READ: u8 = 0;
/// `BLKIF_OP_WRITE`
pub const OP_WRITE: u8 = 1;
/// `BLKIF_RSP_OKAY`
pub const RSP_OKAY: i16 = 0;
/// `BLKIF_RSP_ERROR`
pub const RSP_ERROR: i16 = -1;
/// `BLKIF_MAX_SEGMENTS_PER_REQUEST`
pub const MAX_SEGMENTS: usize = 11;
/// Slots of a ring of one page.
pub const RING_SLOTS: u32 = 32;

abi_struct! {
    /// `blkif_request_segment`
    Segment {
        /// Grant of the page.
        gref: u32,
        /// First sector in it, of 512 bytes.
        first_sect: u8,
        /// Last sector in it, inclusive.
        last_sect: u8,
        /// Padding.
        pad: u16,
    }
}
layout!(Segment, size 8, first_sect @ 4, last_sect @ 5);

abi_struct! {
    /// `blkif_request`
    Request {
        /// `BLKIF_OP_*`
        operation: u8,
        /// Segments in use.
        nr_segments: u8,
        /// Device.
        handle: u16,
        /// Padding.
        pad: u32,
        /// Echoed in the response.
        id: u64,
        /// First sector on the device.
        sector_number: u64,
        /// The pages.
        seg: [Segment; MAX_SEGMENTS],
    }
}
layout!(Request, size 112, id @ 8, sector_number @ 16, seg @ 24);

abi_struct! {
    /// `blkif_response`
    Response {
        /// Of the request.
        id: u64,
        /// Of the request.
        operation: u8,
        /// Padding.
        pad0: u8,
        /// `BLKIF_RSP_*`
        status: i16,
        /// Padding.
        pad1: u32,
    }
}
layout!(Response, size 16, operation @ 8, status @ 10);
