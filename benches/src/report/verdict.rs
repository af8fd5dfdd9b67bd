//! Rows against the figures to reach (`definitions/targets.toml`).

use crate::ab::Row;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    target: Vec<Target>,
    icount: Vec<Target>,
    policy: Policy,
}

/// What `cargo xtask gate policy` holds: the rows are instructions beyond the allowed ones.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    what: String,
    at_most: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    what: String,
    row: String,
    /// Ours is to be at most this: nanoseconds, instructions, or times the row `relative_to`.
    at_most: Option<f64>,
    ratio: Option<f64>,
    relative_to: Option<String>,
    shipped: Option<f64>,
    unhardened: Option<f64>,
}

#[derive(Deserialize)]
struct Gates {
    #[serde(default)]
    icount: BTreeMap<String, f64>,
    #[serde(default)]
    policy: BTreeMap<String, f64>,
}

/// One line of the verdicts, ready to be shown.
pub struct Verdict {
    /// What was measured.
    pub what: String,
    /// Ours.
    pub ours: String,
    /// The baseline, or Xen itself.
    pub peer: String,
    /// How many times faster ours is.
    pub ratio: String,
    /// What was to be reached.
    pub wanted: String,
    /// Xen as shipped, and without its barriers, from the facts.
    pub facts: String,
    /// Whether it was; `None` if it was not measured.
    pub reached: Option<bool>,
    /// How far it is from what was to be reached; empty if it was.
    pub missed: String,
    /// The row it is measured by.
    pub row: String,
    /// The baseline's nanoseconds and the facts' unhardened column.
    pub landed: Option<(f64, f64)>,
    /// The baseline against the facts' unhardened column: 1 is the same.
    pub baseline: Option<f64>,
}

impl Verdict {
    /// Yes, no, or not measured.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self.reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not measured",
        }
    }
}

/// All verdicts.
///
/// # Errors
/// If the targets or the gates do not parse.
pub fn verdicts(rows: &[Row], gates: &str) -> Result<Vec<Verdict>> {
    let file: File =
        toml::from_str(include_str!("../../definitions/targets.toml")).context("targets.toml")?;
    let gates: Gates = toml::from_str(gates).context("gates.toml")?;
    let timed = file.target.iter().map(|t| timed(t, rows));
    let counted = file.icount.iter().map(|t| counted(t, &gates));
    Ok(timed.chain(counted).chain([policy(&file.policy, &gates)]).collect())
}

fn policy(p: &Policy, gates: &Gates) -> Verdict {
    let most = gates.policy.values().copied().fold(0.0, f64::max);
    let measured = !gates.policy.is_empty();
    let held = most <= 0.0;
    Verdict {
        what: p.what.clone(),
        ours: match (measured, held) {
            (false, _) => "-".into(),
            (true, true) => format!("within {}", p.at_most),
            (true, false) => format!("{most:.0} beyond, a round"),
        },
        peer: "-".into(),
        ratio: "-".into(),
        wanted: format!("at most {} instr.", p.at_most),
        facts: "-".into(),
        reached: measured.then_some(held),
        missed: String::new(),
        row: "policy".into(),
        landed: None,
        baseline: None,
    }
}

/// How far a figure is from its limits.
fn missed(t: &Target, measured: Option<f64>, ratio: Option<f64>) -> String {
    let over = measured.zip(t.at_most).filter(|(m, most)| m > most);
    let under = ratio.zip(t.ratio).filter(|(r, least)| r < least);
    let over = over.map(|(m, most)| format!("{:.3} times the limit", m / most));
    let under = under.map(|(r, least)| format!("ratio {r:.2} of {least}"));
    over.into_iter().chain(under).collect::<Vec<_>>().join(", ")
}

fn timed(t: &Target, rows: &[Row]) -> Verdict {
    let find = |name: &str| rows.iter().find(|r| r.name == name);
    let row = find(&t.row);
    let one = t.relative_to.as_deref().map(find);
    // What the limit is for: the figure itself, or how it stands to another row's.
    let measured = match (row, one) {
        (Some(row), None) => Some(row.ours),
        (Some(row), Some(Some(one))) => Some(row.ours / one.ours),
        _ => None,
    };
    let reached = row.zip(measured).map(|(row, measured)| {
        t.at_most.is_none_or(|most| measured <= most) && t.ratio.is_none_or(|least| row.ratio >= least)
    });
    let ours = row.map(|r| match one.flatten() {
        Some(one) => format!("{:.1} ns ({:.2}x)", r.ours, r.ours / one.ours),
        None => format!("{:.1} ns", r.ours),
    });
    Verdict {
        what: t.what.clone(),
        ours: ours.unwrap_or_else(|| "-".into()),
        peer: row.map_or_else(|| "-".into(), |r| format!("{:.1} ns", r.peer)),
        ratio: row.map_or_else(|| "-".into(), |r| format!("{:.2}", r.ratio)),
        wanted: wanted(t, if t.relative_to.is_some() { "x" } else { " ns" }),
        facts: facts(t),
        reached,
        missed: missed(t, measured, row.map(|r| r.ratio)),
        row: t.row.clone(),
        landed: row.map(|r| r.peer).zip(t.unhardened),
        baseline: row.zip(t.unhardened).map(|(row, facts)| row.peer / facts),
    }
}

fn counted(t: &Target, gates: &Gates) -> Verdict {
    let ours = gates.icount.get(&t.row).copied();
    Verdict {
        what: t.what.clone(),
        ours: ours.map_or_else(|| "-".into(), |n| format!("{n:.0} instr.")),
        peer: t.shipped.map_or_else(|| "-".into(), |n| format!("{n:.0} instr.")),
        ratio: ours.zip(t.shipped).map_or_else(|| "-".into(), |(o, s)| format!("{:.2}", s / o)),
        wanted: wanted(t, " instr."),
        facts: facts(t),
        reached: ours.map(|n| t.at_most.is_none_or(|most| n <= most)),
        missed: missed(t, ours, None),
        row: t.row.clone(),
        landed: None,
        baseline: None,
    }
}

fn wanted(t: &Target, unit: &str) -> String {
    let most = t.at_most.map(|most| format!("at most {most}{unit}"));
    let least = t.ratio.map(|least| format!("ratio {least} or more"));
    most.into_iter().chain(least).collect::<Vec<_>>().join(", ")
}

fn facts(t: &Target) -> String {
    match (t.shipped, t.unhardened) {
        (Some(shipped), Some(unhardened)) => format!("{shipped} / {unhardened}"),
        (Some(shipped), None) => format!("{shipped}"),
        _ => "-".into(),
    }
}
