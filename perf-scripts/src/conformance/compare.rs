//! Two columns side by side, and what is to be said against them.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};

use super::console::Column;
use super::explained::Explained;

/// One case on both hypervisors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub case: String,
    pub width: u8,
    pub tollgate: Option<String>,
    pub xen: Option<String>,
    /// Why they differ, if they do.
    pub explained: Option<String>,
}

impl Row {
    fn differs(&self) -> bool {
        self.tollgate != self.xen
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "case": self.case,
            "width": self.width,
            "tollgate": self.tollgate,
            "xen": self.xen,
            "explained": self.explained,
        })
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub rows: Vec<Row>,
    /// Differences without a reason, in words.
    pub unexplained: Vec<String>,
    /// What else makes the run fail.
    pub troubles: Vec<String>,
}

/// Puts two columns side by side, in the order of Tollgate's; `fewest` cases must be there.
pub fn compare(
    tollgate: &Column,
    xen: &Column,
    width: u8,
    explained: &Explained,
    fewest: usize,
) -> Comparison {
    let row = |case: &str| {
        let (ours, theirs) = (tollgate.get(case).map(str::to_owned), xen.get(case).map(str::to_owned));
        let why = if ours == theirs { None } else { explained.why(case, width).map(str::to_owned) };
        Row { case: case.to_owned(), width, tollgate: ours, xen: theirs, explained: why }
    };
    let only_theirs = xen.cases().filter(|(case, _)| tollgate.get(case).is_none());
    let rows: Vec<Row> = tollgate.cases().chain(only_theirs).map(|(case, _)| row(case)).collect();

    let (mut unexplained, mut troubles) = (Vec::new(), Vec::new());
    for (who, column) in [("Tollgate", tollgate), ("Xen", xen)] {
        troubles.extend(column.fails.iter().map(|why| format!("{who}: @fail {why}")));
        if column.len() < fewest {
            troubles.push(format!("{who}: {} cases, fewer than {fewest}", column.len()));
        }
    }
    for row in &rows {
        match (&row.tollgate, &row.xen) {
            (Some(_), None) => troubles.push(format!("{}: missing on Xen", row.case)),
            (None, Some(_)) => troubles.push(format!("{}: missing on Tollgate", row.case)),
            (ours, theirs) if ours != theirs && row.explained.is_none() => {
                let [ours, theirs] = [ours, theirs].map(|value| value.as_deref().unwrap_or(""));
                unexplained.push(format!("{}: Tollgate: {ours}; Xen: {theirs}; not explained", row.case));
            }
            _ => {}
        }
    }
    Comparison { rows, unexplained, troubles }
}

impl Comparison {
    /// Prints the differences, or with `all` every case.
    pub fn print(&self, title: &str, xen: &str, all: bool) {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        // Wide enough to read; a terminal's own width is not known here.
        table.set_width(150).set_header(["case", "Tollgate", xen, "explained"]);
        for row in self.rows.iter().filter(|row| all || row.differs()) {
            let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(missing)".to_owned());
            let why = match (&row.explained, row.differs()) {
                (Some(why), _) => why.clone(),
                (None, true) => "NO".to_owned(),
                (None, false) => String::new(),
            };
            table.add_row([row.case.clone(), value(&row.tollgate), value(&row.xen), why]);
        }
        let differing = self.rows.iter().filter(|row| row.differs()).count();
        let explained = self.rows.iter().filter(|row| row.explained.is_some()).count();
        if table.row_count() > 0 {
            println!("{title}\n{table}");
        }
        println!(
            "{title}: {} cases, {} equal, {explained} differ and are explained, {} differ and are not",
            self.rows.len(),
            self.rows.len() - differing,
            differing - explained,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(cases: &[(&str, &str)]) -> Column {
        Column::new(cases.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn equal_columns_are_no_trouble() {
        let one = column(&[("a", "1"), ("b", "2")]);
        let compared = compare(&one, &one, 64, &Explained::default(), 2);
        assert_eq!(compared.troubles, Vec::<String>::new());
        assert_eq!(
            compared.rows[1].json(),
            json!({"case": "b", "width": 64, "tollgate": "2", "xen": "2", "explained": null})
        );
    }

    #[test]
    fn differences_and_gaps_are() {
        let (ours, theirs) = (column(&[("a", "1"), ("b", "2")]), column(&[("b", "3"), ("c", "4")]));
        let compared = compare(&ours, &theirs, 32, &Explained::default(), 3);
        assert_eq!(
            compared.troubles,
            [
                "Tollgate: 2 cases, fewer than 3",
                "Xen: 2 cases, fewer than 3",
                "a: missing on Xen",
                "c: missing on Tollgate",
            ]
        );
        assert_eq!(compared.unexplained, ["b: Tollgate: 2; Xen: 3; not explained"]);
        assert_eq!(compared.rows.iter().map(|row| row.case.as_str()).collect::<String>(), "abc");
    }

    #[test]
    fn what_a_guest_calls_a_failure_is_one() {
        let mut ours = column(&[("a", "1")]);
        ours.fails.push("left a pin".to_owned());
        let compared = compare(&ours, &column(&[("a", "1")]), 64, &Explained::default(), 1);
        assert_eq!(compared.troubles, ["Tollgate: @fail left a pin"]);
    }
}
