//! The per-CPU block behind GS.
//!
//! GS base points to the running CPU's block for as long as the CPU is in root mode; the world switch
//! restores it on every exit, with the global interrupt flag still off. Blocks are allocated at start
//! and live for ever, so a reference to one can be kept. Each part states by itself what other CPUs may
//! do with it.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::{cmdline::MAX_CPUS, epoch::CpuEpoch, mm::tlb::CpuTlb, sched::CpuSched, vt::CpuVt};

/// What one pCPU owns. Other CPUs may look at it: each part keeps its own rules for that.
#[derive(Debug)]
#[repr(C, align(128))]
#[non_exhaustive]
pub struct PerCpu {
    /// Its own address: the word [`this`] reads through GS.
    address: AtomicPtr<PerCpu>,
    /// Dense number from 0 (the boot CPU).
    pub id: u32,
    /// Local APIC id.
    pub apic_id: u32,
    /// Lowest address of its stacks.
    pub(crate) stacks: u64,
    /// Non-maskable interrupts so far; a panic tells how many.
    pub nmis: AtomicU64,
    /// What runs here, for a panic to tell.
    pub current: Current,
    /// The epoch handle.
    pub epoch: CpuEpoch,
    /// The scheduler's part.
    pub sched: CpuSched,
    /// The world switch's part.
    pub vt: CpuVt,
    /// The TLB bookkeeping.
    pub tlb: CpuTlb,
}

/// What a panic tells of the guest side.
#[derive(Debug)]
pub struct Current {
    /// Domain (bits 0-15) and vCPU (16-47), or [`Current::NOTHING`].
    vcpu: AtomicU64,
    op: AtomicU32,
}

impl Current {
    const NOTHING: u64 = u64::MAX;

    const fn new() -> Self {
        Self { vcpu: AtomicU64::new(Self::NOTHING), op: AtomicU32::new(u32::MAX) }
    }

    /// This pCPU now runs that vCPU (`None`: none).
    pub fn set_vcpu(&self, domid_vcpu: Option<(u16, u32)>) {
        let word =
            domid_vcpu.map_or(Self::NOTHING, |(domain, vcpu)| u64::from(vcpu) << 16 | u64::from(domain));
        self.vcpu.store(word, Ordering::Relaxed);
    }

    /// This pCPU now works on that hypercall (`None`: none).
    pub fn set_op(&self, nr: Option<u32>) {
        self.op.store(nr.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Domain and vCPU, if any.
    #[must_use]
    pub fn vcpu(&self) -> Option<(u16, u32)> {
        let word = self.vcpu.load(Ordering::Relaxed);
        let [low, high, vcpu @ .., _, _] = word.to_le_bytes();
        (word != Self::NOTHING).then(|| (u16::from_le_bytes([low, high]), u32::from_le_bytes(vcpu)))
    }

    /// The hypercall, if any.
    #[must_use]
    pub fn op(&self) -> Option<u32> {
        Some(self.op.load(Ordering::Relaxed)).filter(|&op| op != u32::MAX)
    }
}

static BLOCKS: [AtomicPtr<PerCpu>; MAX_CPUS as usize] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS as usize];
static ONLINE: AtomicU32 = AtomicU32::new(0);

impl PerCpu {
    /// A block that lives for ever, not yet installed.
    pub(crate) fn leak(id: u32, apic_id: u32, stacks: u64) -> &'static Self {
        let block = alloc::boxed::Box::leak(alloc::boxed::Box::new(Self {
            address: AtomicPtr::new(core::ptr::null_mut()),
            id,
            apic_id,
            stacks,
            nmis: AtomicU64::new(0),
            current: Current::new(),
            epoch: CpuEpoch::default(),
            sched: CpuSched::default(),
            vt: CpuVt::default(),
            tlb: CpuTlb::default(),
        }));
        let address = &raw mut *block;
        block.address.store(address, Ordering::Relaxed);
        block
    }

    /// Makes this the running CPU's block and lets others find it.
    ///
    /// # Safety
    /// Called once for a block and a CPU, on that CPU; numbers are given without gaps.
    #[cfg(feature = "bare-metal")]
    pub(crate) unsafe fn install(&'static self) {
        let address = self.address.load(Ordering::Relaxed);
        // SAFETY: in root mode nothing else uses GS, and the block lives for ever.
        unsafe {
            super::msr::write(super::msr::GS_BASE, crate::mm::direct::u64_of(address.expose_provenance()))
        };
        // SAFETY: the block is this CPU's now, and it has not registered before.
        unsafe { self.epoch.register() };
        BLOCKS[crate::mm::direct::usize_of(self.id.into())].store(address, Ordering::Release);
        ONLINE.fetch_add(1, Ordering::Release);
    }
}

/// The block of the CPU we run on.
#[must_use]
#[inline]
pub fn this() -> &'static PerCpu {
    #[cfg(feature = "bare-metal")]
    {
        let block: *const PerCpu;
        // SAFETY: `install` pointed GS at a block whose first word is its own address; blocks live for
        // ever, and a CPU's own never changes.
        unsafe {
            core::arch::asm!("mov {}, gs:[0]", out(reg) block, options(nostack, pure, readonly, preserves_flags));
            &*block
        }
    }
    #[cfg(not(feature = "bare-metal"))]
    {
        static HOST: spin::Once<&'static PerCpu> = spin::Once::new();
        HOST.call_once(|| PerCpu::leak(0, 0, 0))
    }
}

/// The block of the CPU we run on, if it has one yet; for panics.
#[must_use]
pub fn try_this() -> Option<&'static PerCpu> {
    #[cfg(feature = "bare-metal")]
    if super::msr::read_gs_base() == 0 {
        return None;
    }
    Some(this())
}

/// The number of the CPU we run on.
#[must_use]
#[inline]
pub fn cpu_id() -> u32 {
    this().id
}

/// How many CPUs run; their numbers are `0..cpus_online()`.
#[must_use]
pub fn cpus_online() -> u32 {
    ONLINE.load(Ordering::Acquire).max(1)
}

/// The block of a CPU by number.
#[must_use]
pub fn get(id: u32) -> Option<&'static PerCpu> {
    let block = BLOCKS.get(usize::try_from(id).ok()?)?.load(Ordering::Acquire);
    // SAFETY: a stored pointer came from a leaked block; shared use is what its parts allow.
    unsafe { block.as_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_is_told_back() {
        let current = Current::new();
        assert_eq!((current.vcpu(), current.op()), (None, None));
        current.set_vcpu(Some((7, 0x1_0002)));
        current.set_op(Some(20));
        assert_eq!((current.vcpu(), current.op()), (Some((7, 0x1_0002)), Some(20)));
    }
}
