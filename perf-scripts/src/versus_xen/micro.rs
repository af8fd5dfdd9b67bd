//! The guest `bench`, the same file on both, in two ways: alone, granting pages to itself, when on Xen it is
//! the PVH dom0 and no toolstack is needed; and using the pages of another domain, as `cargo xtask gate icount`
//! runs it, when on Xen both domains are made by Debian's toolstack.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::dom0::{Dom0, File, Layout, description};
use super::record::Report;
use super::rows::{Better, Row};
use crate::failure::{Exit, stop};
use crate::gate::{Rows, icount};
use crate::image::Artefacts;
use crate::progress::Step;
use crate::qemu::{Machine, Module, Next};
use crate::xen;

const UNIT: &str = "instructions per hypercall";
const PER_ELEMENT: &str = "instructions per element";

/// The guest alone, in turns.
pub fn alone(made: &Artefacts, (image, version): &(PathBuf, String), runs: u32) -> Result<Report> {
    let mut peer = xen::with_pvh_dom0(image, made.guest("bench")?);
    peer.limit = icount::LIMIT;
    peer.icount = true;
    let mut ours = on_tollgate(made, &peer);
    ours.modules = vec![Module::new(made.guest("bench")?, "domain=bench control mem=512M")];
    Ok(Report {
        part: "micro-alone",
        title: "Hypercalls with grants to oneself, Tollgate beside Debian's Xen 4.17".to_owned(),
        words: format!("{WORDS}\n{ALONE}"),
        ..turns("alone", &ours, &peer, version, runs)?
    })
}

/// The guest and a domain that grants it pages, in turns.
pub fn between(made: &Artefacts, (image, version): &(PathBuf, String), runs: u32) -> Result<Report> {
    let guest = made.guest("bench")?;
    let step = Step::new("Fetching Debian's kernel and Xen's toolstack");
    let bytes = fs::read(guest).with_context(|| format!("cannot read {}", guest.display()))?;
    let (bench, serve) =
        (description("bench", "bench", "peer=2"), description("serve", "bench", "serve peer=1"));
    let files = [
        File { name: "bench", bytes: &bytes },
        File { name: "1.cfg", bytes: bench.as_bytes() },
        File { name: "2.cfg", bytes: serve.as_bytes() },
    ];
    let peer = Dom0::make("dom0-bench", &files, &step)?.machine(image, Layout::Guests);
    drop(step);
    let mut ours = on_tollgate(made, &peer);
    ours.modules = icount::machine(made)?.modules;
    Ok(Report {
        part: "micro",
        title: "Hypercalls, Tollgate beside Debian's Xen 4.17".to_owned(),
        words: WORDS.to_owned(),
        ..turns("two domains", &ours, &peer, version, runs)?
    })
}

/// The machine that Xen has.
fn on_tollgate(made: &Artefacts, peer: &Machine) -> Machine {
    let mut machine = Machine { image: made.image.clone(), modules: Vec::new(), ..peer.clone() };
    // The copy kernel is given, since the self-measurement chooses by the processor.
    machine.cmdline = "when_done=poweroff copy=sse2".to_owned();
    machine
}

/// Boots both in turns.
fn turns(what: &str, ours: &Machine, peer: &Machine, version: &str, runs: u32) -> Result<Report> {
    let mut turns = Vec::new();
    for run in 1..=runs {
        let step = |who: &str| Step::new(format!("Hypercalls on {who}, {what}, run {run} of {runs}"));
        turns.push((
            icount::read(ours, &step("Tollgate"), Next::More)?,
            icount::read(peer, &step(xen::NAME), Next::Stop)?,
        ));
    }
    let mut rows = paired(&turns)?;
    let each: Vec<Row> = rows.iter().filter_map(|row| further(row, &rows)).collect();
    let bars = each.iter().map(short).collect();
    rows.extend(each);
    let notes = vec![
        format!("{}: {version}", xen::PACKAGE),
        format!("Tollgate: {}", ours.told()),
        format!("Xen: {}", peer.told()),
    ];
    Ok(Report { part: "", title: String::new(), rows, bars, notes, words: String::new() })
}

/// For the summaries.
const WORDS: &str = "\
The time-stamp counter counts instructions there, of guest and hypervisor together; the guest's own call and the \
exit are in every figure. A repeated string instruction counts each of its steps, a vector instruction one, so rows \
of many bytes compare copy kernels as well as paths.

QEMU's SVM does not save the next instruction's address. Xen then decodes each hypercall's instruction in software, \
some 5,000 to 6,000 instructions that a real processor spares it; Tollgate looks up where it last saw the \
instruction, also counted. Rows of a whole hypercall hold that, the more the fewer its elements. It cancels in the \
rows \"each further element\": the cost of 64 elements less that of one, by 63. `bars.svg` shows those.
";
const ALONE: &str = "\
The guest maps grants of its own. On Xen such a page moves from its old place to the mapping's, which costs more \
than mapping another domain's: `../micro` has that.
";

/// The rows of both, side by side.
///
/// # Errors
/// When a row is missing on one side, or comes in another order.
fn paired(turns: &[(Rows, Rows)]) -> Result<Vec<Row>> {
    let names = |rows: &Rows| rows.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let Some((first, _)) = turns.first() else { return Ok(Vec::new()) };
    let expected = names(first);
    if expected.is_empty() || turns.iter().any(|(a, b)| names(a) != expected || names(b) != expected) {
        return Err(stop(Exit::Failed, "bench did not measure the same rows on both"));
    }
    let count = |rows: &Rows, index: usize| f64::from(u32::try_from(rows[index].1).unwrap_or(u32::MAX));
    let row = |(index, name): (usize, String)| Row {
        name,
        unit: UNIT,
        better: Better::Less,
        ours: turns.iter().map(|(ours, _)| count(ours, index)).collect(),
        peer: turns.iter().map(|(_, peer)| count(peer, index)).collect(),
        least: None,
    };
    Ok(expected.into_iter().enumerate().map(row).collect())
}

/// For a row of 64 elements: what each of them beyond the first costs.
fn further(many: &Row, rows: &[Row]) -> Option<Row> {
    let one = many.name.replace(", 64 elements", ", 1 element");
    let one = rows.iter().find(|row| row.name == one && row.name != many.name)?;
    let each =
        |many: &[f64], one: &[f64]| many.iter().zip(one).map(|(many, one)| (many - one) / 63.0).collect();
    Some(Row {
        name: many.name.replace(", 64 elements", ", each further element"),
        unit: PER_ELEMENT,
        better: Better::Less,
        ours: each(&many.ours, &one.ours),
        peer: each(&many.peer, &one.peer),
        least: None,
    })
}

/// The row under a name that has room beside a bar; the plot's legend has the unit.
fn short(row: &Row) -> Row {
    Row {
        name: row.name.replace("each further element of ", "").replace(", each further element", ""),
        ..row.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(of: &[(&str, u64)]) -> Rows {
        of.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    }

    #[test]
    fn rows_are_paired_by_name() {
        let ours = rows(&[("map, 1 element", 100), ("map, 64 elements", 730), ("xen_version", 5)]);
        let peer = rows(&[("map, 1 element", 1000), ("map, 64 elements", 7300), ("xen_version", 10)]);
        let paired = paired(&[(ours.clone(), peer.clone()), (ours.clone(), peer)]).unwrap();
        assert_eq!(paired.len(), 3);
        assert_eq!(paired[0].ours, [100.0, 100.0]);
        let further: Vec<_> = paired.iter().filter_map(|row| further(row, &paired)).collect();
        assert_eq!(further.len(), 1);
        assert_eq!(further[0].name, "map, each further element");
        assert_eq!((further[0].ours[0], further[0].peer[1]), (10.0, 100.0));
        assert_eq!(further[0].ratio(), Some(10.0));
        assert_eq!(short(&further[0]).name, "map");
    }

    #[test]
    fn a_row_that_one_side_lacks_is_an_error() {
        let (a, b) = (rows(&[("a", 1)]), rows(&[("b", 1)]));
        assert!(paired(&[(a.clone(), b)]).is_err());
        assert!(paired(&[(a, rows(&[]))]).is_err());
    }
}
