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
    /// With result 0, and others may run first.
    Yield,
    /// With result 0, and the vCPU is down.
    Down,
}

/// What the run loop does after a hypercall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Back to the guest, if its domain still runs.
    Resume,
    /// The vCPU blocks if there is no reason to run.
    Block,
    /// The next one's turn.
    Yield,
    /// The vCPU goes down.
    Down,
}

/// A handler.
pub type Handler = fn(&mut Call<'_>) -> Outcome;

/// Handles the hypercall of a vCPU's last exit: looks it up, does it, sets the result and steps over it.
pub fn handle(domain: &Arc<Domain>, vcpu: &Vcpu, arch: &mut vt::Vcpu) -> After {
    let guard = crate::epoch::pin();
    let (number, args) = arch.hypercall_args();
    let width = arch.width();
    let mut call = Call { domain, vcpu, arch, guard: &guard, width, args };
    let outcome = match number {
        20 => grant_table::op(&mut call),
        _ => Outcome::Done(crate::abi::errno::Errno::ENOSYS.ret()),
    };
    let (result, after) = match outcome {
        Outcome::Done(value) => (value, After::Resume),
        Outcome::Block => (0, After::Block),
        Outcome::Yield => (0, After::Yield),
        Outcome::Down => (0, After::Down),
        Outcome::Again(args) => {
            arch.set_hypercall_args(args);
            return After::Resume;
        }
    };
    arch.set_result(result);
    arch.advance(&domain.p2m, &guard);
    after
}
