//! `netback`: the backend of a network or block pair; see [`tollgate_guests::net`].
#![no_std]
#![no_main]

use tollgate_guests::options::{Options, Profile};
use tollgate_guests::rt::boot;
use tollgate_guests::{blk, fail, guest, net};

guest!(main);

fn main() {
    let options = Options::parse(boot::cmdline()).unwrap_or_else(|bad| fail!("{bad}"));
    match options.profile {
        Profile::Block => blk::back::run(&options),
        _ => net::back::run(&options),
    }
}
