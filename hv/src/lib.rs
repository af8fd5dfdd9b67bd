//! See the crate description; the module docs come with the code.
#![no_std]

pub mod cmdline;
