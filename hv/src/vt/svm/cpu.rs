//! A pCPU's part in running guests: SVM switched on, its host state saved, its address-space identifiers.

use core::{
    cell::{Cell, UnsafeCell},
    sync::atomic::{AtomicU64, Ordering},
};

use gnttab_fast::types::{Mfn, PAGE_SHIFT};
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::super::VtError;
use crate::{
    arch::x86::cpu,
    cmdline::MAX_CPUS,
    mm::frames::{self, Owner},
};

const MSR_VM_CR: u32 = 0xc001_0114;
const VM_CR_SVMDIS: u64 = 1 << 4;
const MSR_VM_HSAVE_PA: u32 = 0xc001_0117;

/// The world switch's part of a per-CPU block. Only its own CPU touches it.
#[derive(Debug, Default)]
pub struct CpuVt {
    host_state: AtomicU64,
    asids: OwnCpu<Asids>,
    /// Which vCPU's extended state is in this CPU's registers ([`super::Vcpu`]'s number; 0: none).
    pub(super) loaded: AtomicU64,
}

/// A value that only the CPU it belongs to touches, in root mode with interrupts off.
#[derive(Debug, Default)]
struct OwnCpu<T>(UnsafeCell<T>);

// SAFETY: the value is reached through `this_asid` only, by the CPU whose block it is in, which is not
// interrupted there by anything that touches it.
unsafe impl<T> Sync for OwnCpu<T> {}

/// The identifiers this CPU has given to vCPUs.
#[derive(Debug, Default)]
struct Asids {
    /// See [`Asid::life`]; 0 before the first.
    life: Cell<u64>,
    next: Cell<u32>,
}

/// An address-space identifier as a vCPU remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asid {
    /// `generation:48 | CPU:16`, one word so that one comparison tells whether it is still good. A generation ends when
    /// all identifiers have been used; none is 0.
    life: u64,
    pub value: u32,
}

impl Asid {
    const CPU_BITS: u32 = 16;

    /// No identifier of any CPU.
    pub const NONE: Self = Self { life: u64::MAX, value: 0 };

    /// Whether that CPU gave it.
    pub fn is_of(self, cpu: u32) -> bool {
        self.life % (1 << Self::CPU_BITS) == u64::from(cpu)
    }
}

const _: () = assert!(MAX_CPUS < (1 << Asid::CPU_BITS) - 1);

impl CpuVt {
    /// Physical address of this CPU's page of host state for VMLOAD.
    pub(super) fn host_state(&self) -> u64 {
        self.host_state.load(Ordering::Relaxed)
    }

    /// Is an identifier still this vCPU's on this CPU?
    #[inline]
    pub(super) fn holds(&self, asid: Asid) -> bool {
        // SAFETY: on the CPU that owns the block (callers use their own), in root mode.
        let asids = unsafe { &*self.asids.0.get() };
        asid.life == asids.life.get()
    }

    /// A fresh identifier: nothing is cached under it. True beside it when the hardware must flush all
    /// identifiers first, because they have all been used.
    pub(super) fn fresh(&self, me: u32) -> (Asid, bool) {
        // SAFETY: as in `holds`.
        let asids = unsafe { &*self.asids.0.get() };
        let limit = cpu::features().asids.max(2);
        let mut value = asids.next.get();
        let wrapped = value == 0 || value >= limit;
        if wrapped {
            let generation = (asids.life.get() >> Asid::CPU_BITS) + 1;
            asids.life.set(generation << Asid::CPU_BITS | u64::from(me));
            value = 1;
        }
        asids.next.set(value + 1);
        (Asid { life: asids.life.get(), value }, wrapped)
    }
}

/// Switches SVM on on this pCPU.
///
/// # Errors
/// See [`VtError`]: the message says what to do.
pub fn init_cpu(own: &CpuVt) -> Result<(), VtError> {
    let features = cpu::features();
    if !features.svm {
        return Err(VtError::NoSvm);
    }
    // SAFETY: VM_CR exists on every CPU with SVM (APM vol. 2, 15.4).
    if unsafe { Msr::new(MSR_VM_CR).read() } & VM_CR_SVMDIS != 0 {
        return Err(VtError::Disabled);
    }
    if !features.npt {
        return Err(VtError::NoNestedPaging);
    }
    let save = frames::alloc(0, Owner::Hypervisor).ok_or(VtError::NoMemory)?;
    let state = frames::alloc(0, Owner::Hypervisor).ok_or(VtError::NoMemory)?;
    // SAFETY: SVM is there and not disabled; the save area is a frame of ours that nothing else uses (15.30.4); VMSAVE
    // writes this CPU's FS, GS, TR, LDTR and syscall MSRs, constant from here on, into a frame of ours.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
        Msr::new(MSR_VM_HSAVE_PA).write(pa(save));
        core::arch::asm!("vmsave rax", in("rax") pa(state), options(nostack, preserves_flags));
    }
    own.host_state.store(pa(state), Ordering::Relaxed);
    Ok(())
}

const fn pa(mfn: Mfn) -> u64 {
    mfn.0 << PAGE_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_lost_when_all_have_been_used() {
        let cpu = CpuVt::default();
        let (first, flush) = cpu.fresh(0);
        assert!(flush, "nothing may be trusted the first time");
        assert_eq!(first.value, 1);
        assert!(cpu.holds(first) && first.is_of(0));
        let other = CpuVt::default();
        assert!(!other.holds(first) && !other.holds(Asid::NONE) && !cpu.holds(Asid::NONE));
        let (same, _) = other.fresh(1);
        assert!(other.holds(same) && !cpu.holds(same), "another CPU's");
        let mut last = first;
        loop {
            let (next, flush) = cpu.fresh(0);
            if flush {
                assert!(!cpu.holds(last));
                assert_eq!(next.value, 1);
                break;
            }
            assert!(next.value > last.value);
            last = next;
        }
    }
}
