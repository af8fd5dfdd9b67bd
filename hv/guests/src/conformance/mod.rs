//! Conformance of grant tables: every operation and every refusal, one line of console for each case.
//!
//! The guest runs alone and grants pages to itself, so it needs no peer and no toolstack: Tollgate runs it
//! as a domain, Xen as a PVH dom0, the same file. `conformance` makes its hypercalls from 64-bit code,
//! `conformance32` from 32-bit code; cases are the same. Lines:
//!
//! - `@case NAME = VALUE`: what came back, in words; what rightly varies (machine addresses, handles, our
//!   number) is replaced by whether it came.
//! - `@fail ...`: a case left something behind that could not be undone.
//! - `@cases N`: how many cases ran; the end.
//!
//! `only=PREFIX` on the command line picks cases by the beginning of their names.
#![deny(unsafe_code)]

use core::fmt::{self, Write as _};

mod batch;
#[expect(unsafe_code, reason = "memory that is no Rust object")]
mod bytes;
mod calls;
mod copy;
mod growth;
mod lab;
mod map;
mod parts;
mod physmap;
mod request;
mod show;
mod swap;
mod table;
mod unmap;
mod version;

use lab::Lab;
pub use request::Width;
use show::{Out, Ret};

use crate::rt::boot;

/// One case.
struct Case {
    name: &'static str,
    table: Table,
    run: fn(&mut Lab, &mut Out) -> fmt::Result,
}

/// With which version of the table a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    V1,
    V2,
    /// In both, the second time with `v2.` before its name.
    Both,
}

const fn v1(name: &'static str, run: fn(&mut Lab, &mut Out) -> fmt::Result) -> Case {
    Case { name, table: Table::V1, run }
}

const fn v2(name: &'static str, run: fn(&mut Lab, &mut Out) -> fmt::Result) -> Case {
    Case { name, table: Table::V2, run }
}

const fn both(name: &'static str, run: fn(&mut Lab, &mut Out) -> fmt::Result) -> Case {
    Case { name, table: Table::Both, run }
}

/// In the order in which they run: the table only grows.
const GROUPS: &[&[Case]] = &[
    map::CASES,
    unmap::CASES,
    copy::CASES,
    batch::CASES,
    table::CASES,
    physmap::CASES,
    swap::CASES,
    calls::CASES,
    parts::CASES,
    version::CASES,
];

/// Runs the cases.
pub fn run(width: Width) {
    let mut only = "";
    for word in boot::cmdline().split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("only", prefix)) => only = prefix,
            _ => crate::fail!("command line: `{word}` is not understood"),
        }
    }
    let mut bench = Bench { lab: Lab::new(width, lab::find_own()), only, count: 0 };
    for case in table::FIRST {
        bench.case(case, 1);
    }
    bench.lab.map_table();
    for version in [1, 2] {
        for case in GROUPS.iter().copied().flatten() {
            bench.case(case, version);
        }
    }
    for case in growth::CASES {
        bench.case(case, 1);
    }
    crate::say!("@cases {}", bench.count);
}

struct Bench<'a> {
    lab: Lab,
    only: &'a str,
    count: u32,
}

impl Bench<'_> {
    /// Runs a case if it is wanted with this version.
    fn case(&mut self, case: &Case, version: u32) {
        let fits = match case.table {
            Table::V1 => version == 1,
            Table::V2 => version == 2,
            Table::Both => true,
        };
        let prefix = if version == 2 && case.table == Table::Both { "v2." } else { "" };
        if !fits || !matches(self.only, prefix, case.name) {
            return;
        }
        let mut out = Out::new();
        let result = if self.lab.version == version { 0 } else { self.lab.set_version(version).0 };
        let written = if result == 0 {
            (case.run)(&mut self.lab, &mut out)
        } else {
            write!(out, "no version {version}: {}", Ret(result))
        };
        if written.is_err() {
            crate::say!("@fail {prefix}{}: more text than fits", case.name);
        }
        crate::say!("@case {prefix}{} = {}", case.name, out.text());
        self.count += 1;
        if let Err(why) = self.lab.tidy() {
            crate::say!("@fail {prefix}{}: {why}", case.name);
        }
    }
}

/// Whether `prefix` and `name` together begin with `only`.
fn matches(only: &str, prefix: &str, name: &str) -> bool {
    match only.strip_prefix(prefix) {
        Some(rest) => name.starts_with(rest),
        None => prefix.starts_with(only),
    }
}
