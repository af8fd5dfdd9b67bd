//! The console: debug keys, input, and lines of which none is lost.

use std::time::Duration;

use super::faulty::misbehave;
use super::parts::{TROUBLE, frames, hello, module};
use super::{Case, End};
use crate::qemu::Keys;

/// More than a domain's console keeps of input nobody reads: the letters from a to y, over and over.
const TYPED_BLINDLY: &str = {
    const BYTES: [u8; 4000] = {
        let mut bytes = [0; 4000];
        let mut at = 0;
        let mut letter = b'a';
        while at < bytes.len() {
            bytes[at] = letter;
            letter = if letter == b'y' { b'a' } else { letter + 1 };
            at += 1;
        }
        bytes
    };
    match core::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => panic!("letters are ASCII"),
    }
};

/// Every case.
pub const CASES: &[Case] = &[
    Case {
        name: "debug keys: a running pair",
        quick: true,
        setup: |machine, made| {
            machine.limit = Duration::from_secs(30);
            module(machine, made, "netback", "domain=back data=frames -- seconds=20")?;
            module(machine, made, "netfront", "domain=front data=frames -- seconds=20")?;
            machine.keys.push(Keys { after: "@first-packet", keys: "hg" });
            frames(machine)
        },
        expect: &[
            "key g: ",
            "grants of d1 back: version 1 (at most ",
            ", frames 1 of 64, status frames 0, handles ",
            "grants of d2 front: version 1 (at most ",
            ", handles 0 of 262144 in 0 frames",
            "grants of d2 front: reference 8: pinned by d1, 0 to read, 1 to write; frame 0x",
            ", bytes 0 to 4095, flags 0x19",
            "grants: 2 domains",
        ],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "debug keys: while a guest spins",
        quick: false,
        setup: |machine, made| {
            machine.limit = Duration::from_secs(20);
            misbehave(machine, made, "spin")?;
            machine.keys.push(Keys { after: "faulty: spin", keys: "g" });
            Ok(())
        },
        expect: &["grants of d1 faulty: version 1", "grants: 1 domains"],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "debug keys: with nothing to do",
        quick: false,
        setup: |machine, made| {
            machine.limit = Duration::from_secs(20);
            hello(machine, made, "hello")?;
            machine.cmdline.clear();
            machine.keys.push(Keys { after: "d1 hello: leaked frames: 0", keys: "g" });
            Ok(())
        },
        expect: &["grants: 0 domains"],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "console: input, handed from domain to domain",
        quick: true,
        setup: |machine, made| {
            for name in ["a", "b"] {
                module(machine, made, "terminal", &format!("domain={name} -- mode=echo"))?;
            }
            machine.keys = vec![
                Keys { after: "(d1 a) terminal: listening", keys: "\x01\x01\x01one\n" },
                Keys { after: "@heard one", keys: "\x01\x01\x01two\n" },
                Keys { after: "@heard two", keys: "\x01\x01\x01h" },
                Keys { after: "key h: ", keys: "\x01\x01\x01\x01three\nexit\n" },
                Keys { after: "input goes to the hypervisor", keys: "\x01\x01\x01exit\n" },
            ];
            Ok(())
        },
        expect: &[
            "input goes to d1 a; three times Ctrl-A hands it on",
            "@heard one",
            "input goes to d2 b",
            "@heard two",
            "input goes to the hypervisor",
            "key h: ",
            "input goes to d1 a",
            "@heard \\x01three",
            "input goes to the hypervisor",
            "input goes to d2 b",
            "@heard exit",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "console: input to a domain from the start, which does not read it",
        quick: false,
        setup: |machine, made| {
            module(machine, made, "terminal", "domain=deaf input -- mode=deaf")?;
            machine.keys.push(Keys { after: "terminal: does not listen", keys: TYPED_BLINDLY });
            Ok(())
        },
        expect: &[
            "input goes to d1 deaf",
            "warning: d1 deaf does not read its input",
            "d1 deaf reads its input again; ",
            "@result",
            "input goes to the hypervisor",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "console: a ring with indexes without sense, while somebody types",
        quick: false,
        setup: |machine, made| {
            module(machine, made, "terminal", "domain=rude input -- mode=indexes")?;
            machine.keys.push(Keys { after: "terminal: begins", keys: TYPED_BLINDLY });
            Ok(())
        },
        expect: &["terminal: and all is well", "@result", "leaked frames: 0", "switching off"],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "console: a flood, of which no line is lost",
        quick: false,
        setup: |machine, made| module(machine, made, "terminal", "domain=wet -- mode=flood"),
        expect: &["flood 0: one", "flood 3999: one", "@result", "switching off"],
        never: TROUBLE,
        end: End::OffWith(": one of many lines that are printed in a hurry", 4000),
    },
    Case {
        name: "console: a level for each domain",
        quick: false,
        setup: |machine, made| {
            module(machine, made, "hello", "domain=told")?;
            module(machine, made, "hello", "domain=still loglvl=none")?;
            module(machine, made, "hello", "domain=terse loglvl=error")
        },
        expect: &["d1 told: 64 MiB", "d1 told: powered off", "switching off"],
        never: &["panic", "@fail", "d2 still:", "d3 terse:"],
        // Two of three are heard themselves.
        end: End::OffWith("@result", 2),
    },
];
