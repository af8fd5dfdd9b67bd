//! Good boots: ways in, widths, CPUs, and what a guest can ask.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::parts::{TROUBLE, hello, module, read, scratch};
use super::{Case, End};
use crate::image::Artefacts;

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
];

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
