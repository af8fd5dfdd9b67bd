//! The guests' command lines: words `name=value`, the same for every guest that takes them.
//!
//! `cargo xtask netback` writes them; a word or value that is not understood ends the guest with `@fail`.
#![forbid(unsafe_code)]

use core::fmt;

use crate::cut::Class;

/// Kinds of traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// Frontend to backend, frames of at most 128 bytes: copied whole.
    TxSmall,
    /// Frontend to backend, aggregates: headers copied, the rest mapped.
    TxBulk,
    /// Backend to frontend, frames of 129 to 1514 bytes.
    RxMtu,
    /// Backend to frontend, aggregates.
    RxGro,
    /// Frontend to frontend, aggregates, copied from grant to grant by the backend.
    VmVm,
    /// A block ring: 11 pages mapped, used and unmapped for each request.
    Block,
    /// All frames, both ways at once.
    #[default]
    Imix,
}

impl Profile {
    const NAMES: [(&'static str, Self); 7] = [
        ("tx-small", Self::TxSmall),
        ("tx-bulk", Self::TxBulk),
        ("rx-mtu", Self::RxMtu),
        ("rx-gro", Self::RxGro),
        ("vm-vm", Self::VmVm),
        ("block", Self::Block),
        ("imix", Self::Imix),
    ];

    /// As the command line spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, profile)| *profile == self).map_or("", |(name, _)| name)
    }

    /// Whether a frame of this class belongs to it.
    #[must_use]
    pub fn takes(self, class: Class) -> bool {
        match self {
            Self::TxSmall => class == Class::Small,
            Self::RxMtu => class == Class::Mtu,
            Self::TxBulk | Self::RxGro | Self::VmVm => class == Class::Large,
            Self::Block | Self::Imix => true,
        }
    }

    /// Whether frames go from frontend to backend.
    #[must_use]
    pub fn sends(self) -> bool {
        matches!(self, Self::TxSmall | Self::TxBulk | Self::Imix)
    }

    /// Whether frames go from backend to frontend.
    #[must_use]
    pub fn receives(self) -> bool {
        matches!(self, Self::RxMtu | Self::RxGro | Self::Imix)
    }
}

/// Which end of a `vm-vm` run a frontend is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Side {
    /// Its frames go to the other one.
    #[default]
    Send,
    /// The other one's frames come to it.
    Receive,
}

/// When a sender stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Amount {
    /// After every suitable frame has been sent once.
    #[default]
    Once,
    /// After so many packets, the trace repeating as needed.
    Packets(u64),
    /// After so many seconds.
    Seconds(u64),
}

/// What a guest was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options<'a> {
    /// `profile=`
    pub profile: Profile,
    /// `packets=` or `seconds=`
    pub amount: Amount,
    /// `backend=`: the domain a frontend serves itself from.
    pub backend: u16,
    /// `frontends=`: the domains a backend serves; `vm-vm` takes two, the sender first.
    pub frontends: [u16; 2],
    /// `side=`: for `vm-vm`.
    pub side: Side,
    /// `corrupt=`: the sender spoils one byte of this packet (counted from 0).
    pub corrupt: Option<u64>,
    /// `stall=`: seconds without progress after which a guest gives up.
    pub stall: u64,
    /// `mode=`: what `faulty` shall do.
    pub mode: &'a str,
    /// `peer=`: the domain with which `bench` shares pages; none: itself.
    pub peer: Option<u16>,
    /// `serve`: this `bench` only grants pages to its peer.
    pub serve: bool,
    /// `op=`, `batch=`, `bytes=`, `width=`: the only rows `bench` measures.
    pub only: Only<'a>,
}

/// Some of the rows of `bench`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Only<'a> {
    /// The row's name, with `_` for its blanks.
    pub op: Option<&'a str>,
    /// Elements.
    pub batch: Option<usize>,
    /// Bytes of an element.
    pub bytes: Option<u16>,
    /// Width of the caller.
    pub width: Option<u32>,
}

impl Only<'_> {
    /// Is such a row wanted?
    #[must_use]
    pub fn takes(&self, op: &str, batch: usize, bytes: u16, width: u32) -> bool {
        let same = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b' ');
        self.op.is_none_or(|only| only.len() == op.len() && only.bytes().zip(op.bytes()).all(same))
            && self.batch.is_none_or(|only| only == batch)
            && self.bytes.is_none_or(|only| only == bytes)
            && self.width.is_none_or(|only| only == width)
    }

    /// Are all rows wanted?
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// A word that is not understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadWord<'a>(pub &'a str);

impl fmt::Display for BadWord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command line: `{}` is not understood", self.0)
    }
}

impl Default for Options<'_> {
    /// Domains are numbered in the order of their modules: the backend first, then its frontends.
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            amount: Amount::default(),
            backend: 1,
            frontends: [2, 3],
            side: Side::default(),
            corrupt: None,
            stall: 30,
            mode: "",
            peer: None,
            serve: false,
            only: Only::default(),
        }
    }
}

impl<'a> Options<'a> {
    /// Reads a command line.
    pub fn parse(line: &'a str) -> Result<Self, BadWord<'a>> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            options.word(word).ok_or(BadWord(word))?;
        }
        Ok(options)
    }

    fn word(&mut self, word: &'a str) -> Option<()> {
        if word == "serve" {
            self.serve = true;
            return Some(());
        }
        let (name, value) = word.split_once('=')?;
        match name {
            "profile" => {
                self.profile = Profile::NAMES.iter().find(|(name, _)| *name == value)?.1;
            }
            "packets" => self.amount = Amount::Packets(value.parse().ok().filter(|&count| count > 0)?),
            "seconds" => self.amount = Amount::Seconds(value.parse().ok().filter(|&count| count > 0)?),
            "backend" => self.backend = value.parse().ok()?,
            "frontends" => {
                let (first, second) = value.split_once(',').unwrap_or((value, value));
                self.frontends = [first.parse().ok()?, second.parse().ok()?];
            }
            "side" => {
                self.side = match value {
                    "send" => Side::Send,
                    "receive" => Side::Receive,
                    _ => return None,
                }
            }
            "corrupt" => self.corrupt = Some(value.parse().ok()?),
            "stall" => self.stall = value.parse().ok().filter(|&seconds| seconds > 0)?,
            "mode" => self.mode = value,
            "peer" => self.peer = Some(value.parse().ok()?),
            "op" => self.only.op = Some(value),
            "batch" => self.only.batch = Some(value.parse().ok()?),
            "bytes" => self.only.bytes = Some(value.parse().ok()?),
            "width" => self.only.width = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read() {
        let options =
            Options::parse("profile=vm-vm packets=9 frontends=4,5 backend=6 side=receive corrupt=0").unwrap();
        assert_eq!(options.profile, Profile::VmVm);
        assert_eq!(options.amount, Amount::Packets(9));
        assert_eq!((options.frontends, options.backend), ([4, 5], 6));
        assert_eq!((options.side, options.corrupt), (Side::Receive, Some(0)));
        assert_eq!(Options::parse("").unwrap(), Options::default());
        assert!(Options::parse("serve peer=2").unwrap().serve);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for line in
            ["profile=fast", "packets=0", "packets=many", "seconds=", "side=up", "colour=blue", "verbose"]
        {
            assert_eq!(Options::parse(line), Err(BadWord(line)));
        }
    }

    #[test]
    fn rows_are_picked() {
        let only = Options::parse("op=map_r/w batch=32").unwrap().only;
        assert!(only.takes("map r/w", 32, 0, 64));
        assert!(!only.takes("map r/o", 32, 0, 64) && !only.takes("map r/w", 8, 0, 64));
        assert!(Only::default().takes("anything", 1, 2, 32));
    }

    #[test]
    fn every_profile_has_its_name() {
        for (name, profile) in Profile::NAMES {
            assert_eq!(profile.name(), name);
        }
    }
}
