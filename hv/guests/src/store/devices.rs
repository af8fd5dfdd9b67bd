//! What a toolstack would write: names of domains and the nodes of virtual devices, as the store's command
//! line describes them.
//!
//! ```text
//! name=DOMID:TEXT            the name of a domain
//! vif=FRONT:BACK             a network interface of domain FRONT, served by domain BACK
//! vbd=FRONT:BACK:FILE        a block device, served from a file or device of domain BACK
//! ```
//!
//! Interfaces and disks of a frontend are numbered as they come, from 0. Their nodes are written when both
//! ends are connected, the frontend's first, both in state 1 (initialising); the backend's go when the
//! frontend's domain does.
#![forbid(unsafe_code)]

use alloc::{
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use super::{
    Store, path,
    perms::{Perms, READ},
};

/// The first of Linux's `xvd` disks, and how far apart they are.
const FIRST_DISK: u32 = 51712;
const DISK_STEP: u32 = 16;
/// How many of them there are: `xvda` to `xvdp`.
const DISKS: u8 = 16;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Vif,
    Vbd { file: String },
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Device {
    kind: Kind,
    front: u16,
    back: u16,
    number: u32,
    present: bool,
}

/// All that is described.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Devices {
    names: Vec<(u16, String)>,
    devices: Vec<Device>,
}

impl Devices {
    /// Reads a command line.
    ///
    /// # Errors
    /// The first word that is not understood.
    pub fn parse(line: &str) -> Result<Self, &str> {
        let mut all = Self::default();
        for word in line.split_ascii_whitespace() {
            all.word(word).ok_or(word)?;
        }
        Ok(all)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let (what, value) = word.split_once('=')?;
        let (front, rest) = value.split_once(':')?;
        let front: u16 = front.parse().ok()?;
        let kind = match what {
            "name" => {
                self.names.push((front, rest.to_string()));
                return Some(());
            }
            "vif" => Kind::Vif,
            "vbd" => Kind::Vbd { file: rest.split_once(':')?.1.to_string() },
            _ => return None,
        };
        let back = rest.split(':').next()?.parse().ok()?;
        let same = |device: &&Device| {
            device.front == front && core::mem::discriminant(&device.kind) == core::mem::discriminant(&kind)
        };
        let number = u32::try_from(self.devices.iter().filter(same).count()).ok()?;
        if matches!(kind, Kind::Vbd { .. }) && number >= u32::from(DISKS) {
            return None;
        }
        self.devices.push(Device { kind, front, back, number, present: false });
        Some(())
    }

    /// Writes what can be written now; to be called when domains have come.
    pub fn appear(&mut self, store: &mut Store) {
        self.names.retain(|(domid, name)| {
            let there = store.is_introduced(*domid);
            if there {
                let perms = Perms::new(0, 0).and(*domid, READ);
                store.keep(&path::child(&path::home(*domid), "name"), name.as_bytes(), &perms);
            }
            !there
        });
        for device in &mut self.devices {
            if !device.present && store.is_introduced(device.front) && store.is_introduced(device.back) {
                device.present = true;
                device.write(store);
            }
        }
    }

    /// Removes what a domain's end leaves in others; to be called when it has gone.
    pub fn vanish(&mut self, store: &mut Store, domid: u16) {
        for device in self.devices.iter_mut().filter(|device| device.present) {
            if device.front == domid {
                store.discard(&device.backend());
            }
            if device.front == domid || device.back == domid {
                device.present = false;
            }
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

    fn frontend(&self) -> String {
        format!("{}/device/{}/{}", path::home(self.front), self.class(), self.id())
    }

    fn backend(&self) -> String {
        format!("{}/backend/{}/{}/{}", path::home(self.back), self.class(), self.front, self.id())
    }

    fn write(&self, store: &mut Store) {
        let (frontend, backend) = (self.frontend(), self.backend());
        let mut front = Vec::from([
            ("backend", backend.clone()),
            ("backend-id", self.back.to_string()),
            ("state", "1".to_string()),
        ]);
        let mut back = Vec::from([
            ("frontend", frontend.clone()),
            ("frontend-id", self.front.to_string()),
            ("online", "1".to_string()),
            ("state", "1".to_string()),
        ]);
        match &self.kind {
            Kind::Vif => {
                let [high, low] = self.front.to_be_bytes();
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
        let sides = [(frontend, front, self.front, self.back), (backend, back, self.back, self.front)];
        for (at, nodes, owner, reader) in sides {
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

    fn value(store: &Store, at: &str) -> Option<String> {
        let node = store.tree().get(at)?;
        Some(core::str::from_utf8(&node.value).unwrap().to_string())
    }

    #[test]
    fn devices_appear_with_both_ends_and_go_with_the_frontend() {
        let mut store = Store::new(Quota::DEFAULT);
        let mut devices = Devices::parse("vif=2:1 name=2:web vif=2:1 vbd=2:1:/dev/ram0").unwrap();
        store.introduce(2);
        devices.appear(&mut store);
        assert_eq!(value(&store, "/local/domain/2/name").as_deref(), Some("web"));
        assert_eq!(value(&store, "/local/domain/2/device/vif/0/state"), None);
        store.introduce(1);
        devices.appear(&mut store);
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

    #[test]
    fn disks_have_letters_and_an_end() {
        assert_eq!((disk_letter(0), disk_letter(15)), ('a', 'p'));
        let disks = |count| ["vbd=2:1:/dev/ram0 "; 17][..count].concat();
        assert!(Devices::parse(&disks(16)).is_ok() && Devices::parse(&disks(17)).is_err());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for line in ["vif", "vif=1", "vif=1:x", "vbd=1:2", "colour=1:2", "name=x:y"] {
            assert_eq!(Devices::parse(line), Err(line));
        }
    }
}
