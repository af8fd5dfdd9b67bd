//! The Xen guest ABI, one file for each public header.
#![forbid(unsafe_code)]
