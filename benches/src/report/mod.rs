//! The report of a set of rows: verdicts against the figures to reach, plots, a csv, one page.

mod page;
mod plots;
mod svg;
mod verdict;

use crate::ab::Row;
use crate::sim::Simulated;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;

pub use plots::{Bar, Bars, Plot};
pub use verdict::{Verdict, verdicts};

/// What a report is made of.
pub struct Input {
    /// The A/B runner's rows.
    pub rows: Vec<Row>,
    /// What the simulator said; nothing if it was not run.
    pub simulated: Simulated,
    /// The gates file, for the instruction counts of whole hypercalls.
    pub gates: String,
    /// Profiles of whole hypercalls (`results/profiles.md`): sections named after rows, or nothing.
    pub profiles: String,
    /// The machine, in lines.
    pub machine: String,
    /// The command that measured.
    pub command: String,
}

/// Marks in README between which the headline table stands.
const BEGIN: &str = "<!-- headline: written by `cargo xtask report` -->";
const END: &str = "<!-- end of headline -->";

/// Writes `rows.csv`, `rows.json`, `env.txt`, the plots and `index.html` into `out`.
///
/// # Errors
/// If a file cannot be written or the targets do not parse.
pub fn write(input: &Input, out: &Path) -> Result<Vec<Verdict>> {
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let put = |name: &str, text: &str| {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let verdicts = verdicts(&input.rows, &input.gates)?;
    put("rows.csv", &csv(&input.rows))?;
    put("rows.json", &serde_json::to_string_pretty(&input.rows)?)?;
    put("env.txt", &format!("{}\nmeasured with: {}\n", input.machine.trim_end(), input.command))?;
    let plots = plots::all(&input.rows, &input.simulated)?;
    for plot in &plots {
        put(&format!("{}.svg", plot.name), &plot.file())?;
    }
    put("index.html", &page::html(input, &verdicts, &plots))?;
    Ok(verdicts)
}

fn csv(rows: &[Row]) -> String {
    let mut out = String::from("name,unit,ours,peer,ratio,ratio_low,ratio_high,samples,clean\n");
    for r in rows {
        let (low, high) = r.ratio_ci;
        let _ = writeln!(
            out,
            "{},{},{:.3},{:.3},{:.4},{low:.4},{high:.4},{},{}",
            r.name, r.unit, r.ours, r.peer, r.ratio, r.samples, r.clean
        );
    }
    out
}

/// README with the headline table put between its marks.
///
/// # Errors
/// If the marks are not there.
pub fn into_readme(readme: &str, verdicts: &[Verdict], link: &str) -> Result<String> {
    let (before, rest) = readme.split_once(BEGIN).context("README has no mark for the headline table")?;
    let (_, after) = rest.split_once(END).context("README has no end mark for the headline table")?;
    let mut table = String::from(
        "| what | ours | Xen's algorithm | ratio | to reach | reached |\n|---|--:|--:|--:|---|---|\n",
    );
    for v in verdicts {
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} |",
            v.what,
            v.ours,
            v.peer,
            v.ratio,
            v.wanted,
            v.word()
        );
    }
    Ok(format!(
        "{before}{BEGIN}\n{table}\nTimes are of one process on one machine, both sides in turns; instructions are of whole hypercalls of a PVH guest in QEMU, beside Xen 4.17.7 measured on its own. [{link}]({link}) has the rest.\n{END}{after}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ours: f64, peer: f64) -> Row {
        Row {
            name: name.into(),
            unit: "ns/element".into(),
            ours,
            peer,
            ratio: peer / ours,
            ratio_ci: (peer / ours, peer / ours),
            samples: 3,
            clean: 3,
            counters: None,
            lines: None,
        }
    }

    #[test]
    fn a_target_is_reached_or_missed_by_its_row() {
        let rows = [row("copy.gref_own.b32.64", 19.0, 88.0), row("map_unmap.b32", 41.0, 155.0)];
        let verdicts = verdicts(&rows, "[icount]\n\"xen_version\" = 349\n").expect("targets parse");
        let of = |what: &str| verdicts.iter().find(|v| v.what.contains(what)).expect("a verdict").reached;
        assert_eq!(of("gref to own, batch 32, 64 B"), Some(true));
        assert_eq!(of("map and unmap"), Some(false));
        assert_eq!(of("empty hypercall"), Some(true));
        assert_eq!(of("cold"), None, "not measured is not reached");
    }

    #[test]
    fn a_miss_says_by_how_much_and_links_its_profile() {
        let rows = [row("copy.gref_own.b32.64", 40.0, 88.0), row("sweep.heat.64.2", 2.0, 1.0)];
        let input = Input {
            rows: rows.to_vec(),
            simulated: Simulated::default(),
            gates: "[icount]\n\"xen_version\" = 700\n".into(),
            profiles: "# Profiles\n\n## xen_version\n\n```\nhandle 300\n```\n".into(),
            machine: String::new(),
            command: String::new(),
        };
        let verdicts = verdicts(&input.rows, &input.gates).expect("targets parse");
        let page = page::html(&input, &verdicts, &[]);
        assert!(page.contains("2.000 times the limit, ratio 2.20 of 4"), "{page}");
        assert!(page.contains("href=\"#profile-0\"") && page.contains("handle 300"));
        assert!(page.contains("<td>sweep.heat.64.2</td>") && page.contains("1 of 1 cells"));
        assert!(page.contains("<td class=n>100 %</td>"), "the baseline is set beside the facts");
    }

    #[test]
    fn the_readme_keeps_what_is_around_the_marks() {
        let readme = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = into_readme(&readme, &[], "results/x").expect("marks are there");
        assert!(new.starts_with("a\n") && new.ends_with("\nb\n") && !new.contains("old"));
        assert_eq!(into_readme(&new, &[], "results/x").expect("marks are there"), new);
        assert!(into_readme("none", &[], "x").is_err());
    }

    #[test]
    fn plots_are_made_of_few_rows_too() {
        assert!(plots::all(&[], &Simulated::default()).expect("no rows, no plots").is_empty());
        let rows = [row("copy.gref_own.b32.64", 19.0, 88.0), row("sweep.heat.64.2", 1.0, 2.0)];
        let plots = plots::all(&rows, &Simulated::default()).expect("plots");
        assert!(plots.iter().all(|p| p.file().contains("prefers-color-scheme")));
        assert_eq!(plots.len(), 2);
    }
}
