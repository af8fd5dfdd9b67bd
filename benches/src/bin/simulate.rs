//! The simulator of cache lines: the shipped code and the baseline with 1 to 256 CPUs.

use anyhow::{Context, Result, anyhow, ensure};
use benches::baseline::Xen;
use benches::engine::{self, Engine, SHAPE};
use benches::machine::{Machine, Shape};
use benches::ours::Ours;
use benches::sim::Point;
use benches::stage;
use benches::workload::{Player, Seat};
use clap::Parser;
use copy_engine::Choice;
use std::path::PathBuf;
use std::sync::Mutex;

/// Run both engines on a model of cache-line ownership with more CPUs than there are. One command
/// gives the same figures each time; which words share a line depends on where the allocator puts them, so
/// another number of CPUs or another build moves the contended rows.
#[derive(Parser)]
struct Args {
    /// The most CPUs
    #[arg(long, default_value_t = 256)]
    cpus: u32,
    /// Write the points here, as a JSON array
    #[arg(long)]
    json: Option<PathBuf>,
}

const WORKLOAD: &str = "copy.gref_own.b32.64";
/// References of each domain: enough for 32 of every CPU's own.
const PAGES: u32 = 16_384;
const ROUNDS: u32 = 3;

fn main() -> Result<()> {
    let args = Args::parse();
    let mut points = Vec::new();
    for cpus in (0..=8).map(|n| 1 << n).take_while(|&n| n <= args.cpus) {
        let shape = Shape { data_frames: PAGES, cpus, ..SHAPE };
        let machine = engine::machine(shape);
        for grefs in ["own", "same"] {
            for result in [
                point(&Ours::new(&machine, Choice::Sse2), &machine, grefs),
                point(&Xen::new(&machine), &machine, grefs),
            ] {
                match result {
                    Ok(point) => points.push(point),
                    // Pins of one reference are counted in few bits, so very many CPUs on one may be refused:
                    // no point, and a line that says so.
                    Err(why) => eprintln!("{cpus} CPUs, {grefs} grefs: left out: {why}"),
                }
            }
        }
        eprintln!("{cpus} CPUs done");
    }
    println!("engine grefs CPUs  ns/element  moved/element  waited/element");
    for p in &points {
        println!(
            "{:<6} {:<5} {:>4} {:>11.1} {:>14.3} {:>15.1}",
            p.engine, p.grefs, p.cpus, p.time, p.moved, p.waited
        );
    }
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&points)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn point<E: Engine>(engine: &E, machine: &Machine, grefs: &str) -> Result<Point> {
    let cpus = machine.shape().cpus;
    let workload = stage::named(WORKLOAD);
    let seat = |cpu: u32| -> Result<Seat> {
        let own = Seat::ALONE.dest + cpu * 32;
        let source = if grefs == "own" { own } else { Seat::ALONE.source };
        Ok(Seat { cpu: usize::try_from(cpu)?, source, dest: own })
    };
    let players: Result<Vec<_>> =
        (0..cpus).map(|cpu| Player::new(&workload, seat(cpu)?, machine).map(Mutex::new)).collect();
    let players = players?;
    for frame in 0..machine.grefs() {
        machine.fill(machine.frame_of(engine::GRANTERS[0], frame), cpus);
    }
    let totals = cache_lines::run(players.len(), |cpu| {
        let mut player = players[cpu].lock().expect("nobody panics holding it");
        player.round(engine);
        cache_lines::reset_clocks();
        (0..ROUNDS).for_each(|_| player.round(engine));
    });
    let mut elements = 0;
    for player in players {
        let player = player.into_inner().map_err(|_| anyhow!("a player panicked"))?;
        player.statuses_good::<E>()?;
        elements = player.elements();
        player.copied_right(machine)?;
    }
    ensure!(engine.at_rest() && engine::unmarked(machine), "{}: something is left", E::NAME);
    let each = f64::from(u32::try_from(elements)? * ROUNDS);
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a short run")]
    let per = |total: u64| total as f64 / each;
    Ok(Point {
        engine: E::NAME.into(),
        grefs: grefs.into(),
        cpus,
        time: per(totals.time),
        moved: per(totals.moved) / f64::from(cpus),
        waited: per(totals.waited) / f64::from(cpus),
    })
}
