//! The cases: good boots, refused input, guests that misbehave.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Case, End};
use crate::image::Artefacts;
use crate::places;
use crate::qemu::{Keys, Machine, Module};

/// What no good boot prints.
pub const TROUBLE: &[&str] = &["panic", "@fail", "bad option", "crashed"];

/// A case for which only the outcome of a refused input matters.
const fn refused(
    name: &'static str,
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    expect: &'static [&'static str],
) -> Case {
    Case { name, quick: false, setup, expect, never: &["panic"], end: End::Any }
}

/// A guest that misbehaves alone: what it costs it, and that nothing is left of it.
const fn faulty(
    name: &'static str,
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    expect: &'static [&'static str],
) -> Case {
    Case { name, quick: false, setup, expect, never: LEFT_OVERS, end: End::Off }
}

/// What even a crashing guest must not cause.
const LEFT_OVERS: &[&str] = &["panic", "bad option", "error: d1 faulty: leaked"];

/// All six domains of three pairs are gone, and have left nothing; three of them lived to tell it.
const THREE_PAIRS: &[&str] = &[
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "every domain has ended",
    "switching off",
];
/// The same of three trios.
const THREE_TRIOS: &[&str] = &[
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "leaked frames: 0, handles: 0",
    "every domain has ended",
    "switching off",
];
const PAIR_TROUBLE: &[&str] = &["panic", "@fail", "bad option"];

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
        name: "multiboot",
        quick: true,
        setup: |machine, made| hello(machine, made, "hello"),
        expect: &[
            "loaded by multiboot",
            "CPUs: 1 running, of 1",
            "@result",
            "powered off",
            "leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "32-bit guest",
        quick: true,
        setup: |machine, made| hello(machine, made, "hello32"),
        expect: &["32-bit kernel", "@result", "powered off", "leaked frames: 0", "switching off"],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "conformance",
        quick: false,
        setup: |machine, made| hello(machine, made, "conformance"),
        expect: &[
            "@case map.rw = okay",
            "@case switch.to_2_and_back = 0:2 0:1",
            "@cases 712",
            "leaked frames: 0",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "conformance, 32-bit",
        quick: false,
        setup: |machine, made| hello(machine, made, "conformance32"),
        expect: &[
            "@case map.rw = okay",
            "@case switch.to_2_and_back = 0:2 0:1",
            "@cases 712",
            "leaked frames: 0",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "conformance, version 1 and no transitive grants",
        quick: false,
        setup: |machine, made| {
            hello(machine, made, "conformance")?;
            machine.modules[0].string = "domain=conf gnttab=max_ver:1,no-transitive".to_owned();
            Ok(())
        },
        expect: &["@case map.rw = okay", "@case v2.map.rw = no version 2: ENOSYS", "@cases 712"],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "four CPUs, two vCPUs",
        quick: false,
        setup: |machine, made| {
            machine.cpus = 4;
            hello(machine, made, "hello")?;
            machine.modules[0].string = "domain=hello vcpus=2 cpus=1-3".to_owned();
            Ok(())
        },
        expect: &["CPUs: 4 running, of 4", "@result", "powered off", "leaked frames: 0"],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "maxcpus=",
        quick: false,
        setup: |machine, made| {
            machine.cpus = 4;
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" maxcpus=2");
            Ok(())
        },
        expect: &["CPUs: 2 running, of 4", "@result"],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        // QEMU's PVH loader hands over one module and no string with it: a domain of all defaults.
        name: "PVH",
        quick: true,
        setup: |machine, made| {
            module(machine, made, "hello", "")?;
            machine.image = without_multiboot(made)?;
            Ok(())
        },
        expect: &[
            "loaded by PVH",
            "d1 guest: ",
            "@result",
            "powered off",
            "leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "capabilities: all allowed",
        quick: false,
        setup: |machine, made| hello(machine, made, "hello"),
        expect: &["capabilities: grant table version 1 of at most 2, transitive true, ", "@result"],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "capabilities: the host's gnttab= narrows",
        quick: false,
        setup: |machine, made| {
            hello(machine, made, "hello")?;
            machine
                .cmdline
                .push_str(" gnttab=max_ver:1,no-transitive gnttab_max_frames=8 gnttab_max_maptrack_frames=3");
            Ok(())
        },
        expect: &[
            "capabilities: grant table version 1 of at most 1, transitive false, ",
            "of 8 frames, 0 of 768 handles",
            "@result",
        ],
        never: TROUBLE,
        end: End::Any,
    },
    Case {
        name: "capabilities: a domain's gnttab= narrows",
        quick: false,
        setup: |machine, made| {
            module(machine, made, "hello", "domain=one gnttab=no-transitive gnttab_max_frames=4")
        },
        expect: &[
            "capabilities: grant table version 1 of at most 2, transitive false, ",
            "of 4 frames",
            "@result",
        ],
        never: TROUBLE,
        end: End::Any,
    },
    refused(
        "unknown option",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" colour=blue");
            Ok(())
        },
        &["bad option 'colour=blue': no such option", "@result"],
    ),
    refused(
        "bad value",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" maxcpus=none");
            Ok(())
        },
        &["bad option 'maxcpus=none': takes a count", "@result"],
    ),
    refused(
        "bad item of gnttab=",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" gnttab=max_ver:9,no-transitive");
            Ok(())
        },
        &["bad option 'gnttab=max_ver:9'", "gnttab=max_ver:2,no-transitive"],
    ),
    refused(
        "no SVM",
        |machine, made| {
            machine.cpu_model = Some("max,-svm".to_owned());
            hello(machine, made, "hello")
        },
        &["error: cannot boot: ", "this CPU has no AMD SVM"],
    ),
    refused(
        "no nested paging",
        |machine, made| {
            machine.cpu_model = Some("max,-npt".to_owned());
            hello(machine, made, "hello")
        },
        &["error: cannot boot: ", "no nested paging"],
    ),
    refused(
        "too little memory",
        |machine, _| {
            machine.mem_mib = 24;
            Ok(())
        },
        &["error: cannot boot: too little memory"],
    ),
    refused(
        "a domain larger than the machine",
        |machine, made| module(machine, made, "hello", "domain=large mem=4G"),
        &["error: cannot boot: domain 'large'"],
    ),
    refused("no modules", |_, _| Ok(()), &["error: cannot boot: no domain to run"]),
    refused(
        "unknown word in a module string",
        |machine, made| module(machine, made, "hello", "domain=x colour=blue"),
        &["error: cannot boot: module 1 ('hello'): 'colour=blue': no such word"],
    ),
    refused(
        "missing data module",
        |machine, made| module(machine, made, "hello", "domain=x data=disk.img"),
        &["error: cannot boot: domain 'x': no data module is called 'disk.img'"],
    ),
    refused(
        "module: not ELF",
        |machine, _| {
            let path = scratch("text", b"this is no kernel\n")?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('text'): not an ELF file"],
    ),
    refused(
        "module: ELF without a PVH note",
        |machine, _| {
            let own = std::env::current_exe().context("cannot tell this program's own file")?;
            machine.mem_mib = 1024;
            machine.modules.push(Module::new(own, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x'", "no PVH entry note"],
    ),
    refused(
        "module: truncated",
        |machine, made| {
            let file = read(made.guest("hello")?)?;
            let path = scratch("truncated", &file[..file.len().min(5000)])?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('truncated'): truncated"],
    ),
    refused(
        "module: truncated bzImage",
        |machine, _| {
            let path = scratch("bzImage", &bzimage(b"\x02\x21\x4c\x18", 5000))?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('bzImage'): a truncated bzImage"],
    ),
    refused(
        "module: bzImage with a damaged payload",
        |machine, _| {
            let path = scratch("bzImage", &bzimage(b"\xfd7zXZ\0 and then no more \x00\x10\x00\x00", 28))?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('bzImage'): a damaged bzImage: its XZ payload does not unpack"],
    ),
    refused(
        "module: overlapping segments",
        |machine, made| {
            let path = scratch("overlapping", &with_overlapping_segments(read(made.guest("hello")?)?)?)?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('overlapping'): two of its segments overlap"],
    ),
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
        name: "control: another domain's grant table",
        quick: false,
        setup: |machine, made| control(machine, made, "peer=1"),
        expect: &[
            "d0 ctl: 64 MiB",
            "key g: grant tables",
            "grants of d0 ctl: version 1",
            "grants: 2 domains in all",
            "d1 peer: powered off",
            "grants of d1 peer (dying): frames of its table stand in 3 places of the control domain",
            "control: lets go",
            "d1 peer: leaked frames: 0",
            "d0 ctl: leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "control: dies with frames of another domain",
        quick: false,
        setup: |machine, made| control(machine, made, "peer=1 mode=die"),
        expect: &["goes with the frames mapped", "leaked frames: 0", "leaked frames: 0", "switching off"],
        never: LEFT_OVERS,
        end: End::Off,
    },
    Case {
        name: "control: refused to others",
        quick: false,
        setup: |machine, made| {
            machine.limit = Duration::from_secs(20);
            module(machine, made, "faulty", "domain=peer -- mode=spin")?;
            module(machine, made, "control", "domain=other -- peer=1")
        },
        expect: &["all refused to an ordinary domain", "@result"],
        never: TROUBLE,
        end: End::Any,
    },
    refused(
        "control: two of them",
        |machine, made| {
            module(machine, made, "hello", "domain=one control")?;
            module(machine, made, "hello", "domain=two control")
        },
        &["error: cannot boot: domain 'two': there is a control domain already"],
    ),
    Case {
        name: "status frames: the version changes while they are put in place",
        quick: false,
        setup: |machine, made| {
            machine.cpus = 2;
            module(machine, made, "status", "domain=racer vcpus=2 gnttab_max_frames=24 -- role=race")
        },
        expect: &["none left", "@result", "d1 racer: leaked frames: 0", "switching off"],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "status frames: mapped by the control domain while they go",
        quick: false,
        setup: |machine, made| {
            machine.cpus = 2;
            module(machine, made, "status", "domain=peer -- role=granter peer=0")?;
            module(machine, made, "status", "domain=ctl control -- role=control peer=1")
        },
        expect: &[
            "status: lets go of the old frame",
            "d1 peer: leaked frames: 0",
            "d0 ctl: leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
    Case {
        name: "death: granters, in the middle of others' maps and copies",
        quick: false,
        setup: |machine, made| pairs(machine, made, true),
        expect: THREE_PAIRS,
        never: PAIR_TROUBLE,
        end: End::Off,
    },
    Case {
        name: "death: mappers, in the middle of their own maps and copies",
        quick: false,
        setup: |machine, made| pairs(machine, made, false),
        expect: THREE_PAIRS,
        never: PAIR_TROUBLE,
        end: End::Off,
    },
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
        name: "death: each of three domains, in the middle of transitive copies",
        quick: false,
        setup: trios,
        expect: THREE_TRIOS,
        never: PAIR_TROUBLE,
        end: End::Off,
    },
    Case {
        name: "the store, a client, a hostile and a silent one",
        quick: true,
        setup: |machine, made| {
            module(machine, made, "store", "domain=store store -- name=2:asks")?;
            module(machine, made, "store_client", "domain=asks -- after")?;
            module(machine, made, "store_client", "domain=rude -- hostile")?;
            module(machine, made, "store_client", "domain=mute -- mute")
        },
        expect: &[
            "store: serving",
            "store: d3 does not keep to the protocol (error 2)",
            "store: d3 does not keep to the protocol (error 3)",
            "@result {\"role\":\"store_client\",\"mode\":\"hostile\",\"ok\":true}",
            "@result {\"role\":\"store_client\",\"requests\":",
            "leaked frames: 0",
            "leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
        end: End::Off,
    },
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

/// One domain that runs a guest of ours and powers the machine off after it.
fn hello(machine: &mut Machine, made: &Artefacts, guest: &str) -> Result<()> {
    module(machine, made, guest, &format!("domain={guest}"))
}

/// A guest that does what `mode` says (hv/guests/src/bin/faulty.rs).
fn misbehave(machine: &mut Machine, made: &Artefacts, mode: &str) -> Result<()> {
    module(machine, made, "faulty", &format!("domain=faulty -- mode={mode}"))
}

/// A bzImage of one sector of set-up code and this payload, which the header says is so long.
fn bzimage(payload: &[u8], length: u32) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    file.extend_from_slice(payload);
    file
}

/// A control domain beside a domain whose grants it looks at.
fn control(machine: &mut Machine, made: &Artefacts, line: &str) -> Result<()> {
    module(machine, made, "faulty", "domain=peer gnttab_max_frames=5 -- mode=granter")?;
    module(machine, made, "control", &format!("domain=ctl control -- {line}"))
}

/// Three domains in a row: a granter, one that passes its grants on, and one that copies by them; three times,
/// with another one that dies.
fn trios(machine: &mut Machine, made: &Artefacts) -> Result<()> {
    machine.cpus = 2;
    for (index, granter) in (1..).step_by(3).take(3).enumerate() {
        let (passer, copier) = (granter + 1, granter + 2);
        let domains = [
            ("granter", 1, format!("peer={passer}")),
            ("passer", 1, format!("peer={copier} of={granter}")),
            ("copier", 2, format!("peer={passer}")),
        ];
        for (place, (role, vcpus, others)) in domains.into_iter().enumerate() {
            let dies = if place == index { "dies=crash" } else { "" };
            let string = format!(
                "domain={role}-{index} mem=16M vcpus={vcpus} -- role={role} {others} after=100 {dies}"
            );
            module(machine, made, "dying", &string)?;
        }
    }
    Ok(())
}

/// Three pairs of domains that share pages, of which one each dies, in three ways.
fn pairs(machine: &mut Machine, made: &Artefacts, granters: bool) -> Result<()> {
    machine.cpus = 2;
    for (granter, way) in (1..).step_by(2).zip(["crash", "poweroff", "triple"]) {
        let mapper = granter + 1;
        let dies = format!("dies={way}");
        let (first, second) = if granters { (dies.as_str(), "") } else { ("", dies.as_str()) };
        let string = |name, vcpus, role, peer, dies| {
            format!("domain={name}-{way} mem=16M vcpus={vcpus} -- role={role} peer={peer} after=100 {dies}")
        };
        module(machine, made, "dying", &string("granter", 1, "granter", mapper, first))?;
        module(machine, made, "dying", &string("mapper", 2, "mapper", granter, second))?;
    }
    Ok(())
}

pub(super) fn module(machine: &mut Machine, made: &Artefacts, guest: &str, string: &str) -> Result<()> {
    machine.cmdline = "when_done=poweroff".to_owned();
    machine.modules.push(Module::new(made.guest(guest)?, string));
    Ok(())
}

/// A data module called `frames`: one frame for every class of traffic.
fn frames(machine: &mut Machine) -> Result<()> {
    let frames = [60, 1514, 9000].map(|length| vec![0x5a; length]);
    let trace = tollgate_guests::trace::encode(&frames).context("three frames are no 4 GiB")?;
    machine.modules.push(Module::new(scratch("frames", &trace)?, "data"));
    Ok(())
}

/// The image with its multiboot header made unrecognisable, so that QEMU enters it by its PVH note.
fn without_multiboot(made: &Artefacts) -> Result<PathBuf> {
    const MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();
    /// The header must lie within the first 8 KiB (Multiboot Specification 0.6.96, section 3.1).
    const REACH: usize = 8192;
    let mut file = read(&made.image)?;
    let reach = REACH.min(file.len());
    let at = file[..reach].windows(4).position(|word| word == MAGIC).context("no multiboot header")?;
    file[at..at + 4].fill(0);
    scratch("tollgate-pvh", &file)
}

/// An ELF64 file whose second loaded segment goes where the first one does.
fn with_overlapping_segments(mut file: Vec<u8>) -> Result<Vec<u8>> {
    /// Program headers of ELF64: where they begin, how long one is, and `p_paddr` in it.
    const TABLE: usize = 64;
    const ENTRY: usize = 56;
    const PHYSICAL: usize = 24;
    const LOAD: [u8; 4] = 1_u32.to_le_bytes();
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let loaded: Vec<usize> = (0..count)
        .map(|index| TABLE + index * ENTRY)
        .filter(|&at| file.get(at..at + 4) == Some(&LOAD))
        .collect();
    let [first, second, ..] = loaded[..] else { anyhow::bail!("the guest has fewer than two segments") };
    file.copy_within(first + PHYSICAL..first + PHYSICAL + 8, second + PHYSICAL);
    Ok(file)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file for one case, in the directory of the artefacts.
fn scratch(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = places::boot_dir().join(name);
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
