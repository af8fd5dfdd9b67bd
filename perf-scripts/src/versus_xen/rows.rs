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
}

/// One figure of both players, in the order of the runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub better: Better,
    pub ours: Vec<f64>,
    pub peer: Vec<f64>,
}

impl Row {
    /// How many times better ours is, by the medians.
    pub fn ratio(&self) -> f64 {
        let (ours, peer) = (median(&self.ours), median(&self.peer));
        match self.better {
            Better::Less => peer / ours,
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "ours": median(&self.ours),
            "peer": median(&self.peer),
            "ratio": self.ratio(),
            "ours_runs": self.ours,
            "peer_runs": self.peer,
        })
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
///
/// # Panics
/// Without values: a row is made of at least one run.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted[sorted.len() / 2];
    if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) }
}

/// How far the runs lie apart, in percent of the median: the larger of the two players'.
pub fn spread(row: &Row) -> f64 {
    let of = |values: &[f64]| {
        let (low, high) =
            values.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), &v| (low.min(v), high.max(v)));
        if high > low { (high - low) / median(values) * 100.0 } else { 0.0 }
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

/// The table of a run.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["what", "unit", "Tollgate", "Xen 4.17", "ratio"]);
    for row in rows {
        let (ours, peer) = (figure(median(&row.ours)), figure(median(&row.peer)));
        table.add_row([&row.name, row.unit, &ours, &peer, &format!("{:.2}", row.ratio())]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// The same for a page.
pub fn markdown<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    let mut text = String::from("| what | unit | Tollgate | Xen 4.17 | ratio |\n|---|---|--:|--:|--:|\n");
    for row in rows {
        let (ours, peer) = (figure(median(&row.ours)), figure(median(&row.peer)));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} | {} | {ours} | {peer} | {:.2} |", row.name, row.unit, row.ratio());
    }
    text
}

/// Every run, for spreadsheets.
pub fn csv(rows: &[Row]) -> String {
    let mut text = String::from("name,unit,run,ours,peer\n");
    for row in rows {
        for (run, (ours, peer)) in row.ours.iter().zip(&row.peer).enumerate() {
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
        Row { name, unit: "x", better: Better::Less, ours: ours.to_vec(), peer: peer.to_vec() }
    }

    #[test]
    fn medians_and_ratios() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        let row = row(&[10.0, 11.0, 10.0], &[50.0, 50.0, 50.0]);
        assert!((row.ratio() - 5.0).abs() < 1e-9);
        assert!((spread(&row) - 10.0).abs() < 1e-9);
        assert_eq!(row.json()["ratio"], 5.0);
        assert_eq!(row.json()["ours_runs"][1], 11.0);
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
        let page = markdown([row(&[1.0], &[2.0])].iter());
        assert!(page.ends_with("| copy, 1 element | x | 1.00 | 2.00 | 2.00 |\n"), "{page}");
    }
}
