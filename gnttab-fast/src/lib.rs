//! Xen grant tables, hypervisor side: a domain lets another one use its frames, by reference.
//!
//! The crate knows nothing of the hypervisor around it. [`grant_table_op`] is the hypercall; it reaches
//! guests, domains and frames through [`Host`] and two small traits beside it, statically dispatched, so
//! the same code runs in the hypervisor, in tests, in models and in benches.
//!
//! # Where to read
//! One element of `GNTTABOP_copy` goes through [`op`](grant_table_op) (decode), `copy` (plan of a block),
//! [`table`](Table) (reference to entry), [`active`] (pin), `shared` (the guest's side of the entry), the
//! host's copy, and back through `active` to its status. Map and unmap share all but the plan.
//!
//! # Locks
//! None on the way of map, unmap and copy. An entry's state changes by compare-exchange, see [`active`]; tables grow by publishing pages
//! before limits, under a lock that only growth and version switches take; what is found under the hypercall's epoch guard stays until the guard goes.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod active;
mod args;
mod cells;
mod copy;
mod grant;
mod host;
mod manage;
mod map;
mod op;
mod pages;
pub mod policy;
mod primitive;
mod shared;
mod status;
mod table;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub mod testing;
mod transitive;
pub mod types;
mod unmap;
mod usage;
mod version;

pub use cells::{Cells, CompatCopyCells, CopyCells, MapCells, UnmapCells};
pub use copy::BLOCK as COPY_BLOCK;
pub use host::{Batch, Domain, Domains, Fault, Frames, GuestMemory, Host, Ram, RanOut, Refused};
pub use op::{Outcome, Width, grant_table_op};
pub use pages::SharedSource;
pub use policy::{Policy, Version};
pub use shared::v2::{EntryV2, WordsV2};
pub use shared::{EntryV1, WordV1};
pub use status::{Errno, Status};
pub use table::{Limits, NotGrown, Scan, Table, TableFrame};
pub use types::{DomId, Gfn, Gref, Mfn, PAGE_SHIFT, PAGE_SIZE};
pub use unmap::{CHUNK as UNMAP_CHUNK, teardown_step};
pub use usage::{Pinned, Usage};
