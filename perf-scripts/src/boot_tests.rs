//! The boots `cargo xtask test` makes, as data: what is booted, which lines must come in which order, and
//! how it must end. Bad input must end in one clear line and never in silence or a hang, so every case
//! has a time limit and an expected line.

mod boots;
mod console;
mod faulty;
mod machine;
mod parts;
mod refused;
mod restart;
mod sharing;

use std::time::Duration;

use anyhow::Result;

use crate::failure::{Exit, stop};
use crate::image::Artefacts;
use crate::progress::Step;
use crate::qemu::{self, Ending, Line, Machine, Next};

/// Every boot.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        boots::CASES,
        refused::CASES,
        faulty::CASES,
        sharing::CASES,
        machine::CASES,
        console::CASES,
        restart::CASES,
    ]
    .into_iter()
    .flatten()
}

/// One boot.
pub struct Case {
    pub name: &'static str,
    /// Part of `test --quick`.
    pub quick: bool,
    /// What differs from a plain boot of the image.
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    /// Pieces of lines, in this order; several may be of one line.
    expect: &'static [&'static str],
    /// Pieces of lines that must not come.
    never: &'static [&'static str],
    end: End,
}

/// What has to follow the last expected line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing: the boot is ended.
    Any,
    /// The machine switches itself off.
    Off,
    /// The same, when so many lines have had this piece.
    OffWith(&'static str, usize),
    /// The time limit; what is then told of the machine has these pieces.
    Late(&'static [&'static str]),
}

/// Boots one case.
pub fn run(case: &Case, made: &Artefacts) -> Result<()> {
    let mut machine = Machine::new(&made.image);
    machine.limit = Duration::from_secs(60);
    (case.setup)(&mut machine, made)?;
    let step = Step::new(format!("Booting: {}", case.name));
    let mut watch = Watch::new(case);
    let boot = qemu::boot(&machine, |line| {
        step.at(line.text);
        watch.line(line)
    })?;
    watch.judge(&boot.ending).map_err(|(exit, why)| stop(exit, format!("{why}\n{}", boot.tail(25))))
}

/// Follows a console through a case.
struct Watch<'a> {
    case: &'a Case,
    seen: usize,
    /// Lines with the piece that is counted.
    counted: usize,
    forbidden: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(case: &'a Case) -> Self {
        Self { case, seen: 0, counted: 0, forbidden: None }
    }

    fn line(&mut self, line: &Line<'_>) -> Next {
        let before = self.seen;
        if matches!(self.case.end, End::OffWith(piece, _) if line.text.contains(piece)) {
            self.counted += 1;
        }
        while self.case.expect.get(self.seen).is_some_and(|piece| line.text.contains(piece)) {
            self.seen += 1;
        }
        if self.seen == before && self.case.never.iter().any(|piece| line.text.contains(piece)) {
            self.forbidden = Some(line.text.to_owned());
            return Next::Stop;
        }
        let enough = self.seen == self.case.expect.len() && self.case.end == End::Any;
        if enough { Next::Stop } else { Next::More }
    }

    fn judge(&self, ending: &Ending) -> Result<(), (Exit, String)> {
        if let Some(line) = &self.forbidden {
            return Err((Exit::Failed, format!("this line must not come: {line}")));
        }
        let missing = match self.case.expect.get(self.seen) {
            Some(piece) => format!("no line with \"{piece}\""),
            None => match (self.case.end, ending) {
                (End::Any, _) | (End::Off, Ending::Off) => return Ok(()),
                (End::OffWith(_, count), Ending::Off) if count == self.counted => return Ok(()),
                (End::OffWith(piece, count), Ending::Off) => {
                    format!("{} of {count} lines with \"{piece}\"", self.counted)
                }
                (End::Off | End::OffWith(..), _) => "the machine did not switch itself off".to_owned(),
                (End::Late(pieces), Ending::Late(place)) => {
                    match pieces.iter().find(|piece| !place.contains(**piece)) {
                        None => return Ok(()),
                        Some(piece) => format!("the time limit's words lack \"{piece}\""),
                    }
                }
                (End::Late(_), _) => "the machine was to run until the time limit".to_owned(),
            },
        };
        Err(match ending {
            Ending::Late(place) => (Exit::Timeout, format!("{missing} within the time limit{place}")),
            Ending::Silent => (Exit::Timeout, "the image printed nothing".to_owned()),
            Ending::NoRun(why) => (Exit::Failed, format!("QEMU did not run: {why}")),
            Ending::Off | Ending::Stopped => (Exit::Failed, format!("{missing} before the end")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn case(end: End) -> Case {
        Case {
            name: "test",
            quick: false,
            setup: |_, _| Ok(()),
            expect: &["first", "second"],
            never: parts::TROUBLE,
            end,
        }
    }
    const CASE: Case = case(End::Any);

    fn follow(lines: &[&str]) -> Watch<'static> {
        follow_case(&CASE, lines)
    }

    fn follow_case(case: &'static Case, lines: &[&str]) -> Watch<'static> {
        let mut watch = Watch::new(case);
        for line in lines {
            if watch.line(&Line::parse(line)) == Next::Stop {
                break;
            }
        }
        watch
    }

    #[test]
    fn lines_must_come_in_order() {
        assert!(follow(&["the first", "other", "the second"]).judge(&Ending::Stopped).is_ok());
        let (exit, why) = follow(&["second", "first"]).judge(&Ending::Off).unwrap_err();
        assert_eq!((exit, why.as_str()), (Exit::Failed, "no line with \"second\" before the end"));
        let (exit, why) = follow(&[]).judge(&Ending::Late("\n  at x".to_owned())).unwrap_err();
        assert_eq!(
            (exit, why.as_str()),
            (Exit::Timeout, "no line with \"first\" within the time limit\n  at x")
        );
    }

    #[test]
    fn trouble_ends_a_boot() {
        let (_, why) = follow(&["first", "(d1 x) @fail no", "second"]).judge(&Ending::Stopped).unwrap_err();
        assert_eq!(why, "this line must not come: @fail no");
    }

    #[test]
    fn the_end_is_judged_too() {
        const OFF: Case = case(End::Off);
        const LATE: Case = case(End::Late(&["d1 x said last: spin"]));
        const COUNTED: Case = case(End::OffWith("second", 2));
        assert!(follow_case(&COUNTED, &["first", "second", "a second"]).judge(&Ending::Off).is_ok());
        let (_, why) = follow_case(&COUNTED, &["first", "second"]).judge(&Ending::Off).unwrap_err();
        assert_eq!(why, "1 of 2 lines with \"second\" before the end");
        let lines = ["first and second"];
        assert!(follow_case(&OFF, &lines).judge(&Ending::Off).is_ok());
        assert!(follow_case(&OFF, &lines).judge(&Ending::Late(String::new())).is_err());
        let told = "\n  d1 x said last: spin".to_owned();
        assert!(follow_case(&LATE, &lines).judge(&Ending::Late(told)).is_ok());
        assert!(follow_case(&LATE, &lines).judge(&Ending::Late(String::new())).is_err());
        assert!(follow_case(&LATE, &lines).judge(&Ending::Off).is_err());
    }
}
