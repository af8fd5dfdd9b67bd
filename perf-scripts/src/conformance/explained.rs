//! The differences that docs/conformance.md explains: the rows of the table under its heading "Explained
//! differences". First column: a case, or the beginning of cases with `*` at the end. Second: 64, 32 or both.
//! Last: the reason.

use std::fs;

use anyhow::{Context as _, Result};

use crate::failure::{Exit, stop};
use crate::places;

const HEADING: &str = "## Explained differences";

/// Every row.
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
    /// Reads the page.
    pub fn read() -> Result<Self> {
        let path = places::root().join("docs/conformance.md");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).map_err(|why| stop(Exit::Failed, format!("docs/conformance.md: {why}")))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().skip_while(|line| line.trim_end() != HEADING).skip(1).peekable();
        if lines.peek().is_none() {
            return Err(format!("no heading \"{HEADING}\""));
        }
        let table = lines
            .take_while(|line| !line.starts_with("## "))
            .filter(|line| line.starts_with('|'))
            // The names of the columns, and the rule below them.
            .skip(2);
        table.map(Rule::parse).collect::<Result<_, _>>().map(Self)
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
";

    #[test]
    fn rules_are_exact_or_prefixes_and_of_a_width() {
        let explained = Explained::parse(PAGE).unwrap();
        assert_eq!(explained.0.len(), 2);
        assert_eq!(explained.why("map.one", 64), Some("first"));
        assert_eq!(explained.why("map.one.more", 64), None);
        assert_eq!(explained.why("copy.any", 32), Some("second"));
        assert_eq!(explained.why("copy.any", 64), None);
        assert_eq!(explained.why("a", 64), None);
        assert_eq!(explained.unused(&[("map.one", 32)]), ["copy.*"]);
    }

    #[test]
    fn a_page_that_cannot_be_read_is_refused() {
        let row =
            |row: &str| Explained::parse(&format!("{HEADING}\n| a | b | c |\n|--|--|--|\n{row}\n")).is_err();
        assert!(Explained::parse("# Nothing").is_err());
        assert!(row("| a | 65 | why |"));
        assert!(row("| * | both | everything |"));
        assert!(row("| a | both | |"));
        assert!(!row("| a | both | why |"));
    }
}
