//! Permissions of a node: the owner and what everybody else may, then exceptions by domain.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::wire::{Error, number};

/// May read.
pub const READ: u8 = 1;
/// May write.
pub const WRITE: u8 = 2;
/// May change permissions.
pub const OWNER: u8 = 4;

/// Who asks: a domain, and the domain it acts for (`SET_TARGET`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Who {
    /// The domain.
    pub id: u16,
    /// The domain whose permissions it has too.
    pub target: Option<u16>,
    /// It is the control domain, for which nothing is forbidden.
    pub privileged: bool,
}

impl Who {
    fn is(self, domid: u16) -> bool {
        self.id == domid || self.target == Some(domid)
    }
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Whose.
    pub domid: u16,
    /// [`READ`] and [`WRITE`].
    pub rights: u8,
}

impl Entry {
    /// From the wire: a letter and a number.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn parse(text: &str) -> Result<Self, Error> {
        let rights = match text.as_bytes().first() {
            Some(b'n') => 0,
            Some(b'r') => READ,
            Some(b'w') => WRITE,
            Some(b'b') => READ | WRITE,
            _ => return Err(Error::Inval),
        };
        Ok(Self { domid: number(&text[1..])?, rights })
    }

    /// For the wire, with its NUL.
    pub fn print(self, to: &mut Vec<u8>) {
        let letter = match self.rights & (READ | WRITE) {
            READ => 'r',
            WRITE => 'w',
            0 => 'n',
            _ => 'b',
        };
        to.extend_from_slice(alloc::format!("{letter}{}\0", self.domid).as_bytes());
    }
}

/// All entries of a node; the first is the owner's and says what those without an entry may.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Perms {
    first: Entry,
    others: Vec<Entry>,
}

impl Perms {
    /// An owner, and what everybody else may.
    #[must_use]
    pub const fn new(owner: u16, rights: u8) -> Self {
        Self { first: Entry { domid: owner, rights }, others: Vec::new() }
    }

    /// The same with another entry.
    #[must_use]
    pub fn and(mut self, domid: u16, rights: u8) -> Self {
        self.others.push(Entry { domid, rights });
        self
    }

    /// From entries.
    ///
    /// # Errors
    /// `EINVAL`: there is none.
    pub fn from_entries(entries: &[Entry]) -> Result<Self, Error> {
        let (first, others) = entries.split_first().ok_or(Error::Inval)?;
        Ok(Self { first: *first, others: others.to_vec() })
    }

    /// The owner.
    #[must_use]
    pub fn owner(&self) -> u16 {
        self.first.domid
    }

    /// The same with another owner.
    #[must_use]
    pub fn owned_by(mut self, owner: u16) -> Self {
        self.first.domid = owner;
        self
    }

    /// How many entries.
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        core::iter::once(self.first).chain(self.others.iter().copied())
    }

    /// What somebody may: the owner and the control domain everything, others what their entry says, who has
    /// none what the first says.
    #[must_use]
    pub fn of(&self, who: Who) -> u8 {
        if who.privileged || who.is(self.first.domid) {
            return READ | WRITE | OWNER;
        }
        self.others.iter().find(|entry| who.is(entry.domid)).map_or(self.first.rights, |entry| entry.rights)
    }

    /// Drops the entries of a domain that is gone; true if there were any.
    pub fn forget(&mut self, domid: u16) -> bool {
        let before = self.others.len();
        self.others.retain(|entry| entry.domid != domid);
        before != self.others.len()
    }
}
