//! Domains that share pages, and die; domains with privileges.

use std::time::Duration;

use anyhow::Result;

use super::faulty::LEFT_OVERS;
use super::parts::{TROUBLE, module};
use super::refused::refused;
use super::{Case, End};
use crate::image::Artefacts;
use crate::qemu::Machine;

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

/// Every case.
pub const CASES: &[Case] = &[
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
];

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
