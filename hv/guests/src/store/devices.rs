//! What a toolstack would write: names of domains and the nodes of virtual devices, as the store's command
//! line describes them.
//!
//! ```text
//! name=DOMAIN                the name of a domain
//! vif=FRONT:BACK             a network interface of domain FRONT, served by domain BACK
//! vbd=FRONT:BACK:FILE        a block device, served from a file or device of domain BACK
//! ```
//!
//! A domain is its name among the boot modules, or its number; `name=DOMID:TEXT` gives a number a name of its own.
//! Numbers are good for a domain's first life only: one that is built again has another. Interfaces and disks
//! of a frontend are numbered as they come, from 0. Their nodes are written when both ends are connected, the
//! frontend's first, both in state 1 (initialising).
//!
//! When one end goes, so do the other's nodes, by which Linux's drivers know that the device is gone; when it
//! comes back they are written anew. Drivers look at their nodes when they are told of a change, so a
//! frontend that has not seen the old ones go would take the new ones for them: it gets none before it has given up
//! its watches on the old backend. One that never does keeps itself without a device. Linux gives them up first
//! and says last that the device is closed (state 6, where there is a node to say it in), which may hit a new
//! node: a frontend that is closed and watches no backend gets its nodes anew.
#![forbid(unsafe_code)]

use alloc::{
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use serde::{Deserialize, Serialize};

use super::{
    Store, path,
    perms::{Perms, READ},
};

/// `XenbusStateClosed`
const CLOSED: &[u8] = b"6";
/// The first of Linux's `xvd` disks, and how far apart they are.
const FIRST_DISK: u32 = 51712;
const DISK_STEP: u32 = 16;
/// How many of them there are: `xvda` to `xvdp`.
const DISKS: u8 = 16;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Kind {
    Vif,
    Vbd { file: String },
}

/// A domain, as the command line has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Whom {
    Number(u16),
    Handle([u8; 16]),
}

/// What the hypervisor tells of a domain's name: its handle.
pub type HandleOf = fn(&str) -> [u8; 16];

/// A domain that lives: its number and its handle.
pub type Living = (u16, [u8; 16]);

impl Whom {
    fn parse(word: &str, handle_of: HandleOf) -> Option<Self> {
        match word.parse() {
            Ok(number) => Some(Self::Number(number)),
            Err(_) if word.is_empty() => None,
            Err(_) => Some(Self::Handle(handle_of(word))),
        }
    }

    /// Its number, if it is connected.
    fn find(&self, store: &Store, living: &[Living]) -> Option<u16> {
        let is = |&&(domid, ref handle): &&Living| match self {
            Self::Number(number) => *number == domid,
            Self::Handle(wanted) => wanted == handle,
        };
        living.iter().filter(|(domid, _)| store.is_introduced(*domid)).find(is).map(|&(domid, _)| domid)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Device {
    kind: Kind,
    front: Whom,
    back: Whom,
    number: u32,
    place: Place,
}

/// Where a device is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Place {
    /// One of its ends is missing.
    Nowhere,
    /// Its backend has gone; its frontend may not have let go of what was there.
    Left { front: u16, backend: String },
    /// Its nodes are written.
    There(Ends),
}

/// The numbers of a device's ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Ends {
    front: u16,
    back: u16,
}

/// One end of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Front,
    Back,
}

/// A name to be written, and for which number it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Name {
    whom: Whom,
    text: String,
    written: Option<u16>,
}

/// All that is described.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Devices {
    names: Vec<Name>,
    devices: Vec<Device>,
}

impl Devices {
    /// Reads a command line.
    ///
    /// # Errors
    /// The first word that is not understood.
    pub fn parse(line: &str, handle_of: HandleOf) -> Result<Self, &str> {
        let mut all = Self::default();
        for word in line.split_ascii_whitespace() {
            all.word(word, handle_of).ok_or(word)?;
        }
        Ok(all)
    }

    fn word(&mut self, word: &str, handle_of: HandleOf) -> Option<()> {
        let (what, value) = word.split_once('=')?;
        let (front, rest) = value.split_once(':').unwrap_or((value, ""));
        let whom = Whom::parse(front, handle_of)?;
        let kind = match what {
            "name" => {
                let text = match (&whom, rest) {
                    (Whom::Handle(_), "") => front,
                    (Whom::Number(_), text) if !text.is_empty() => text,
                    _ => return None,
                };
                self.names.push(Name { whom, text: text.to_string(), written: None });
                return Some(());
            }
            "vif" => Kind::Vif,
            "vbd" => Kind::Vbd { file: rest.split_once(':')?.1.to_string() },
            _ => return None,
        };
        let back = Whom::parse(rest.split(':').next()?, handle_of)?;
        let same = |device: &&Device| {
            device.front == whom && core::mem::discriminant(&device.kind) == core::mem::discriminant(&kind)
        };
        let number = u32::try_from(self.devices.iter().filter(same).count()).ok()?;
        if matches!(kind, Kind::Vbd { .. }) && number >= u32::from(DISKS) {
            return None;
        }
        self.devices.push(Device { kind, front: whom, back, number, place: Place::Nowhere });
        Some(())
    }

    /// Writes what can be written now; to be called when domains have come and when they have done something. True when
    /// anything has changed.
    pub fn appear(&mut self, store: &mut Store, living: &[Living]) -> bool {
        let mut wrote = false;
        for name in &mut self.names {
            let now = name.whom.find(store, living);
            if let Some(domid) = now.filter(|_| now != name.written) {
                let perms = Perms::new(0, 0).and(domid, READ);
                store.keep(&path::child(&path::home(domid), "name"), name.text.as_bytes(), &perms);
                name.written = now;
                wrote = true;
            }
        }
        for device in &mut self.devices {
            match &device.place {
                &Place::There(ends) => {
                    if device.is_closed(ends, store)
                        && !store.watches_below(ends.front, &device.backend(ends))
                    {
                        store.discard(&device.frontend(ends));
                        device.write(ends, &[Side::Front], store);
                        wrote = true;
                    }
                    continue;
                }
                Place::Left { front, backend } if store.watches_below(*front, backend) => continue,
                Place::Left { .. } => {
                    device.place = Place::Nowhere;
                    wrote = true;
                }
                Place::Nowhere => {}
            }
            let ends = (device.front.find(store, living), device.back.find(store, living));
            if let (Some(front), Some(back)) = ends {
                let ends = Ends { front, back };
                device.place = Place::There(ends);
                device.write(ends, &[Side::Front, Side::Back], store);
                wrote = true;
            }
        }
        wrote
    }

    /// Removes what a domain's end leaves in others; to be called when it has gone.
    pub fn vanish(&mut self, store: &mut Store, domid: u16) {
        for name in self.names.iter_mut().filter(|name| name.written == Some(domid)) {
            name.written = None;
        }
        for device in &mut self.devices {
            device.place = match &device.place {
                &Place::There(ends) if ends.front == domid => {
                    store.discard(&device.backend(ends));
                    Place::Nowhere
                }
                &Place::There(ends) if ends.back == domid => {
                    store.discard(&device.frontend(ends));
                    Place::Left { front: ends.front, backend: device.backend(ends) }
                }
                Place::Left { front, .. } if *front == domid => Place::Nowhere,
                _ => continue,
            };
        }
    }
}

impl Device {
    fn class(&self) -> &'static str {
        match self.kind {
            Kind::Vif => "vif",
            Kind::Vbd { .. } => "vbd",
        }
    }

    /// The last part of its paths.
    fn id(&self) -> u32 {
        match self.kind {
            Kind::Vif => self.number,
            Kind::Vbd { .. } => FIRST_DISK + DISK_STEP * self.number,
        }
    }

    fn frontend(&self, ends: Ends) -> String {
        format!("{}/device/{}/{}", path::home(ends.front), self.class(), self.id())
    }

    fn backend(&self, ends: Ends) -> String {
        format!("{}/backend/{}/{}/{}", path::home(ends.back), self.class(), ends.front, self.id())
    }

    /// Whether the frontend says that it is closed.
    fn is_closed(&self, ends: Ends, store: &Store) -> bool {
        store
            .tree()
            .get(&path::child(&self.frontend(ends), "state"))
            .is_some_and(|node| *node.value == *CLOSED)
    }

    fn write(&self, ends: Ends, wanted: &[Side], store: &mut Store) {
        let (frontend, backend) = (self.frontend(ends), self.backend(ends));
        let Ends { front: front_id, back: back_id } = ends;
        let mut front = Vec::from([
            ("backend", backend.clone()),
            ("backend-id", back_id.to_string()),
            ("state", "1".to_string()),
        ]);
        let mut back = Vec::from([
            ("frontend", frontend.clone()),
            ("frontend-id", front_id.to_string()),
            ("online", "1".to_string()),
            ("state", "1".to_string()),
        ]);
        match &self.kind {
            Kind::Vif => {
                let [high, low] = front_id.to_be_bytes();
                let mac = format!("00:16:3e:{high:02x}:{low:02x}:{:02x}", self.number % 256);
                for side in [&mut front, &mut back] {
                    side.push(("handle", self.number.to_string()));
                    side.push(("mac", mac.clone()));
                }
                // xen-netback does not begin without one; it goes to the backend domain's udev rules.
                back.push(("script", "/etc/xen/scripts/vif-bridge".to_string()));
            }
            Kind::Vbd { file } => {
                let id = self.id().to_string();
                front.extend([("virtual-device", id), ("device-type", "disk".to_string())]);
                back.extend([
                    ("params", file.clone()),
                    // xen-blkback names its thread after it.
                    ("dev", format!("xvd{}", disk_letter(self.number))),
                    ("mode", "w".to_string()),
                    ("device-type", "disk".to_string()),
                ]);
            }
        }
        let sides = [
            (Side::Front, frontend, front, front_id, back_id),
            (Side::Back, backend, back, back_id, front_id),
        ];
        for (_, at, nodes, owner, reader) in sides.into_iter().filter(|(side, ..)| wanted.contains(side)) {
            let perms = Perms::new(owner, 0).and(reader, READ);
            store.keep(&at, b"", &perms);
            for (leaf, value) in nodes {
                store.keep(&path::child(&at, leaf), value.as_bytes(), &perms);
            }
        }
    }
}

/// The last letter of a disk's name; its number is below [`DISKS`].
fn disk_letter(number: u32) -> char {
    char::from(b'a' + u8::try_from(number).unwrap_or(0) % DISKS)
}

#[cfg(test)]
mod tests {
    use super::super::tree::Quota;
    use super::*;

    fn handle(name: &str) -> [u8; 16] {
        core::array::from_fn(|at| name.as_bytes().get(at).copied().unwrap_or(0))
    }

    fn parse(line: &str) -> Result<Devices, &str> {
        Devices::parse(line, handle)
    }

    fn value(store: &Store, at: &str) -> Option<String> {
        let node = store.tree().get(at)?;
        Some(core::str::from_utf8(&node.value).unwrap().to_string())
    }

    #[test]
    fn devices_appear_with_both_ends_and_go_with_the_frontend() {
        let mut store = Store::new(Quota::DEFAULT);
        let living = [(1, [1; 16]), (2, [2; 16])];
        let mut devices = parse("vif=2:1 name=2:web vif=2:1 vbd=2:1:/dev/ram0").unwrap();
        store.introduce(2);
        devices.appear(&mut store, &living);
        assert_eq!(value(&store, "/local/domain/2/name").as_deref(), Some("web"));
        assert_eq!(value(&store, "/local/domain/2/device/vif/0/state"), None);
        store.introduce(1);
        devices.appear(&mut store, &living);
        let get = |at: &str| value(&store, at);
        assert_eq!(get("/local/domain/2/device/vif/1/backend").unwrap(), "/local/domain/1/backend/vif/2/1");
        assert_eq!(get("/local/domain/1/backend/vif/2/1/mac").unwrap(), "00:16:3e:00:02:01");
        assert!(get("/local/domain/1/backend/vif/2/1/script").is_some());
        assert_eq!(get("/local/domain/1/backend/vbd/2/51712/params").unwrap(), "/dev/ram0");
        assert_eq!(get("/local/domain/1/backend/vbd/2/51712/dev").unwrap(), "xvda");
        assert_eq!(get("/local/domain/2/device/vbd/51712/virtual-device").unwrap(), "51712");
        let node = store.tree().get("/local/domain/1/backend/vif/2/0/state").unwrap();
        assert_eq!(*node.perms, Perms::new(1, 0).and(2, READ));
        store.release(2);
        devices.vanish(&mut store, 2);
        assert_eq!(value(&store, "/local/domain/1/backend/vif/2/0"), None);
        store.check().unwrap();
    }

    /// A request of a client, and what it is answered.
    fn ask(store: &mut Store, domid: u16, kind: u32, payload: &[u8]) -> Vec<u8> {
        struct Nobody;
        impl super::super::Host for Nobody {
            fn introduce(&mut self, _: u16, _: u32) -> Result<(), super::super::wire::Error> {
                Ok(())
            }
            fn release(&mut self, _: u16) {}
            fn print(&mut self, _: &str) {}
        }
        let header = super::super::wire::Header { kind, req_id: 0, tx_id: 0, len: 0 };
        let mut message = super::super::wire::message(header, payload);
        while !message.is_empty() {
            let taken = store.receive(domid, &message).unwrap();
            message.drain(..taken);
            store.turn(domid, &mut Nobody);
        }
        let mut answer = Vec::new();
        loop {
            let bytes = store.output(domid).to_vec();
            if bytes.is_empty() {
                return answer;
            }
            store.sent(domid, bytes.len());
            answer.extend(bytes);
        }
    }

    #[test]
    fn names_find_a_domain_under_its_next_number() {
        let mut store = Store::new(Quota::DEFAULT);
        let mut devices = parse("name=web vif=web:driver vbd=web:driver:/dev/ram0").unwrap();
        let (web, driver) = (handle("web"), handle("driver"));
        store.introduce(3);
        store.introduce(4);
        devices.appear(&mut store, &[(3, driver), (4, web)]);
        assert_eq!(value(&store, "/local/domain/4/name").as_deref(), Some("web"));
        assert!(value(&store, "/local/domain/3/backend/vif/4/0/state").is_some());
        // The frontend dies and comes back as 5.
        store.release(4);
        devices.vanish(&mut store, 4);
        assert_eq!(value(&store, "/local/domain/3/backend/vbd/4/51712"), None);
        devices.appear(&mut store, &[(3, driver)]);
        store.introduce(5);
        devices.appear(&mut store, &[(3, driver), (5, web)]);
        assert_eq!(value(&store, "/local/domain/5/name").as_deref(), Some("web"));
        assert_eq!(value(&store, "/local/domain/3/backend/vif/5/0/state").as_deref(), Some("1"));
        store.check().unwrap();
    }

    #[test]
    fn a_backend_that_comes_back_waits_for_the_frontend_to_let_go() {
        use super::super::wire::kind;
        let mut store = Store::new(Quota::DEFAULT);
        let mut devices = parse("vif=web:driver").unwrap();
        let (web, driver) = (handle("web"), handle("driver"));
        store.introduce(3);
        store.introduce(4);
        devices.appear(&mut store, &[(3, driver), (4, web)]);
        let watch = b"/local/domain/3/backend/vif/4/0/state\0token\0";
        assert!(!ask(&mut store, 4, kind::WATCH, watch).is_empty());
        store.release(3);
        devices.vanish(&mut store, 3);
        assert_eq!(value(&store, "/local/domain/4/device/vif/0"), None, "the frontend sees it go");
        store.introduce(6);
        devices.appear(&mut store, &[(4, web), (6, driver)]);
        assert_eq!(value(&store, "/local/domain/4/device/vif/0"), None, "the old watch is still there");
        ask(&mut store, 4, kind::UNWATCH, watch);
        devices.appear(&mut store, &[(4, web), (6, driver)]);
        assert_eq!(value(&store, "/local/domain/4/device/vif/0/backend-id").as_deref(), Some("6"));
        assert_eq!(
            value(&store, "/local/domain/6/backend/vif/4/0/frontend").as_deref(),
            Some("/local/domain/4/device/vif/0")
        );
        store.check().unwrap();
    }

    #[test]
    fn a_frontend_that_closes_a_new_device_gets_it_again() {
        use super::super::wire::kind;
        let mut store = Store::new(Quota::DEFAULT);
        let mut devices = parse("vif=web:driver").unwrap();
        let living = [(3, handle("driver")), (4, handle("web"))];
        store.introduce(3);
        store.introduce(4);
        assert!(devices.appear(&mut store, &living));
        let (front, back) = ("/local/domain/4/device/vif/0/state", "/local/domain/3/backend/vif/4/0/state");
        ask(&mut store, 3, kind::WRITE, format!("{back}\x002").as_bytes());
        ask(&mut store, 4, kind::WRITE, format!("{front}\x006").as_bytes());
        assert!(devices.appear(&mut store, &living));
        assert_eq!(value(&store, front).as_deref(), Some("1"));
        assert_eq!(value(&store, back).as_deref(), Some("2"), "the backend's side is as it was");
        assert!(!devices.appear(&mut store, &living));
        // One that still has to do with its backend closes for good.
        ask(&mut store, 4, kind::WATCH, format!("{back}\0token\0").as_bytes());
        ask(&mut store, 4, kind::WRITE, format!("{front}\x006").as_bytes());
        assert!(!devices.appear(&mut store, &living));
        assert_eq!(value(&store, front).as_deref(), Some("6"));
        store.check().unwrap();
    }

    #[test]
    fn disks_have_letters_and_an_end() {
        assert_eq!((disk_letter(0), disk_letter(15)), ('a', 'p'));
        let disks = |count| ["vbd=2:1:/dev/ram0 "; 17][..count].concat();
        assert!(parse(&disks(16)).is_ok() && parse(&disks(17)).is_err());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for line in
            ["vif", "vif=1", "vif=1:", "vif=:1", "vbd=1:2", "colour=1:2", "name=x:y", "name=1", "name="]
        {
            assert_eq!(parse(line), Err(line));
        }
    }
}
