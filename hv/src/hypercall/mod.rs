//! Hypercalls: the table and one file for each.
//!
//! A handler gets a [`Call`] and gives an [`Outcome`]. It runs to completion with interrupts off, or, where
//! it may be long, stops at a safe point when [`crate::sched::should_yield`] says so and returns
//! [`Outcome::Again`]: the guest's registers then hold the rest of the work and its instruction pointer still
//! stands on the hypercall, so everything that must survive is in the guest's own registers.
#![forbid(unsafe_code)]

use alloc::sync::Arc;

use crossbeam_epoch::Guard;

use crate::domain::{Domain, Vcpu};
use crate::vt::{self, Width};

pub mod grant_table;

/// A hypercall being handled.
#[derive(Debug)]
pub struct Call<'a> {
    /// The calling domain.
    pub domain: &'a Arc<Domain>,
    /// The calling vCPU.
    pub vcpu: &'a Vcpu,
    /// Its registers.
    pub arch: &'a mut vt::Vcpu,
    /// This pCPU's pin, for the length of the hypercall.
    pub guard: &'a Guard,
    /// Width of the caller: how arguments are laid out.
    pub width: Width,
    /// The arguments (cut to 32 bits for a 32-bit caller).
    pub args: [u64; 6],
}

/// How a hypercall ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With this value in the result register.
    Done(i64),
    /// It is to be called again with these arguments.
    Again([u64; 6]),
    /// With result 0, and the vCPU blocks if there is still no reason to run.
    Block,
}

/// A handler.
pub type Handler = fn(&mut Call<'_>) -> Outcome;
