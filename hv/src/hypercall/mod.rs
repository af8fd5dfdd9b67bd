//! Hypercalls: the table and one file for each.
//!
//! A handler gets a [`Call`] and gives an [`Outcome`]. It runs to completion with interrupts off, or, where
//! it may be long, stops at a safe point when [`crate::sched::should_yield`] says so and returns
//! [`Outcome::Again`]: the guest's registers then hold the rest of the work and its instruction pointer still
//! stands on the hypercall, so everything that must survive is in the guest's own registers.
#![forbid(unsafe_code)]

use alloc::sync::Arc;

use crossbeam_epoch::Guard;
use gnttab_fast::types::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    abi::{
        errno::Errno,
        xen::{DOMID_SELF, hypercall as nr},
    },
    arch::x86::percpu::PerCpu,
    domain::{self, Domain, Vcpu, counters::ExitKind},
    epoch,
    mm::guest::{Fault, GuestSpace},
    rate_limited,
    vt::{self, Width},
};

pub mod console_io;
pub mod domain_list;
pub mod event_channel;
pub mod grant_table;
pub mod hvm_op;
pub mod memory;
pub mod sched_op;
pub mod sysctl;
pub mod vcpu_op;
pub mod version;
pub mod vm_assist;

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
}

/// How a hypercall ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// With this value in the result register.
    Done(i64),
    /// It is to be called again, with the arguments that are in the registers now ([`Call::again`]).
    Again,
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
    /// Back to the guest.
    Resume,
    /// Back to the guest, which makes the call again, if there is nothing else to do.
    Again,
    /// The vCPU blocks if there is no reason to run.
    Block,
    /// The next one's turn.
    Yield,
    /// The vCPU goes down.
    Down,
}

/// A handler.
pub type Handler = fn(&mut Call<'_>) -> Outcome;

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// `__HYPERVISOR_*`
    pub number: u32,
    /// As the header has it.
    pub name: &'static str,
    /// Who does it.
    pub handler: Handler,
}

macro_rules! table {
    ($($number:path, $name:literal, $handler:path;)*) => {
        /// Every hypercall there is; all others are `-ENOSYS`.
        pub const TABLE: &[Entry] = &[$(Entry { number: $number, name: $name, handler: $handler }),*];
    };
}

table! {
    nr::MEMORY_OP, "memory_op", memory::op;
    nr::SET_TIMER_OP, "set_timer_op", vcpu_op::set_timer_op;
    nr::XEN_VERSION, "xen_version", version::op;
    nr::CONSOLE_IO, "console_io", console_io::op;
    nr::GRANT_TABLE_OP, "grant_table_op", grant_table::op;
    nr::VM_ASSIST, "vm_assist", vm_assist::op;
    nr::VCPU_OP, "vcpu_op", vcpu_op::op;
    nr::SCHED_OP, "sched_op", sched_op::op;
    nr::EVENT_CHANNEL_OP, "event_channel_op", event_channel::op;
    nr::HVM_OP, "hvm_op", hvm_op::op;
    nr::SYSCTL, "sysctl", sysctl::op;
}

/// Slots of the table by number.
const SLOTS: usize = nr::PAGE_SLOTS as usize;

/// The table by number.
static BY_NUMBER: [Handler; SLOTS] = {
    let mut by = [absent as Handler; SLOTS];
    let mut at = 0;
    while at < TABLE.len() {
        by[TABLE[at].number as usize] = TABLE[at].handler;
        at += 1;
    }
    by
};

/// Handles the hypercall of a vCPU's last exit: looks it up, does it, sets the result and steps over it. `cpu` is
/// this pCPU, `pins` its epoch's.
#[inline(always)]
pub(crate) fn handle(
    cpu: &PerCpu,
    pins: epoch::Pins<'_>,
    domain: &Arc<Domain>,
    vcpu: &Vcpu,
    arch: &mut vt::Vcpu,
) -> After {
    let guard = pins.pin();
    let width = arch.width();
    // As Xen answers user mode of an HVM guest.
    let outcome = if arch.cpl() == 0 {
        dispatch(cpu, &mut Call { domain, vcpu, arch, guard: &guard, width })
    } else {
        domain.counters.exit(ExitKind::Hypercall);
        Outcome::Done(Errno::EPERM.ret())
    };
    // The usual end, not left to a table of jumps.
    if let Outcome::Done(value) = outcome {
        arch.finish_hypercall(width, value, &domain.p2m, &guard);
        return After::Resume;
    }
    unfinished(domain, arch, &guard, width, outcome)
}

/// The ends of hypercalls behind which the guest does not simply go on.
#[cold]
#[inline(never)]
fn unfinished(domain: &Domain, arch: &mut vt::Vcpu, guard: &Guard, width: Width, outcome: Outcome) -> After {
    let (result, after) = match outcome {
        Outcome::Done(value) => (value, After::Resume),
        Outcome::Block => (0, After::Block),
        Outcome::Yield => (0, After::Yield),
        Outcome::Down => (0, After::Down),
        Outcome::Again => return After::Again,
    };
    arch.finish_hypercall(width, result, &domain.p2m, guard);
    after
}

#[inline(always)]
fn dispatch(cpu: &PerCpu, call: &mut Call<'_>) -> Outcome {
    let number = call.arch.hypercall_number();
    let slot = slot(number);
    call.domain.counters.hypercalls[slot].add(1);
    cpu.current.set_op(Some(number));
    let outcome = BY_NUMBER[slot](call);
    cpu.current.set_op(None);
    outcome
}

/// The answer to numbers that name nothing.
fn absent(call: &mut Call<'_>) -> Outcome {
    call.refuse("hypercall", u64::from(call.arch.hypercall_number()));
    Outcome::Done(Errno::ENOSYS.ret())
}

/// Logs, at a bounded rate, something that is not there.
#[cold]
fn refuse(domain: &Domain, what: &str, number: u64) {
    rate_limited!(warn, of domain; "d{} {}: {what} {number} is not implemented", domain.id.0, domain.name);
}

/// The slot of a number the guest chose. What is not there has slot 0, which no hypercall of ours has. The mask holds
/// also where a CPU runs ahead of the choice (Spectre v1).
#[inline(always)]
const fn slot(number: u32) -> usize {
    const { assert!(SLOTS.is_power_of_two()) }
    let number = number as usize;
    if number < SLOTS { number & (SLOTS - 1) } else { 0 }
}

impl From<Fault> for Errno {
    fn from(_: Fault) -> Self {
        Self::EFAULT
    }
}

impl From<Result<i64, Errno>> for Outcome {
    fn from(result: Result<i64, Errno>) -> Self {
        Self::Done(result.unwrap_or_else(Errno::ret))
    }
}

impl<'a> Call<'a> {
    /// The arguments (cut to 32 bits for a 32-bit caller).
    #[must_use]
    #[inline(always)]
    pub fn args(&self) -> [u64; 6] {
        self.arch.hypercall_args(self.width)
    }

    /// Not yet done: it is to be called again with these arguments.
    #[must_use]
    pub fn again(&mut self, args: [u64; 6]) -> Outcome {
        self.arch.set_hypercall_args(args);
        Outcome::Again
    }

    /// The caller's memory.
    #[must_use]
    pub fn space(&self) -> GuestSpace<'_> {
        GuestSpace::new(&self.domain.p2m, self.arch.paging(), self.guard)
    }

    /// Reads an argument structure.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read<T: FromBytes + IntoBytes>(&self, at: u64) -> Result<T, Errno> {
        Ok(self.space().read_val(at)?)
    }

    /// Writes an argument structure.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Result<(), Errno> {
        Ok(self.space().write_val(at, value)?)
    }

    /// Reads one element of an array of words of the caller's width (`xen_pfn_t`, `xen_ulong_t`).
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_word(&self, base: u64, index: u64) -> Result<u64, Errno> {
        let at = |size: u64| index.checked_mul(size).and_then(|offset| base.checked_add(offset));
        match self.width {
            Width::Bits64 => self.read::<u64>(at(8).ok_or(Errno::EFAULT)?),
            Width::Bits32 => self.read::<u32>(at(4).ok_or(Errno::EFAULT)?).map(u64::from),
        }
    }

    /// Does this `domid_t` stand for the caller? For what not even the control domain does to others here.
    ///
    /// # Errors
    /// `EPERM`: another domain.
    pub fn only_self(&self, domid: u16) -> Result<(), Errno> {
        if domid == DOMID_SELF || domid == self.domain.id.0 { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// The domain a `domid_t` stands for, if the caller may manage it: itself, or any for the control domain
    /// (Xen's `XSM_TARGET`).
    ///
    /// # Errors
    /// `ESRCH`: there is none; `EPERM`: the caller has no power over it.
    pub fn target(&self, domid: u16) -> Result<&'a Domain, Errno> {
        if domid == DOMID_SELF || domid == self.domain.id.0 {
            return Ok(self.domain);
        }
        let other = domain::table::get(DomId(domid), self.guard).ok_or(Errno::ESRCH)?;
        if self.domain.control { Ok(other) } else { Err(Errno::EPERM) }
    }

    /// Logs, at a bounded rate, an operation that is not there.
    pub fn refuse(&self, what: &str, number: u64) {
        refuse(self.domain, what, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_finds_its_row_and_no_other() {
        for row in TABLE {
            assert_eq!(slot(row.number), row.number as usize);
            let found = BY_NUMBER[slot(row.number)];
            assert!(core::ptr::fn_addr_eq(found, row.handler), "{}", row.name);
        }
        let known = |number: &u32| !core::ptr::fn_addr_eq(BY_NUMBER[slot(*number)], absent as Handler);
        assert_eq!((0..=u32::from(u16::MAX)).filter(known).count(), TABLE.len());
        assert!(!known(&0) && !known(&64) && !known(&u32::MAX));
    }
}
