//! Writes the report of rows that the A/B runner measured.

use anyhow::{Context, Result};
use benches::report::{self, Input};
use benches::sim::Simulated;
use clap::Parser;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Write tables, plots and one page of measured rows.
#[derive(Parser)]
struct Args {
    /// The rows, as `ab --json` wrote them
    #[arg(long)]
    rows: PathBuf,
    /// The simulator's points, as `simulate --json` wrote them
    #[arg(long)]
    simulated: Option<PathBuf>,
    /// The command that measured them, for the note
    #[arg(long)]
    command: String,
    /// The workspace
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Write here instead of results/<date>-<machine>/, and leave README alone
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = fs::read_to_string(&args.rows).with_context(|| format!("reading {}", args.rows.display()))?;
    let simulated = match &args.simulated {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?
        }
        None => Simulated::default(),
    };
    let gates = args.root.join("results/gates.toml");
    let input = Input {
        rows: serde_json::from_str(&text).with_context(|| format!("{}", args.rows.display()))?,
        simulated,
        gates: fs::read_to_string(&gates).with_context(|| format!("reading {}", gates.display()))?,
        profiles: fs::read_to_string(args.root.join("results/profiles.md")).unwrap_or_default(),
        machine: machine(),
        command: args.command,
    };
    let name = format!("results/{}-{}", said_by("date", &["-u", "+%F"]), slug(&model()));
    let out = args.out.clone().unwrap_or_else(|| args.root.join(&name));
    let verdicts = report::write(&input, &out)?;
    if args.out.is_none() {
        let path = args.root.join("README.md");
        let readme = fs::read_to_string(&path).context("reading README.md")?;
        fs::write(&path, report::into_readme(&readme, &verdicts, &name)?).context("writing README.md")?;
    }
    for v in &verdicts {
        println!("{:>12}  {}: {} (to reach: {})", v.word(), v.what, v.ours, v.wanted);
    }
    println!("{}", out.join("index.html").display());
    Ok(())
}

/// The processor's name.
fn model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|l| l.starts_with("model name"));
    line.and_then(|l| l.split_once(": ")).map_or_else(|| "unknown processor".into(), |(_, name)| name.into())
}

/// A name for a directory.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    let dull = ["amd", "intel", "r", "tm", "cpu", "processor", "core"];
    let words = words.map(str::to_ascii_lowercase).filter(|w| !dull.contains(&w.as_str()));
    words.take(3).collect::<Vec<_>>().join("-")
}

/// What a program answers, or a dash.
fn said_by(program: &str, args: &[&str]) -> String {
    let answer = Command::new(program).args(args).output().ok().filter(|o| o.status.success());
    answer.map_or_else(|| "-".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

fn machine() -> String {
    let file = |path: &str| fs::read_to_string(path).map_or_else(|_| "-".into(), |t| t.trim().to_owned());
    let mut out = String::new();
    let lines = [
        ("processor", model()),
        ("processors", std::thread::available_parallelism().map_or_else(|_| "-".into(), |n| n.to_string())),
        ("kernel", file("/proc/sys/kernel/osrelease")),
        ("large pages", file("/sys/kernel/mm/transparent_hugepage/enabled")),
        ("load when written", file("/proc/loadavg")),
        ("compiler", said_by("rustc", &["--version"])),
        ("commit", said_by("git", &["rev-parse", "--short", "HEAD"])),
    ];
    for (what, answer) in lines {
        let _ = writeln!(out, "{what}: {answer}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_after_the_processor() {
        assert_eq!(slug("AMD EPYC 9B14 96-Core Processor"), "epyc-9b14-96");
        assert_eq!(slug("Intel(R) Xeon(R) CPU @ 2.60GHz"), "xeon-2-60ghz");
    }
}
