//! Event channels (public/event_channel.h, public/xen.h): the 2-level interface here, the other one in [`fifo`].
//!
//! A [`Channels`] owns the ports of one domain: for each, one 64-bit word that says what it is bound to
//! ([`port`]). Binding, closing and status ([`ops`]) take the domain's lock, and those that concern two domains
//! take both, in the order of their numbers. **Sending takes no lock**: it reads the sender's word,
//! finds the other domain in the table under the caller's guard, reads that port's word, and sets
//! bits of the receiver's shared page ([`deliver`]).
//!
//! **Who races.** A send against a close of either end: the sender checks that the receiver's word names it
//! back; if the port is closed after that check the receiver gets one event more on a port it has just closed
//! or bound anew, which the interface allows (events carry no promise but "look"). The bits in shared
//! pages are changed by the guest at the same time: only single atomic operations are used on them, and nothing
//! read there is trusted beyond its own domain.
#![forbid(unsafe_code)]

pub mod deliver;
pub mod fifo;
pub mod ops;
mod port;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use maptrack::index_nospec;
use spin::{Mutex, Once};

pub use deliver::{raise_virq, upcall_delivered, upcall_wanted};
pub use ops::close_some;
pub use port::{Binding, Port};

use crate::{
    abi::xen::{NR_VIRQS, shared_info, shared_info_compat},
    domain::Domain,
    vt::Width,
};

/// Ports of one bucket: their words fill two cache lines' worth of a small allocation.
const BUCKET: usize = 128;
/// Buckets of a domain with the most ports.
const BUCKETS: usize = shared_info::EVTCHN_LIMIT as usize / BUCKET;

/// The ports of one domain.
#[derive(Debug)]
pub struct Channels {
    buckets: [Once<Box<[AtomicU64; BUCKET]>>; BUCKETS],
    /// The port of each virtual interrupt of each vCPU; 0: not bound.
    virqs: Box<[AtomicU32]>,
    /// Set when the domain has switched to the FIFO interface.
    fifo: Once<Box<fifo::Fifo>>,
    /// Held by whoever changes words. Holds the lowest port that may be free.
    lowest_free: Mutex<u32>,
}

impl Channels {
    /// No ports yet, for a domain of that many vCPUs.
    #[must_use]
    pub fn new(vcpus: u32) -> Self {
        let virqs = (0..vcpus * NR_VIRQS).map(|_| AtomicU32::new(0)).collect();
        Self {
            buckets: [const { Once::new() }; BUCKETS],
            virqs,
            fifo: Once::new(),
            lowest_free: Mutex::new(1),
        }
    }

    /// The word of a port; `None` when the number was never allocated.
    ///
    /// Guests choose the number: the indexes are masked against speculation behind the checks (Spectre v1).
    #[inline]
    fn word(&self, port: u32) -> Option<&AtomicU64> {
        let port = usize::try_from(port).ok()?;
        let bucket = port / BUCKET;
        if bucket >= BUCKETS {
            return None;
        }
        let bucket = self.buckets[index_nospec(bucket, BUCKETS)].get()?;
        bucket.get(port % BUCKET)
    }

    /// What a port is bound to; closed when it is no port at all.
    #[inline]
    #[must_use]
    pub fn port(&self, port: u32) -> Port {
        // Acquire: pairs with the release store of the binder, whose tables are then visible.
        self.word(port).map_or(Port::CLOSED, |word| Port::from_word(word.load(Ordering::Acquire)))
    }

    /// The word of a port, making its bucket.
    fn word_or_new(&self, port: u32) -> Option<&AtomicU64> {
        let bucket = usize::try_from(port).ok()? / BUCKET;
        self.buckets
            .get(bucket)?
            .call_once(|| Box::new([const { AtomicU64::new(Port::CLOSED.word()) }; BUCKET]));
        self.word(port)
    }

    fn virq_slot(&self, vcpu: u32, virq: u32) -> Option<&AtomicU32> {
        let index = usize::try_from(vcpu.checked_mul(NR_VIRQS)?.checked_add(virq)?).ok()?;
        if index >= self.virqs.len() {
            return None;
        }
        self.virqs.get(index_nospec(index, self.virqs.len()))
    }
}

/// How many ports a domain has, port 0 among them, which is never used.
#[must_use]
pub fn port_limit(domain: &Domain) -> u32 {
    match domain.width() {
        Width::Bits64 => shared_info::EVTCHN_LIMIT,
        Width::Bits32 => shared_info_compat::EVTCHN_LIMIT,
    }
}

/// Whether a domain has switched to the FIFO interface.
#[must_use]
pub fn is_fifo(domain: &Domain) -> bool {
    domain.events.fifo.get().is_some()
}
