//! Debug keys: one letter on the serial line, or in a hypercall of the control domain, and the hypervisor
//! prints a picture of itself, as Xen's keys of the same letters do.
//!
//! A picture is taken while everything goes on: it locks nothing and nobody waits for it, so numbers printed
//! one after the other need not fit each other. What a key prints is bounded, because the serial line is
//! slow and the CPU that prints does nothing else meanwhile.
#![forbid(unsafe_code)]

use core::fmt;

use gnttab_fast::policy::Version;
use gnttab_fast::types::Gref;
use gnttab_fast::{Frames, Pinned, Scan, Table};

use crate::cmdline::LogLevel;
use crate::dev::console;
use crate::domain::{Life, table};
use crate::mm::frames;
use crate::{epoch, rate_limited};

/// A key, what it prints and how.
struct Key {
    letter: u8,
    what: &'static str,
    run: fn(&mut Say<'_>),
}

/// Where the lines of a key go; one call is one line.
type Say<'a> = dyn FnMut(fmt::Arguments<'_>) + 'a;

/// Every key.
const KEYS: &[Key] = &[
    Key { letter: b'g', what: "grant tables: use, limits and pinned entries", run: grants },
    Key { letter: b'h', what: "this list", run: help },
    Key { letter: b'm', what: "memory: free, and whose", run: memory },
];

/// Pinned entries printed for one domain, and for all of them together.
const ENTRIES_OF_DOMAIN: u32 = 16;
const ENTRIES_OF_ALL: u32 = 128;
/// Entries looked at in one step of the search, and the most steps: more entries than a table can have.
const SEARCH: u32 = 1 << 16;
const SEARCHES: u32 = 1 << 10;

/// Does what a key asks for; a key that is none costs a line.
pub fn handle(key: u8) {
    // At every log level: somebody asked.
    run(key, &mut |line| console::log(LogLevel::None, line));
}

fn run(key: u8, say: &mut Say<'_>) {
    match KEYS.iter().find(|known| known.letter == key) {
        Some(known) => (known.run)(say),
        // Ends of lines come with any key a terminal sends.
        None if key.is_ascii_control() => {}
        None => rate_limited!(info, "key '{}': none; h lists the keys", char::from(key).escape_default()),
    }
}

/// `h`.
fn help(say: &mut Say<'_>) {
    for key in KEYS {
        say(format_args!("key {}: {}", char::from(key.letter), key.what));
    }
}

/// `g`.
fn grants(say: &mut Say<'_>) {
    let guard = epoch::pin();
    let mut left = ENTRIES_OF_ALL;
    let mut domains = 0;
    for domain in table::all(&guard) {
        domains += 1;
        let life = match domain.life() {
            Life::Running => "",
            Life::Shutdown => " (shut down)",
            Life::Dying | Life::Dead => " (dying)",
        };
        let who = format_args!("grants of d{} {}{life}", domain.id.0, domain.name);
        table_of(domain.grants.table(), &who, &mut left, say);
        match domain.grants.foreign() {
            0 => {}
            foreign => say(format_args!(
                "{who}: frames of its table stand in {foreign} places of the control domain"
            )),
        }
    }
    say(format_args!("grants: {domains} domains in all"));
}

/// `m`.
fn memory(say: &mut Say<'_>) {
    let guard = epoch::pin();
    let mut owned = 0;
    for domain in table::all(&guard) {
        let frames = u64::from(frames::owned_by(domain.id));
        owned += frames;
        say(format_args!("memory: d{} {}: {frames} frames", domain.id.0, domain.name));
    }
    let stats = frames::stats();
    // Those of a domain that is on its way out of the table are counted as the hypervisor's for a moment.
    say(format_args!(
        "memory: {} frames; {} free, {} being freed, {owned} of domains, {} the hypervisor's",
        stats.total,
        stats.free,
        stats.retired,
        stats.total.saturating_sub(stats.free + stats.retired + owned),
    ));
}

/// A table's use, and its pinned entries while `left` is not zero.
fn table_of<F: Frames>(table: &Table<F>, who: &dyn fmt::Display, left: &mut u32, say: &mut Say<'_>) {
    let usage = table.usage();
    say(format_args!(
        "{who}: version {} (at most {}{}), frames {} of {}, status frames {}, handles {} of {} in {} frames",
        number(usage.version),
        number(usage.max_version),
        if usage.transitive { ", transitive" } else { "" },
        usage.frames,
        usage.max_frames,
        usage.status_frames,
        usage.handles,
        usage.max_handles,
        usage.handle_room / maptrack::ENTRIES_PER_PAGE,
    ));
    let mut pinned = 0_u32;
    let mut shown = 0;
    let mut from = Gref(0);
    for _ in 0..SEARCHES {
        match table.find_pinned(from, SEARCH) {
            Scan::Clear => break,
            Scan::More(next) => from = next,
            Scan::Pinned(gref) => {
                from = Gref(gref.0.saturating_add(1));
                pinned += 1;
                if shown == ENTRIES_OF_DOMAIN || *left == 0 {
                    continue;
                }
                // Perhaps unpinned since.
                let Some(Pinned { pins, frame, flags }) = table.pinned(gref) else { continue };
                shown += 1;
                *left -= 1;
                say(format_args!(
                    "{who}: reference {}: pinned by d{}, {} to read, {} to write; frame {:#x}, bytes {} to {}, flags {flags:#x}",
                    gref.0,
                    pins.grantee,
                    pins.host_read,
                    pins.host_write,
                    frame.mfn().0,
                    frame.start(),
                    frame.last(),
                ));
            }
        }
    }
    if shown < pinned {
        say(format_args!("{who}: {pinned} references pinned or more, {shown} of them shown"));
    }
}

fn number(version: Version) -> u32 {
    match version {
        Version::V1 => 1,
        Version::V2 => 2,
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::{String, ToString as _};
    use alloc::vec::Vec;

    use super::*;

    fn lines(key: u8) -> Vec<String> {
        let mut lines = Vec::new();
        run(key, &mut |line| lines.push(line.to_string()));
        lines
    }

    #[test]
    fn help_names_each_key_once() {
        let lines = lines(b'h');
        assert_eq!(lines.len(), KEYS.len());
        assert!(
            lines.contains(&"key g: grant tables: use, limits and pinned entries".to_string()),
            "{lines:?}"
        );
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|other| other.letter != key.letter));
        }
    }

    #[test]
    fn the_grants_of_no_domains() {
        assert_eq!(lines(b'g').last().map(String::as_str), Some("grants: 0 domains in all"));
    }

    #[test]
    fn memory_is_told() {
        let lines = lines(b'm');
        let numbers: Vec<u64> =
            lines.last().unwrap().split(' ').filter_map(|word| word.parse().ok()).collect();
        // Other tests take frames meanwhile: they need not add up.
        assert!(matches!(numbers[..], [total, free, _, _, _] if total >= free && total > 0), "{lines:?}");
    }

    #[test]
    fn ends_of_lines_are_no_keys() {
        assert_eq!(lines(b'\n'), Vec::<String>::new());
        assert_eq!(lines(b'?'), Vec::<String>::new());
    }
}
