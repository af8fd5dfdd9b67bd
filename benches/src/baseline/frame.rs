//! Page references and type references: counted words per frame, changed by compare-exchange.

use crate::primitive::{AtomicU16, AtomicU64, Ordering};

const ALLOCATED: u64 = 1 << 63;
const COUNT: u64 = (1 << 55) - 1;
const TYPE_WRITABLE: u64 = 7 << 61;
const VALIDATED: u64 = 1 << 60;

/// What Xen keeps per frame: 32 bytes.
#[repr(C, align(32))]
pub(super) struct PageInfo {
    count: AtomicU64,
    kind: AtomicU64,
    owner: AtomicU16,
}

impl PageInfo {
    pub(super) fn new(owner: u16) -> Self {
        Self { count: AtomicU64::new(ALLOCATED | 1), kind: AtomicU64::new(0), owner: AtomicU16::new(owner) }
    }

    pub(super) fn at_rest(&self) -> bool {
        self.count.load(Ordering::Relaxed) == ALLOCATED | 1 && self.kind.load(Ordering::Relaxed) & COUNT == 0
    }

    /// Takes a reference if the frame is `owner`'s.
    #[inline(never)]
    pub(super) fn get(&self, owner: u16) -> bool {
        let mut x = self.count.load(Ordering::Relaxed);
        loop {
            // Neither free (0) nor about to overflow.
            if (x + 2) & COUNT <= 2 {
                return false;
            }
            match self.count.compare_exchange(x, x + 1, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => x = now,
            }
        }
        if self.owner.load(Ordering::Relaxed) == owner {
            return true;
        }
        self.put();
        false
    }

    /// Drops a reference.
    #[inline(never)]
    pub(super) fn put(&self) {
        let mut x = self.count.load(Ordering::Relaxed);
        loop {
            match self.count.compare_exchange(x, x - 1, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => x = now,
            }
        }
        assert!((x - 1) & COUNT != 0, "the last reference went");
    }

    /// Takes a type reference as a writable page.
    #[inline(never)]
    pub(super) fn get_writable(&self) -> bool {
        let mut x = self.kind.load(Ordering::Relaxed);
        loop {
            let new = if x & COUNT == 0 {
                // The type may change: writable needs no validation.
                TYPE_WRITABLE | VALIDATED | 1
            } else if x & TYPE_WRITABLE != TYPE_WRITABLE || x & VALIDATED == 0 || (x + 1) & COUNT == 0 {
                return false;
            } else {
                x + 1
            };
            match self.kind.compare_exchange(x, new, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => x = now,
            }
        }
    }

    /// Drops a type reference.
    #[inline(never)]
    pub(super) fn put_writable(&self) {
        let mut x = self.kind.load(Ordering::Relaxed);
        loop {
            match self.kind.compare_exchange(x, x - 1, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => x = now,
            }
        }
    }
}
