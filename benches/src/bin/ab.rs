//! The A/B runner: ours against Xen's algorithm, in turns, every answer verified.

use anyhow::{Context, Result, ensure};
use benches::ab::{self, Row};
use benches::baseline::Xen;
use benches::ours::Ours;
use benches::workload::{self, Player};
use benches::{engine, handles};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use copy_engine::Choice;
use std::path::PathBuf;

/// Play the workloads on our grant tables and on Xen's algorithm, in turns, in this process. Every byte
/// copied and every mapping is verified before and after the timing.
#[derive(Parser)]
struct Args {
    /// Only rows whose names contain this
    #[arg(long, default_value = "")]
    filter: String,
    /// Timed samples per row and player
    #[arg(long, default_value_t = 301)]
    samples: usize,
    /// Write the rows here, as a JSON array
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.samples > 0, "at least one sample");
    let mut rows = Vec::new();
    for w in workload::all()?.iter().filter(|w| w.name.contains(&args.filter)) {
        let machine = engine::machine();
        let (ours, xen) = (Ours::new(&machine, Choice::Auto), Xen::new(&machine));
        let (mut a, mut b) = (Player::new(w)?, Player::new(w)?);
        let verify = |a: &mut Player, b: &mut Player, seed| {
            a.verified_round(&ours, &machine, seed).and_then(|()| b.verified_round(&xen, &machine, seed))
        };
        verify(&mut a, &mut b, 1).with_context(|| w.name.clone())?;
        let elements = a.elements();
        let row =
            ab::compare(&w.name, "ns/element", elements, args.samples, || a.round(&ours), || b.round(&xen));
        a.statuses_good::<Ours<'_>>()?;
        b.statuses_good::<Xen<'_>>()?;
        verify(&mut a, &mut b, 2).with_context(|| w.name.clone())?;
        rows.push(row);
    }
    rows.extend(handles::rows(&args.filter, args.samples));
    println!("{}", table(&rows));
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn table(rows: &[Row]) -> Table {
    let mut t = Table::new();
    t.load_style(presets::UTF8_BORDERS_ONLY).set_header(["workload", "unit", "ours", "xen", "ratio", "95 %"]);
    for r in rows {
        let number = |x: f64| format!("{x:.1}");
        let ci = format!("{:.2} - {:.2}", r.ratio_ci.0, r.ratio_ci.1);
        t.add_row([
            r.name.clone(),
            r.unit.into(),
            number(r.ours),
            number(r.peer),
            format!("{:.2}", r.ratio),
            ci,
        ]);
    }
    for c in t.column_iter_mut().skip(2) {
        c.set_cell_alignment(CellAlignment::Right);
    }
    t
}
