//! A long run of mixed traffic between Linux domains: nothing may be lost that is not UDP, no data may come back
//! changed, and the hypervisor may not grow.
//!
//! Growth is told by the hypervisor's key `m`, pressed once everything has been done twice - by then tables and
//! heap have their size - and again at the end, while all domains still run; what they own is not counted.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::LinuxArgs;
use super::network::{self, Linux};
use crate::failure::{Exit, stop};
use crate::progress::Step;
use crate::qemu::{self, Keys, Next};

const NODES: &str =
    "name=driver name=client name=peer vif=client:driver vif=peer:driver vbd=client:driver:/dev/ram0";
/// The input is the hypervisor's at first; at the end it goes by way of the store to the driver.
const KEYS: [Keys; 2] = [
    Keys { after: "(d3 client) @round 2,", keys: "m" },
    Keys { after: "(d3 client) @done", keys: "m\x01\x01\x01\x01\x01\x01off\n" },
];
/// The heap grows by so many frames at once: that much says nothing.
const CHUNK: u64 = 64;
/// Beside the traffic: boot, warming up, the end; seconds.
const BESIDE: u64 = 150;

/// What a long run came to.
#[derive(Debug, Default)]
pub struct Told {
    /// The client's last words about it.
    rounds: String,
    /// Frames of the hypervisor's own, at both looks.
    own: Vec<u64>,
    seconds: f64,
}

/// Boots a driver, a client and its peer, for so many seconds of traffic.
///
/// # Errors
/// When anything is lost, comes back changed, stays behind, or grows.
pub fn run(args: &LinuxArgs, seconds: u64) -> Result<Told> {
    let domains = ["driver", "client", "peer"].map(|role| Linux {
        name: role.to_owned(),
        module: String::new(),
        kernel: format!("rdinit=/soak role={role} seconds={seconds}"),
    });
    let args = LinuxArgs { limit: args.limit.max(seconds + BESIDE), ..args.clone() };
    let mut machine = network::machine(&args, "", NODES, &domains)?;
    machine.keys.extend(KEYS);

    let step = Step::new("A long run of traffic between Linux domains");
    let since = Instant::now();
    let (mut told, mut wrong, mut freed) = (Told::default(), None, 0);
    let boot = qemu::boot(&machine, |line| {
        step.at(line.text);
        if args.console {
            let who = line.domain.unwrap_or("hv");
            println!("{:>8.2} ({who}) {}", since.elapsed().as_secs_f64(), line.text);
        }
        if line.text.starts_with("@round ") {
            line.text.clone_into(&mut told.rounds);
        }
        if line.domain.is_none() {
            told.own.extend(own(line.text));
            freed += u32::from(line.text.ends_with("leaked frames: 0, handles: 0"));
        }
        wrong = network::trouble(line);
        if wrong.is_some() { Next::Stop } else { Next::More }
    })?;
    told.seconds = since.elapsed().as_secs_f64();
    let wrong = wrong
        .or_else(|| network::ended_badly(&boot, args.limit))
        .or_else(|| told.grew())
        .or_else(|| (freed != 3).then(|| format!("{freed} of 3 domains gave all back")));
    match wrong {
        None => Ok(told),
        Some(why) => Err(stop(Exit::Failed, format!("{why}\n{}", boot.tail(40)))),
    }
}

/// The hypervisor's own frames, from what the key says.
fn own(text: &str) -> Option<u64> {
    text.strip_prefix("memory: ")?
        .split_once(" of domains, ")?
        .1
        .split_once(" the hypervisor's")?
        .0
        .parse()
        .ok()
}

impl Told {
    fn grew(&self) -> Option<String> {
        match self.own[..] {
            [first, last] if last <= first + CHUNK => None,
            [first, last] => Some(format!("the hypervisor's own memory grew from {first} to {last} frames")),
            _ => Some(format!("the hypervisor told of its memory {} times", self.own.len())),
        }
    }

    /// For people.
    pub fn print(&self) {
        println!(
            "{}, in {:.0} s with boot and end; no ping lost",
            self.rounds.trim_start_matches('@'),
            self.seconds
        );
        if let [first, last] = self.own[..] {
            println!("the hypervisor's own memory: {first} frames after two rounds, {last} at the end");
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "rounds": self.rounds, "hypervisor_frames": self.own, "seconds": self.seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen() {
        let line = "memory: 1000 frames; 500 free, 3 being freed, 400 of domains, 97 the hypervisor's";
        assert_eq!(own(line), Some(97));
        assert_eq!(own("memory: d1 a: 400 frames"), None);
        let grew = |own: &[u64]| Told { own: own.to_vec(), ..Told::default() }.grew();
        assert_eq!(grew(&[97, 97 + CHUNK]), None);
        assert!(grew(&[97, 98 + CHUNK]).unwrap().contains("grew"));
        assert!(grew(&[97]).unwrap().contains("1 times"));
    }
}
