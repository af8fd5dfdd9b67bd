//! `gate`: instruction counts that must not grow.
//!
//! What is measured does not depend on the machine's speed, so it can fail a build: instructions of whole
//! hypercalls under QEMU's `-icount` ([`icount`]), instructions of the library's operations under callgrind
//! ([`callgrind`]), the same against a build without version 2 and transitive grants ([`policy`]), and what
//! the fast paths were compiled to ([`codegen`]). The figures that hold stand in `results/gates.toml`; a row
//! that has grown by more than [`ALLOWED_PERCENT`] fails with a table of what changed. `--bless` writes what
//! was measured, for a change that is worth its cost: the commit that carries the new figures says why.

mod callgrind;
mod codegen;
pub mod icount;
mod policy;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use comfy_table::presets::UTF8_BORDERS_ONLY;

use crate::failure::{Exit, stop};
use crate::image::{self, ImageArgs};
use crate::{places, setup};

/// Growth that passes, in percent.
const ALLOWED_PERCENT: u64 = 2;

/// What `gate` may be asked.
#[derive(Args, Debug)]
pub struct GateArgs {
    /// Which counts; all when none is named
    #[arg(value_enum, value_name = "PART")]
    parts: Vec<Part>,
    /// Write what was measured as the figures that hold
    #[arg(long)]
    bless: bool,
}

/// One kind of count: a table of `results/gates.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Whole hypercalls in QEMU: instructions of guest and hypervisor together
    Icount,
    /// The hot functions' code: instructions, branches, locked ones, calls
    Codegen,
    /// Rounds of the benches' workloads, by callgrind
    Callgrind,
    /// What version 2 and transitive grants cost a table that uses neither, by callgrind
    Policy,
}

impl Part {
    pub const ALL: [Self; 4] = [Self::Icount, Self::Codegen, Self::Callgrind, Self::Policy];

    fn name(self) -> &'static str {
        match self {
            Self::Icount => "icount",
            Self::Codegen => "codegen",
            Self::Callgrind => "callgrind",
            Self::Policy => "policy",
        }
    }

    /// What it calls.
    pub fn tools(self) -> &'static [setup::Tool] {
        match self {
            Self::Icount => &[setup::QEMU],
            Self::Codegen => &[setup::OBJDUMP],
            Self::Callgrind | Self::Policy => &[setup::VALGRIND, setup::IAI_RUNNER],
        }
    }

    /// Whether a row may vanish: a call or an instruction that is not there any more is welcome.
    fn may_vanish(self) -> bool {
        self == Self::Codegen
    }

    /// Part of `test --quick`.
    pub fn quick(self) -> bool {
        !matches!(self, Self::Callgrind | Self::Policy)
    }

    fn measure(self) -> Result<Rows> {
        match self {
            Self::Icount => icount::measure(&image::build(&ImageArgs::default())?),
            Self::Codegen => codegen::measure(&image::build(&ImageArgs::default())?.image),
            Self::Callgrind => callgrind::measure(&[]),
            Self::Policy => policy::measure(),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts by name, in the order they were measured.
pub type Rows = Vec<(String, u64)>;
/// The counts that hold, by part and name.
type Held = BTreeMap<String, BTreeMap<String, u64>>;

/// The verb itself.
pub fn gate(args: &GateArgs, no_install: bool) -> Result<()> {
    let parts = if args.parts.is_empty() { &Part::ALL[..] } else { &args.parts };
    for part in parts {
        setup::need(part.tools(), no_install)?;
    }
    let mut failed = Vec::new();
    for &part in parts {
        let (rows, verdict) = judge(part)?;
        println!("{part}: {verdict}");
        if args.bless {
            bless(part, &rows)?;
            println!("{part}: these figures hold from now on ({})", path().display());
        } else if verdict.fails() {
            failed.push(part.name());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(refusal(&failed.join(" "))) }
}

/// One part as a step of `test`; returns how many rows held.
pub fn check(part: Part) -> Result<usize> {
    let (rows, verdict) = judge(part)?;
    if verdict.fails() { Err(refusal(part.name()).context(verdict.to_string())) } else { Ok(rows.len()) }
}

fn judge(part: Part) -> Result<(Rows, Verdict)> {
    let rows = part.measure()?;
    let held = held()?.remove(part.name()).unwrap_or_default();
    let verdict = Verdict::of(&held, &rows, part.may_vanish());
    Ok((rows, verdict))
}

fn refusal(parts: &str) -> anyhow::Error {
    stop(
        Exit::Failed,
        format!(
            "the counts are not those of results/gates.toml; if the change is worth it, run `cargo xtask gate \
             --bless {parts}` and commit the file with the reason"
        ),
    )
}

fn path() -> PathBuf {
    places::root().join("results/gates.toml")
}

fn held() -> Result<Held> {
    let path = path();
    if !path.exists() {
        return Ok(Held::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text)
        .map_err(|error| stop(Exit::BadInput, format!("{} is not understood: {error}", path.display())))
}

/// Makes `rows` the counts of `part` that hold; those of other parts stay.
fn bless(part: Part, rows: &Rows) -> Result<()> {
    let mut tables: BTreeMap<String, Rows> =
        held()?.into_iter().map(|(part, rows)| (part, rows.into_iter().collect())).collect();
    tables.insert(part.name().to_owned(), rows.clone());
    let path = path();
    fs::write(&path, written(&tables)?).with_context(|| format!("cannot write {}", path.display()))
}

fn written(tables: &BTreeMap<String, Rows>) -> Result<String> {
    let mut text = "\
# Instruction counts that must not grow by more than 2 %: `cargo xtask gate` measures, `--bless` writes.\n"
        .to_owned();
    for (part, rows) in tables {
        write!(text, "\n[{part}]\n")?;
        let mut rows = rows.clone();
        rows.sort();
        for (name, count) in rows {
            writeln!(text, "{name:?} = {count}")?;
        }
    }
    Ok(text)
}

/// How measured counts stand against those that hold.
#[derive(Debug)]
struct Verdict {
    rows: Vec<(String, Change)>,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Same,
    /// Within what is allowed, either way.
    Little(u64, u64),
    Grown(u64, u64),
    Shrunk(u64, u64),
    /// Held, but not measured any more.
    Gone(u64),
    /// The same, where that is welcome.
    Vanished(u64),
    /// Measured, but not held.
    New(u64),
}

impl Change {
    fn of(held: u64, now: u64) -> Self {
        let percent = |count: u64| count.saturating_mul(100 + ALLOWED_PERCENT);
        if now == held {
            Self::Same
        } else if now.saturating_mul(100) > percent(held) {
            Self::Grown(held, now)
        } else if held.saturating_mul(100) > percent(now) {
            Self::Shrunk(held, now)
        } else {
            Self::Little(held, now)
        }
    }

    fn fails(self) -> bool {
        matches!(self, Self::Grown(..) | Self::Gone(_) | Self::New(_))
    }

    /// Cells of the table: held, now, difference, words.
    fn cells(self) -> [String; 4] {
        let (held, now, words) = match self {
            Self::Same => return Default::default(),
            Self::Little(held, now) => (Some(held), Some(now), "within 2 %"),
            Self::Grown(held, now) => (Some(held), Some(now), "GROWN"),
            Self::Shrunk(held, now) => (Some(held), Some(now), "better: --bless keeps it"),
            Self::Gone(held) => (Some(held), None, "NOT MEASURED"),
            Self::Vanished(held) => (Some(held), None, "gone: --bless keeps it"),
            Self::New(now) => (None, Some(now), "NEW: --bless takes it"),
        };
        let shown = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let share = held.zip(now).map(|(held, now)| {
            let tenths = (i128::from(now) - i128::from(held)) * 1000 / i128::from(held.max(1));
            let sign = if tenths < 0 { '-' } else { '+' };
            format!("{sign}{}.{} %", tenths.abs() / 10, tenths.abs() % 10)
        });
        [shown(held), shown(now), share.unwrap_or_default(), words.to_owned()]
    }
}

impl Verdict {
    fn of(held: &BTreeMap<String, u64>, rows: &Rows, may_vanish: bool) -> Self {
        let measured = rows.iter().map(|(name, now)| {
            let change = held.get(name).map_or(Change::New(*now), |&held| Change::of(held, *now));
            (name.clone(), change)
        });
        let gone = held.iter().filter(|(name, _)| rows.iter().all(|(other, _)| other != *name)).map(
            |(name, &held)| {
                let change = if may_vanish { Change::Vanished(held) } else { Change::Gone(held) };
                (name.clone(), change)
            },
        );
        Self { rows: measured.chain(gone).collect() }
    }

    fn fails(&self) -> bool {
        self.rows.iter().any(|(_, change)| change.fails())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed: Vec<_> = self.rows.iter().filter(|(_, change)| *change != Change::Same).collect();
        let same = self.rows.len() - changed.len();
        if changed.is_empty() {
            return write!(f, "all {same} counts are as held");
        }
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["count", "held", "now", "change", ""]);
        for (name, change) in changed {
            table.add_row(std::iter::once(name.clone()).chain(change.cells()));
        }
        write!(f, "{same} counts are as held, these are not:\n{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(rows: &[(&str, u64)]) -> BTreeMap<String, u64> {
        rows.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    }

    fn rows(rows: &[(&str, u64)]) -> Rows {
        rows.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    }

    #[test]
    fn two_percent_pass_and_no_more() {
        assert_eq!(Change::of(1000, 1020), Change::Little(1000, 1020));
        assert_eq!(Change::of(1000, 1021), Change::Grown(1000, 1021));
        assert_eq!(Change::of(1000, 980), Change::Shrunk(1000, 980));
        assert_eq!(Change::of(0, 1), Change::Grown(0, 1));
        assert_eq!(Change::of(7, 7), Change::Same);
    }

    #[test]
    fn growth_new_rows_and_lost_rows_fail() {
        let held = held(&[("a", 100), ("b", 100)]);
        assert!(!Verdict::of(&held, &rows(&[("a", 101), ("b", 50)]), false).fails());
        assert!(Verdict::of(&held, &rows(&[("a", 103), ("b", 100)]), false).fails());
        assert!(Verdict::of(&held, &rows(&[("a", 100)]), false).fails());
        assert!(!Verdict::of(&held, &rows(&[("a", 100)]), true).fails());
        assert!(Verdict::of(&held, &rows(&[("a", 100), ("b", 100), ("c", 1)]), true).fails());
    }

    #[test]
    fn the_table_tells_what_changed() {
        let told =
            Verdict::of(&held(&[("a", 1000), ("b", 5)]), &rows(&[("a", 1100), ("b", 5)]), false).to_string();
        assert!(told.starts_with("1 counts are as held"), "{told}");
        assert!(told.contains("+10.0 %") && told.contains("GROWN"), "{told}");
        assert!(!told.contains('b') || !told.contains(" b "), "{told}");
        assert_eq!(Change::of(1000, 900).cells()[2], "-10.0 %");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let tables = BTreeMap::from([("icount".to_owned(), rows(&[("map r/w b1", 9), ("copy \"x\"", 8)]))]);
        let read: Held = toml::from_str(&written(&tables).unwrap()).unwrap();
        assert_eq!(read["icount"], held(&[("copy \"x\"", 8), ("map r/w b1", 9)]));
    }
}
