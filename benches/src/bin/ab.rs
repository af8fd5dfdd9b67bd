//! The A/B runner: ours against Xen's algorithm, in turns, every answer verified.

use anyhow::{Context, Result, bail, ensure};
use benches::ab::{self, Row};
use benches::baseline::Xen;
use benches::ours::Ours;
use benches::workload::{self, Player, Seat, Workload};
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
    /// Also with two threads, each with its own references and both with the same
    #[arg(long)]
    threads: bool,
    /// Write the rows here, as a JSON array
    #[arg(long)]
    json: Option<PathBuf>,
}

const UNIT: &str = "ns/element";

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.samples > 0, "at least one sample");
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(!args.threads || cpus > 1, "--threads needs two processors, there is {cpus}");
    let mut rows = Vec::new();
    for w in workload::all()?.iter().filter(|w| w.name.contains(&args.filter)) {
        rows.push(alone(w, args.samples).with_context(|| w.name.clone())?);
    }
    if args.threads {
        for w in workload::all()?.iter().filter(|w| w.name.contains(&args.filter)) {
            // A player that calls from two CPUs leaves none for the other.
            if w.step.iter().all(|s| s.cpu == 0) {
                for (suffix, seat) in
                    [("2 threads", Seat::OWN_GREFS), ("2 threads, same grefs", Seat::SAME_GREFS)]
                {
                    let name = format!("{}, {suffix}", w.name);
                    rows.push(together(w, &name, seat, args.samples).context(name)?);
                }
            }
        }
    }
    rows.extend(handles::rows(&args.filter, args.samples));
    println!("{}", table(&rows));
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn alone(w: &Workload, samples: usize) -> Result<Row> {
    let machine = engine::machine();
    let (ours, xen) = (Ours::new(&machine, Choice::Auto), Xen::new(&machine));
    let (mut a, mut b) = (Player::new(w, Seat::ALONE)?, Player::new(w, Seat::ALONE)?);
    let verify = |a: &mut Player, b: &mut Player, seed| {
        a.verified_round(&ours, &machine, seed).and_then(|()| b.verified_round(&xen, &machine, seed))
    };
    verify(&mut a, &mut b, 1)?;
    let elements = a.elements();
    let row = ab::compare(&w.name, UNIT, elements, samples, || a.round(&ours), || b.round(&xen));
    a.statuses_good::<Ours<'_>>()?;
    b.statuses_good::<Xen<'_>>()?;
    verify(&mut a, &mut b, 2)?;
    Ok(row)
}

/// Two threads of each: the second in `seat`.
fn together(w: &Workload, name: &str, seat: Seat, samples: usize) -> Result<Row> {
    let machine = engine::machine();
    let (ours, xen) = (Ours::new(&machine, Choice::Auto), Xen::new(&machine));
    let seats = [Seat::ALONE, seat];
    let mut a = seats.map(|seat| Player::new(w, seat));
    let mut b = seats.map(|seat| Player::new(w, seat));
    let ([Ok(a0), Ok(a1)], [Ok(b0), Ok(b1)]) = (&mut a, &mut b) else {
        bail!("does not fit the machine twice");
    };
    let elements = a0.elements();
    let row = ab::compare_pairs(
        name,
        UNIT,
        elements,
        samples,
        [&mut || a0.round(&ours), &mut || a1.round(&ours)],
        [&mut || b0.round(&xen), &mut || b1.round(&xen)],
    );
    for (player, seed) in [(a0, 1), (a1, 2)] {
        player.statuses_good::<Ours<'_>>()?;
        player.verified_round(&ours, &machine, seed)?;
    }
    for (player, seed) in [(b0, 1), (b1, 2)] {
        player.statuses_good::<Xen<'_>>()?;
        player.verified_round(&xen, &machine, seed)?;
    }
    Ok(row)
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
