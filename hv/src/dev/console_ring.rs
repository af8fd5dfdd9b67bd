//! The paravirtual console of a domain (public/io/console.h): the page the guest writes its output to, and
//! the hypervisor at the other end.
//!
//! The page and the event channel are made with the domain and told in `HVM_PARAM_CONSOLE_PFN` and
//! `HVM_PARAM_CONSOLE_EVTCHN`. A guest puts bytes into the ring and sends the event; its hypercall then moves
//! them to the console, line by line, and raises the event back when there is room again. The hypercall stops
//! between two pieces when somebody else's turn has come, so output costs only its own domain. Input is not
//! given to domains yet: the input ring stays empty.
//!
//! The guest may write anything into the page at any time: each index is read once, a ring that claims
//! more than it holds is taken for empty, and bytes are copied out before they are looked at.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use gnttab_fast::types::{DomId, Mfn};
use spin::Mutex;

use crate::{
    abi::io::console::{OUT, OUT_CONS, OUT_PROD, OUT_SIZE},
    mm::shared::SharedFrame,
};

/// Bytes moved in one piece.
pub const PIECE: usize = 128;

/// The hypervisor's end of a domain's console ring.
#[derive(Debug)]
pub struct ConsoleRing {
    page: SharedFrame,
    /// Two vCPUs may send at once: each byte goes out once, in order.
    reader: Mutex<()>,
}

impl ConsoleRing {
    /// An empty ring in a new page of that domain; `None` without memory.
    #[must_use]
    pub fn new(domain: DomId) -> Option<Self> {
        Some(Self { page: SharedFrame::alloc(domain)?, reader: Mutex::new(()) })
    }

    /// The page.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.page.mfn()
    }

    /// Moves a piece of output to `print`; how many bytes it was.
    pub fn output(&self, print: impl FnOnce(&[u8])) -> usize {
        let _reader = self.reader.lock();
        let first = self.page.u32(OUT_CONS).load(Ordering::Relaxed);
        // Acquire: the bytes before the index.
        let end = self.page.u32(OUT_PROD).load(Ordering::Acquire);
        let waiting = usize::try_from(end.wrapping_sub(first)).unwrap_or(usize::MAX);
        if waiting > OUT_SIZE {
            self.page.u32(OUT_CONS).store(end, Ordering::Release);
            return 0;
        }
        let mut bytes = [0; PIECE];
        let piece = &mut bytes[..waiting.min(PIECE)];
        for (index, byte) in (0u32..).zip(piece.iter_mut()) {
            // Masked by the ring's size, a power of two: inside the page whatever the index was.
            let at = usize::try_from(first.wrapping_add(index)).unwrap_or(0) & (OUT_SIZE - 1);
            *byte = self.page.u8(OUT + at).load(Ordering::Relaxed);
        }
        print(piece);
        let moved = u32::try_from(piece.len()).unwrap_or(0);
        // Release: the guest may overwrite them from here on.
        self.page.u32(OUT_CONS).store(first.wrapping_add(moved), Ordering::Release);
        piece.len()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn write(ring: &ConsoleRing, text: &[u8]) {
        let at = ring.page.u32(OUT_PROD).load(Ordering::Relaxed);
        for (index, byte) in (0u32..).zip(text) {
            let place = usize::try_from(at.wrapping_add(index)).expect("fits") % OUT_SIZE;
            ring.page.u8(OUT + place).store(*byte, Ordering::Relaxed);
        }
        let end = at.wrapping_add(u32::try_from(text.len()).expect("short"));
        ring.page.u32(OUT_PROD).store(end, Ordering::Release);
    }

    fn read(ring: &ConsoleRing) -> Vec<u8> {
        let mut all = Vec::new();
        while ring.output(|piece| all.extend_from_slice(piece)) != 0 {}
        all
    }

    #[test]
    fn bytes_come_out_in_order_round_the_ring_and_round_the_index() {
        let ring = ConsoleRing::new(DomId(60)).expect("memory");
        for index in [OUT_CONS, OUT_PROD] {
            ring.page.u32(index).store(u32::MAX - 1000, Ordering::Relaxed);
        }
        let text: Vec<u8> = (0..OUT_SIZE).map(|index| u8::try_from(index % 251).expect("small")).collect();
        for len in [0, 1, PIECE, PIECE + 1, 1500, OUT_SIZE] {
            write(&ring, &text[..len]);
            assert!(read(&ring) == text[..len], "{len}");
        }
    }

    #[test]
    fn indexes_without_sense_make_the_ring_empty() {
        let ring = ConsoleRing::new(DomId(61)).expect("memory");
        ring.page.u32(OUT_PROD).store(u32::try_from(OUT_SIZE).expect("small") + 1, Ordering::Relaxed);
        assert_eq!(read(&ring), []);
        write(&ring, b"again");
        assert_eq!(read(&ring), b"again");
    }
}
