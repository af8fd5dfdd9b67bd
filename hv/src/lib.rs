//! Tollgate, the hypervisor, as a library: everything that is not the image's own entry, allocator and
//! panic handler, so that the logic can be built and tested on a host.
//!
//! Data flows one way: exit stub -> exit reason ([`vt`]) -> hypercall table ([`hypercall`]) -> operation
//! -> grant table (`gnttab_fast`) -> copy engine -> status -> resume ([`sched`]). Everything under
//! [`arch`], [`boot`], [`vt`] and [`mm`] may use `unsafe`; the other rooms forbid it.
//!
//! The feature `bare-metal` belongs to the image. Without it the same modules compile for a host: one
//! CPU, a small arena in the place of RAM ([`mm::direct`]), and no device is touched.
#![no_std]

extern crate alloc;

pub mod abi;
pub mod arch;
pub mod boot;
pub mod cmdline;
pub mod debug_keys;
pub mod dev;
pub mod domain;
pub mod epoch;
pub mod event;
pub mod hypercall;
pub mod mm;
pub mod panic;
pub mod pvclock;
pub mod sched;
pub mod vt;
