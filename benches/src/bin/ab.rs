//! The A/B runner: ours against Xen's algorithm, in turns, every answer verified.

use anyhow::{Context, Result, bail, ensure};
use benches::ab::{self, Counters, Row};
use benches::baseline::Xen;
use benches::counters::Counting;
use benches::machine::Machine;
use benches::ours::Ours;
use benches::placement::Placement;
use benches::workload::{self, Player, Seat, Workload};
use benches::{engine, handles, lines};
use clap::Parser;
use comfy_table::{CellAlignment, Table, presets};
use copy_engine::Choice;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Play the workloads on our grant tables and on Xen's algorithm, in turns, in this process. Every byte
/// copied and every mapping is verified before and after the timing.
#[derive(Parser)]
struct Args {
    /// Only rows whose names contain this
    #[arg(long, default_value = "")]
    filter: String,
    /// Fewer samples: wider intervals, under 50 seconds in all on two idle cores
    #[arg(long)]
    quick: bool,
    /// Timed samples per row and player
    #[arg(long, default_value_t = 301, conflicts_with = "quick")]
    samples: usize,
    /// Write the rows here, as a JSON array
    #[arg(long)]
    json: Option<PathBuf>,
}

const UNIT: &str = "ns/element";
const QUICK_SAMPLES: usize = 61;
/// Points of sweeps, of which there are many, get a share of the samples; so do rounds that take long.
const SWEPT: usize = 5;
/// Rounds counted by the processor's counters.
const COUNTED: u32 = 200;

/// One row to measure.
enum Job {
    Alone(Workload),
    Together(Workload, &'static str, Seat),
    /// Two threads that share nothing at all: what the machine alone makes of two.
    Apart(Workload),
    Handles(handles::Case),
}

impl Job {
    fn name(&self) -> String {
        match self {
            Self::Alone(w) => w.name.clone(),
            Self::Together(w, suffix, _) => format!("{}.{suffix}", w.name),
            Self::Apart(w) => format!("{}.threads2.apart", w.name),
            Self::Handles(case) => case.name.clone(),
        }
    }
}

fn jobs(two: bool) -> Result<Vec<Job>> {
    let all = workload::all()?;
    let mut jobs = Vec::new();
    for w in all {
        // A player that calls from two CPUs leaves none for the other.
        let threads = two && w.threads && w.step.iter().all(|s| s.cpu == 0);
        jobs.push(Job::Alone(w.clone()));
        if threads {
            jobs.push(Job::Together(w.clone(), "threads2.own", Seat::OWN_GREFS));
            jobs.push(Job::Together(w.clone(), "threads2.same", Seat::SAME_GREFS));
            jobs.push(Job::Apart(w));
        }
    }
    jobs.extend(handles::cases().into_iter().map(Job::Handles));
    Ok(jobs)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let samples = if args.quick { QUICK_SAMPLES } else { args.samples };
    ensure!(samples > 0, "at least one sample");
    let cpus = Placement::now()?.two();
    if cpus.is_none() {
        eprintln!("one processor only: the rows of two threads are left out");
    }
    let mut counting = match Counting::new() {
        Ok(counting) => Some(counting),
        Err(why) => {
            eprintln!("no performance counters here ({why}): cycles and misses per element are left out");
            None
        }
    };
    let mut jobs = jobs(cpus.is_some())?;
    jobs.retain(|job| job.name().contains(&args.filter));
    ensure!(!jobs.is_empty(), "no row is called like {:?}", args.filter);
    let bar = ProgressBar::new(jobs.len() as u64);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {pos}/{len}  {elapsed}  {msg}")?);
    let mut rows = Vec::new();
    for job in &jobs {
        let name = job.name();
        bar.set_message(name.clone());
        let row = match (job, cpus) {
            (Job::Alone(w), _) => alone(w, samples, counting.as_mut()),
            (Job::Together(w, _, seat), Some(cpus)) => together(w, &name, *seat, cpus, samples),
            (Job::Apart(w), Some(cpus)) => apart(w, &name, cpus, samples),
            (Job::Together(..) | Job::Apart(..), None) => bail!("{name} needs two processors"),
            (Job::Handles(case), _) => Ok(handles::row(case, samples)),
        };
        rows.push(row.with_context(|| name.clone())?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{}", table(&rows));
    let disturbed = rows.iter().filter(|r| r.clean < r.samples).count();
    if disturbed > 0 {
        eprintln!("{disturbed} of {} rows are of disturbed samples: the machine had other work", rows.len());
    }
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&rows)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn alone(w: &Workload, samples: usize, counting: Option<&mut Counting>) -> Result<Row> {
    let machine = engine::machine(w.shape());
    let (ours, xen) = (Ours::new(&machine, Choice::Auto), Xen::new(&machine));
    let mut a = Player::new(w, Seat::ALONE, &machine)?;
    let mut b = Player::new(w, Seat::ALONE, &machine)?;
    let verify = |a: &mut Player, b: &mut Player, seed| {
        a.verified_round(&ours, &machine, seed).and_then(|()| b.verified_round(&xen, &machine, seed))
    };
    verify(&mut a, &mut b, 1)?;
    let elements = a.elements();
    // A round of the largest takes tens of milliseconds.
    let samples = if w.swept || elements > 10_000 { samples.div_ceil(SWEPT) } else { samples };
    let mut row = ab::compare(&w.name, UNIT, elements, samples, || a.round(&ours), || b.round(&xen));
    if let Some(counting) = counting {
        row.counters = Some(Counters {
            ours: counting.of(COUNTED, elements, || a.round(&ours))?,
            peer: counting.of(COUNTED, elements, || b.round(&xen))?,
        });
    }
    a.statuses_good::<Ours<'_>>()?;
    b.statuses_good::<Xen<'_>>()?;
    verify(&mut a, &mut b, 2)?;
    Ok(row)
}

/// Two threads of each on one machine: the second in `seat`.
fn together(w: &Workload, name: &str, seat: Seat, cpus: [usize; 2], samples: usize) -> Result<Row> {
    let machine = engine::machine(w.shape());
    let (ours, xen) = (Ours::new(&machine, Choice::Auto), Xen::new(&machine));
    let places = [Seat::ALONE, seat].map(|seat| Place { machine: &machine, ours: &ours, xen: &xen, seat });
    pair(w, name, places, cpus, samples)
}

/// The same with a machine and tables for each thread, in the same seat of it.
fn apart(w: &Workload, name: &str, cpus: [usize; 2], samples: usize) -> Result<Row> {
    let machines = [0, 1].map(|_| engine::machine(w.shape()));
    let [first, second] = &machines;
    let ours = [Ours::new(first, Choice::Auto), Ours::new(second, Choice::Auto)];
    let xen = [Xen::new(first), Xen::new(second)];
    let places = [
        Place { machine: first, ours: &ours[0], xen: &xen[0], seat: Seat::ALONE },
        Place { machine: second, ours: &ours[1], xen: &xen[1], seat: Seat::ALONE },
    ];
    pair(w, name, places, cpus, samples)
}

/// Where one of two threads plays.
struct Place<'a, 'm> {
    machine: &'m Machine,
    ours: &'a Ours<'m>,
    xen: &'a Xen<'m>,
    seat: Seat,
}

fn pair(
    w: &Workload,
    name: &str,
    places: [Place<'_, '_>; 2],
    cpus: [usize; 2],
    samples: usize,
) -> Result<Row> {
    let mut a = places.each_ref().map(|p| Player::new(w, p.seat, p.machine));
    let mut b = places.each_ref().map(|p| Player::new(w, p.seat, p.machine));
    let ([Ok(a0), Ok(a1)], [Ok(b0), Ok(b1)]) = (&mut a, &mut b) else {
        bail!("does not fit the machine twice");
    };
    let elements = a0.elements();
    let lines = lines::measure(cpus);
    let [first, second] = &places;
    let mut row = ab::compare_pairs(
        name,
        UNIT,
        elements,
        samples,
        cpus,
        [&mut || a0.round(first.ours), &mut || a1.round(second.ours)],
        [&mut || b0.round(first.xen), &mut || b1.round(second.xen)],
    );
    row.lines = Some(lines);
    for (player, place, seed) in [(a0, first, 1), (a1, second, 2)] {
        player.statuses_good::<Ours<'_>>()?;
        player.verified_round(place.ours, place.machine, seed)?;
    }
    for (player, place, seed) in [(b0, first, 1), (b1, second, 2)] {
        player.statuses_good::<Xen<'_>>()?;
        player.verified_round(place.xen, place.machine, seed)?;
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
            r.unit.clone(),
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
