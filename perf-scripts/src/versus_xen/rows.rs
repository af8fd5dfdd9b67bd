//! Rows of two players over several runs: medians, ratios, the table, and what programs read.

use std::fmt::Write as _;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Costs.
    Less,
    /// Throughput.
    More,
}

/// One figure of both players, in the order of the runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub better: Better,
    pub ours: Vec<f64>,
    pub peer: Vec<f64>,
    /// The ratio to reach, where there is one.
    pub least: Option<f64>,
}

impl Row {
    /// How many times better ours is, by the medians; none if a side was not measured.
    pub fn ratio(&self) -> Option<f64> {
        let (ours, peer) = (median(&self.ours)?, median(&self.peer)?);
        Some(match self.better {
            Better::Less => peer / ours,
            Better::More => ours / peer,
        })
    }

    /// The ratio to reach, and whether it is.
    fn verdict(&self) -> String {
        let (Some(least), Some(ratio)) = (self.least, self.ratio()) else { return String::new() };
        format!("{least}: {}", if ratio >= least { "yes" } else { "no" })
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "ours": median(&self.ours),
            "peer": median(&self.peer),
            "ratio": self.ratio(),
            "least": self.least,
            "ours_runs": self.ours,
            "peer_runs": self.peer,
        })
    }
}

/// The middle value; of an even number, the mean of the two in the middle; of none, none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}

/// How far the runs lie apart, in percent of the median: the larger of the two players'.
pub fn spread(row: &Row) -> f64 {
    let of = |values: &[f64]| {
        let (low, high) =
            values.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), &v| (low.min(v), high.max(v)));
        median(values).filter(|_| high > low).map_or(0.0, |median| (high - low) / median * 100.0)
    };
    of(&row.ours).max(of(&row.peer))
}

/// A figure for people: whole from 100 on.
pub fn figure(value: f64) -> String {
    if value.abs() >= 100.0 {
        let whole = format!("{value:.0}");
        let mut text = String::new();
        for (index, digit) in whole.chars().enumerate() {
            if index > 0 && (whole.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        text
    } else {
        format!("{value:.2}")
    }
}

/// Cells of a table: ours, the other's, the ratio, a dash where there is none; the verdict.
fn cells(row: &Row) -> [String; 4] {
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let ratio = row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    [shown(median(&row.ours)), shown(median(&row.peer)), ratio, row.verdict()]
}

const HEADER: [&str; 6] = ["what", "unit", "Tollgate", "Xen 4.17", "ratio", "to reach"];

/// The table of a run.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(HEADER);
    for row in rows {
        let [ours, peer, ratio, verdict] = cells(row);
        table.add_row([&row.name, row.unit, &ours, &peer, &ratio, &verdict]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// The same for a page.
pub fn markdown<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut text = format!("| {} |\n|---|---|--:|--:|--:|--:|\n", HEADER.join(" | "));
    for row in rows {
        let [ours, peer, ratio, verdict] = cells(row);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} | {ours} | {peer} | {ratio} | {verdict} |", row.name, row.unit);
    }
    text
}

/// Every run, for spreadsheets.
pub fn csv(rows: &[Row]) -> String {
    let mut text = String::from("name,unit,run,ours,peer\n");
    for row in rows {
        for run in 0..row.ours.len().max(row.peer.len()) {
            let of = |side: &[f64]| side.get(run).map_or_else(String::new, f64::to_string);
            let (ours, peer) = (of(&row.ours), of(&row.peer));
            let _ = writeln!(text, "\"{}\",{},{},{ours},{peer}", row.name, row.unit, run + 1);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], peer: &[f64]) -> Row {
        let name = "copy, 1 element".to_owned();
        Row {
            name,
            unit: "x",
            better: Better::Less,
            ours: ours.to_vec(),
            peer: peer.to_vec(),
            least: Some(2.0),
        }
    }

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        let row = row(&[10.0, 11.0, 10.0], &[50.0, 50.0, 50.0]);
        assert_eq!(row.ratio(), Some(5.0));
        assert_eq!(Row { better: Better::More, ..row.clone() }.ratio(), Some(0.2));
        assert!((spread(&row) - 10.0).abs() < 1e-9);
        assert_eq!(row.json()["ratio"], 5.0);
        assert_eq!(row.json()["ours_runs"][1], 11.0);
        assert_eq!(Row { least: Some(5.5), ..row.clone() }.verdict(), "5.5: no");
        assert_eq!(Row { least: None, ..row }.verdict(), "");
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(figure(1_234_567.4), "1,234,567");
        assert_eq!(figure(649.0), "649");
        assert_eq!(figure(12.345), "12.35");
        assert!(table(&[row(&[1.0], &[2.0])]).contains("2.00"));
    }

    #[test]
    fn names_with_commas_stay_one_column() {
        let text = csv(&[row(&[1.0, 2.0], &[3.0, 4.0])]);
        assert_eq!(text.lines().nth(2), Some("\"copy, 1 element\",x,2,2,4"));
        assert_eq!(csv(&[row(&[], &[3.0])]).lines().nth(1), Some("\"copy, 1 element\",x,1,,3"));
        let page = markdown([row(&[1.0], &[2.0])].iter());
        assert!(page.ends_with("| copy, 1 element | x | 1.00 | 2.00 | 2.00 | 2: yes |\n"), "{page}");
    }
}
