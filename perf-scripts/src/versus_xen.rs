//! `versus-xen`: the same guests and the same work on Tollgate and on Debian's Xen 4.17, in turns.
//!
//! Both run in the same QEMU under `-icount shift=0,sleep=off`: guest time counts instructions there, one per
//! nanosecond, whatever else the host does, so figures of two runs may be compared. What is compared is told by
//! [`micro`] (hypercalls of one guest) and [`traffic`] (Linux domains and Xen's own toolstack).

mod dom0;
mod micro;
mod record;
mod rows;
mod traffic;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use record::Report;

use crate::failure::{Exit, stop};
use crate::image::{self, ImageArgs};
use crate::progress::Step;
use crate::{places, process, setup, xen};

/// What `versus-xen` may be asked.
#[derive(Args, Clone, Debug)]
pub struct VersusXenArgs {
    /// Only the hypercalls of the bench guest
    #[arg(long, conflicts_with = "linux")]
    micro: bool,
    /// Only the traffic of Linux domains
    #[arg(long)]
    linux: bool,
    /// Only Xen's side of the traffic: for figures to reach
    #[arg(long, requires = "linux")]
    xen_only: bool,
    /// Only Tollgate's side of the traffic: to see what a change brings
    #[arg(long, requires = "linux", conflicts_with = "xen_only")]
    tollgate_only: bool,
    /// How often each side runs, in turns; the medians are compared
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Write the rows as JSON: name, unit, ours, peer, ratio (above 1: Tollgate is better)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write tables, plots and notes here instead of results/<date>-versus-xen/
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The verb itself.
pub fn versus_xen(args: &VersusXenArgs, no_install: bool) -> Result<()> {
    setup::need(&[setup::QEMU], no_install)?;
    let debian = xen::hypervisor(no_install)
        .map_err(|why| stop(Exit::MissingTool, format!("no {} here: {why:#}", xen::PACKAGE)))?;
    let out = match &args.out {
        Some(dir) => dir.clone(),
        None => places::root().join(format!("results/{}-versus-xen", said_by("date", &["-u", "+%F"])?)),
    };
    let mut measured = Vec::new();
    let mut part = |report: Report| {
        print!("{}", rows::table(&report.rows));
        record::write(&report, &out.join(report.part))?;
        println!("{}", out.strip_prefix(places::root()).unwrap_or(&out).join(report.part).display());
        measured.extend(report.rows);
        // After each part, so that a later one that fails takes nothing with it.
        let Some(path) = &args.json else { return Ok(()) };
        let text = format!("{:#}\n", Value::from_iter(measured.iter().map(rows::Row::json)));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    let build = || image::build(&ImageArgs::default());
    if !args.linux {
        let made = build()?;
        part(micro::alone(&made, &debian, args.runs)?)?;
        part(micro::between(&made, &debian, args.runs)?)?;
    }
    if !args.micro {
        let made = if args.xen_only { None } else { Some(build()?) };
        part(traffic::measure(made.as_ref(), &debian, args.runs, args.tollgate_only)?)?;
    }
    Ok(())
}

/// The first line a program answers.
fn said_by(program: &str, words: &[&str]) -> Result<String> {
    const LIMIT: Duration = Duration::from_secs(20);
    let mut command = Command::new(program);
    command.args(words).current_dir(places::root());
    let done = process::run(&mut command, &Step::new(program), LIMIT)?;
    match done.out.lines().next() {
        Some(line) if done.status.success() => Ok(line.trim().to_owned()),
        _ => Err(stop(Exit::Failed, format!("{program} says nothing: {}", done.tail(1)))),
    }
}
