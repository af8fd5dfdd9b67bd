//! `conformance`: the same guest on Tollgate and on Debian's Xen, and where the two differ.
//!
//! The guests `conformance` and `conformance32` exercise every grant-table operation alone, granting to
//! themselves, and print `@case NAME = VALUE` for each case. Tollgate runs them as domains, Xen - unchanged -
//! as its PVH dom0. A difference is explained in docs/conformance.md or is a fault of ours; either way it is
//! printed. Where Xen cannot be had, the column recorded in results/ takes its place.

mod compare;
mod console;
mod explained;
mod xen;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::failure::{Exit, stop};
use crate::image::{self, Artefacts, ImageArgs};
use crate::progress::Step;
use crate::qemu::{self, Machine, Module};
use crate::{places, setup};

use compare::{Comparison, Row};
use console::Column;
use explained::Explained;
use xen::Reference;

/// Each boot takes some seconds.
const LIMIT: Duration = Duration::from_secs(90);
/// Fewer cases than this in a width mean that the guest did not do its work.
const FEWEST: usize = 300;
/// The policies whose answers are compared, as `gnttab=` takes them; empty: without.
pub const POLICIES: &[&str] = &["", "max_ver:1", "no-transitive", "max_ver:1,no-transitive"];

/// What `conformance` may be asked.
#[derive(Args, Clone, Debug, Default)]
pub struct ConformanceArgs {
    /// Write the rows as JSON: case, width, tollgate, xen, explained
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Which guest
    #[arg(long, value_enum, default_value_t)]
    width: Widths,
    /// `gnttab=OPTS` on the command line of both hypervisors
    #[arg(long, value_name = "OPTS", default_value = "", hide_default_value = true)]
    gnttab: String,
    /// `gnttab=OPTS` in the domain's module string on Tollgate, which must do what it does on Xen's command
    /// line
    #[arg(long, value_name = "OPTS", conflicts_with = "gnttab")]
    per_domain: Option<String>,
    /// Every policy, on the command line and per domain
    #[arg(long, conflicts_with_all = ["gnttab", "per_domain"])]
    policies: bool,
    /// Do not boot Xen: compare with the recorded column
    #[arg(long)]
    no_xen: bool,
    /// Record Xen's columns of every policy in results/
    #[arg(long, conflicts_with_all = ["no_xen", "gnttab", "per_domain", "width"])]
    bless_xen: bool,
    /// Print every case, not only those that differ
    #[arg(long)]
    all: bool,
}

/// The widths asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Widths {
    #[value(name = "64")]
    Bits64,
    #[value(name = "32")]
    Bits32,
    #[default]
    Both,
}

impl Widths {
    fn each(self) -> &'static [u8] {
        match self {
            Self::Bits64 => &[64],
            Self::Bits32 => &[32],
            Self::Both => &[64, 32],
        }
    }
}

/// Where a policy is set on Tollgate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Host,
    Domain,
}

/// One boot of each hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run<'a> {
    width: u8,
    /// The value of `gnttab=`; empty: without.
    policy: &'a str,
    place: Place,
}

impl Run<'_> {
    /// For headings: "64-bit, gnttab=max_ver:1 per domain".
    fn title(&self) -> String {
        let policy = match (self.policy, self.place) {
            ("", _) => String::new(),
            (policy, Place::Host) => format!(", gnttab={policy}"),
            (policy, Place::Domain) => format!(", gnttab={policy} per domain"),
        };
        format!("{}-bit{policy}", self.width)
    }

    /// A row for programs; with a policy it says which.
    fn json(&self, row: &Row) -> Value {
        let mut json = row.json();
        if !self.policy.is_empty() {
            json["gnttab"] = self.policy.into();
            json["per_domain"] = (self.place == Place::Domain).into();
        }
        json
    }
}

/// The verb itself.
pub fn conformance(args: &ConformanceArgs, no_install: bool) -> Result<()> {
    setup::need(&[setup::QEMU], no_install)?;
    let made = image::build(&ImageArgs::default())?;
    if args.bless_xen {
        return bless(&made, no_install);
    }
    let reference = Reference::choose(args.no_xen, no_install)?;
    let explained = Explained::read(reference.version())?;
    let policies: Vec<(&str, &[Place])> = if args.policies {
        POLICIES.iter().map(|&policy| (policy, places_of(policy))).collect()
    } else if let Some(policy) = &args.per_domain {
        vec![(policy, &[Place::Domain])]
    } else {
        vec![(&args.gnttab, &[Place::Host])]
    };

    let (mut rows, mut troubles) = (Vec::new(), Vec::new());
    for (policy, places) in policies {
        for &width in args.width.each() {
            for (run, compared) in compare(&made, &reference, &explained, (width, policy), places)? {
                compared.print(&run.title(), reference.name(), args.all);
                troubles
                    .extend(compared.troubles.iter().map(|trouble| format!("{}: {trouble}", run.title())));
                if !compared.unexplained.is_empty() {
                    // The table has told them.
                    let count = compared.unexplained.len();
                    troubles.push(format!("{}: {count} differences that are not explained", run.title()));
                }
                rows.extend(compared.rows.into_iter().map(|row| (run, row)));
            }
        }
    }
    // Only all cases say that a row of the page is about none.
    if args.policies && args.width == Widths::Both {
        let differing: Vec<_> = rows
            .iter()
            .map(|(_, row)| row)
            .filter(|row| row.explained.is_some())
            .map(|row| (row.case.as_str(), row.width))
            .collect();
        for case in explained.unused(&differing) {
            println!("docs/conformance.md explains {case}, in which nothing differs");
        }
    }
    if let Some(path) = &args.json {
        let rows: Vec<_> = rows.iter().map(|(run, row)| run.json(row)).collect();
        let text = format!("{:#}\n", Value::from(rows));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    judge(&troubles)
}

/// For `test`: a policy in both widths, on the command line and per domain. Returns how many cases were
/// compared.
pub fn check(policy: &'static str, no_install: bool) -> Result<usize> {
    let made = image::build(&ImageArgs::default())?;
    let reference = Reference::choose(false, no_install)?;
    let explained = Explained::read(reference.version())?;
    let (mut count, mut troubles) = (0, Vec::new());
    for &width in Widths::Both.each() {
        for (run, compared) in compare(&made, &reference, &explained, (width, policy), places_of(policy))? {
            let told = compared.troubles.iter().chain(&compared.unexplained);
            troubles.extend(told.map(|trouble| format!("{}: {trouble}", run.title())));
            count += compared.rows.len();
        }
    }
    judge(&troubles).map(|()| count)
}

/// Without a policy there is nothing to set per domain.
fn places_of(policy: &str) -> &'static [Place] {
    if policy.is_empty() { &[Place::Host] } else { &[Place::Host, Place::Domain] }
}

fn judge(troubles: &[String]) -> Result<()> {
    /// More of them are one trouble.
    const SHOWN: usize = 20;
    if troubles.is_empty() {
        return Ok(());
    }
    let mut text = troubles[..troubles.len().min(SHOWN)].join("\n");
    if troubles.len() > SHOWN {
        text.push_str(&format!("\nand {} more", troubles.len() - SHOWN));
    }
    Err(stop(Exit::Failed, text))
}

/// A width and a policy, set in each of `places` on Tollgate.
fn compare<'a>(
    made: &Artefacts,
    reference: &Reference,
    explained: &Explained,
    (width, policy): (u8, &'a str),
    places: &[Place],
) -> Result<Vec<(Run<'a>, Comparison)>> {
    let xen = reference.column(made, width, policy)?;
    let mut first: Option<Column> = None;
    let mut done = Vec::new();
    for &place in places {
        let run = Run { width, policy, place };
        let tollgate = on_tollgate(made, &run)?;
        let mut compared = compare::compare(&tollgate, &xen, width, explained, FEWEST);
        // Explained differences to Xen are none between the places.
        let first = first.get_or_insert_with(|| tollgate.clone());
        if !first.cases().eq(tollgate.cases()) {
            compared.troubles.push("not what the hypervisor's own gnttab= gives".to_owned());
        }
        done.push((run, compared));
    }
    Ok(done)
}

/// The guest's file name.
fn guest_of(width: u8) -> &'static str {
    if width == 32 { "conformance32" } else { "conformance" }
}

fn on_tollgate(made: &Artefacts, run: &Run<'_>) -> Result<Column> {
    let mut machine = Machine::new(&made.image);
    machine.cmdline = "when_done=poweroff".to_owned();
    // On Xen it is dom0: number 0, and privileged.
    let mut string = "domain=conformance control mem=512M".to_owned();
    machine.mem_mib = 1024;
    if !run.policy.is_empty() {
        let words = match run.place {
            Place::Host => &mut machine.cmdline,
            Place::Domain => &mut string,
        };
        words.push_str(&format!(" gnttab={}", run.policy));
    }
    machine.modules.push(Module::new(made.guest(guest_of(run.width))?, string));
    column(machine, &format!("Tollgate, {}", run.title()))
}

/// Boots a machine and reads its cases.
fn column(mut machine: Machine, title: &str) -> Result<Column> {
    machine.limit = LIMIT;
    let step = Step::new(format!("Booting {title}"));
    let mut reader = console::Reader::default();
    let boot = qemu::boot(&machine, |line| {
        step.at(line.text);
        reader.line(line.text)
    })?;
    reader
        .finish(&boot.ending)
        .map_err(|(exit, why)| stop(exit, format!("{title}: {why}\n{}", boot.tail(15))))
}

/// Records Xen's columns.
fn bless(made: &Artefacts, no_install: bool) -> Result<()> {
    let reference = Reference::choose(false, no_install)?;
    let path = xen::recorded_path();
    let text = reference.record(made, Widths::Both.each(), POLICIES)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.strip_prefix(places::root()).unwrap_or(&path).display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_tried_in_both_places() {
        assert_eq!(places_of(""), [Place::Host]);
        assert_eq!(places_of("max_ver:1"), [Place::Host, Place::Domain]);
        let run = Run { width: 32, policy: "max_ver:1", place: Place::Domain };
        assert_eq!(run.title(), "32-bit, gnttab=max_ver:1 per domain");
    }

    #[test]
    fn troubles_fail_the_run_and_are_not_endless() {
        assert!(judge(&[]).is_ok());
        let text = judge(&vec!["x".to_owned(); 25]).unwrap_err().to_string();
        assert!(text.ends_with("x\nand 5 more"), "{text}");
    }
}
