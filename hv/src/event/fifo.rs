//! The FIFO event interface (public/event_channel.h; "FIFO-based event channels" in Xen's documents).
//!
//! Each port has a 32-bit *event word* in an array the guest gives page by page: pending, masked, linked, busy,
//! and the number of the next port. Each vCPU has a *control block*: sixteen queue heads, one for each
//! priority, and a word that says which queues have anything. The hypervisor appends to the queues, the guest
//! takes from their heads; a queue is the chain of links from its head to a tail that only the hypervisor
//! knows.
//!
//! **Who races.** The guest changes event words at any moment, so they are changed by single atomic operations
//! only, and a link read from one is never followed here. A queue's tail is behind its lock; a port remembers
//! the queue it was last put into, which changes only under that queue's lock, so that a tail which
//! names the port is withdrawn before the port goes elsewhere. Two queues are locked in the order of
//! their numbers. Where the guest keeps changing a word under us the tries are counted and then given up: it
//! loses an event of its own.
//!
//! What the interface adds is off for a domain until its first `EVTCHNOP_init_control`, and on for ever after.
#![forbid(unsafe_code)]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use gnttab_fast::types::{Gfn, PAGE_SIZE};
use maptrack::index_nospec;
use spin::{Mutex, Once};

use super::{
    Port,
    deliver::{self, mark_upcall, tell_pollers},
    port_limit,
};
use crate::{
    abi::{
        errno::Errno,
        event_channel::fifo::{
            BUSY, CONTROL_HEAD, CONTROL_SIZE, LINK_BITS, LINK_MASK, LINKED, MASKED, PENDING,
            PRIORITY_DEFAULT, PRIORITY_MIN,
        },
        xen::shared_info,
    },
    domain::Domain,
    mm::shared::SharedFrame,
};

/// Ports there can be, as with the 2-level interface: Xen's own limit for a guest is lower.
const PORTS: usize = shared_info::EVTCHN_LIMIT as usize;
const WORDS_PER_PAGE: usize = PAGE_SIZE / 4;
const PAGES: usize = PORTS / WORDS_PER_PAGE;
const PRIORITIES: usize = PRIORITY_MIN as usize + 1;
/// Tries against a guest that changes a word at the same time, before and after it is told to wait.
const TRIES: u32 = 4;

/// A domain's FIFO events.
#[derive(Debug)]
pub struct Fifo {
    pages: [Once<SharedFrame>; PAGES],
    /// Ports that became pending before their page was there.
    early: Box<[AtomicU64; PORTS / 64]>,
    ports: Box<[PortState]>,
    vcpus: Box<[Queues]>,
}

/// What the hypervisor keeps of a port.
#[derive(Debug)]
struct PortState {
    priority: AtomicU32,
    /// The number of the queue it was last put into, plus 1.
    last: AtomicU32,
}

#[derive(Debug)]
struct Queues {
    control: Once<Control>,
    tails: [Mutex<u32>; PRIORITIES],
}

/// A vCPU's control block.
#[derive(Debug)]
struct Control {
    frame: SharedFrame,
    offset: usize,
}

impl Control {
    fn ready(&self) -> &AtomicU32 {
        self.frame.u32(self.offset)
    }

    fn head(&self, priority: usize) -> &AtomicU32 {
        self.frame.u32(self.offset + CONTROL_HEAD + 4 * priority)
    }
}

impl Fifo {
    fn new(vcpus: usize) -> Self {
        let port = || PortState { priority: AtomicU32::new(PRIORITY_DEFAULT), last: AtomicU32::new(0) };
        let queues = || Queues { control: Once::new(), tails: [const { Mutex::new(0) }; PRIORITIES] };
        Self {
            pages: [const { Once::new() }; PAGES],
            early: Box::new([const { AtomicU64::new(0) }; PORTS / 64]),
            ports: (0..PORTS).map(|_| port()).collect(),
            vcpus: (0..vcpus).map(|_| queues()).collect(),
        }
    }

    /// Ports come from guests: masked against speculation behind the check (Spectre v1).
    fn index(port: u32) -> Option<usize> {
        let port = usize::try_from(port).ok().filter(|&port| port < PORTS)?;
        Some(index_nospec(port, PORTS))
    }

    fn word(&self, port: u32) -> Option<&AtomicU32> {
        let port = Self::index(port)?;
        let page = self.pages[port / WORDS_PER_PAGE].get()?;
        Some(page.u32(port % WORDS_PER_PAGE * 4))
    }

    fn tail(&self, queue: u32) -> Option<&Mutex<u32>> {
        let queue = usize::try_from(queue).ok()?;
        self.vcpus.get(queue / PRIORITIES)?.tails.get(queue % PRIORITIES)
    }

    /// Is a port pending?
    pub(super) fn is_pending(&self, port: u32) -> bool {
        match (self.word(port), Self::index(port)) {
            (Some(word), _) => word.load(Ordering::SeqCst) & PENDING != 0,
            (None, Some(port)) => self.early[port / 64].load(Ordering::SeqCst) & (1 << (port % 64)) != 0,
            (None, None) => false,
        }
    }

    fn set_early(&self, port: u32) {
        if let Some(port) = Self::index(port) {
            self.early[port / 64].fetch_or(1 << (port % 64), Ordering::SeqCst);
        }
    }

    /// Takes the pending bit back. The guest unlinks the port by itself when it comes by.
    pub(super) fn clear_pending(&self, port: u32) {
        if let Some(word) = self.word(port) {
            word.fetch_and(!PENDING, Ordering::SeqCst);
        } else if let Some(port) = Self::index(port) {
            self.early[port / 64].fetch_and(!(1 << (port % 64)), Ordering::SeqCst);
        }
    }

    /// `EVTCHNOP_unmask`.
    pub(super) fn unmask(&self, domain: &Domain, port: u32, bound: Port) {
        if let Some(word) = self.word(port)
            && word.fetch_and(!MASKED, Ordering::SeqCst) & PENDING != 0
        {
            self.enqueue(domain, port, word, bound);
        }
    }

    /// Sets a port's pending bit, puts it into its queue and tells its vCPU.
    pub(super) fn set_pending(&self, domain: &Domain, port: u32, bound: Port) {
        let Some(word) = self.word(port) else {
            self.set_early(port);
            // The page may have come meanwhile, and the port not been seen as early.
            if let Some(word) = self.word(port) {
                self.raise(domain, port, word, bound);
            }
            return;
        };
        self.raise(domain, port, word, bound);
    }

    fn raise(&self, domain: &Domain, port: u32, word: &AtomicU32, bound: Port) {
        let was = word.fetch_or(PENDING, Ordering::SeqCst);
        self.enqueue(domain, port, word, bound);
        if was & PENDING == 0 {
            tell_pollers(domain, port);
        }
    }

    /// Puts a pending port into its vCPU's queue, unless it is masked or in one already.
    fn enqueue(&self, domain: &Domain, port: u32, word: &AtomicU32, bound: Port) {
        if word.load(Ordering::SeqCst) & (MASKED | LINKED) != 0 {
            return;
        }
        let Some(vcpu) = domain.vcpu(u32::from(bound.vcpu)) else { return };
        if self.link(port, word, vcpu.id) {
            mark_upcall(domain, vcpu);
        }
    }

    /// Links a port into a queue of `vcpu`; true when the vCPU has to be told.
    fn link(&self, port: u32, word: &AtomicU32, vcpu: u32) -> bool {
        let Some(state) = Self::index(port).map(|port| &self.ports[port]) else { return false };
        let priorities = PRIORITY_MIN + 1;
        let priority = state.priority.load(Ordering::Relaxed).min(PRIORITY_MIN);
        let queue = vcpu * priorities + priority;
        let own = usize::try_from(vcpu).ok().and_then(|vcpu| self.vcpus.get(vcpu));
        // Without a control block it has no queues: the event stays pending, and is put in when it is raised again.
        let (Some(control), Some(tail)) = (own.and_then(|own| own.control.get()), self.tail(queue)) else {
            return false;
        };
        let mut tail = loop {
            let last = state.last.load(Ordering::Acquire);
            let elsewhere =
                last.checked_sub(1).filter(|&old| old != queue).and_then(|old| Some((old, self.tail(old)?)));
            // In the order of their numbers.
            let (mut old, new) = match elsewhere {
                Some((number, old)) if number < queue => {
                    let old = old.lock();
                    (Some(old), tail.lock())
                }
                Some((_, old)) => {
                    let new = tail.lock();
                    (Some(old.lock()), new)
                }
                None => (None, tail.lock()),
            };
            // It changes under the lock of the queue it names only; else somebody was quicker.
            if state.last.load(Ordering::Acquire) != last {
                continue;
            }
            if word.fetch_or(LINKED, Ordering::SeqCst) & LINKED != 0 {
                return false;
            }
            // It was unlinked: a queue it was the tail of is empty.
            if let Some(old) = &mut old
                && **old == port
            {
                **old = 0;
            }
            state.last.store(queue + 1, Ordering::Release);
            break new;
        };
        if *tail == port {
            *tail = 0;
        }
        let linked = *tail != 0 && self.word(*tail).is_some_and(|before| set_link(before, port));
        let priority = usize::try_from(priority).unwrap_or(0);
        if !linked {
            control.head(priority).store(port, Ordering::SeqCst);
        }
        *tail = port;
        !linked && control.ready().fetch_or(1 << priority, Ordering::SeqCst) & (1 << priority) == 0
    }
}

/// Makes `word` point to `port` if it is linked itself: the last of a queue that is not empty. True when it does.
fn set_link(word: &AtomicU32, port: u32) -> bool {
    let attempt = |drop: u32| {
        let mut seen = word.load(Ordering::SeqCst);
        for _ in 0..TRIES {
            if seen & LINKED == 0 {
                return Some(false);
            }
            let new = (seen & !(LINK_MASK | drop)) | port;
            match word.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(true),
                Err(now) => seen = now,
            }
        }
        None
    };
    if let Some(done) = attempt(0) {
        return done;
    }
    // The guest keeps changing its mask: this bit asks it to stop.
    word.fetch_or(BUSY, Ordering::SeqCst);
    if let Some(done) = attempt(BUSY) {
        if !done {
            word.fetch_and(!BUSY, Ordering::SeqCst);
        }
        return done;
    }
    // It did not: the rest of its queue is lost to it.
    word.fetch_and(!(LINKED | BUSY), Ordering::SeqCst);
    true
}

/// `EVTCHNOP_init_control`: a vCPU's control block, which is guest frame `gfn` from `offset` on. The first one
/// switches the domain over. The number of bits of a link.
///
/// # Errors
/// `ENOENT`: no such vCPU; `EINVAL`: not in a frame of the domain, or the vCPU has one; `ENOMEM`.
pub fn init_control(domain: &Domain, vcpu: u32, gfn: u64, offset: u32) -> Result<u8, Errno> {
    let target = domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let offset = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
    if !offset.is_multiple_of(8) || offset > PAGE_SIZE - CONTROL_SIZE {
        return Err(Errno::EINVAL);
    }
    let frame = own_frame(domain, gfn)?;
    // Binders hold this lock: no port is opened or closed while the domain changes over.
    let _ports = domain.events.lowest_free.lock();
    let mut switched = false;
    let fifo = domain.events.fifo.call_once(|| {
        switched = true;
        Box::new(Fifo::new(domain.vcpus().len()))
    });
    if switched {
        // What is pending stays so. An event sent at this very moment may still land in the page of the
        // interface that is left, and be lost, as with Xen: kernels switch over before they bind anything.
        for port in 1..port_limit(domain) {
            if domain.events.port(port).is_open() && deliver::is_pending_2l(domain, port) {
                fifo.set_early(port);
            }
        }
    }
    let own = usize::try_from(target.id).ok().and_then(|id| fifo.vcpus.get(id)).ok_or(Errno::ENOENT)?;
    let mut fresh = false;
    own.control.call_once(|| {
        fresh = true;
        Control { frame, offset }
    });
    if fresh { Ok(LINK_BITS) } else { Err(Errno::EINVAL) }
}

/// `EVTCHNOP_expand_array`: the next page of event words.
///
/// # Errors
/// `EINVAL`: not a frame of the domain; `EOPNOTSUPP`: not switched over; `ENOSPC`: every port has its word.
pub fn expand_array(domain: &Domain, gfn: u64) -> Result<(), Errno> {
    let fifo = domain.events.fifo.get().ok_or(Errno::EOPNOTSUPP)?;
    let frame = own_frame(domain, gfn)?;
    let ports = domain.events.lowest_free.lock();
    let number = fifo.pages.iter().position(|page| page.get().is_none()).ok_or(Errno::ENOSPC)?;
    fifo.pages[number].call_once(|| frame);
    drop(ports);
    let first = number * WORDS_PER_PAGE;
    for port in first..first + WORDS_PER_PAGE {
        let bit = 1 << (port % 64);
        if fifo.early[port / 64].fetch_and(!bit, Ordering::SeqCst) & bit == 0 {
            continue;
        }
        let Ok(port) = u32::try_from(port) else { break };
        let bound = domain.events.port(port);
        if bound.is_open() {
            fifo.set_pending(domain, port, bound);
        }
    }
    Ok(())
}

/// `EVTCHNOP_set_priority`: takes effect when the port is next put into a queue.
///
/// # Errors
/// `EOPNOTSUPP`: not switched over; `EINVAL`: no such port or priority.
pub fn set_priority(domain: &Domain, port: u32, priority: u32) -> Result<(), Errno> {
    let fifo = domain.events.fifo.get().ok_or(Errno::EOPNOTSUPP)?;
    let index = Fifo::index(port).ok_or(Errno::EINVAL)?;
    if priority > PRIORITY_MIN || !domain.events.port(port).is_open() {
        return Err(Errno::EINVAL);
    }
    fifo.ports[index].priority.store(priority, Ordering::Relaxed);
    Ok(())
}

/// A port's default priority again, when it is closed.
pub(super) fn forget(domain: &Domain, port: u32) {
    if let (Some(fifo), Some(index)) = (domain.events.fifo.get(), Fifo::index(port)) {
        fifo.ports[index].priority.store(PRIORITY_DEFAULT, Ordering::Relaxed);
    }
}

fn own_frame(domain: &Domain, gfn: u64) -> Result<SharedFrame, Errno> {
    let entry = domain.p2m.lookup(Gfn(gfn)).filter(|entry| entry.kind.is_ram() && entry.writable());
    entry.and_then(|entry| SharedFrame::pin(entry.mfn, domain.id)).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};
    use gnttab_fast::types::DomId;
    use proptest::prelude::*;

    use super::*;

    fn fifo(id: u16) -> Fifo {
        let fifo = Fifo::new(2);
        let frame = || SharedFrame::alloc(DomId(id)).expect("memory");
        fifo.pages[0].call_once(frame);
        for own in &fifo.vcpus {
            own.control.call_once(|| Control { frame: frame(), offset: 8 });
        }
        fifo
    }

    /// What a guest does: takes every port out of a queue, as long as there are any.
    fn take(fifo: &Fifo, vcpu: usize, priority: usize) -> Vec<u32> {
        let control = fifo.vcpus[vcpu].control.get().expect("set");
        if control.ready().fetch_and(!(1 << priority), Ordering::SeqCst) & (1 << priority) == 0 {
            // Its head is an old one.
            return vec![];
        }
        let mut got = vec![];
        let mut head = control.head(priority).load(Ordering::SeqCst);
        while head != 0 {
            let word = fifo.word(head).expect("a page");
            let was = word.fetch_and(!(LINKED | LINK_MASK), Ordering::SeqCst);
            assert_ne!(was & LINKED, 0, "port {head} in no queue");
            if was & PENDING != 0 {
                got.push(head);
                word.fetch_and(!PENDING, Ordering::SeqCst);
            }
            head = was & LINK_MASK;
        }
        got
    }

    fn raise(fifo: &Fifo, port: u32, vcpu: u32) -> bool {
        let word = fifo.word(port).expect("a page");
        word.fetch_or(PENDING, Ordering::SeqCst);
        word.load(Ordering::SeqCst) & LINKED == 0 && fifo.link(port, word, vcpu)
    }

    #[test]
    fn events_come_in_the_order_they_were_sent() {
        let fifo = fifo(70);
        assert!(raise(&fifo, 5, 0), "the first has to be told");
        assert!(!raise(&fifo, 3, 0) && !raise(&fifo, 5, 0) && !raise(&fifo, 9, 0));
        let default = usize::try_from(PRIORITY_DEFAULT).expect("small");
        assert_eq!(take(&fifo, 0, default), [5, 3, 9]);
        // The tail's own event is first in an empty queue.
        assert!(raise(&fifo, 9, 0) && !raise(&fifo, 5, 0));
        assert_eq!(take(&fifo, 0, default), [9, 5]);
    }

    #[test]
    fn a_port_that_moves_leaves_no_trace_in_its_old_queue() {
        let fifo = fifo(71);
        let default = usize::try_from(PRIORITY_DEFAULT).expect("small");
        assert!(raise(&fifo, 4, 0));
        assert_eq!(take(&fifo, 0, default), [4]);
        assert!(raise(&fifo, 4, 1), "now the other vCPU's");
        assert!(raise(&fifo, 6, 0));
        fifo.ports[8].priority.store(2, Ordering::Relaxed);
        assert!(raise(&fifo, 8, 1));
        assert_eq!(take(&fifo, 1, default), [4]);
        assert_eq!(take(&fifo, 1, 2), [8]);
        assert_eq!(take(&fifo, 0, default), [6]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_comes_twice(
            steps in proptest::collection::vec((0u8..4, 1u32..12, 0u32..2, 0u32..3), 1..120),
        ) {
            let fifo = fifo(72);
            let mut waiting = [false; 12];
            let drain = |fifo: &Fifo, waiting: &mut [bool; 12], vcpu: usize| {
                for priority in 0..PRIORITIES {
                    for port in take(fifo, vcpu, priority) {
                        let was = core::mem::take(&mut waiting[usize::try_from(port).expect("small")]);
                        assert!(was, "port {port} was not sent");
                    }
                }
            };
            for (what, port, vcpu, priority) in steps {
                let index = usize::try_from(port).expect("small");
                match what {
                    0 => drain(&fifo, &mut waiting, usize::try_from(vcpu).expect("small")),
                    1 => fifo.ports[index].priority.store(priority, Ordering::Relaxed),
                    _ => {
                        raise(&fifo, port, vcpu);
                        waiting[index] = true;
                    }
                }
            }
            drain(&fifo, &mut waiting, 0);
            drain(&fifo, &mut waiting, 1);
            prop_assert_eq!(waiting, [false; 12]);
        }
    }
}
