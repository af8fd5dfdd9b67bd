//! The paravirtual console of a domain (public/io/console.h): the page the guest writes its output to, and
//! the hypervisor at the other end.
//!
//! The page and the event channel are made with the domain and told in `HVM_PARAM_CONSOLE_PFN` and
//! `HVM_PARAM_CONSOLE_EVTCHN`. A guest puts bytes into the ring and sends the event; its hypercall then moves
//! them to the console, line by line, and raises the event back when there is room again. The hypercall stops
//! between two pieces when somebody else's turn has come, so output costs only its own domain.
//!
//! Input comes from [`input`](super::input), byte by byte as it is typed. What finds no room in the guest's ring
//! is held here until the guest, which sends the event when it has read, has made room; what finds no room here
//! either is dropped and counted, since a guest that does not read must not keep the keys from the others.
//!
//! The guest may write anything into the page at any time: each index is read once and masked, a ring that claims
//! more than it holds is taken for empty (output) or for full (input), and bytes are copied out before they are
//! looked at.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use gnttab_fast::types::{DomId, Mfn};
use spin::Mutex;

use crate::{
    abi::io::console::{IN_CONS, IN_PROD, IN_SIZE, OUT, OUT_CONS, OUT_PROD, OUT_SIZE},
    mm::shared::SharedFrame,
};

/// Bytes moved in one piece.
pub const PIECE: usize = 128;
/// Bytes of input held for a guest whose ring is full.
const HELD: usize = 1024;

/// The hypervisor's end of a domain's console ring.
#[derive(Debug)]
pub struct ConsoleRing {
    page: SharedFrame,
    /// Two vCPUs may send at once: each byte goes out once, in order.
    reader: Mutex<()>,
    /// Held by whoever adds to the input ring.
    writer: Mutex<Held>,
}

/// Input that has found no room in the guest's ring.
#[derive(Debug, Default)]
struct Held {
    bytes: ArrayVec<u8, HELD>,
    /// What found no room here since the guest read last.
    dropped: u32,
}

/// What became of input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Given {
    /// The guest's ring has more than before: it wants its event.
    pub news: bool,
    /// The first bytes since the guest read last had to be dropped.
    pub full: bool,
    /// The guest reads again: so many bytes were dropped meanwhile.
    pub lost: u32,
}

impl ConsoleRing {
    /// An empty ring in a new page of that domain; `None` without memory.
    #[must_use]
    pub fn new(domain: DomId) -> Option<Self> {
        Some(Self { page: SharedFrame::alloc(domain)?, reader: Mutex::new(()), writer: Mutex::default() })
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

    /// Adds typed bytes, behind those that are held.
    pub fn give(&self, typed: &[u8]) -> Given {
        let mut held = self.writer.lock();
        let mut given = self.refill(&mut held);
        let moved = if held.bytes.is_empty() { self.put(typed) } else { 0 };
        given.news |= moved != 0;
        for &byte in &typed[moved..] {
            if held.bytes.try_push(byte).is_err() {
                given.full |= held.dropped == 0;
                held.dropped = held.dropped.saturating_add(1);
            }
        }
        given
    }

    /// The guest may have made room: gives it what is held.
    pub fn more_room(&self) -> Given {
        self.refill(&mut self.writer.lock())
    }

    fn refill(&self, held: &mut Held) -> Given {
        if held.bytes.is_empty() {
            return Given::default();
        }
        let moved = self.put(&held.bytes);
        if moved == 0 {
            return Given::default();
        }
        held.bytes.drain(..moved);
        Given { news: true, full: false, lost: core::mem::take(&mut held.dropped) }
    }

    /// Moves what there is room for into the ring; how many bytes it was. Under the writer's lock.
    fn put(&self, bytes: &[u8]) -> usize {
        let first = self.page.u32(IN_PROD).load(Ordering::Relaxed);
        // Acquire: what the guest has read before it moved the index is read.
        let read = self.page.u32(IN_CONS).load(Ordering::Acquire);
        let waiting = usize::try_from(first.wrapping_sub(read)).unwrap_or(usize::MAX);
        let piece = &bytes[..bytes.len().min(IN_SIZE.saturating_sub(waiting))];
        for (index, &byte) in (0u32..).zip(piece) {
            // Masked by the ring's size, a power of two: inside the page whatever the index was.
            let at = usize::try_from(first.wrapping_add(index)).unwrap_or(0) & (IN_SIZE - 1);
            self.page.u8(at).store(byte, Ordering::Relaxed);
        }
        let moved = u32::try_from(piece.len()).unwrap_or(0);
        // Release: the bytes before the index.
        self.page.u32(IN_PROD).store(first.wrapping_add(moved), Ordering::Release);
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

    /// As a guest does it.
    fn take_input(ring: &ConsoleRing, count: usize) -> Vec<u8> {
        let from = ring.page.u32(IN_CONS).load(Ordering::Relaxed);
        let to = ring.page.u32(IN_PROD).load(Ordering::Acquire);
        let there = usize::try_from(to.wrapping_sub(from)).expect("fits");
        let bytes: Vec<u8> = (0..u32::try_from(count.min(there)).expect("small"))
            .map(|index| {
                let at = usize::try_from(from.wrapping_add(index)).expect("fits") % IN_SIZE;
                ring.page.u8(at).load(Ordering::Relaxed)
            })
            .collect();
        let read = u32::try_from(bytes.len()).expect("small");
        ring.page.u32(IN_CONS).store(from.wrapping_add(read), Ordering::Release);
        bytes
    }

    #[test]
    fn input_is_held_and_comes_in_order() {
        let ring = ConsoleRing::new(DomId(62)).expect("memory");
        for index in [IN_CONS, IN_PROD] {
            ring.page.u32(index).store(u32::MAX - 100, Ordering::Relaxed);
        }
        let text: Vec<u8> =
            (0..IN_SIZE + HELD).map(|index| u8::try_from(index % 251).expect("small")).collect();
        for piece in text.chunks(60) {
            let given = ring.give(piece);
            assert!(!given.full && given.lost == 0);
        }
        assert_eq!(ring.give(b"12"), Given { news: false, full: true, lost: 0 });
        assert_eq!(ring.give(b"3"), Given::default(), "said once");
        let mut seen = take_input(&ring, 500);
        assert_eq!(ring.more_room(), Given { news: true, full: false, lost: 3 });
        // Behind what is held.
        assert_eq!(ring.give(b"!"), Given::default());
        while seen.len() < text.len() + 1 {
            seen.extend(take_input(&ring, 300));
            let _ = ring.more_room();
        }
        assert!(seen[..text.len()] == text[..]);
        assert_eq!(seen[text.len()..], *b"!");
        assert_eq!(ring.more_room(), Given::default());
    }

    #[test]
    fn input_indexes_without_sense_make_the_ring_full() {
        let ring = ConsoleRing::new(DomId(63)).expect("memory");
        for (read, written) in [(1, 0), (0, 1025), (0, u32::MAX), (u32::MAX / 2, 0)] {
            ring.page.u32(IN_CONS).store(read, Ordering::Relaxed);
            ring.page.u32(IN_PROD).store(written, Ordering::Relaxed);
            assert!(!ring.give(b"x").news, "{read} {written}");
        }
        ring.page.u32(IN_CONS).store(u32::MAX - 1, Ordering::Relaxed);
        ring.page.u32(IN_PROD).store(u32::MAX, Ordering::Relaxed);
        assert!(ring.give(b"y").news);
        assert_eq!(take_input(&ring, 9)[1..], *b"xxxxy");
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
