//! Linux domains that lose each other in the middle of traffic, and find each other again: a client is ended from the
//! console, the store too, the driver domain is ended and crashes; each is built again (`restart=always`), and the
//! others go on.
//!
//! What is asked of all is in [`STORY`]; the data of each transfer is compared by the client that made it, and
//! what a domain leaves behind is a failure wherever it stands.

use std::time::Instant;

use anyhow::Result;

use super::LinuxArgs;
use super::network::{self, Linux};
use crate::failure::{Exit, stop};
use crate::progress::Step;
use crate::qemu::{self, Keys, Next};

/// Both clients have an interface, the second a disk.
const NODES: &str =
    "name=driver name=client name=peer vif=client:driver vif=peer:driver vbd=peer:driver:/dev/ram0";

/// The console's keys. The input is the client's at first, then its next life's, then the driver's.
const KEYS: [Keys; 9] = [
    // Two Ctrl-A and Ctrl-K end a domain.
    Keys { after: "(d4 peer) @alive 1", keys: "" },
    // By way of the peer and the hypervisor to the store, which ends between two transfers of theirs; the next one has
    // the input.
    Keys { after: "(d3 client) @alive 1", keys: "\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x0b" },
    Keys { after: "(d1 store) store: goes on", keys: "" },
    // All that is new from here on is new by the second store.
    Keys { after: "(d3 client) @alive 1", keys: "\x01\x01\x01\x01\x01\x01\x01\x01\x0b" },
    // On to the hypervisor, the store, the driver; then the same.
    Keys { after: "(d5 client) @alive 1", keys: "\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x0b" },
    // Both have traffic again: the peer's disk is idle then.
    Keys { after: "(d5 client) @alive 2", keys: "" },
    Keys { after: "(d4 peer) @alive 2", keys: "crash\n" },
    Keys { after: "(d5 client) @alive 3", keys: "" },
    Keys { after: "(d4 peer) @alive 3", keys: "off\n" },
];

/// Pieces of lines; each has to come, those of one row in their order.
const STORY: [&[&str]; 5] = [
    &[
        "(d3 client) @alive 1",
        "d3 client: ended by the console",
        "d3 client: leaked frames: 0, handles: 0",
        "d5 client: built again",
        "(d5 client) @alive 1",
        "d2 driver: ended by the console",
        "(d5 client) @gone 1",
        "(d5 client) @alive 2",
        "d6 driver: says it has crashed",
        "(d5 client) @gone 2",
        "(d5 client) @alive 3",
    ],
    // The other client does not notice that the first is gone, and lives on when the driver is.
    &[
        "(d4 peer) @disk 1",
        "(d4 peer) @alive 1",
        "(d4 peer) @gone 1",
        "(d4 peer) @disk 2",
        "(d4 peer) @alive 2",
        "(d4 peer) @gone 2",
        "(d4 peer) @disk 3",
        "(d4 peer) @alive 3",
    ],
    &[
        "(d2 driver) @serves vif3.0",
        "(d2 driver) @serves vif5.0",
        "d2 driver: leaked frames: 0, handles: 0",
        "d6 driver: built again",
        "(d6 driver) @serves vif",
        "(d6 driver) @serves vif",
        "d6 driver: leaked frames: 0, handles: 0",
        "d7 driver: built again",
        "(d7 driver) @serves vif",
        "(d7 driver) @serves vif",
    ],
    // The network does not go with the store.
    &[
        "(d4 peer) @alive 1",
        "d1 store: ended by the console",
        "d1 store: leaked frames: 0, handles: 0",
        "d1 store: built again",
        "(d1 store) store: goes on, with 3 clients",
        "(d3 client) @alive 1",
        "d3 client: ended by the console",
        "(d2 driver) @serves vif5.0",
        "(d4 peer) @gone 1",
    ],
    &["d4 peer: leaked frames: 0, handles: 0", "every domain has ended; "],
];

/// Boots the domains and follows the story.
///
/// # Errors
/// When it goes another way.
pub fn run(args: &LinuxArgs) -> Result<()> {
    let domain = |name: &str, module: &str, words: &str| Linux {
        name: name.to_owned(),
        module: module.to_owned(),
        kernel: format!("rdinit=/faults panic=-1 {words}"),
    };
    let domains = [
        domain("driver", "restart=always", "role=driver"),
        domain("client", "restart=always input", "role=client address=10.0.0.2 rounds=3"),
        domain("peer", "", "role=client address=10.0.0.3 rounds=3 disk=yes"),
    ];
    let mut machine = network::machine(args, "restart=always", NODES, &domains)?;
    machine.keys.extend(KEYS);

    let step = Step::new("Linux domains that lose each other");
    let since = Instant::now();
    let mut wrong = None;
    let mut told = [0; STORY.len()];
    let boot = qemu::boot(&machine, |line| {
        step.at(line.text);
        let whole = line.domain.map_or_else(|| line.text.to_owned(), |who| format!("({who}) {}", line.text));
        if args.console {
            println!("{:>7.2} {whole}", since.elapsed().as_secs_f64());
        }
        for (row, told) in STORY.iter().zip(&mut told) {
            if row.get(*told).is_some_and(|piece| whole.contains(piece)) {
                *told += 1;
            }
        }
        wrong = network::trouble(line);
        if wrong.is_some() { Next::Stop } else { Next::More }
    })?;
    let missing = STORY.iter().zip(told).find_map(|(row, told)| row.get(told));
    let missing = missing.map(|piece| format!("no line with \"{piece}\""));
    let wrong = wrong.or_else(|| network::ended_badly(&boot, args.limit)).or(missing);
    match wrong {
        None => Ok(()),
        Some(why) => Err(stop(Exit::Failed, format!("{why}\n{}", boot.tail(40)))),
    }
}
