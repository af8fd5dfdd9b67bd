//! Event channels, the 2-level interface.
#![forbid(unsafe_code)]

/// The ports of one domain.
#[derive(Debug, Default)]
pub struct Channels {}
