//! Xen grant tables, hypervisor side.
#![no_std]
#![forbid(unsafe_code)]

pub mod types;

pub use types::{DomId, Gfn, Gref, Mfn, PAGE_SHIFT, PAGE_SIZE};
