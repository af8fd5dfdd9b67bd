//! `bench` and `report`: builds the runner of `benches` and lets it speak for itself. The runner is a program
//! of its own so that this crate need not compile what it measures.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::failure::{Exit, stop};
use crate::places;
use crate::process::run;
use crate::progress::Step;

const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// What `bench` may be asked.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// Fewer samples: under 50 seconds on two idle cores, once the runner is built
    #[arg(long)]
    quick: bool,
    /// Only rows whose names contain this
    #[arg(long, default_value = "")]
    filter: String,
    /// Write the rows here: name, unit, ours, peer, ratio (above 1: ours is faster), its interval
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The verb `bench`.
pub fn bench(args: &BenchArgs) -> Result<()> {
    let mut runner = program("ab", &[])?;
    runner.args(["--filter", &args.filter]);
    if args.quick {
        runner.arg("--quick");
    }
    if let Some(path) = &args.json {
        runner.arg("--json").arg(path);
    }
    speak(runner)
}

/// What `report` may be asked.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Fewer samples
    #[arg(long)]
    quick: bool,
    /// Measure nothing: use these rows, which `bench --json` wrote
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    rows: Option<PathBuf>,
    /// Write here instead of results/<date>-<machine>/, and leave README alone
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The verb `report`.
pub fn report(args: &ReportArgs) -> Result<()> {
    let measured = places::target().join("bench-rows.json");
    let command = if args.quick { "cargo xtask report --quick" } else { "cargo xtask report" };
    if args.rows.is_none() {
        bench(&BenchArgs { quick: args.quick, filter: String::new(), json: Some(measured.clone()) })?;
    }
    let points = places::target().join("simulated.json");
    let mut simulator = program("simulate", &["--features", "lines"])?;
    let rows = args.rows.as_ref().unwrap_or(&measured);
    simulator.arg("--rows").arg(rows).arg("--json").arg(&points);
    speak(simulator)?;
    let mut writer = program("report", &[])?;
    writer.arg("--simulated").arg(&points);
    writer.arg("--rows").arg(rows).args(["--command", command]);
    writer.arg("--root").arg(places::root());
    if let Some(out) = &args.out {
        writer.arg("--out").arg(out);
    }
    speak(writer)
}

/// Builds a program of `benches`, optimised, and returns the command that starts it.
pub fn program(name: &str, more: &[&str]) -> Result<Command> {
    let step = Step::new("Building the runner (not counted in any time)");
    let mut command = places::cargo();
    command.args(["build", "--locked", "--release", "-p", "benches", "--bin", name]).args(more);
    let done = run(&mut command, &step, BUILD_LIMIT)?;
    if !done.status.success() {
        return Err(stop(Exit::Build, format!("{}\nthe runner does not build", done.tail(30))));
    }
    Ok(Command::new(places::target().join("release").join(name)))
}

/// Runs a program that writes to our terminal itself.
pub fn speak(mut program: Command) -> Result<()> {
    let status = program.status().with_context(|| format!("cannot start {program:?}"))?;
    if status.success() { Ok(()) } else { Err(stop(Exit::Failed, format!("the runner ended with {status}"))) }
}
