//! Watches: found by path, without a look at those of others.
//!
//! An event on a path concerns the watches on it and on every path above it, so each event costs a few
//! look-ups. The removal of a node also concerns the watches below it, which a range of the map gives.
#![forbid(unsafe_code)]

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use super::path;

/// One watch of one client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// Whose.
    pub domid: u16,
    /// As the client spelt the path.
    pub spelt: String,
    /// The client's name for it.
    pub token: String,
    /// Events were left out because the client does not fetch them: one is due that tells it to look again.
    pub behind: bool,
}

/// All watches, by absolute path.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Watches {
    by_path: BTreeMap<String, Vec<Watch>>,
    counts: BTreeMap<u16, usize>,
}

impl Watches {
    /// How many a client has.
    #[must_use]
    pub fn count(&self, domid: u16) -> usize {
        self.counts.get(&domid).copied().unwrap_or(0)
    }

    fn find(&self, at: &str, domid: u16, token: &str) -> Option<usize> {
        self.by_path.get(at)?.iter().position(|watch| watch.domid == domid && watch.token == token)
    }

    /// Whether a client has one on `at` or below.
    #[must_use]
    pub fn any_below(&self, domid: u16, at: &str) -> bool {
        let below = alloc::format!("{at}/");
        let lists = self.by_path.get(at).into_iter().chain(
            self.by_path
                .range(below.clone()..)
                .take_while(|(path, _)| path.starts_with(&below))
                .map(|(_, list)| list),
        );
        lists.flatten().any(|watch| watch.domid == domid)
    }

    /// Adds a watch on an absolute or special path; false: it is there already.
    pub fn add(&mut self, at: &str, watch: Watch) -> bool {
        if self.find(at, watch.domid, &watch.token).is_some() {
            return false;
        }
        *self.counts.entry(watch.domid).or_default() += 1;
        self.by_path.entry(String::from(at)).or_default().push(watch);
        true
    }

    /// Takes a watch away; false: there is none.
    pub fn remove(&mut self, at: &str, domid: u16, token: &str) -> bool {
        let Some(index) = self.find(at, domid, token) else { return false };
        let Some(list) = self.by_path.get_mut(at) else { return false };
        list.remove(index);
        if list.is_empty() {
            self.by_path.remove(at);
        }
        self.counts.entry(domid).and_modify(|count| *count -= 1);
        true
    }

    /// Takes all watches of a client away.
    pub fn remove_all(&mut self, domid: u16) {
        if self.counts.remove(&domid).is_some() {
            self.by_path.retain(|_, list| {
                list.retain(|watch| watch.domid != domid);
                !list.is_empty()
            });
        }
    }

    /// Hands every watch that an event on `at` concerns to `tell`, with the event's path as the client is to
    /// see it. `removed`: `at` is gone with everything below it.
    pub fn concerned(&mut self, at: &str, removed: bool, tell: &mut dyn FnMut(&mut Watch, &str)) {
        for above in path::upwards(at) {
            for watch in self.by_path.get_mut(above).into_iter().flatten() {
                // A relative watch hears relative paths, which end as the absolute ones do.
                let from = if above == at { 0 } else { above.len() + usize::from(above != "/") };
                let shown = if above == at {
                    watch.spelt.clone()
                } else if watch.spelt.ends_with('/') {
                    alloc::format!("{}{}", watch.spelt, &at[from..])
                } else {
                    alloc::format!("{}/{}", watch.spelt, &at[from..])
                };
                tell(watch, &shown);
            }
        }
        if removed {
            let below = alloc::format!("{at}/");
            let range = self.by_path.range_mut(below.clone()..);
            for (_, list) in range.take_while(|(path, _)| path.starts_with(&below)) {
                for watch in list {
                    let shown = watch.spelt.clone();
                    tell(watch, &shown);
                }
            }
        }
    }

    /// Hands every watch of a client that is behind to `tell`, until it says no.
    pub fn behind(&mut self, domid: u16, tell: &mut dyn FnMut(&mut Watch) -> bool) {
        let all = self.by_path.values_mut().flatten();
        for watch in all.filter(|watch| watch.domid == domid && watch.behind) {
            if !tell(watch) {
                return;
            }
        }
    }
}
