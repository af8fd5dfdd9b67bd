//! Hypercalls: the table and one file for each.
#![forbid(unsafe_code)]
