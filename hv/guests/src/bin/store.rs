//! `store`: XenStore. Its module needs the word `store`; what it writes of itself stands in
//! `tollgate_guests::store::devices`.
#![no_std]
#![no_main]

use tollgate_guests::rt::boot;
use tollgate_guests::store::{devices::Devices, rings};
use tollgate_guests::{fail, guest};

guest!(main);

fn main() {
    let devices = Devices::parse(boot::cmdline(), hv::abi::domctl::handle)
        .unwrap_or_else(|word| fail!("command line: `{word}` is not understood; known: name= vif= vbd="));
    rings::serve(devices)
}
