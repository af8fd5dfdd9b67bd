//! The store with all that must survive it, and the one door by which it changes.
//!
//! Linux's xenbus cannot be handed to a store that has forgotten: a request it has made is waited for without end,
//! its watches are made once, and a node of a running device that is gone means that the device is. So
//! a store that is built again goes on where the old one was, request by request. [`State`] is everything there is
//! to know: tree, watches, transactions, half-received requests, answers nobody has fetched, and how far
//! each ring is. It changes by [`Input`]s alone and always in the same way, so a snapshot and the inputs
//! since ([`journal`](super::journal)) are as good as the state.
//!
//! **Order.** An input is taken in, then recorded, and only then is what follows from it shown in the ring. An end
//! before the record leaves the client's bytes in the ring, to be taken again; one behind it leaves indices to be
//! published, which the next store does first of all ([`Link`]). Nothing is done twice and nothing is lost.
//!
//! What is read back was written by this program alone and is a whole record or none; the inputs go through the same
//! checks and quotas as they did when they came from a ring.
#![forbid(unsafe_code)]

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use super::devices::{Devices, Living};
use super::journal::Journal;
use super::tree::Quota;
use super::wire::{Error, TooLong};
use super::{Host, Store};

/// Inputs without a record until the next try, when all of it does not fit.
const PAUSE: u32 = 4096;
const TOO_LARGE: &str = "the state is too large to survive: should the store end now, the next one is empty";
const FITS: &str = "the state survives again";

/// How far a client's ring is, by our own count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Link {
    /// The client's port.
    pub port: u32,
    /// Bytes taken.
    pub req_cons: u32,
    /// Bytes given.
    pub rsp_prod: u32,
    /// Why it is heard no more until it reconnects; 0: it is heard.
    pub error: u32,
}

/// What reaches the rings while a request is done.
pub trait Outside {
    /// Connects a domain, by the port it offers.
    ///
    /// # Errors
    /// It cannot.
    fn connect(&mut self, domid: u16, port: u32) -> Result<Link, Error>;
    /// Prints a line for the operator.
    fn print(&mut self, line: &str);
}

/// Whatever changes the state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Input {
    /// The domains that live.
    Living(Vec<Living>),
    /// One has shut down.
    ShutDown(u16),
    /// One has a ring that works.
    Connected(u16, Link),
    /// One has none, and is left alone.
    Left(u16),
    /// A look at which devices can be written.
    Appear,
    /// Bytes of a client, and a request if they complete one; which domain it connected.
    Turn(u16, Vec<u8>, Option<(u16, Link)>),
    /// A client does not keep to the protocol.
    Broken(u16, u32),
    /// A client begins anew.
    Reset(u16),
    /// So many bytes were given to a client.
    Sent(u16, u32),
}

/// All there is to know.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    store: Store,
    devices: Devices,
    links: BTreeMap<u16, Link>,
    /// Domains that are left alone: released by the control domain, or without a ring that works.
    left: BTreeSet<u16>,
    /// Domains that live, at the last look.
    living: Vec<Living>,
}

/// The state and its record.
#[derive(Debug)]
pub struct Service {
    state: State,
    journal: Option<Journal>,
    /// Inputs to go without a record.
    pause: u32,
    /// The last snapshot fitted.
    kept: bool,
}

/// What the store itself asks for in a request.
struct Door<'a> {
    outside: &'a mut dyn Outside,
    introduced: Option<(u16, Link)>,
    released: Vec<u16>,
}

impl Host for Door<'_> {
    fn introduce(&mut self, domid: u16, port: u32) -> Result<(), Error> {
        self.introduced = Some((domid, self.outside.connect(domid, port)?));
        Ok(())
    }
    fn release(&mut self, domid: u16) {
        self.released.push(domid);
    }
    fn print(&mut self, line: &str) {
        self.outside.print(line);
    }
}

/// The outside of inputs that are taken in once more: what was connected is known.
struct Past(Option<(u16, Link)>);

impl Outside for Past {
    fn connect(&mut self, domid: u16, _: u32) -> Result<Link, Error> {
        self.0.filter(|&(known, _)| known == domid).map(|(_, link)| link).ok_or(Error::Inval)
    }
    fn print(&mut self, _: &str) {}
}

/// What an input did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Done {
    changed: bool,
    introduced: Option<(u16, Link)>,
}

impl State {
    /// Takes an input in.
    ///
    /// # Errors
    /// A message that cannot be understood: [`Input::Broken`] has to follow.
    fn take(&mut self, input: &Input, outside: &mut dyn Outside) -> Result<Done, TooLong> {
        let Self { store, devices, links, left, living } = self;
        let mut done = Done { changed: true, introduced: None };
        match *input {
            Input::Living(ref now) => {
                let handle =
                    |list: &[Living], domid| list.iter().find(|lives| lives.0 == domid).map(|lives| lives.1);
                // A number with another handle is another domain.
                let same = |domid: u16| {
                    let (was, is) = (handle(living, domid), handle(now, domid));
                    is.is_some() && was.is_none_or(|was| is == Some(was))
                };
                let gone: Vec<u16> = links.keys().copied().filter(|&domid| !same(domid)).collect();
                let before = left.len();
                left.retain(|&domid| same(domid));
                done.changed = living != now || !gone.is_empty() || left.len() != before;
                living.clone_from(now);
                for domid in gone {
                    links.remove(&domid);
                    store.release(domid);
                    devices.vanish(store, domid);
                }
            }
            Input::ShutDown(domid) => done.changed = store.has_shut_down(domid),
            Input::Connected(domid, link) => {
                links.insert(domid, link);
                store.introduce(domid);
            }
            Input::Left(domid) => {
                left.insert(domid);
                if links.remove(&domid).is_some() {
                    store.release(domid);
                    devices.vanish(store, domid);
                }
            }
            Input::Appear => done.changed = devices.appear(store, living),
            Input::Turn(domid, ref bytes, _) => {
                let Some(link) = links.get_mut(&domid) else { return Ok(Done::default()) };
                let taken = store.receive(domid, bytes)?;
                link.req_cons = link.req_cons.wrapping_add(u32::try_from(taken).unwrap_or(0));
                let mut door = Door { outside, introduced: None, released: Vec::new() };
                done.changed = store.turn(domid, &mut door) || taken != 0;
                let Door { introduced, released, .. } = door;
                done.introduced = introduced;
                if let Some((other, link)) = introduced {
                    left.remove(&other);
                    links.insert(other, link);
                }
                for other in released {
                    left.insert(other);
                    links.remove(&other);
                }
            }
            Input::Broken(domid, why) => {
                store.reset(domid);
                links.entry(domid).and_modify(|link| link.error = why);
            }
            Input::Reset(domid) => {
                store.reset(domid);
                links.entry(domid).and_modify(|link| *link = Link { port: link.port, ..Link::default() });
            }
            Input::Sent(domid, count) => {
                store.sent(domid, usize::try_from(count).unwrap_or(0));
                links.entry(domid).and_modify(|link| link.rsp_prod = link.rsp_prod.wrapping_add(count));
            }
        }
        Ok(done)
    }

    /// From the records of an earlier store.
    fn recover(records: &[Vec<u8>]) -> Option<Self> {
        let (snapshot, inputs) = records.split_first()?;
        let mut state: Self = postcard::from_bytes(snapshot).ok()?;
        for input in inputs {
            let input: Input = postcard::from_bytes(input).ok()?;
            let known = if let Input::Turn(_, _, introduced) = input { introduced } else { None };
            state.take(&input, &mut Past(known)).ok()?;
        }
        state.store.check().ok()?;
        Some(state)
    }
}

impl Service {
    /// Goes on where an earlier store ended, if `memory` tells; else begins with these devices. True: it goes on.
    #[must_use]
    pub fn new(devices: Devices, memory: Option<&'static [AtomicU64]>) -> (Self, bool) {
        let (journal, records) = memory.map(Journal::open).unzip();
        let earlier = records.and_then(|records| State::recover(&records));
        let goes_on = earlier.is_some();
        let state = earlier.unwrap_or_else(|| State {
            store: Store::new(Quota::DEFAULT),
            devices,
            links: BTreeMap::new(),
            left: BTreeSet::new(),
            living: Vec::new(),
        });
        let mut service = Self { state, journal, pause: 0, kept: true };
        service.kept = service.snapshot();
        (service, goes_on)
    }

    /// Takes an input in and records it. True when it changed anything.
    ///
    /// # Errors
    /// A message that cannot be understood: [`Input::Broken`] has to follow.
    pub fn take(&mut self, mut input: Input, outside: &mut dyn Outside) -> Result<bool, TooLong> {
        let done = self.state.take(&input, outside)?;
        if let Input::Turn(_, _, introduced) = &mut input {
            *introduced = done.introduced;
        }
        if done.changed {
            self.record(&input, outside);
        }
        Ok(done.changed)
    }

    fn record(&mut self, input: &Input, outside: &mut dyn Outside) {
        let Some(journal) = &mut self.journal else { return };
        self.pause = self.pause.saturating_sub(1);
        // Encoding into memory does not fail.
        let kept = postcard::to_allocvec(input).is_ok_and(|bytes| journal.append(&bytes));
        if kept || self.pause != 0 {
            return;
        }
        let kept = self.snapshot();
        if kept != self.kept {
            self.kept = kept;
            outside.print(if kept { FITS } else { TOO_LARGE });
        }
    }

    /// Keeps all of it, with the input that led here; false: it does not fit.
    fn snapshot(&mut self) -> bool {
        let Some(journal) = &mut self.journal else { return true };
        let kept = postcard::to_allocvec(&self.state).is_ok_and(|bytes| journal.begin(&bytes));
        self.pause = if kept { 0 } else { PAUSE };
        kept
    }

    /// The store, to look at.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.state.store
    }

    /// The connected domains.
    #[must_use]
    pub fn links(&self) -> &BTreeMap<u16, Link> {
        &self.state.links
    }

    /// Whether a domain is to be connected.
    #[must_use]
    pub fn is_new(&self, domid: u16) -> bool {
        !self.state.links.contains_key(&domid) && !self.state.left.contains(&domid)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString as _;
    use std::vec;

    use proptest::prelude::*;

    use super::super::journal::tests::memory;
    use super::super::wire::{Header, kind, message};
    use super::*;

    struct Nobody;
    impl Outside for Nobody {
        fn connect(&mut self, domid: u16, port: u32) -> Result<Link, Error> {
            if domid < 4 { Ok(Link { port, ..Link::default() }) } else { Err(Error::Inval) }
        }
        fn print(&mut self, _: &str) {}
    }

    fn handle(name: &str) -> [u8; 16] {
        core::array::from_fn(|at| name.as_bytes().get(at).copied().unwrap_or(0))
    }

    fn devices() -> Devices {
        Devices::parse("name=a vif=a:b vbd=a:b:/dev/ram0", handle).unwrap()
    }

    fn inputs() -> impl Strategy<Value = Input> {
        let request = (
            prop::sample::select(vec![
                kind::WRITE,
                kind::WATCH,
                kind::RM,
                kind::READ,
                kind::TRANSACTION_START,
                kind::TRANSACTION_END,
                kind::INTRODUCE,
                kind::RELEASE,
                kind::DIRECTORY,
            ]),
            0..3u32,
            prop::sample::select(vec![
                &b"data/a\0value"[..],
                b"data/a\0token\0",
                b"data\0",
                b"/local/domain/1/device/vif/0/state\x004",
                b"T\0",
                b"2\0",
                b"2\x000\x003\0",
                b"/\0all\0",
            ]),
        );
        let bytes = request
            .prop_map(|(kind, tx_id, payload)| message(Header { kind, req_id: 1, tx_id, len: 0 }, payload));
        let lives = vec![(0, handle("c")), (1, handle("a")), (2, handle("b"))];
        prop_oneof![
            // All of a message, or as much of it as a ring had.
            8 => (0..3u16, bytes, prop::option::of(1..20usize)).prop_map(|(domid, mut bytes, cut)| {
                bytes.truncate(cut.unwrap_or(bytes.len()));
                Input::Turn(domid, bytes, None)
            }),
            3 => (0..3u16, 1..200u32).prop_map(|(domid, count)| Input::Sent(domid, count)),
            2 => (0..3u16).prop_map(|domid| Input::Connected(domid, Link::default())),
            1 => prop::sample::subsequence(lives, 0..=3).prop_map(Input::Living),
            2 => Just(Input::Appear),
            1 => (0..3u16).prop_map(Input::Reset),
            1 => (0..3u16).prop_map(Input::Left),
            1 => (0..3u16).prop_map(Input::ShutDown),
        ]
    }

    proptest! {
        /// Wherever it ends, the next one is in the same state: also over snapshots, in memory that is soon full.
        #[test]
        fn the_next_store_knows_what_this_one_did(inputs in prop::collection::vec(inputs(), 1..120)) {
            let words = memory(4096);
            let (mut service, goes_on) = Service::new(devices(), Some(words));
            prop_assert!(!goes_on);
            for input in inputs {
                let mut input = input;
                // What the rings see to: no more bytes than a request lacks, and no more answers than there are.
                match &mut input {
                    Input::Turn(domid, bytes, _) => bytes.truncate(service.store().wants(*domid)),
                    Input::Sent(domid, count) => {
                        let most = service.store().output(*domid).len();
                        *count = (*count).min(u32::try_from(most).unwrap());
                    }
                    _ => {}
                }
                let broken = match &input { Input::Turn(domid, ..) => Some(*domid), _ => None };
                if service.take(input, &mut Nobody).is_err() {
                    service.take(Input::Broken(broken.unwrap(), 3), &mut Nobody).unwrap();
                }
                let found = State::recover(&Journal::open(words).1).expect("a state");
                prop_assert_eq!(
                    postcard::to_allocvec(&found).unwrap(),
                    postcard::to_allocvec(&service.state).unwrap()
                );
            }
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_not_found_and_later_is() {
        let words = memory(600);
        let (mut service, _) = Service::new(devices(), Some(words));
        service.take(Input::Connected(1, Link::default()), &mut Nobody).unwrap();
        let ask = |service: &mut Service, kind, payload: &[u8]| {
            let mut bytes = message(Header { kind, ..Header::default() }, payload);
            while !bytes.is_empty() {
                let part = bytes.drain(..service.store().wants(1).min(bytes.len())).collect();
                service.take(Input::Turn(1, part, None), &mut Nobody).unwrap();
            }
            let count = u32::try_from(service.store().output(1).len()).unwrap();
            service.take(Input::Sent(1, count), &mut Nobody).unwrap();
        };
        assert!(service.kept);
        for number in 0..4 {
            let write = [b"data/".as_slice(), number.to_string().as_bytes(), b"\0", &[7; 1000]].concat();
            ask(&mut service, kind::WRITE, &write);
        }
        assert!(!service.kept && !Service::new(devices(), Some(words)).1, "older than what is");
        for number in 0..4 {
            ask(
                &mut service,
                kind::RM,
                [b"data/".as_slice(), number.to_string().as_bytes(), b"\0"].concat().as_slice(),
            );
        }
        (0..PAUSE).for_each(|_| ask(&mut service, kind::MKDIR, b"data/x\0"));
        assert!(service.kept && Service::new(devices(), Some(words)).1);
    }
}
