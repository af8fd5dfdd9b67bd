//! XenStore: the tree of names and values by which domains find each other, as a guest of its own.
//!
//! This is the state machine, bytes in and bytes out for each connection; it knows nothing of rings, grants
//! or events (those are in `rings`, for the guest alone), so that the host can test all of it. The protocol
//! is `public/io/xs_wire.h` and `docs/misc/xenstore.txt`; where the text leaves a choice, the answers of
//! Xen's own daemon are ours, since clients know no other.
//!
//! - [`wire`]: messages and their pieces; [`path`], [`perms`]: what their names say;
//! - [`tree`]: nodes, transactions, quotas;
//! - [`watch`]: who hears of which change;
//! - [`server`]: connections and requests;
//! - [`devices`]: the nodes of virtual devices, from the store's command line;
//! - [`service`], [`journal`]: all of that in memory that outlives the store, and how the next one goes on.
//!
//! **A hostile client** gets at nothing but its own: every node is looked at under the caller's rights, and
//! what is missing is told only where the caller may look. It cannot stall others: a turn is one request of
//! at most 4 KiB, and requests wait while their answers are not fetched. It cannot use up memory: nodes,
//! bytes, watches, transactions and what these touch have quotas for each domain, and events that a client
//! does not fetch are merged into one per watch.

pub mod devices;
pub mod journal;
pub mod path;
pub mod perms;
#[cfg(feature = "bare-metal")]
pub mod rings;
pub mod server;
pub mod service;
pub mod tree;
pub mod watch;
pub mod wire;

#[cfg(test)]
mod tests;

pub use server::{Host, Store};
