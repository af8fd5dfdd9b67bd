//! `cargo xtask`: every job of the house behind one command.

fn main() {}
