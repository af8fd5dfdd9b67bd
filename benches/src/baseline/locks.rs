//! The locks: a ticket lock, and the reader-writer lock whose readers announce themselves per CPU.

use crate::primitive::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence, spin_loop};

/// What a CPU keeps for itself.
pub(super) struct Cpu {
    preempt_count: AtomicU32,
    /// Address of the table lock this CPU reads under, 0 for none.
    reading: AtomicUsize,
}

impl Cpu {
    pub(super) fn new() -> Self {
        Self { preempt_count: AtomicU32::new(0), reading: AtomicUsize::new(0) }
    }

    #[inline]
    pub(super) fn disable_preemption(&self) {
        self.preempt_count.store(self.preempt_count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn enable_preemption(&self) {
        self.preempt_count.store(self.preempt_count.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }
}

/// A lock that serves in the order of arrival. Next ticket in the upper half, now served in the lower.
pub(super) struct TicketLock(AtomicU32);

impl TicketLock {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline]
    pub(super) fn lock(&self, cpu: &Cpu) {
        cpu.disable_preemption();
        let ticket = self.0.fetch_add(1 << 16, Ordering::Acquire) >> 16;
        while self.0.load(Ordering::Acquire) & 0xffff != ticket {
            spin_loop();
        }
    }

    #[inline]
    pub(super) fn unlock(&self, cpu: &Cpu) {
        // Xen adds one to the 16-bit half by a plain instruction. Atomics of one size: here a locked
        // exchange would cost more than the algorithm does, so the half is stored by its holder.
        let half = self.half();
        half.store(half.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        cpu.enable_preemption();
    }

    #[inline]
    fn half(&self) -> &AtomicU16 {
        // SAFETY: the lower half of a live, aligned word on a little-endian machine; x86 gives mixed sizes
        // the meaning intended here. Only the holder writes this half.
        unsafe { AtomicU16::from_ptr(self.0.as_ptr().cast()) }
    }
}

/// The recursive lock of a domain's guest frames: its holder, and how often it took it.
pub(super) struct GfnLock {
    lock: TicketLock,
    /// Address of the CPU that holds it, 0 for none.
    holder: AtomicUsize,
    depth: AtomicU32,
}

impl GfnLock {
    pub(super) const fn new() -> Self {
        Self { lock: TicketLock::new(), holder: AtomicUsize::new(0), depth: AtomicU32::new(0) }
    }

    #[inline(never)]
    pub(super) fn lock(&self, cpu: &Cpu) {
        let me = std::ptr::from_ref(cpu).addr();
        if self.holder.load(Ordering::Relaxed) != me {
            self.lock.lock(cpu);
            self.holder.store(me, Ordering::Relaxed);
        }
        self.depth.store(self.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    #[inline(never)]
    pub(super) fn unlock(&self, cpu: &Cpu) {
        let depth = self.depth.load(Ordering::Relaxed) - 1;
        self.depth.store(depth, Ordering::Relaxed);
        if depth == 0 {
            self.holder.store(0, Ordering::Relaxed);
            self.lock.unlock(cpu);
        }
    }
}

/// Readers store the lock's address in their CPU's word; writers raise a flag and look at every CPU.
pub(super) struct PercpuRwLock {
    writer: AtomicBool,
    /// The ordinary lock behind it: taken by writers, and by readers that meet one. Readers counted.
    inner: AtomicU32,
}

impl PercpuRwLock {
    pub(super) const fn new() -> Self {
        Self { writer: AtomicBool::new(false), inner: AtomicU32::new(0) }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    #[inline]
    pub(super) fn read(&self, cpu: &Cpu) {
        cpu.disable_preemption();
        if cpu.reading.load(Ordering::Relaxed) != 0 {
            // This CPU reads under another table's lock: only one can be announced.
            self.inner_read();
            return;
        }
        cpu.reading.store(self.address(), Ordering::Relaxed);
        // The full barrier between announcing and looking for a writer.
        fence(Ordering::SeqCst);
        if self.writer.load(Ordering::Acquire) {
            cpu.reading.store(0, Ordering::Release);
            self.inner_read();
            cpu.reading.store(self.address(), Ordering::Relaxed);
            self.inner.fetch_sub(1, Ordering::Release);
        }
    }

    #[inline]
    pub(super) fn read_unlock(&self, cpu: &Cpu) {
        if cpu.reading.load(Ordering::Relaxed) == self.address() {
            cpu.reading.store(0, Ordering::Release);
        } else {
            self.inner.fetch_sub(1, Ordering::Release);
        }
        cpu.enable_preemption();
    }

    #[cold]
    fn inner_read(&self) {
        self.inner.fetch_add(1, Ordering::Acquire);
        while self.writer.load(Ordering::Acquire) {
            spin_loop();
        }
    }
}
