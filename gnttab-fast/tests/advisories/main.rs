//! One test for each security advisory of Xen's grant tables that could be ours too, named after it: what went
//! wrong there is tried here. `docs/advisories.md` tells of each what answers it, and `mutations.toml` beside
//! this file what to take out of the code so that the test fails (`cargo xtask mutate`). Advisories that are
//! races between CPUs have models instead, in the files `loom*.rs` here and in `maptrack`.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod copying;
mod managing;
mod mapping;
mod passing;
mod versions;
mod watched;

use gnttab_fast::Status;

const OKAY: i16 = Status::Okay as i16;
const GENERAL: i16 = Status::GeneralError as i16;
