//! The network pair: netif rings as Linux's netfront and netback use them, with every byte checked.
//!
//! One queue. The frontend grants the capture's own pages; the backend copies headers and maps the rest
//! ([`tx`]), or copies received buffers into the pages the frontend posted ([`rx`]). Who is done tells the
//! other through the [`device`] page, which stands in for XenStore.

pub mod back;
pub mod device;
pub mod frames;
pub mod front;
pub mod rx;
pub mod tally;
pub mod tx;
