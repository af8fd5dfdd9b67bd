//! The rings by which domains reach the store (`struct xenstore_domain_interface` of
//! `public/io/xs_wire.h`, `docs/misc/xenstore-ring.txt`), and the list of domains, from the hypervisor.
//!
//! Each domain has granted its ring to us under reference 1 and left the number of its port in the page. A
//! ring is memory of the client's: every index is read once and checked, our own two live here and are only
//! published there, bytes are copied before they are looked at. A client whose indices make no sense, or
//! whose message is too long, is told so in the page and heard no more until it asks to reconnect; the others
//! do not notice. One turn of a ring moves at most a ring's worth of bytes each way and does one request.

use alloc::{collections::BTreeMap, collections::BTreeSet, vec::Vec};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use hv::abi::domctl::{DomainInfo, info};
use hv::abi::event_channel::{self as evtchn, op};
use hv::abi::grant_table::{MapGrantRef, RESERVED_XENSTORE};
use hv::abi::sysctl::{DomainInfoList, GETDOMAININFOLIST, INTERFACE_VERSION, Sysctl};
use hv::abi::xen::{VIRQ_DOM_EXC, hypercall as number};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::devices::{Devices, Living};
use super::wire::Error;
use super::{Host, Store};
use crate::rt::memory::{hole, pointer};
use crate::rt::{events, grants, hypercall, size, wide};
use crate::say;

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

/// A mapped ring.
struct Ring {
    domid: u16,
    map: MapGrantRef,
    port: u32,
    req_cons: u32,
    rsp_prod: u32,
    broken: bool,
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

    fn give_up(&mut self, store: &mut Store, why: u32) {
        say!("store: d{} does not keep to the protocol (error {why})", self.domid);
        self.broken = true;
        store.reset(self.domid);
        self.word(at::ERROR).store(why, Ordering::Release);
    }

    fn reconnect(&mut self, store: &mut Store) {
        store.reset(self.domid);
        (self.req_cons, self.rsp_prod, self.broken) = (0, 0, false);
        for word in [at::REQ_CONS, at::REQ_PROD, at::RSP_CONS, at::RSP_PROD, at::ERROR] {
            self.word(word).store(0, Ordering::Relaxed);
        }
        self.word(at::CONNECTION).store(0, Ordering::Release);
    }

    /// One turn; true if anything moved.
    fn turn(&mut self, store: &mut Store, host: &mut Rings) -> bool {
        if self.word(at::CONNECTION).load(Ordering::Acquire) == 1 {
            self.reconnect(store);
            self.notify();
            return true;
        }
        if self.broken {
            return false;
        }
        let moved = match self.take(store) {
            Ok(taken) => {
                let done = store.turn(self.domid, host);
                self.give(store).map(|given| taken || done || given)
            }
            Err(why) => Err(why),
        };
        let moved = moved.unwrap_or_else(|why| {
            self.give_up(store, why);
            true
        });
        if moved {
            self.notify();
        }
        moved
    }

    /// Takes what the present request lacks.
    fn take(&mut self, store: &mut Store) -> Result<bool, u32> {
        let there = self.word(at::REQ_PROD).load(Ordering::Acquire).wrapping_sub(self.req_cons);
        if there > RING {
            return Err(BAD_INDEX);
        }
        let count = size(there.into()).min(store.wants(self.domid));
        let mut bytes = Vec::with_capacity(count);
        for index in (0..RING).take(count) {
            let place = size((self.req_cons.wrapping_add(index) % RING).into());
            bytes.push(self.byte(place).load(Ordering::Relaxed));
        }
        let taken = store.receive(self.domid, &bytes).map_err(|_| BAD_MESSAGE)?;
        self.req_cons = self.req_cons.wrapping_add(u32::try_from(taken).unwrap_or(0));
        self.word(at::REQ_CONS).store(self.req_cons, Ordering::Release);
        Ok(taken != 0)
    }

    /// Gives what fits of the answers.
    fn give(&mut self, store: &mut Store) -> Result<bool, u32> {
        let mut given = 0;
        // A client that reads as fast as we write has us once around at most.
        while given < RING {
            let full = self.rsp_prod.wrapping_sub(self.word(at::RSP_CONS).load(Ordering::Acquire));
            let room = RING.checked_sub(full).ok_or(BAD_INDEX)?;
            let bytes = store.output(self.domid);
            let count = bytes.len().min(size(room.into()));
            if count == 0 {
                break;
            }
            for (&byte, index) in bytes[..count].iter().zip(self.rsp_prod..) {
                self.byte(ANSWERS + size((index % RING).into())).store(byte, Ordering::Relaxed);
            }
            store.sent(self.domid, count);
            let count = u32::try_from(count).unwrap_or(0);
            given += count;
            self.rsp_prod = self.rsp_prod.wrapping_add(count);
            self.word(at::RSP_PROD).store(self.rsp_prod, Ordering::Release);
        }
        Ok(given != 0)
    }

    /// The other end may have closed its port: then nobody hears, and that is all.
    fn notify(&self) {
        let mut request = evtchn::Port { port: self.port };
        hypercall::op(number::EVENT_CHANNEL_OP, op::SEND, &mut request);
    }
}

/// All rings.
#[derive(Default)]
pub struct Rings {
    rings: BTreeMap<u16, Ring>,
    /// Domains that live, at the last look.
    living: Vec<Living>,
    /// Domains that are left alone: released by the control domain, or without a ring that works.
    left: BTreeSet<u16>,
    /// Addresses free for a mapping.
    places: Vec<u64>,
}

impl Host for Rings {
    fn introduce(&mut self, domid: u16, port: u32) -> Result<(), Error> {
        self.left.remove(&domid);
        self.connect(domid, Some(port))
    }

    fn release(&mut self, domid: u16) {
        self.left.insert(domid);
        self.disconnect(domid);
    }

    fn print(&mut self, line: &str) {
        say!("store: {line}");
    }
}

impl Rings {
    fn connect(&mut self, domid: u16, port: Option<u32>) -> Result<(), Error> {
        let place = self.places.pop().unwrap_or_else(|| hole(1));
        let mut batch = [grants::map_request(domid, RESERVED_XENSTORE, place, false)];
        grants::map(&mut batch);
        let [map] = batch;
        if map.status != 0 {
            self.places.push(place);
            return Err(Error::Inval);
        }
        let mut ring = Ring { domid, map, port: 0, req_cons: 0, rsp_prod: 0, broken: false };
        let offered = ring.word(at::PORT).load(Ordering::Acquire);
        // What was said before we came is answered: the indices go on from where they are.
        ring.req_cons = ring.word(at::REQ_CONS).load(Ordering::Acquire);
        ring.rsp_prod = ring.word(at::RSP_PROD).load(Ordering::Acquire);
        let mut request = evtchn::BindInterdomain {
            remote_dom: domid,
            pad: 0,
            remote_port: port.filter(|_| offered == 0).unwrap_or(offered),
            local_port: 0,
        };
        if hypercall::op(number::EVENT_CHANNEL_OP, op::BIND_INTERDOMAIN, &mut request) != 0 {
            self.unmap(&ring);
            return Err(Error::Inval);
        }
        ring.port = request.local_port;
        ring.word(at::FEATURES).store(FEATURES, Ordering::Release);
        events::unmask(ring.port);
        self.rings.insert(domid, ring);
        Ok(())
    }

    fn unmap(&mut self, ring: &Ring) {
        let mut batch = [grants::unmap_request(&ring.map)];
        grants::unmap(&mut batch);
        if batch[0].status == 0 {
            self.places.push(ring.map.host_addr);
        }
    }

    fn disconnect(&mut self, domid: u16) {
        if let Some(ring) = self.rings.remove(&domid) {
            events::close(ring.port);
            self.unmap(&ring);
        }
    }

    /// Follows the hypervisor's list of domains.
    fn follow(&mut self, store: &mut Store, devices: &mut Devices, own: u16) {
        let list = domains();
        let lives = list.iter().filter(|info| info.flags & info::DYING == 0);
        self.living = lives.map(|info| (info.domain, info.handle)).collect();
        let gone = |domid: u16| self.living.iter().all(|&(living, _)| living != domid);
        let ended: Vec<u16> = self.rings.keys().copied().filter(|&domid| gone(domid)).collect();
        // Their numbers may come back.
        self.left.retain(|&domid| !gone(domid));
        for domid in ended {
            self.disconnect(domid);
            store.release(domid);
            devices.vanish(store, domid);
        }
        for domain in &list {
            let domid = domain.domain;
            if domain.flags & info::SHUTDOWN != 0 {
                store.has_shut_down(domid);
            }
            let new = domid != own && !self.rings.contains_key(&domid) && !self.left.contains(&domid);
            if new && domain.flags & info::DYING == 0 {
                match self.connect(domid, None) {
                    Ok(()) => store.introduce(domid),
                    Err(_) => {
                        say!("store: d{domid} has no ring that works; it is left alone");
                        self.left.insert(domid);
                    }
                }
            }
        }
        devices.appear(store, &self.living);
    }

    /// One turn of every ring; true if anything moved.
    fn turn(&mut self, store: &mut Store) -> bool {
        let all: Vec<u16> = self.rings.keys().copied().collect();
        let mut moved = false;
        for domid in all {
            // Out of the map meanwhile: a request may release the one who made it.
            let Some(mut ring) = self.rings.remove(&domid) else { continue };
            moved |= ring.turn(store, self);
            if self.left.contains(&domid) {
                events::close(ring.port);
                self.unmap(&ring);
            } else {
                self.rings.insert(domid, ring);
            }
        }
        moved
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
pub fn serve(mut devices: Devices) -> ! {
    let own = hypercall::domid();
    grants::init(1);
    let mut store = Store::new(super::tree::Quota::DEFAULT);
    let mut rings = Rings::default();
    events::unmask(events::bind_virq(VIRQ_DOM_EXC));
    loop {
        // Any event may be that of the domains' list, and asking for it is cheap.
        rings.follow(&mut store, &mut devices, own);
        // A client that never has enough must not keep the ends of others from being seen.
        let busy = (0..TURNS).all(|_| rings.turn(&mut store));
        // What they did may have made room for a device.
        if !devices.appear(&mut store, &rings.living) && !busy {
            events::wait_upcall();
        }
    }
}
