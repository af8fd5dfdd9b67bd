//! `public/io/ring.h`: the head of a shared ring page.

use crate::abi::{abi_struct, layout};

abi_struct! {
    /// The four indexes at the head of a ring; requests and responses start at [`ENTRIES`].
    SharedRing {
        /// Requests made so far, by the frontend.
        req_prod: u32,
        /// When `req_prod` passes this, the backend is to be told.
        req_event: u32,
        /// Responses made so far, by the backend.
        rsp_prod: u32,
        /// When `rsp_prod` passes this, the frontend is to be told.
        rsp_event: u32,
    }
}
layout!(SharedRing, size 16, req_event @ 4, rsp_prod @ 8, rsp_event @ 12);

/// Offset of the first entry in the page.
pub const ENTRIES: usize = 64;
