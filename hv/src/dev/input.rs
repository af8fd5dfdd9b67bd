//! Input of the serial console, and who it goes to: the hypervisor, whose keys are
//! [`debug_keys`](crate::debug_keys), or a domain, whose console ring gets it
//! ([`console_ring`](super::console_ring)).
//!
//! Three Ctrl-A in a row hand the input on: from the hypervisor to the domains in the order of their numbers, and
//! back. Two of them and a Ctrl-K end the domain that has the input. One or two of them are input like any other
//! byte, once another one follows. A domain's end gives the input back to the hypervisor, until it is built again.
//!
//! Nobody polls: the port raises its interrupt, whose handler does no more than note it here, because root
//! mode takes interrupts in two places only ([`irq`](crate::arch::x86::irq)); who opened the window then calls
//! [`work`], which reads the port under the console's lock and acts on the bytes without it. Bytes are handed on
//! in their order under a lock of this module; debug keys, which print a lot, are done behind it.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arrayvec::ArrayVec;
use gnttab_fast::types::DomId;
use spin::Mutex;

use super::console;
use super::console_ring::Given;
use crate::abi::hvm::params;
use crate::cmdline::LogLevel;
use crate::domain::{Domain, lifecycle, table};
use crate::{debug_keys, epoch, event, info, warn};

/// The port's interrupt has come and nobody has looked since.
static ARRIVED: AtomicBool = AtomicBool::new(false);
/// The number of the domain that has the input, or [`HYPERVISOR`].
static FOCUS: AtomicU32 = AtomicU32::new(HYPERVISOR);
/// Held by whoever hands bytes on.
static SWITCH: Mutex<Switch> = Mutex::new(Switch::new());

/// In [`FOCUS`]: no domain has the input.
const HYPERVISOR: u32 = u32::MAX;
/// Bytes of one look.
const LOOK: usize = 64;
/// Looks at a port that does not run empty, which is broken. What it says beyond is left in it.
const LOOKS: usize = 64;
/// Debug keys of one time; what is typed faster than the hypervisor prints is lost beyond this.
const KEYS: usize = 64;
/// Ctrl-A, which hands the input on when it comes [`TIMES`] times in a row.
const SWITCH_KEY: u8 = 1;
const TIMES: usize = 3;
/// Ctrl-K, which behind [`TIMES`] less one of them ends the domain.
const END_KEY: u8 = 11;

/// The port's interrupt; called by its handler.
pub fn arrived() {
    ARRIVED.store(true, Ordering::Release);
}

/// Acts on what was typed, if anything was.
#[inline]
pub fn work() {
    if ARRIVED.load(Ordering::Relaxed) {
        act();
    }
}

/// Whether a domain has the input.
#[must_use]
#[inline]
pub fn has_focus(domid: u16) -> bool {
    FOCUS.load(Ordering::Relaxed) == u32::from(domid)
}

/// Gives a domain the input.
pub fn focus_on(domain: &Domain) {
    FOCUS.store(u32::from(domain.id.0), Ordering::Relaxed);
    tell(Some(domain));
}

/// A domain is at its end: it needs no input any more. True when it had it.
pub fn gone(domain: &Domain) -> bool {
    let own = u32::from(domain.id.0);
    let had = FOCUS.compare_exchange(own, HYPERVISOR, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    if had {
        tell(None);
    }
    had
}

/// A guest has sent its console's event: perhaps it has made room for input that is held. True when there is news
/// for it in its ring.
pub fn more_room(domain: &Domain) -> bool {
    let given = domain.console_ring.more_room();
    complain(domain, given);
    given.news
}

#[cold]
fn act() {
    // Taken back before the port is read: a byte that comes later raises the interrupt again.
    if !ARRIVED.swap(false, Ordering::Acquire) {
        return;
    }
    let mut keys = ArrayVec::<u8, KEYS>::new();
    let mut switch = SWITCH.lock();
    for _ in 0..LOOKS {
        let mut bytes = ArrayVec::<u8, LOOK>::new();
        console::receive(&mut bytes);
        let last = !bytes.is_full();
        switch.take(&bytes, &mut |what| match what {
            Typed::Switch => hand_on(),
            Typed::End => end(),
            Typed::Bytes(bytes) => hand_over(bytes, &mut keys),
        });
        if last {
            break;
        }
    }
    drop(switch);
    keys.into_iter().for_each(debug_keys::handle);
}

/// Bytes for whoever has the input.
fn hand_over(bytes: &[u8], keys: &mut ArrayVec<u8, KEYS>) {
    let focus = FOCUS.load(Ordering::Relaxed);
    let Ok(domid) = u16::try_from(focus) else {
        // No room: dropped.
        keys.extend(bytes.iter().copied().take(keys.remaining_capacity()));
        return;
    };
    let guard = epoch::pin();
    let Some(domain) = table::get(DomId(domid), &guard) else { return };
    let given = domain.console_ring.give(bytes);
    complain(domain, given);
    if given.news {
        // The guest may have set the parameter to anything: another port is not raised.
        let port = domain.params.get(params::CONSOLE_EVTCHN).and_then(|port| u32::try_from(port).ok());
        event::deliver::raise_console(domain, port.unwrap_or(0));
    }
}

/// Says what was lost.
fn complain(domain: &Domain, given: Given) {
    let (id, name) = (domain.id.0, &domain.name);
    if given.lost != 0 {
        info!(of domain; "d{id} {name} reads its input again; {} bytes were dropped", given.lost);
    }
    if given.full {
        warn!(of domain; "d{id} {name} does not read its input; from here on it is dropped");
    }
}

/// Gives the input to the next one.
fn hand_on() {
    let guard = epoch::pin();
    let now = FOCUS.load(Ordering::Relaxed);
    let behind = |domain: &Domain| now == HYPERVISOR || u32::from(domain.id.0) > now;
    let next = table::all(&guard).find(|domain| behind(domain) && !domain.is_dying());
    FOCUS.store(next.map_or(HYPERVISOR, |domain| domain.id.0.into()), Ordering::Relaxed);
    tell(next.map(|domain| &**domain));
}

/// Ends the domain that has the input.
fn end() {
    let guard = epoch::pin();
    let has = u16::try_from(FOCUS.load(Ordering::Relaxed)).ok();
    match has.and_then(|id| table::get(DomId(id), &guard)) {
        Some(domain) => lifecycle::reset(domain),
        None => console::log(LogLevel::None, format_args!("no domain has the input, so none is ended")),
    }
}

/// Says who has the input. At every log level: somebody asked.
fn tell(who: Option<&Domain>) {
    const HOW: &str = "three times Ctrl-A hands it on";
    match who {
        Some(domain) => console::log(
            LogLevel::None,
            format_args!("input goes to d{} {}; {HOW}", domain.id.0, domain.name),
        ),
        None => console::log(LogLevel::None, format_args!("input goes to the hypervisor; {HOW}")),
    }
}

/// What was typed, without the switch key's own bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Typed<'a> {
    Bytes(&'a [u8]),
    Switch,
    End,
}

/// Finds the switch key among the bytes.
#[derive(Debug)]
struct Switch {
    /// How often it has come in a row.
    count: usize,
}

impl Switch {
    const fn new() -> Self {
        Self { count: 0 }
    }

    fn take(&mut self, bytes: &[u8], to: &mut dyn FnMut(Typed<'_>)) {
        for piece in bytes.chunk_by(|first, second| (*first == SWITCH_KEY) == (*second == SWITCH_KEY)) {
            if piece.first() == Some(&SWITCH_KEY) {
                self.count += piece.len();
                while self.count >= TIMES {
                    self.count -= TIMES;
                    to(Typed::Switch);
                }
            } else {
                let mut piece = piece;
                if let ([END_KEY, rest @ ..], true) = (piece, self.count == TIMES - 1) {
                    self.count = 0;
                    piece = rest;
                    to(Typed::End);
                }
                // They were input after all.
                if self.count != 0 {
                    to(Typed::Bytes(&[SWITCH_KEY; TIMES][..self.count]));
                    self.count = 0;
                }
                if !piece.is_empty() {
                    to(Typed::Bytes(piece));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// What comes of pieces: bytes as they are, 255 for a switch, 254 for an end.
    fn typed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut switch = Switch::new();
        let mut all = Vec::new();
        for piece in pieces {
            switch.take(piece, &mut |what| match what {
                Typed::Bytes(bytes) => all.extend_from_slice(bytes),
                Typed::Switch => all.push(255),
                Typed::End => all.push(254),
            });
        }
        all
    }

    #[test]
    fn three_in_a_row_switch() {
        assert_eq!(typed(&[b"ab"]), *b"ab");
        assert_eq!(typed(&[b"a\x01\x01\x01b"]), *b"a\xffb");
        assert_eq!(typed(&[b"\x01", b"\x01", b"", b"\x01", b"x"]), *b"\xffx");
        assert_eq!(typed(&[b"\x01\x01\x01\x01\x01\x01\x01"]), *b"\xff\xff");
    }

    #[test]
    fn two_and_a_ctrl_k_end() {
        assert_eq!(typed(&[b"a\x01\x01\x0bb"]), *b"a\xfeb");
        assert_eq!(typed(&[b"\x01", b"\x01", b"\x0b", b"\x0b"]), *b"\xfe\x0b");
        assert_eq!(typed(&[b"\x01\x01\x01\x01\x01\x0b"]), *b"\xff\xfe");
        assert_eq!(typed(&[b"\x0b\x01\x0b\x01\x01a\x0b"]), *b"\x0b\x01\x0b\x01\x01a\x0b");
    }

    #[test]
    fn fewer_are_input() {
        assert_eq!(typed(&[b"\x01", b"\x01a\x01b"]), *b"\x01\x01a\x01b");
        assert_eq!(typed(&[b"\x01\x01\x01\x01c"]), *b"\xff\x01c");
    }
}
