//! Event channels.
#![forbid(unsafe_code)]
