//! Linker arguments of the guests' binaries; nothing for host builds of the library.

use std::{env, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=linker.ld");
    println!("cargo::rerun-if-env-changed=CARGO_FEATURE_BARE_METAL");
    if env::var_os("CARGO_FEATURE_BARE_METAL").is_none() {
        return;
    }
    let folder = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets the manifest's folder");
    // rustc links for a position-independent hosted program; these come later on the line and win.
    for argument in [
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
        "-Wl,--no-dynamic-linker",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", Path::new(&folder).join("linker.ld").display());
}
