//! Xen grant tables, hypervisor side.
#![no_std]
#![deny(unsafe_code)]

pub mod abi;
pub mod policy;
mod status;
pub mod types;

pub use policy::{Policy, Version};
pub use status::{Errno, Status};
pub use types::{DomId, Gfn, Gref, Mfn, PAGE_SHIFT, PAGE_SIZE};
