//! What a domain may do with grants: `gnttab=` of the hypervisor's command line and of a domain's module
//! string, as one immutable word.
//!
//! The accepted items are those of Xen 4.17's `gnttab=`: `max-ver:<1|2>` and its alias `max_ver:<1|2>`,
//! `transitive`, `no-transitive`, `transitive=<bool>`. Page transfer exists for PV callers only, and there
//! are none: `no-transfer` and `transfer=<false>` ask for what is the case and are taken, `transfer` is
//! refused. A bad item is told to the caller, which prints it; the others still apply, from left to right.
//!
//! The host's line widens or narrows freely; a domain's line can only narrow what the host allows.
//!
//! A domain without `transitive` takes part in no transitive grant: it does not copy through one, pass one on,
//! or have its own passed on.

use core::fmt;

/// Grant-table versions of the ABI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Version {
    /// 8-byte entries.
    V1 = 1,
    /// 16-byte entries with a status array.
    V2 = 2,
}

impl Version {
    /// The number as the ABI carries it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// The policy word of a domain, or of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy(u32);

const VERSION_2: u32 = 1 << 0;
const TRANSITIVE: u32 = 1 << 1;

impl Default for Policy {
    fn default() -> Self {
        Self::HOST_DEFAULT
    }
}

impl Policy {
    /// What an absent `gnttab=` means: `max_ver:2,transitive`.
    pub const HOST_DEFAULT: Self = Self(VERSION_2 | TRANSITIVE);

    /// A policy by its parts.
    #[must_use]
    pub const fn new(max_version: Version, transitive: bool) -> Self {
        let version = match max_version {
            Version::V1 => 0,
            Version::V2 => VERSION_2,
        };
        Self(version | if transitive { TRANSITIVE } else { 0 })
    }

    /// The highest version `set_version` grants.
    #[must_use]
    #[inline]
    pub const fn max_version(self) -> Version {
        if self.0 & VERSION_2 != 0 { Version::V2 } else { Version::V1 }
    }

    /// Whether transitive grants are followed.
    #[must_use]
    #[inline]
    pub const fn transitive(self) -> bool {
        self.0 & TRANSITIVE != 0
    }

    /// Applies the items of the host's `gnttab=` to `self`. Each item that cannot be is told to `report`,
    /// once, and has no effect.
    #[must_use]
    pub fn parse(self, list: &str, report: &mut dyn FnMut(&str, BadItem)) -> Self {
        self.apply(list, false, report)
    }

    /// Applies a domain's `gnttab=` to the host's policy `self`. Items that would allow more than `self`
    /// does are refused.
    #[must_use]
    pub fn tighten(self, list: &str, report: &mut dyn FnMut(&str, BadItem)) -> Self {
        self.apply(list, true, report)
    }

    fn apply(self, list: &str, only_tighter: bool, report: &mut dyn FnMut(&str, BadItem)) -> Self {
        let mut now = self;
        for item in list.split(',') {
            let (bit, wanted) = match parse_item(item) {
                Ok(Item::MaxVersion(v)) => (VERSION_2, v == Version::V2),
                Ok(Item::Transitive(on)) => (TRANSITIVE, on),
                Ok(Item::NoTransfer) => continue,
                Err(why) => {
                    report(item, why);
                    continue;
                }
            };
            if only_tighter && wanted && self.0 & bit == 0 {
                report(item, BadItem::NotAllowed);
            } else if wanted {
                now.0 |= bit;
            } else {
                now.0 &= !bit;
            }
        }
        now
    }
}

impl fmt::Display for Policy {
    /// As `gnttab=` would say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transitive = if self.transitive() { "transitive" } else { "no-transitive" };
        write!(f, "max_ver:{},{transitive}", self.max_version().number())
    }
}

/// Why an item of `gnttab=` has no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadItem {
    /// No item of that name, or an empty one.
    Unknown,
    /// `max-ver:` wants 1 or 2, and a colon.
    Version,
    /// Not one of the words for a truth value.
    Bool,
    /// `no-` and a value do not go together.
    NegatedValue,
    /// Page transfer is not offered.
    Transfer,
    /// A domain asks for more than the host's policy allows.
    NotAllowed,
}

impl fmt::Display for BadItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => {
                "unknown item; known: max-ver:<1|2>, transitive, no-transitive, transitive=<bool>"
            }
            Self::Version => "the highest version is max-ver:1 or max-ver:2",
            Self::Bool => "a truth value is yes/no, on/off, true/false, enable/disable or 1/0",
            Self::NegatedValue => "either no-<item> or <item>=<bool>",
            Self::Transfer => "page transfer is for PV guests, which are not supported",
            Self::NotAllowed => "the host's gnttab= does not allow it",
        })
    }
}

enum Item {
    MaxVersion(Version),
    Transitive(bool),
    NoTransfer,
}

fn parse_item(item: &str) -> Result<Item, BadItem> {
    if let Some(number) = item.strip_prefix("max-ver:").or_else(|| item.strip_prefix("max_ver:")) {
        return parse_version(number).map(Item::MaxVersion);
    }
    if item.starts_with("max-ver") || item.starts_with("max_ver") {
        return Err(BadItem::Version);
    }
    let (negated, name) = match item.strip_prefix("no-") {
        Some(rest) => (true, rest),
        None => (false, item),
    };
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    };
    if !matches!(name, "transitive" | "transfer") {
        return Err(BadItem::Unknown);
    }
    let on = match (negated, value) {
        (true, None) => false,
        (true, Some(_)) => return Err(BadItem::NegatedValue),
        (false, None) => true,
        (false, Some(word)) => parse_bool(word).ok_or(BadItem::Bool)?,
    };
    match (name, on) {
        ("transitive", on) => Ok(Item::Transitive(on)),
        (_, true) => Err(BadItem::Transfer),
        (_, false) => Ok(Item::NoTransfer),
    }
}

/// A decimal number, leading zeros allowed, that is 1 or 2.
fn parse_version(number: &str) -> Result<Version, BadItem> {
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadItem::Version);
    }
    match number.trim_start_matches('0') {
        "1" => Ok(Version::V1),
        "2" => Ok(Version::V2),
        _ => Err(BadItem::Version),
    }
}

/// Xen's words for truth values.
fn parse_bool(word: &str) -> Option<bool> {
    match word {
        "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::{format, string::String, vec, vec::Vec};

    fn run(list: &str) -> (Policy, Vec<(String, BadItem)>) {
        let mut bad = Vec::new();
        let p = Policy::HOST_DEFAULT.parse(list, &mut |item, why| bad.push((item.into(), why)));
        (p, bad)
    }

    const V1: u32 = 0;

    #[test]
    fn defaults_are_version_2_and_transitive() {
        assert_eq!(format!("{}", Policy::default()), "max_ver:2,transitive");
    }

    #[test]
    fn accepted_forms() {
        for (list, want) in [
            ("max-ver:1", TRANSITIVE | V1),
            ("max_ver:1", TRANSITIVE | V1),
            ("max-ver:2", TRANSITIVE | VERSION_2),
            ("max_ver:02", TRANSITIVE | VERSION_2),
            ("transitive", TRANSITIVE | VERSION_2),
            ("no-transitive", VERSION_2),
            ("transitive=no", VERSION_2),
            ("transitive=off", VERSION_2),
            ("transitive=false", VERSION_2),
            ("transitive=disable", VERSION_2),
            ("transitive=0", VERSION_2),
            ("no-transitive,transitive=yes", TRANSITIVE | VERSION_2),
            ("no-transitive,transitive=on", TRANSITIVE | VERSION_2),
            ("no-transitive,transitive=true", TRANSITIVE | VERSION_2),
            ("no-transitive,transitive=enable", TRANSITIVE | VERSION_2),
            ("no-transitive,transitive=1", TRANSITIVE | VERSION_2),
            ("max_ver:1,no-transitive", V1),
            ("max_ver:1,max_ver:2", TRANSITIVE | VERSION_2),
            ("no-transfer,transfer=no", TRANSITIVE | VERSION_2),
        ] {
            assert_eq!(run(list), (Policy(want), vec![]), "{list}");
        }
    }

    #[test]
    fn refused_forms_are_told_and_the_rest_applies() {
        for (item, why) in [
            ("", BadItem::Unknown),
            ("max-ver", BadItem::Version),
            ("max-ver=2", BadItem::Version),
            ("max-ver:", BadItem::Version),
            ("max-ver:0", BadItem::Version),
            ("max-ver:3", BadItem::Version),
            ("max-ver:1x", BadItem::Version),
            ("max-ver:+1", BadItem::Version),
            ("max_ver:18446744073709551617", BadItem::Version),
            ("no-transitive=yes", BadItem::NegatedValue),
            ("transitive=", BadItem::Bool),
            ("transitive=maybe", BadItem::Bool),
            ("transitive=YES", BadItem::Bool),
            ("transitives", BadItem::Unknown),
            (" transitive", BadItem::Unknown),
            ("no-no-transitive", BadItem::Unknown),
            ("transfer", BadItem::Transfer),
            ("transfer=on", BadItem::Transfer),
            ("colour", BadItem::Unknown),
        ] {
            let list = format!("max-ver:1,{item},no-transitive");
            assert_eq!(run(&list), (Policy(V1), vec![(item.into(), why)]), "{item}");
        }
    }

    #[test]
    fn a_domain_can_only_narrow() {
        let tight = Policy::new(Version::V1, false);
        let mut bad = Vec::new();
        let p =
            tight.tighten("max_ver:2,transitive,no-transitive", &mut |i, w| bad.push((String::from(i), w)));
        assert_eq!(p, tight);
        assert_eq!(
            bad,
            [("max_ver:2".into(), BadItem::NotAllowed), ("transitive".into(), BadItem::NotAllowed)]
        );
        let p = Policy::HOST_DEFAULT
            .tighten("max_ver:1,transitive,max_ver:2,no-transitive", &mut |i, w| panic!("{i}: {w}"));
        assert_eq!(p, Policy(VERSION_2), "what the host allows may be named again");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart_and_bad_items_change_nothing(list in "[-a-z0-9:=_,]{0,60}|\\PC{0,40}") {
            let (p, bad) = run(&list);
            let good: Vec<&str> =
                list.split(',').filter(|i| !bad.iter().any(|(b, _)| b == i)).collect();
            prop_assert_eq!(bad.len() + good.len(), list.split(',').count());
            if !good.is_empty() {
                prop_assert_eq!(run(&good.join(",")), (p, vec![]));
            } else {
                prop_assert_eq!(p, Policy::HOST_DEFAULT);
            }
        }

        #[test]
        fn good_lists_give_what_the_last_word_says(
            items in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 1..8),
        ) {
            let mut want = Policy::HOST_DEFAULT;
            let mut words = Vec::new();
            for (version, on, alias) in items {
                want = if version {
                    words.push(format!("max{}ver:{}", if alias { '_' } else { '-' }, 1 + u8::from(on)));
                    Policy::new(if on { Version::V2 } else { Version::V1 }, want.transitive())
                } else {
                    words.push(match (on, alias) {
                        (true, false) => "transitive".into(),
                        (false, false) => "no-transitive".into(),
                        (on, true) => format!("transitive={}", if on { "enable" } else { "off" }),
                    });
                    Policy::new(want.max_version(), on)
                };
            }
            prop_assert_eq!(run(&words.join(",")), (want, vec![]));
        }

        #[test]
        fn tightening_never_widens(v2 in any::<bool>(), t in any::<bool>(), list in "[-a-z0-9:=_,]{0,60}") {
            let host = Policy::new(if v2 { Version::V2 } else { Version::V1 }, t);
            let p = host.tighten(&list, &mut |_, _| ());
            prop_assert_eq!(p.0 & !host.0, 0);
        }
    }
}
