//! The simulator of cache lines: the shipped code and the baseline with 1 to 256 CPUs.

use anyhow::{Context, Result, anyhow, ensure};
use benches::ab::Row;
use benches::baseline::Xen;
use benches::engine::{self, Engine, SHAPE};
use benches::lines::{self, LineCosts};
use benches::machine::{Machine, Shape};
use benches::ours::Ours;
use benches::sim::{Check, Point, Simulated};
use benches::stage;
use benches::workload::{Player, Seat, Workload};
use cache_lines::atomic::{AtomicU64, Ordering};
use cache_lines::{Costs, Totals};
use clap::Parser;
use copy_engine::Choice;
use std::path::PathBuf;
use std::sync::Mutex;

/// Run both engines on a model of cache-line ownership with more CPUs than there are.
///
/// What a line costs, and how long one CPU takes for an element, come from rows that `ab` measured; what more
/// CPUs do to each other is the model's. Two CPUs are set beside the measured rows of two threads. One
/// command gives the same figures each time for the same rows.
#[derive(Parser)]
struct Args {
    /// The rows, as `ab --json` wrote them
    #[arg(long)]
    rows: PathBuf,
    /// The most CPUs
    #[arg(long, default_value_t = 256)]
    cpus: u32,
    /// Write the points here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

const WORKLOADS: [&str; 2] = ["copy.gref_own.b32.64", "map_unmap.b32"];
/// References of each domain: enough for 32 of every CPU's own.
const PAGES: u32 = 16_384;
const WARM_ROUNDS: u32 = 1;
/// Rounds that count, for few CPUs: two that begin together take some to fall into their order.
const ROUNDS: u32 = 12;
/// More than this are many.
const MANY: u32 = 16;
/// The same for many, whose figures are averages of many.
const ROUNDS_OF_MANY: u32 = 2;

/// Which references the CPUs use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Grefs {
    Own,
    Same,
}

impl Grefs {
    const ALL: [Self; 2] = [Self::Own, Self::Same];

    fn word(self) -> &'static str {
        if self == Self::Own { "own" } else { "same" }
    }
}

fn main() -> Result<()> {
    benches::placement::fix_addresses();
    let args = Args::parse();
    let text =
        std::fs::read_to_string(&args.rows).with_context(|| format!("reading {}", args.rows.display()))?;
    let rows: Vec<Row> = serde_json::from_str(&text).with_context(|| format!("{}", args.rows.display()))?;
    let machines: Vec<LineCosts> = rows.iter().filter_map(|r| r.lines).collect();
    let out = match lines::middle(&machines) {
        Some(machine) => simulate(&rows, machine, args.cpus)?,
        None => {
            eprintln!("no row of two threads, so nothing says what a line costs here: no simulation");
            Simulated::default()
        }
    };
    show(&out);
    if let Some(path) = args.json {
        let text = serde_json::to_string_pretty(&out)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn simulate(rows: &[Row], machine: LineCosts, most: u32) -> Result<Simulated> {
    let mut out = Simulated { machine: Some(machine), ..Simulated::default() };
    out.checks.extend(micro(machine));
    for name in WORKLOADS {
        let workload = stage::named(name);
        let find = |name: &str| rows.iter().find(|r| r.name == name);
        let one = find(name).with_context(|| format!("no row {name}"))?;
        let paces = Paces::of(&workload, machine, one)?;
        for grefs in Grefs::ALL {
            let row = format!("{name}.threads2.{}", grefs.word());
            if let Some(row) = find(&row) {
                let costs = row.lines.unwrap_or(machine);
                let paces = Paces::of(&workload, costs, one)?;
                let points = both(&workload, &paces, 2, grefs);
                for (point, measured) in points.into_iter().zip([row.ours, row.peer]) {
                    let (point, range) = point?;
                    let (name, engine) = (row.name.clone(), point.engine);
                    out.checks.push(Check {
                        name,
                        engine,
                        ping_pong: costs.ping_pong,
                        measured,
                        model: point.time,
                        range,
                    });
                }
            }
        }
        for cpus in (0..=8).map(|n| 1 << n).take_while(|&n| n <= most) {
            for grefs in Grefs::ALL {
                for point in both(&workload, &paces, cpus, grefs) {
                    match point {
                        Ok((point, _)) => out.points.push(point),
                        // Pins of one reference are counted in few bits, so very many CPUs on one may be
                        // refused: no point, and a line that says so.
                        Err(why) => eprintln!("{name}, {cpus} CPUs, {} grefs: left out: {why}", grefs.word()),
                    }
                }
            }
        }
    }
    Ok(out)
}

fn show(out: &Simulated) {
    println!("workload              engine grefs CPUs  ns/element  moved  queued  waited, ns");
    for p in &out.points {
        println!(
            "{:<21} {:<6} {:<5} {:>4} {:>11.1} {:>6.2} {:>7.2} {:>11.1}",
            p.workload, p.engine, p.grefs, p.cpus, p.time, p.moved, p.queued, p.waited
        );
    }
    println!("\nmeasured and modelled, ns:");
    for c in &out.checks {
        println!(
            "{:<36} {:<7} {:>7.1} {:>7.1} ({:.1} - {:.1}) {:>5.0} %",
            c.name,
            c.engine,
            c.measured,
            c.model,
            c.range.0,
            c.range.1,
            c.share() * 100.0
        );
    }
}

/// The machine's figures as the model's costs.
///
/// In the model a ping-pong takes one and a half moves: the store's request takes the other's copy away after
/// half a move, and what the other then asks for comes a whole one later. Two that add to one word pass it
/// on half a move after they got it, or after `hold`, in which an addition takes `locked`. What lines taken one
/// after the other take less than a move each can pass beside other work.
fn costs(machine: LineCosts, pace: u64) -> Costs {
    let moved = machine.ping_pong / 1.5;
    let additions = (moved / 2.0 / (machine.contended - machine.locked).max(0.1)).max(1.0);
    Costs {
        // Found with the pace: how much of a hit the processor hides, only the whole tells.
        hit: 0,
        locked: picos(machine.locked),
        fence: picos((machine.store_fence - machine.load).max(0.0)),
        moved: picos(moved),
        overlap: picos((moved + machine.locked - machine.taken).clamp(0.0, moved)),
        hold: picos((additions - 1.0) * machine.locked),
        spin: picos(machine.load * 10.0),
        pace,
        stagger: 0,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time, of nanoseconds")]
fn picos(nanos: f64) -> u64 {
    (nanos.max(0.0) * 1000.0).round() as u64
}

/// Picoseconds, as nanoseconds of each of so many.
#[expect(clippy::cast_precision_loss, reason = "times of short runs")]
fn nanos(picos: u64, of: f64) -> f64 {
    picos as f64 / 1000.0 / of
}

/// The machine's own measurements, made in the model.
fn micro(machine: LineCosts) -> [Check; 2] {
    const TURNS: u32 = 500;
    #[repr(align(64))]
    struct Line(AtomicU64);
    // Each turn depends on the one before.
    let costs = Costs { overlap: 0, ..costs(machine, 0) };
    let ball = Line(AtomicU64::new(0));
    let ping_pong = cache_lines::run(costs, 2, |cpu| {
        for i in 0..u64::from(TURNS) {
            while ball.0.load(Ordering::Acquire) != 2 * i + cpu as u64 {
                cache_lines::atomic::spin_loop();
            }
            ball.0.store(2 * i + cpu as u64 + 1, Ordering::Release);
        }
    });
    let word = Line(AtomicU64::new(0));
    let contended = cache_lines::run(costs, 2, |_| {
        for _ in 0..TURNS {
            word.0.fetch_add(1, Ordering::AcqRel);
        }
    });
    let check = |name: &str, measured, run: Totals| {
        let model = nanos(run.time, f64::from(2 * TURNS));
        let range = (model, model);
        Check {
            name: name.into(),
            engine: "machine".into(),
            ping_pong: machine.ping_pong,
            measured,
            model,
            range,
        }
    };
    [
        check("ping-pong, one way", machine.ping_pong, ping_pong),
        check("additions of two to one word", machine.contended, contended),
    ]
}

/// What each engine does beside its atomics, found from one CPU's measured time.
struct Paces {
    ours: Costs,
    xen: Costs,
}

impl Paces {
    fn of(workload: &Workload, machine: LineCosts, one: &Row) -> Result<Self> {
        let bare = costs(machine, 0);
        let [ours, xen] = both_alone(workload, bare);
        let pace = |(elements, totals): (f64, Totals), measured: f64| {
            let rest = picos((measured - nanos(totals.time, elements)) * elements);
            costs(machine, rest / totals.accesses.max(1))
        };
        Ok(Self { ours: pace(ours?, one.ours), xen: pace(xen?, one.peer) })
    }
}

fn both_alone(workload: &Workload, costs: Costs) -> [Result<(f64, Totals)>; 2] {
    let machine = machine(1);
    [
        play(&Ours::new(&machine, Choice::Sse2), &machine, workload, costs, Grefs::Own),
        play(&Xen::new(&machine), &machine, workload, costs, Grefs::Own),
    ]
}

fn machine(cpus: u32) -> Machine {
    engine::machine(Shape { data_frames: PAGES, cpus, ..SHAPE })
}

/// A run's figures, and the least and the most time among the ways to begin.
type Run = Result<(Point, (f64, f64))>;

fn both(workload: &Workload, paces: &Paces, cpus: u32, grefs: Grefs) -> [Run; 2] {
    let machine = machine(cpus);
    [
        point(&Ours::new(&machine, Choice::Sse2), &machine, workload, paces.ours, grefs),
        point(&Xen::new(&machine), &machine, workload, paces.xen, grefs),
    ]
}

/// Runs with the CPUs beginning together, and later and later: two that walk the same references in step
/// fight for each line, two half a round apart meet few. Nothing on a real machine holds them in place. And
/// both with misses that pass beside other work as those of independent lines do, and with misses that are all
/// waited for: which of the accesses depend on each other, the model does not know. The mean of all is what
/// is compared, the least and the most stand beside it.
fn point<E: Engine>(engine: &E, machine: &Machine, workload: &Workload, costs: Costs, grefs: Grefs) -> Run {
    let cpus = machine.shape().cpus;
    let (each, totals) = play(engine, machine, workload, Costs { stagger: 0, ..costs }, grefs)?;
    let round = totals.time / u64::from(rounds(cpus));
    let mut all = vec![totals];
    for overlap in [costs.overlap, 0] {
        for phase in 0..phases(cpus) {
            if overlap == costs.overlap && phase == 0 {
                continue;
            }
            let costs = Costs { stagger: round * phase / phases(cpus), overlap, ..costs };
            all.push(play(engine, machine, workload, costs, grefs)?.1);
        }
    }
    let times = all.iter().map(|t| nanos(t.time, each));
    let range = times.clone().fold((f64::INFINITY, 0.0), |(low, high), t| (t.min(low), t.max(high)));
    #[expect(clippy::cast_precision_loss, reason = "counts of short runs")]
    let sum = |of: fn(&Totals) -> u64| all.iter().map(of).sum::<u64>() as f64;
    let elements = each * f64::from(cpus) * f64::from(u32::try_from(all.len())?);
    let point = Point {
        workload: workload.name.clone(),
        engine: E::NAME.into(),
        grefs: grefs.word().into(),
        cpus,
        time: times.sum::<f64>() / f64::from(u32::try_from(all.len())?),
        moved: sum(|t| t.moved) / elements,
        queued: sum(|t| t.queued) / elements,
        waited: sum(|t| t.waited) / 1000.0 / elements,
    };
    Ok((point, range))
}

/// Ways to begin that are tried.
fn phases(cpus: u32) -> u64 {
    if cpus > MANY { 1 } else { 4 }
}

/// Rounds that count.
fn rounds(cpus: u32) -> u32 {
    if cpus > MANY { ROUNDS_OF_MANY } else { ROUNDS }
}

/// Plays a workload on every CPU of the machine: elements of each CPU, and what they took.
fn play<E: Engine>(
    engine: &E,
    machine: &Machine,
    workload: &Workload,
    costs: Costs,
    grefs: Grefs,
) -> Result<(f64, Totals)> {
    let cpus = machine.shape().cpus;
    let rounds = rounds(cpus);
    let seat = |cpu: u32| -> Result<Seat> {
        let own = Seat::ALONE.dest + cpu * 32;
        let source = if grefs == Grefs::Own { own } else { Seat::ALONE.source };
        Ok(Seat { cpu: usize::try_from(cpu)?, source, dest: own })
    };
    let players: Result<Vec<_>> =
        (0..cpus).map(|cpu| Player::new(workload, seat(cpu)?, machine).map(Mutex::new)).collect();
    let players = players?;
    for frame in 0..Seat::ALONE.source + 32 * cpus {
        machine.fill(machine.frame_of(engine::GRANTERS[0], frame), cpus);
    }
    let totals = cache_lines::run(costs, players.len(), |cpu| {
        let mut player = players[cpu].lock().expect("nobody panics holding it");
        (0..WARM_ROUNDS).for_each(|_| player.round(engine));
        cache_lines::reset_clocks();
        (0..rounds).for_each(|_| player.round(engine));
    });
    let mut elements = 0;
    for player in players {
        let player = player.into_inner().map_err(|_| anyhow!("a player panicked"))?;
        player.statuses_good::<E>()?;
        elements = player.elements();
        player.copied_right(machine)?;
    }
    ensure!(engine.at_rest() && engine::unmarked(machine), "{}: something is left", E::NAME);
    Ok((f64::from(u32::try_from(elements)? * rounds), totals))
}
