//! What a run leaves in results/: rows, a plot, the note with versions and commands, a summary.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::rows::{self, Row};
use super::said_by;
use crate::bench;

/// A part's outcome.
pub struct Report {
    /// Its directory's name.
    pub part: &'static str,
    pub title: String,
    pub rows: Vec<Row>,
    /// Those worth a bar, as they stand beside one another: one unit.
    pub bars: Vec<Row>,
    /// Versions and commands, a line each.
    pub notes: Vec<String>,
    /// What a reader must know about the figures, for the summary.
    pub words: String,
}

/// Writes `rows.csv`, `rows.json`, `bars.svg`, `env.txt` and `summary.md` into `out`.
pub fn write(report: &Report, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let put = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("rows.csv", &rows::csv(&report.rows))?;
    put("rows.json", &json(&report.rows))?;
    put("env.txt", &note(report)?)?;
    put("summary.md", &summary(report))?;

    let Some(first) = report.bars.first().filter(|row| row.ratio().is_some()) else { return Ok(()) };
    put("bars.json", &json(&report.bars))?;
    let mut program = bench::program("bars", &[])?;
    program.arg("--rows").arg(out.join("bars.json")).arg("--svg").arg(out.join("bars.svg"));
    program.args(["--ours", &format!("Tollgate, {}", first.unit)]);
    program.args(["--peer", &format!("Xen 4.17, {}", first.unit)]);
    bench::speak(program)?;
    fs::remove_file(out.join("bars.json")).context("cannot remove bars.json")
}

fn json(rows: &[Row]) -> String {
    format!("{:#}\n", Value::from_iter(rows.iter().map(Row::json)))
}

fn note(report: &Report) -> Result<String> {
    let mut text = String::new();
    for (what, program, words) in [
        ("commit", "git", &["rev-parse", "--short", "HEAD"][..]),
        ("compiler", "rustc", &["--version"]),
        ("emulator", "qemu-system-x86_64", &["--version"]),
        ("host kernel", "uname", &["-sr"]),
    ] {
        text.push_str(&format!("{what}: {}\n", said_by(program, words)?));
    }
    for note in &report.notes {
        text.push_str(note);
        text.push('\n');
    }
    Ok(text)
}

fn summary(report: &Report) -> String {
    let spread = report.rows.iter().map(rows::spread).fold(0.0, f64::max);
    let runs = report.rows.first().map_or(0, |row| row.ours.len().max(row.peer.len()));
    format!(
        "# {}\n\nMedians of {runs} runs of each, in turns; the runs of a row lie within {spread:.2} % of its median. \
         Ratios above 1: Tollgate is better. Versions and commands are in env.txt, every run in rows.csv.\n\n{}\n{}\n",
        report.title,
        rows::markdown(report.rows.iter()),
        report.words.trim_end()
    )
}
