//! Boots whose domains are built again after their end (`restart=`).

use super::parts::{TROUBLE, module};
use super::{Case, End};
use crate::qemu::Keys;

/// Ends in a row, each soon after the start, at which a domain is given up.
const LIVES: usize = 5;
/// Enough domains that their lives are more than the 63 numbers there are.
const DOMAINS: usize = 14;

/// Every boot.
pub const CASES: &[Case] = &[
    Case {
        name: "restart: a domain that always crashes is given up",
        quick: true,
        setup: |machine, made| {
            module(machine, made, "faulty", "domain=loop restart=always mem=4M -- mode=crash")
        },
        expect: &[
            "d1 loop: says it has crashed",
            "d1 loop: leaked frames: 0, handles: 0",
            "d2 loop: built again from 'faulty'",
            "d5 loop: leaked frames: 0, handles: 0",
            "loop: ended 5 times in a row within 10 s of its start; it is not started again",
            "switching off",
        ],
        never: &["panic", "d6 loop"],
        end: End::OffWith("leaked frames: 0, handles: 0", LIVES),
    },
    Case {
        name: "restart: a crash is no restart, a way out in peace neither",
        quick: false,
        setup: |machine, made| {
            module(machine, made, "faulty", "domain=crash restart=reboot mem=4M -- mode=crash")?;
            module(machine, made, "faulty", "domain=peace restart=always mem=4M -- mode=exit")
        },
        expect: &["switching off"],
        never: &["panic", "built again"],
        end: End::OffWith("leaked frames: 0, handles: 0", 2),
    },
    Case {
        name: "restart: the console ends a domain, whose next life has the input",
        quick: true,
        setup: |machine, made| {
            module(machine, made, "terminal", "domain=a input restart=reboot -- mode=echo")?;
            module(machine, made, "terminal", "domain=b -- mode=echo")?;
            machine.keys = vec![
                Keys { after: "(d1 a) terminal: listening", keys: "\x01\x01\x0b" },
                Keys { after: "(d3 a) terminal: listening", keys: "one\nexit\n" },
                Keys { after: "d3 a: leaked frames: 0", keys: "\x01\x01\x0b\x01\x01\x01\x01\x01\x0b" },
            ];
            Ok(())
        },
        expect: &[
            "input goes to d1 a; three times Ctrl-A hands it on",
            "d1 a: ended by the console",
            "input goes to the hypervisor",
            "d1 a: leaked frames: 0, handles: 0",
            "d3 a: built again",
            "input goes to d3 a",
            "@heard one",
            "d3 a: leaked frames: 0, handles: 0",
            "no domain has the input, so none is ended",
            "input goes to d2 b",
            // It has no `restart=`.
            "d2 b: ended by the console",
            "d2 b: leaked frames: 0, handles: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "restart: more lives than numbers",
        quick: false,
        setup: |machine, made| {
            for number in 0..DOMAINS {
                let string = format!("domain=loop{number} restart=always mem=4M -- mode=crash");
                module(machine, made, "faulty", &string)?;
            }
            Ok(())
        },
        expect: &["d1 loop0: leaked", "d63 loop", "d1 loop", "switching off"],
        never: &["panic"],
        end: End::OffWith("leaked frames: 0, handles: 0", DOMAINS * LIVES),
    },
];
