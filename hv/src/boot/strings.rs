//! The loader's strings, copied out of memory that is about to be given away.

use super::{BootError, phys::PhysRead};

/// Room for all of a loader's strings together.
#[cfg(any(test, feature = "bare-metal"))]
const ROOM: usize = 16 * 1024;

/// A bump store for strings that live as long as the hypervisor.
#[derive(Debug)]
pub struct Strings {
    free: &'static mut [u8],
}

impl Strings {
    /// The image's one store.
    ///
    /// # Panics
    /// When it is asked for twice.
    #[cfg(feature = "bare-metal")]
    pub fn take() -> Self {
        use core::sync::atomic::{AtomicBool, Ordering};
        static TAKEN: AtomicBool = AtomicBool::new(false);
        static mut STORE: [u8; ROOM] = [0; ROOM];
        assert!(!TAKEN.swap(true, Ordering::Relaxed), "one store for boot strings");
        let store = &raw mut STORE;
        // SAFETY: the flag above lets this be reached once, so the reference is the only one.
        Self { free: unsafe { &mut *store } }
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self { free: alloc::vec![0; ROOM].leak() }
    }

    /// Copies the NUL-terminated string at `pa`. Bytes outside printable ASCII become `?`.
    ///
    /// # Errors
    /// [`BootError::StringTooLong`] when no NUL comes before the room ends, or memory out of reach.
    pub fn keep(&mut self, memory: &impl PhysRead, pa: u64) -> Result<&'static str, BootError> {
        let mut len = 0;
        for byte in self.free.iter_mut() {
            let from = pa.checked_add(len).and_then(|at| memory.u8(at)).ok_or(BootError::StringTooLong)?;
            if from == 0 {
                break;
            }
            *byte = if matches!(from, b' '..=b'~' | b'\t') { from } else { b'?' };
            len += 1;
        }
        let len = usize::try_from(len).map_err(|_| BootError::StringTooLong)?;
        if len == self.free.len() {
            return Err(BootError::StringTooLong);
        }
        let (kept, free) = core::mem::take(&mut self.free).split_at_mut(len);
        self.free = free;
        core::str::from_utf8(kept).map_err(|_| BootError::StringTooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::phys::TestMemory, *};

    #[test]
    fn strings_are_kept_apart_and_bounded() {
        let mut memory = TestMemory::new(0x100, 64 * 1024);
        memory.put(0x100, b"one\0two\xff\x1b[2J\0");
        let mut strings = Strings::for_test();
        assert_eq!(strings.keep(&memory, 0x100), Ok("one"));
        assert_eq!(strings.keep(&memory, 0x104), Ok("two??[2J"));
        assert_eq!(strings.keep(&memory, 0x103), Ok(""));
        memory.put(0x200, &[b'x'; ROOM]);
        assert_eq!(strings.keep(&memory, 0x200), Err(BootError::StringTooLong));
        assert_eq!(strings.keep(&memory, 1), Err(BootError::StringTooLong));
    }
}
