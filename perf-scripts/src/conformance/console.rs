//! What a conformance guest prints: `@case NAME = VALUE`, `@fail TEXT`, and `@cases N` at the end.

use crate::failure::Exit;
use crate::qemu::{Ending, Next};

/// The cases of one boot, in the order they ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    cases: Vec<(String, String)>,
    /// What the guest itself calls a failure.
    pub fails: Vec<String>,
}

impl Column {
    /// From pairs of name and value.
    pub fn new(cases: Vec<(String, String)>) -> Self {
        Self { cases, fails: Vec::new() }
    }

    pub fn cases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.cases.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.cases().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.cases.len()
    }
}

/// Collects the cases of a console.
#[derive(Debug, Default)]
pub struct Reader {
    column: Column,
    /// What `@cases` said.
    announced: Option<usize>,
    /// A line that cannot be understood.
    refused: Option<String>,
}

impl Reader {
    /// Takes in a line. Xen puts no prefix before what dom0 prints.
    pub fn line(&mut self, text: &str) -> Next {
        if let Some(case) = text.strip_prefix("@case ") {
            match case.split_once(" = ") {
                Some((name, value)) if self.column.get(name).is_none() => {
                    self.column.cases.push((name.to_owned(), value.trim_end().to_owned()));
                }
                Some((name, _)) => self.refused = Some(format!("case {name} comes twice")),
                None => self.refused = Some(format!("not understood: {text}")),
            }
        } else if let Some(count) = text.strip_prefix("@cases ") {
            match count.trim().parse() {
                Ok(count) => self.announced = Some(count),
                Err(_) => self.refused = Some(format!("not understood: {text}")),
            }
        } else if let Some(why) = text.strip_prefix("@fail") {
            self.column.fails.push(why.trim().to_owned());
        }
        if self.announced.is_some() || self.refused.is_some() { Next::Stop } else { Next::More }
    }

    /// The cases, if all came.
    pub fn finish(self, ending: &Ending) -> Result<Column, (Exit, String)> {
        if let Some(why) = self.refused {
            return Err((Exit::Failed, why));
        }
        match (self.announced, ending) {
            (Some(count), _) if count == self.column.len() => Ok(self.column),
            (Some(count), _) => {
                Err((Exit::Failed, format!("{} cases came, and the guest says {count}", self.column.len())))
            }
            (None, Ending::Late(place)) => {
                Err((Exit::Timeout, format!("not done within the time limit{place}")))
            }
            (None, Ending::Silent) => Err((Exit::Timeout, "nothing was printed".to_owned())),
            (None, Ending::NoRun(why)) => Err((Exit::Failed, format!("QEMU did not run: {why}"))),
            (None, Ending::Off | Ending::Stopped) => {
                let count = self.column.len();
                Err((Exit::Failed, format!("it ended after {count} cases, without @cases")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Column, (Exit, String)> {
        let mut reader = Reader::default();
        for line in lines {
            if reader.line(line) == Next::Stop {
                break;
            }
        }
        reader.finish(&Ending::Off)
    }

    #[test]
    fn cases_are_read_until_their_number() {
        let column =
            read(&["boot", "@case a.b = -22 x = 1 ", "@case c = ok", "@cases 2", "@case d = z"]).unwrap();
        assert_eq!(column.cases().collect::<Vec<_>>(), [("a.b", "-22 x = 1"), ("c", "ok")]);
        assert_eq!((column.get("c"), column.get("d")), (Some("ok"), None));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let why = |lines: &[&str]| read(lines).unwrap_err().1;
        assert_eq!(why(&["@case a = 1", "@cases 2"]), "1 cases came, and the guest says 2");
        assert_eq!(why(&["@case a = 1"]), "it ended after 1 cases, without @cases");
        assert_eq!(why(&["@case a = 1", "@case a = 1", "@cases 2"]), "case a comes twice");
        assert_eq!(why(&["@case a"]), "not understood: @case a");
        assert_eq!(read(&["@fail left a pin", "@cases 0"]).unwrap().fails, ["left a pin"]);
    }
}
