//! The differences that docs/conformance.md explains: the rows of the table under its heading "Explained
//! differences". First column: a case, or the beginning of cases with `*` at the end. Second: 64, 32 or both.
//! Last: the reason.
//!
//! Debian's archives hold more than one Xen 4.17. A heading "Explained differences from Xen before 4.17.7" begins
//! a table that counts beside such a Xen only; beside a later one the same difference is a fault.

use std::fs;

use anyhow::{Context as _, Result};

use crate::failure::{Exit, stop};
use crate::places;

const HEADING: &str = "## Explained differences";
/// Behind [`HEADING`], before a version.
const BEFORE: &str = " from Xen before ";

/// The first three numbers of a version.
type Version = [u32; 3];

/// Every row that counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained(Vec<Rule>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    case: String,
    /// `None`: both.
    width: Option<u8>,
    why: String,
}

impl Explained {
    /// Reads what the page says of a Xen of this version.
    pub fn read(xen: &str) -> Result<Self> {
        let path = places::root().join("docs/conformance.md");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, xen).map_err(|why| stop(Exit::Failed, format!("docs/conformance.md: {why}")))
    }

    fn parse(text: &str, xen: &str) -> Result<Self, String> {
        let xen = version(xen)?;
        let mut rules = None;
        let mut lines = text.lines();
        while let Some(heading) = lines.find_map(|line| line.trim_end().strip_prefix(HEADING)) {
            let counts = match heading.strip_prefix(BEFORE) {
                Some(fixed) => xen < version(fixed)?,
                None if heading.is_empty() => true,
                None => return Err(format!("neither a version nor nothing behind \"{HEADING}\": {heading}")),
            };
            let table = lines
                .clone()
                .take_while(|line| !line.starts_with("## "))
                .filter(|line| line.starts_with('|'))
                // The names of the columns, and the rule below them.
                .skip(2)
                .map(Rule::parse)
                .collect::<Result<Vec<_>, _>>()?;
            if counts {
                rules.get_or_insert_with(Vec::new).extend(table);
            }
        }
        rules.map(Self).ok_or_else(|| format!("no heading \"{HEADING}\""))
    }

    /// Why this case may differ in this width.
    pub fn why(&self, case: &str, width: u8) -> Option<&str> {
        let rule = self.0.iter().find(|rule| rule.is_about(case, width))?;
        Some(&rule.why)
    }

    /// Rules for which none of `cases` (with widths) is found.
    pub fn unused(&self, cases: &[(&str, u8)]) -> Vec<&str> {
        let about = |rule: &&Rule| cases.iter().any(|&(case, width)| rule.is_about(case, width));
        self.0.iter().filter(|rule| !about(rule)).map(|rule| rule.case.as_str()).collect()
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Self, String> {
        let cells = split(line);
        let [case, width, .., why] = &cells[..] else {
            return Err(format!("not three columns: {line}"));
        };
        let case = case.trim_matches('`').to_owned();
        if case.is_empty() || case == "*" || why.is_empty() {
            return Err(format!("neither a case nor a reason may be empty: {line}"));
        }
        let width = match width.as_str() {
            "64" => Some(64),
            "32" => Some(32),
            "both" => None,
            _ => return Err(format!("the second column is 64, 32 or both: {line}")),
        };
        Ok(Self { case, width, why: why.clone() })
    }

    fn is_about(&self, case: &str, width: u8) -> bool {
        let named = match self.case.strip_suffix('*') {
            Some(beginning) => case.starts_with(beginning),
            None => case == self.case,
        };
        named && self.width.is_none_or(|own| own == width)
    }
}

/// "4.17.5+72-g01140da4e8-1" is 4.17.5.
fn version(text: &str) -> Result<Version, String> {
    let numbers = text.split(['.', '+', '-', '~']).map_while(|part| part.parse().ok());
    let numbers: Vec<u32> = numbers.take(3).collect();
    numbers.try_into().map_err(|_| format!("\"{text}\" is no version of Xen"))
}

/// The cells of a table's line; `\|` is a bar in a cell.
fn split(line: &str) -> Vec<String> {
    const BAR: &str = "\u{0}";
    let line = line.trim().replace("\\|", BAR);
    let inside = line.strip_prefix('|').unwrap_or(&line);
    let inside = inside.strip_suffix('|').unwrap_or(inside);
    inside.split('|').map(|cell| cell.trim().replace(BAR, "|")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# Conformance

| not | this | table |
|---|---|---|
| a | both | no |

## Explained differences

Words.

| Case | Width | Tollgate | Xen | Why |
|---|---|---|---|---|
| `map.one` | both | 0 | -1 | first |
| `copy.*` | 32 | a \\| b | c | second |

## More

| x | both | no |

## Explained differences from Xen before 4.17.7

| Case | Width | Tollgate | Xen | Why |
|---|---|---|---|---|
| `old` | both | 0 | -1 | third |
";

    #[test]
    fn rules_are_exact_or_prefixes_and_of_a_width() {
        let explained = Explained::parse(PAGE, "4.17.7+13-g0123456789-1").unwrap();
        assert_eq!(explained.0.len(), 2);
        assert_eq!(explained.why("map.one", 64), Some("first"));
        assert_eq!(explained.why("map.one.more", 64), None);
        assert_eq!(explained.why("copy.any", 32), Some("second"));
        assert_eq!(explained.why("copy.any", 64), None);
        assert_eq!(explained.why("a", 64), None);
        assert_eq!(explained.unused(&[("map.one", 32)]), ["copy.*"]);
    }

    #[test]
    fn a_table_of_older_versions_counts_for_them_alone() {
        let why = |xen| Explained::parse(PAGE, xen).unwrap().why("old", 32).map(str::to_owned);
        assert_eq!(why("4.17.5+72-g01140da4e8-1").as_deref(), Some("third"));
        assert_eq!(why("4.17.7"), None);
        assert_eq!(why("4.18.0-1"), None);
        assert!(Explained::parse(PAGE, "4.17").is_err());
        assert!(Explained::parse(PAGE, "").is_err());
    }

    #[test]
    fn a_page_that_cannot_be_read_is_refused() {
        let refused = |text: &str| Explained::parse(text, "4.17.7").is_err();
        let row = |row: &str| refused(&format!("{HEADING}\n| a | b | c |\n|--|--|--|\n{row}\n"));
        assert!(refused("# Nothing"));
        assert!(refused(&format!("{HEADING} of Xen\n")));
        assert!(refused(&format!("{HEADING}{BEFORE}long ago\n")));
        assert!(row("| a | 65 | why |"));
        assert!(row("| * | both | everything |"));
        assert!(row("| a | both | |"));
        assert!(!row("| a | both | why |"));
    }
}
