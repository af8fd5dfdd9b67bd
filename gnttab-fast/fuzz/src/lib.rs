//! Fuzz targets: functions that take any bytes and fail by panicking.
//!
//! [`TARGETS`] is the list. The test of this crate runs them on the committed corpus and on a fixed sequence of
//! inputs made from it, the same in each run, so CI knows at once when a target has begun to fail. The feature
//! `libfuzzer` makes a libFuzzer program of them: on the stable toolchain the coverage counters are a pass of LLVM's
//! (`-Cpasses=sancov-module`), and no sanitizer is linked: the code under test is safe Rust but for few lines.
#![forbid(unsafe_code)]

mod grants;
mod texts;

/// One target.
pub struct Target {
    /// Its name, and its directory in `corpus/`.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "hypercall", run: grants::quiet },
    Target { name: "hostile", run: grants::hostile },
    Target { name: "policy", run: texts::policy },
    Target { name: "cmdline", run: texts::cmdline },
    Target { name: "module", run: texts::module },
    Target { name: "image", run: texts::image },
];
