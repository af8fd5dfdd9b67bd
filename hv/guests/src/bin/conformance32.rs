//! `conformance32`: see [`tollgate_guests::conformance`]; hypercalls from 32-bit code.
#![no_std]
#![no_main]

use tollgate_guests::conformance::{self, Width};
use tollgate_guests::guest;

guest!(main);

fn main() {
    conformance::run(Width::W32);
}
