//! What a guest finds of a machine: timers, interrupts, ways to end; and floods.

use super::faulty::faulty;
use super::parts::{TROUBLE, module};
use super::{Case, End};

/// Every case.
pub const CASES: &[Case] = &[
    Case {
        name: "machine: the periodic timer",
        quick: true,
        setup: |machine, made| module(machine, made, "machine", "domain=clock -- mode=tick"),
        expect: &["machine: 20 ticks", "@result", "switching off"],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "machine: two interrupts at once",
        quick: true,
        setup: |machine, made| {
            machine.icount = true;
            module(machine, made, "machine", "domain=two -- mode=two-interrupts")
        },
        expect: &[
            "machine: 10000 times two interrupts at once",
            "@result",
            "leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "machine: the local APIC as a page of memory",
        quick: true,
        setup: |machine, made| module(machine, made, "machine", "domain=apic -- mode=xapic"),
        expect: &[
            "only aligned 32-bit moves reach the local APIC's page (at 0xfee00020): #UD",
            "@result",
            "leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    faulty(
        "machine: ends by reboot",
        |machine, made| module(machine, made, "machine", "domain=faulty mem=16M -- mode=reboot"),
        &["d1 faulty: asked for a restart", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "machine: ends by suspend",
        |machine, made| module(machine, made, "machine", "domain=faulty mem=16M -- mode=suspend"),
        &["d1 faulty: asked to be suspended, which is not built", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "machine: ends by watchdog",
        |machine, made| module(machine, made, "machine", "domain=faulty mem=16M -- mode=watchdog"),
        &["d1 faulty: was ended by its watchdog", "leaked frames: 0", "switching off"],
    ),
    faulty(
        "machine: ends by soft-reset",
        |machine, made| module(machine, made, "machine", "domain=faulty mem=16M -- mode=soft-reset"),
        &["d1 faulty: asked for a soft reset, which is not built", "leaked frames: 0", "switching off"],
    ),
    Case {
        name: "machine: a flood of the console slows nobody else",
        quick: false,
        setup: |machine, made| {
            machine.icount = true;
            module(machine, made, "machine", "domain=worker -- mode=worker")?;
            module(machine, made, "machine", "domain=flood -- mode=flood-console")
        },
        expect: &["machine: works", "nothing but noise", "% of the time", "@result"],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "machine: a flood of events slows nobody else",
        quick: false,
        setup: |machine, made| {
            machine.icount = true;
            module(machine, made, "machine", "domain=worker -- mode=worker peer=2")?;
            module(machine, made, "machine", "domain=flood -- mode=flood-events peer=1")
        },
        expect: &["machine: floods port", "% of the time", "@result"],
        never: TROUBLE,
        end: End::Any,
    },
];
