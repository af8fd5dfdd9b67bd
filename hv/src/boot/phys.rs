//! Reading what firmware and boot loader left in physical memory.
//!
//! Everything found there is checked by its reader; this seam only promises that a read either delivers
//! all its bytes or none. Tests put a slice in the place of memory.

/// Physical memory as a place to copy from.
pub trait PhysRead {
    /// Fills `into` from physical address `pa`; false when some of it is out of reach.
    #[must_use]
    fn read(&self, pa: u64, into: &mut [u8]) -> bool;

    /// A little-endian word of `N` bytes.
    fn bytes<const N: usize>(&self, pa: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(pa, &mut bytes).then_some(bytes)
    }

    /// A byte.
    fn u8(&self, pa: u64) -> Option<u8> {
        self.bytes::<1>(pa).map(|[byte]| byte)
    }

    /// A 16-bit word.
    fn u16(&self, pa: u64) -> Option<u16> {
        self.bytes(pa).map(u16::from_le_bytes)
    }

    /// A 32-bit word.
    fn u32(&self, pa: u64) -> Option<u32> {
        self.bytes(pa).map(u32::from_le_bytes)
    }

    /// A 64-bit word.
    fn u64(&self, pa: u64) -> Option<u64> {
        self.bytes(pa).map(u64::from_le_bytes)
    }
}

/// Memory as the boot page tables show it: the first 4 GiB. Good until `mm::paging` has
/// installed the final tables, which hold RAM only.
#[derive(Debug)]
pub struct BootMap(());

impl BootMap {
    /// What the boot page tables reach.
    const LIMIT: u64 = 1 << 32;

    /// The view.
    ///
    /// # Safety
    /// The boot page tables of `entry.S` must be in force for as long as the value is used.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl PhysRead for BootMap {
    fn read(&self, pa: u64, into: &mut [u8]) -> bool {
        let Some(end) = u64::try_from(into.len()).ok().and_then(|len| pa.checked_add(len)) else {
            return false;
        };
        if end > Self::LIMIT {
            return false;
        }
        // SAFETY: the range lies in the 4 GiB which the boot tables map (kept by the caller of `new`);
        // nobody else runs yet, and `into` is a Rust slice, so the two do not overlap except when a
        // caller reads its own stack, which `copy` allows.
        unsafe { core::ptr::copy(crate::mm::phys_to_virt(pa), into.as_mut_ptr(), into.len()) };
        true
    }
}

/// A piece of pretended physical memory.
#[cfg(test)]
pub(crate) struct TestMemory {
    /// Where the bytes begin.
    pub(crate) start: u64,
    /// What is there.
    pub(crate) bytes: alloc::vec::Vec<u8>,
}

#[cfg(test)]
impl TestMemory {
    /// Zeroed memory from `start`.
    pub(crate) fn new(start: u64, len: usize) -> Self {
        Self { start, bytes: alloc::vec![0; len] }
    }

    /// Writes at a physical address.
    pub(crate) fn put(&mut self, pa: u64, bytes: &[u8]) {
        let at = usize::try_from(pa - self.start).expect("in the piece");
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
impl PhysRead for TestMemory {
    fn read(&self, pa: u64, into: &mut [u8]) -> bool {
        let Some(at) = pa.checked_sub(self.start).and_then(|at| usize::try_from(at).ok()) else {
            return false;
        };
        match at.checked_add(into.len()).and_then(|end| self.bytes.get(at..end)) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}
