//! The A/B runner: ours against Xen's algorithm, in turns, every answer verified.

use anyhow::{Context, Result, ensure};
use benches::ab::{self, Row};
use benches::baseline::Xen;
use benches::workload::{self, Player};
use benches::{engine, handles};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
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
        let xen = Xen::new(&machine);
        let mut player = Player::new(w)?;
        player.verified_round(&xen, &machine, 1)?;
        let elements = player.elements();
        let row = ab::alone(&w.name, "ns/element", elements, args.samples, || player.round(&xen));
        player.statuses_good::<Xen<'_>>()?;
        player.verified_round(&xen, &machine, 2)?;
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
        let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
        let ratio = r.ratio.map_or("-".into(), |x| format!("{x:.2}"));
        let ci = r.ratio_ci.map_or("-".into(), |(a, b)| format!("{a:.2} - {b:.2}"));
        t.add_row([r.name.clone(), r.unit.into(), number(r.ours), number(Some(r.peer)), ratio, ci]);
    }
    for c in t.column_iter_mut().skip(2) {
        c.set_cell_alignment(CellAlignment::Right);
    }
    t
}
