//! Draws rows of two players as bars: for verbs of xtask that measure themselves, such as `versus-xen`.

use anyhow::{Context, Result};
use benches::report::{Bar, Bars};
use clap::Parser;
use serde::Deserialize;
use std::fs;
use std::path::PathBuf;

/// Draw rows of two players as bars.
#[derive(Parser)]
struct Args {
    /// The rows, as JSON: name, ours, peer, ratio
    #[arg(long)]
    rows: PathBuf,
    /// Words for our figures, with their unit
    #[arg(long)]
    ours: String,
    /// Words for the other's
    #[arg(long)]
    peer: String,
    /// Digits after the point
    #[arg(long, default_value_t = 0)]
    digits: usize,
    /// The picture
    #[arg(long)]
    svg: PathBuf,
}

/// One line of the rows; what else it holds is not drawn.
#[derive(Deserialize)]
struct Row {
    name: String,
    ours: f64,
    peer: f64,
    ratio: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = fs::read_to_string(&args.rows).with_context(|| format!("reading {}", args.rows.display()))?;
    let rows: Vec<Row> = serde_json::from_str(&text).with_context(|| format!("{}", args.rows.display()))?;
    let drawn: Vec<_> = rows
        .iter()
        .map(|row| Bar { name: &row.name, ours: row.ours, peer: row.peer, ratio: row.ratio })
        .collect();
    let bars = Bars { name: "bars", caption: "", legend: [&args.ours, &args.peer], digits: args.digits };
    let plot = bars.draw(&drawn)?;
    fs::write(&args.svg, plot.file()).with_context(|| format!("writing {}", args.svg.display()))
}
