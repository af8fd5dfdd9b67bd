//! Many Linux domains on the bridge of one driver domain, all booted at once: each pings the driver and its
//! neighbour, and when all have, every domain ends.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::LinuxArgs;
use super::network::{self, Linux};
use crate::failure::{Exit, stop};
use crate::progress::Step;
use crate::qemu::{self, Next};

/// When the domains came so far, in seconds from power-on.
#[derive(Debug, Default)]
pub struct Told {
    /// In userspace, each client and the driver.
    boots: Vec<f64>,
    /// Both pings answered, each client.
    pinged: Vec<f64>,
    /// Pings without an answer, of ten for each client.
    lost: u32,
    /// The machine switched off, every frame back.
    off: f64,
}

/// Boots the driver and `clients` clients.
///
/// # Errors
/// When one does not boot, is not answered, or leaves something behind.
pub fn run(args: &LinuxArgs, clients: u32) -> Result<Told> {
    let mut nodes = "name=driver".to_owned();
    let mut domains = vec![Linux {
        name: "driver".to_owned(),
        module: String::new(),
        kernel: format!("rdinit=/many role=driver clients={clients}"),
    }];
    for number in 1..=clients {
        let name = super::name(number);
        nodes.push_str(&format!(" vif={name}:driver"));
        let kernel = format!("rdinit=/many role=client number={number} clients={clients}");
        domains.push(Linux { name, module: String::new(), kernel });
    }
    let machine = network::machine(args, "", &nodes, &domains)?;

    let step = Step::new("Many Linux domains");
    let since = Instant::now();
    let (mut told, mut wrong, mut freed) = (Told::default(), None, 0);
    let boot = qemu::boot(&machine, |line| {
        let now = since.elapsed().as_secs_f64();
        step.at(line.text);
        if args.console {
            println!("{now:>7.2} ({}) {}", line.domain.unwrap_or("hv"), line.text);
        }
        if line.text.contains(r#""what":"boot""#) {
            told.boots.push(now);
        }
        if line.text.contains(r#""what":"pinged""#) {
            told.pinged.push(now);
            let lost = line
                .text
                .split_once(r#""lost":"#)
                .and_then(|(_, rest)| rest.trim_end_matches('}').parse().ok());
            told.lost = told.lost.saturating_add(lost.unwrap_or(u32::MAX));
        }
        freed += u32::from(line.domain.is_none() && line.text.ends_with("leaked frames: 0, handles: 0"));
        wrong = network::trouble(line);
        if wrong.is_some() { Next::Stop } else { Next::More }
    })?;
    told.off = since.elapsed().as_secs_f64();
    let count = |times: &[f64], wanted: u32, what: &str| {
        let there = u32::try_from(times.len()).unwrap_or(u32::MAX);
        (there != wanted).then(|| format!("{there} of {wanted} domains {what}"))
    };
    let wrong = wrong
        .or_else(|| network::ended_badly(&boot, args.limit))
        .or_else(|| count(&told.boots, clients + 1, "reached userspace"))
        .or_else(|| count(&told.pinged, clients, "were answered"))
        .or_else(|| (freed != clients + 1).then(|| format!("{freed} domains gave all back")));
    match wrong {
        None => Ok(told),
        Some(why) => Err(stop(Exit::Failed, format!("{why}\n{}", boot.tail(40)))),
    }
}

impl Told {
    fn last(times: &[f64]) -> f64 {
        times.iter().copied().fold(0.0, f64::max)
    }

    /// For people.
    pub fn print(&self) {
        println!("{} domains in userspace after {:.1} s", self.boots.len(), Self::last(&self.boots));
        println!(
            "{} pinged the driver and their neighbour after {:.1} s; {} pings of ten each had no answer",
            self.pinged.len(),
            Self::last(&self.pinged),
            self.lost
        );
        println!("off, with every frame back, after {:.1} s", self.off);
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "boot_s": self.boots, "pinged_s": self.pinged, "lost": self.lost, "off_s": self.off })
    }
}
