//! Guests that misbehave: what it costs them, and that nothing is left of them.

use std::time::Duration;

use anyhow::Result;

use super::parts::{TROUBLE, frames, module};
use super::{Case, End};
use crate::image::Artefacts;
use crate::qemu::Machine;

/// A guest that misbehaves alone: what it costs it, and that nothing is left of it.
pub(super) const fn faulty(
    name: &'static str,
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    expect: &'static [&'static str],
) -> Case {
    Case { name, quick: false, setup, expect, never: LEFT_OVERS, end: End::Off }
}

/// What even a crashing guest must not cause.
pub(super) const LEFT_OVERS: &[&str] = &["panic", "bad option", "error: d1 faulty: leaked"];

/// Every case.
pub const CASES: &[Case] = &[
    faulty(
        "guest: triple fault",
        |machine, made| misbehave(machine, made, "triple"),
        &[
            "error: d1 faulty: crashed: vCPU 0: triple fault",
            "rip 0008:",
            "leaked frames: 0",
            "switching off",
        ],
    ),
    faulty(
        "guest: says it has crashed",
        |machine, made| misbehave(machine, made, "crash"),
        &["d1 faulty: says it has crashed", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "guest: address without memory",
        |machine, made| misbehave(machine, made, "unmapped"),
        &["error: d1 faulty: crashed: vCPU 0: it reads from", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "guest: exits early",
        |machine, made| misbehave(machine, made, "exit"),
        &["d1 faulty: powered off", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "guest: writes to a read-only grant",
        |machine, made| misbehave(machine, made, "readonly"),
        &["@result", "leaked frames: 0", "switching off"],
    ),
    Case {
        name: "guest: runs out of frames, pins and handles",
        quick: false,
        setup: |machine, made| {
            let string = "domain=faulty gnttab_max_frames=2 gnttab_max_maptrack_frames=1 -- mode=exhaust";
            module(machine, made, "faulty", string)
        },
        expect: &[
            "d1 faulty: its grant table has reached its limit of 2 frames; gnttab_max_frames=",
            "d1 faulty: reference 100 is mapped as often as it can be",
            "d1 faulty: all 256 handles for mapping others' grants are in use; gnttab_max_maptrack_frames=",
            "@result",
            "leaked frames: 0, handles: 0",
            "switching off",
        ],
        // Each of them once.
        never: &["panic", "@fail", "has reached its limit", "as often as it can be", "are in use"],
        end: End::Off,
    },
    faulty(
        "guest: hypercalls without sense",
        |machine, made| misbehave(machine, made, "arguments"),
        &["hypercalls came back", "@result", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "guest: hypercall from ring 3",
        |machine, made| misbehave(machine, made, "user"),
        &["@result", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "guest: frontend dies with its rings mapped",
        |machine, made| {
            module(machine, made, "netback", "domain=back data=frames -- stall=3")?;
            module(machine, made, "faulty", "domain=front -- mode=frontend-dies stall=3")?;
            frames(machine)
        },
        &["d2 front: says it has crashed", "@fail no progress", "leaked frames: 0", "leaked frames: 0"],
    ),
    faulty(
        "guest: backend dies with rings mapped",
        |machine, made| {
            module(machine, made, "faulty", "domain=back -- mode=backend-dies stall=3")?;
            module(machine, made, "netfront", "domain=front data=frames -- stall=3")?;
            frames(machine)
        },
        &["d1 back: says it has crashed", "leaked frames: 0", "@fail no progress", "leaked frames: 0"],
    ),
    Case {
        name: "guest: spins for ever",
        quick: true,
        setup: |machine, made| {
            machine.limit = Duration::from_secs(8);
            misbehave(machine, made, "spin")?;
            module(machine, made, "hello", "domain=other")
        },
        // On the one pCPU of the machine.
        expect: &["CPUs: 1 running, of 1", "d2 other: powered off", "d2 other: leaked frames: 0"],
        never: TROUBLE,
        end: End::Late(&["d1 faulty said last: faulty: spin", "pCPU 0 is at 0x"]),
    },
];

/// A guest that does what `mode` says (hv/guests/src/bin/faulty.rs).
pub(super) fn misbehave(machine: &mut Machine, made: &Artefacts, mode: &str) -> Result<()> {
    module(machine, made, "faulty", &format!("domain=faulty -- mode={mode}"))
}
