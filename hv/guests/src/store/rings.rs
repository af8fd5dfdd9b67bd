//! The rings by which domains reach the store (`struct xenstore_domain_interface` of
//! `public/io/xs_wire.h`, `docs/misc/xenstore-ring.txt`), and the list of domains, from the hypervisor.
//!
//! Each domain has granted its ring to us under reference 1 and left the number of its port in the page. A
//! ring is memory of the client's: every index is read once and checked; our own two live in the state and are only
//! published there, at the end of a turn, when what led to them is on record ([`service`](super::service)); bytes are
//! copied before they are looked at. A client whose indices make no sense, or whose message is too long, is told so in
//! the page and heard no more until it asks to reconnect; the others do not notice. One turn of a ring moves at most a
//! ring's worth of bytes each way and does one request.

use alloc::{collections::BTreeMap, vec::Vec};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use hv::abi::domctl::{DomainInfo, info};
use hv::abi::event_channel::{self as evtchn, op};
use hv::abi::grant_table::{MapGrantRef, RESERVED_XENSTORE};
use hv::abi::sysctl::{DomainInfoList, GETDOMAININFOLIST, INTERFACE_VERSION, Sysctl};
use hv::abi::xen::{VIRQ_DOM_EXC, hypercall as number};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::devices::Devices;
use super::service::{Input, Link, Outside, Service};
use super::wire::Error;
use crate::rt::memory::{hole, kept, pointer};
use crate::rt::{events, grants, hypercall, size, wide};
use crate::{fail, say};

/// Bytes of each half of a ring.
const RING: u32 = 1024;
/// Where the answers stand in the page.
const ANSWERS: usize = 1024;

/// Words of the page.
mod at {
    pub const REQ_CONS: usize = 2048;
    pub const REQ_PROD: usize = 2052;
    pub const RSP_CONS: usize = 2056;
    pub const RSP_PROD: usize = 2060;
    pub const FEATURES: usize = 2064;
    pub const CONNECTION: usize = 2068;
    pub const ERROR: usize = 2072;
    pub const PORT: usize = 2076;
}

/// `XENSTORE_SERVER_FEATURE_RECONNECTION`, `XENSTORE_SERVER_FEATURE_ERROR`
const FEATURES: u32 = 1 | 2;
/// `XENSTORE_ERROR_RINGIDX`, `XENSTORE_ERROR_PROTO`
const BAD_INDEX: u32 = 2;
const BAD_MESSAGE: u32 = 3;
/// Turns of all rings between two looks at the list of domains.
const TURNS: u32 = 64;
/// More domains than any machine of ours has.
const MOST_DOMAINS: usize = 128;

/// A mapped ring. How far it is stands in the state ([`Link`]).
struct Ring {
    map: MapGrantRef,
    /// Our port.
    port: u32,
}

impl Ring {
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the page is mapped as long as this value lives, and everyone reaches it by atomics.
        unsafe { &*pointer(self.map.host_addr).wrapping_add(offset).cast() }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: as above.
        unsafe { &*pointer(self.map.host_addr).wrapping_add(offset).cast() }
    }

    /// Copies what the present request lacks.
    fn fetch(&self, link: &Link, wanted: usize) -> Result<Vec<u8>, u32> {
        let there = self.word(at::REQ_PROD).load(Ordering::Acquire).wrapping_sub(link.req_cons);
        if there > RING {
            return Err(BAD_INDEX);
        }
        let byte = |index: u32| {
            let place = size((link.req_cons.wrapping_add(index) % RING).into());
            self.byte(place).load(Ordering::Relaxed)
        };
        Ok((0..there).take(wanted).map(byte).collect())
    }

    /// Copies what fits of these bytes, and tells how many that were. The client does not see them yet.
    fn put(&self, link: &Link, bytes: &[u8]) -> Result<u32, u32> {
        let full = link.rsp_prod.wrapping_sub(self.word(at::RSP_CONS).load(Ordering::Acquire));
        let room = RING.checked_sub(full).ok_or(BAD_INDEX)?;
        for (&byte, index) in bytes.iter().zip(0..room) {
            let place = ANSWERS + size((link.rsp_prod.wrapping_add(index) % RING).into());
            self.byte(place).store(byte, Ordering::Relaxed);
        }
        Ok(room.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
    }

    /// Shows the client how far we are, and why no further.
    fn publish(&self, link: &Link) {
        self.word(at::REQ_CONS).store(link.req_cons, Ordering::Release);
        self.word(at::RSP_PROD).store(link.rsp_prod, Ordering::Release);
        if link.error != 0 {
            self.word(at::ERROR).store(link.error, Ordering::Release);
        }
    }

    /// The other end may have closed its port: then nobody hears, and that is all.
    fn notify(&self) {
        let mut request = evtchn::Port { port: self.port };
        hypercall::op(number::EVENT_CHANNEL_OP, op::SEND, &mut request);
    }
}

/// All rings.
#[derive(Default)]
struct Rings {
    rings: BTreeMap<u16, Ring>,
    /// Addresses free for a mapping.
    places: Vec<u64>,
}

impl Outside for Rings {
    fn connect(&mut self, domid: u16, port: u32) -> Result<Link, Error> {
        self.open(domid, Some(port))
    }

    fn print(&mut self, line: &str) {
        say!("store: {line}");
    }
}

impl Rings {
    /// Connects a domain that is new.
    fn open(&mut self, domid: u16, port: Option<u32>) -> Result<Link, Error> {
        let map = self.map(domid).ok_or(Error::Inval)?;
        let ring = Ring { map, port: 0 };
        let offered = ring.word(at::PORT).load(Ordering::Acquire);
        let link = Link {
            port: port.filter(|_| offered == 0).unwrap_or(offered),
            // What was said before we came is answered: the indices go on from where they are.
            req_cons: ring.word(at::REQ_CONS).load(Ordering::Acquire),
            rsp_prod: ring.word(at::RSP_PROD).load(Ordering::Acquire),
            error: 0,
        };
        self.bind(domid, ring, link.port)?;
        Ok(link)
    }

    /// Connects a domain that an earlier store knew.
    fn resume(&mut self, domid: u16, link: &Link) -> Result<(), Error> {
        let map = self.map(domid).ok_or(Error::Inval)?;
        let ring = self.bind(domid, Ring { map, port: 0 }, link.port)?;
        ring.publish(link);
        ring.notify();
        Ok(())
    }

    fn map(&mut self, domid: u16) -> Option<MapGrantRef> {
        let place = self.places.pop().unwrap_or_else(|| hole(1));
        let mut batch = [grants::map_request(domid, RESERVED_XENSTORE, place, false)];
        grants::map(&mut batch);
        let [map] = batch;
        if map.status != 0 {
            self.places.push(place);
            return None;
        }
        Some(map)
    }

    fn bind(&mut self, domid: u16, mut ring: Ring, remote_port: u32) -> Result<&Ring, Error> {
        let mut request = evtchn::BindInterdomain { remote_dom: domid, pad: 0, remote_port, local_port: 0 };
        if hypercall::op(number::EVENT_CHANNEL_OP, op::BIND_INTERDOMAIN, &mut request) != 0 {
            self.unmap(&ring);
            return Err(Error::Inval);
        }
        ring.port = request.local_port;
        ring.word(at::FEATURES).store(FEATURES, Ordering::Release);
        events::unmask(ring.port);
        if let Some(old) = self.rings.remove(&domid) {
            self.shut(&old);
        }
        Ok(self.rings.entry(domid).or_insert(ring))
    }

    fn unmap(&mut self, ring: &Ring) {
        let mut batch = [grants::unmap_request(&ring.map)];
        grants::unmap(&mut batch);
        if batch[0].status == 0 {
            self.places.push(ring.map.host_addr);
        }
    }

    fn shut(&mut self, ring: &Ring) {
        events::close(ring.port);
        self.unmap(ring);
    }

    /// Lets go of rings that lead to no client any more.
    fn sweep(&mut self, service: &Service) {
        let stale = |domid: &&u16| !service.links().contains_key(domid);
        let gone: Vec<u16> = self.rings.keys().filter(stale).copied().collect();
        for ring in gone.iter().filter_map(|domid| self.rings.remove(domid)).collect::<Vec<_>>() {
            self.shut(&ring);
        }
    }

    /// An input that is well formed.
    fn tell(&mut self, service: &mut Service, input: Input) -> bool {
        service.take(input, self).unwrap_or_else(|_| fail!("the store does not understand itself"))
    }

    /// Follows the hypervisor's list of domains.
    fn follow(&mut self, service: &mut Service, own: u16) {
        let list = domains();
        let lives = list.iter().filter(|info| info.flags & info::DYING == 0);
        self.tell(service, Input::Living(lives.map(|info| (info.domain, info.handle)).collect()));
        self.sweep(service);
        for domain in &list {
            let domid = domain.domain;
            if domain.flags & info::SHUTDOWN != 0 {
                self.tell(service, Input::ShutDown(domid));
            }
            if domid == own || domain.flags & info::DYING != 0 || self.rings.contains_key(&domid) {
                continue;
            }
            let known = service.links().get(&domid).copied();
            let input = match known {
                Some(link) if self.resume(domid, &link).is_ok() => continue,
                None if !service.is_new(domid) => continue,
                None if let Ok(link) = self.open(domid, None) => Input::Connected(domid, link),
                _ => {
                    say!("store: d{domid} has no ring that works; it is left alone");
                    Input::Left(domid)
                }
            };
            self.tell(service, input);
        }
        self.tell(service, Input::Appear);
    }

    /// One turn of every ring; true if anything moved.
    fn turn(&mut self, service: &mut Service) -> bool {
        let all: Vec<u16> = self.rings.keys().copied().collect();
        let mut moved = false;
        for domid in all {
            // Whoever has it may have released it in this turn.
            let Some(&link) = service.links().get(&domid) else { continue };
            moved |= self.turn_of(service, domid, link);
        }
        self.sweep(service);
        moved
    }

    /// One turn of a ring: what is published is recorded before.
    fn turn_of(&mut self, service: &mut Service, domid: u16, link: Link) -> bool {
        let Some(ring) = self.rings.get(&domid) else { return false };
        if ring.word(at::CONNECTION).load(Ordering::Acquire) == 1 {
            self.tell(service, Input::Reset(domid));
            if let Some(ring) = self.rings.get(&domid) {
                for word in [at::REQ_CONS, at::REQ_PROD, at::RSP_CONS, at::RSP_PROD, at::ERROR] {
                    ring.word(word).store(0, Ordering::Relaxed);
                }
                ring.word(at::CONNECTION).store(0, Ordering::Release);
                ring.notify();
            }
            return true;
        }
        if link.error != 0 {
            return false;
        }
        let moved = self.take(service, domid, link).and_then(|taken| Ok(self.give(service, domid)? || taken));
        match moved {
            Ok(false) => return false,
            Ok(true) => {}
            Err(why) => {
                say!("store: d{domid} does not keep to the protocol (error {why})");
                self.tell(service, Input::Broken(domid, why));
            }
        }
        if let (Some(ring), Some(link)) = (self.rings.get(&domid), service.links().get(&domid)) {
            ring.publish(link);
            ring.notify();
        }
        true
    }

    /// Takes what the present request lacks, and does it if it is complete.
    fn take(&mut self, service: &mut Service, domid: u16, link: Link) -> Result<bool, u32> {
        let Some(ring) = self.rings.get(&domid) else { return Ok(false) };
        let bytes = ring.fetch(&link, service.store().wants(domid))?;
        service.take(Input::Turn(domid, bytes, None), self).map_err(|_| BAD_MESSAGE)
    }

    /// Gives what fits of the answers.
    fn give(&mut self, service: &mut Service, domid: u16) -> Result<bool, u32> {
        let (Some(ring), Some(link)) = (self.rings.get(&domid), service.links().get(&domid)) else {
            return Ok(false);
        };
        let count = ring.put(link, service.store().output(domid))?;
        if count != 0 {
            self.tell(service, Input::Sent(domid, count));
        }
        Ok(count != 0)
    }
}

/// The hypervisor's list.
fn domains() -> Vec<DomainInfo> {
    let mut list = alloc::vec![DomainInfo::new_zeroed(); MOST_DOMAINS];
    let request = DomainInfoList {
        max_domains: u32::try_from(list.len()).unwrap_or(0),
        buffer: wide(list.as_mut_ptr().addr()),
        ..DomainInfoList::new_zeroed()
    };
    let mut sysctl =
        Sysctl { cmd: GETDOMAININFOLIST, interface_version: INTERFACE_VERSION, ..Sysctl::new_zeroed() };
    sysctl.u.as_mut_bytes()[..size_of::<DomainInfoList>()].copy_from_slice(request.as_bytes());
    let address = wide((&raw mut sysctl).addr());
    // SAFETY: the structure and the list it points to are ours, and any bytes are good for both.
    let result = unsafe { hypercall::call(number::SYSCTL, [address, 0, 0, 0, 0]) };
    events::check("XEN_SYSCTL_getdomaininfolist", result);
    let [_, _, count, ..] = sysctl.u;
    list.truncate(size(count & 0xffff_ffff));
    list
}

/// Serves for ever.
pub fn serve(devices: Devices) -> ! {
    let own = hypercall::domid();
    grants::init(1);
    let (mut service, goes_on) = Service::new(devices, kept());
    if goes_on {
        say!("store: goes on, with {} clients", service.links().len());
    } else {
        say!("store: serving");
    }
    let mut rings = Rings::default();
    events::unmask(events::bind_virq(VIRQ_DOM_EXC));
    loop {
        // Any event may be that of the domains' list, and asking for it is cheap.
        rings.follow(&mut service, own);
        // A client that never has enough must not keep the ends of others from being seen.
        let busy = (0..TURNS).all(|_| rings.turn(&mut service));
        // What they did may have made room for a device.
        if !rings.tell(&mut service, Input::Appear) && !busy {
            events::wait_upcall();
        }
    }
}
