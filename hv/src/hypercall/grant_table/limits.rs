//! A domain has run out of something: people are told, in one line for each domain and kind, ever.
//!
//! Who has run out tries again and again, and each try would cost a line; so the first one counts. Everything
//! here is reached from elements that failed and from growth, never from one that went well.
#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use gnttab_fast::RanOut;

use crate::domain::Domain;
use crate::warn;

/// The kinds a domain has been told of: one bit each.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicU32);

impl Told {
    const FRAMES: u32 = 1 << 0;
    const HANDLES: u32 = 1 << 1;
    const PINS: u32 = 1 << 2;

    /// True the first time for each kind.
    fn first(&self, kind: u32) -> bool {
        // Looked at first: from the second time on it costs no exclusive line.
        self.0.load(Ordering::Relaxed) & kind == 0 && self.0.fetch_or(kind, Ordering::Relaxed) & kind == 0
    }
}

/// After an attempt to make a domain's table larger: is it as large as it may be?
pub(super) fn look(domain: &Domain) {
    let table = &domain.grants.table;
    let limit = table.limits().frames;
    if table.frames() == limit {
        let words = format_args!(
            "its grant table has reached its limit of {limit} frames; gnttab_max_frames= allows more"
        );
        tell(domain, Told::FRAMES, words);
    }
}

/// An element of an operation has failed for want of something.
pub(super) fn ran_out(of: &Domain, what: RanOut) {
    match what {
        RanOut::Handles => {
            let limit = of.grants.table.maptrack().limit();
            let words = format_args!(
                "all {limit} handles for mapping others' grants are in use; gnttab_max_maptrack_frames= allows more"
            );
            tell(of, Told::HANDLES, words);
        }
        RanOut::Pins(gref) => {
            let words = format_args!(
                "reference {} is mapped as often as it can be at once, 128 times in the same way; no option raises that",
                gref.0
            );
            tell(of, Told::PINS, words);
        }
    }
}

#[cold]
fn tell(domain: &Domain, kind: u32, words: fmt::Arguments<'_>) {
    if domain.grants.told.first(kind) {
        warn!(of domain; "d{} {}: {words}", domain.id.0, domain.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once() {
        let told = Told::default();
        for kind in [Told::FRAMES, Told::HANDLES, Told::PINS] {
            assert!(told.first(kind));
            assert!(!told.first(kind));
        }
    }
}
