//! Tollgate's own small guests: PVH kernels that speak the Xen guest ABI and nothing of ours.
//!
//! `netfront` and `netback` exchange a capture's frames the way Linux's split drivers do and check every
//! byte; `bench` counts instructions; `hello` and `hello32` try the whole interface once, in both widths;
//! `conformance` and `conformance32` try every operation on grants and every refusal;
//! `faulty` misbehaves on request; `dying` ends in the middle of grant operations; `control` uses a control
//! domain's power. They run on any Xen-compatible hypervisor, which is how the hypervisor
//! and its tests are kept apart.
//!
//! Without the feature `bare-metal` this is a host library with what `cargo xtask` shares with the guests.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod cut;
pub mod options;
pub mod ring;
pub mod store;
pub mod trace;

#[cfg(feature = "bare-metal")]
pub mod blk;
#[cfg(feature = "bare-metal")]
pub mod conformance;
#[cfg(feature = "bare-metal")]
pub mod net;
#[cfg(feature = "bare-metal")]
pub mod rt;
