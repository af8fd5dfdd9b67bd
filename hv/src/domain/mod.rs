//! Domains: their life, their building from boot modules, and the table that finds them.
#![forbid(unsafe_code)]
