//! The boots `cargo xtask test` makes, as data: what is booted, which lines must come in which order, and
//! how it must end. Bad input must end in one clear line and never in silence or a hang, so every case
//! has a time limit and an expected line.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::failure::{Exit, stop};
use crate::image::Artefacts;
use crate::places;
use crate::progress::Step;
use crate::qemu::{self, Ending, Line, Machine, Next};

/// One boot.
pub struct Case {
    pub name: &'static str,
    /// Part of `test --quick`.
    pub quick: bool,
    /// What differs from a plain boot of the image.
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    /// Pieces of lines, in this order; the boot ends well when the last one has come.
    expect: &'static [&'static str],
    /// Pieces of lines that must not come before that.
    never: &'static [&'static str],
}

/// What no good boot prints.
const TROUBLE: &[&str] = &["panic:", "@fail", "bad option"];

/// Every case.
pub const CASES: &[Case] = &[
    Case { name: "multiboot", quick: true, setup: |_, _| Ok(()), expect: &["by multiboot,"], never: TROUBLE },
    Case {
        name: "PVH",
        quick: true,
        setup: |machine, made| {
            machine.image = without_multiboot(made)?;
            Ok(())
        },
        expect: &["by PVH,"],
        never: TROUBLE,
    },
    Case {
        name: "unknown option",
        quick: false,
        setup: |machine, _| {
            machine.cmdline = "colour=blue loglvl=info".to_owned();
            Ok(())
        },
        expect: &["bad option 'colour=blue': no such option"],
        never: &["panic:"],
    },
    Case {
        name: "bad value",
        quick: false,
        setup: |machine, _| {
            machine.cmdline = "maxcpus=none".to_owned();
            Ok(())
        },
        expect: &["bad option 'maxcpus=none': takes a count"],
        never: &["panic:"],
    },
    Case {
        name: "bad item of gnttab=",
        quick: false,
        setup: |machine, _| {
            machine.cmdline = "gnttab=max_ver:9,no-transitive".to_owned();
            Ok(())
        },
        expect: &["bad option 'gnttab=max_ver:9'"],
        never: &["panic:"],
    },
];

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
    forbidden: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(case: &'a Case) -> Self {
        Self { case, seen: 0, forbidden: None }
    }

    fn line(&mut self, line: &Line<'_>) -> Next {
        if self.case.expect.get(self.seen).is_some_and(|piece| line.text.contains(piece)) {
            self.seen += 1;
            return if self.seen == self.case.expect.len() { Next::Stop } else { Next::More };
        }
        if self.case.never.iter().any(|piece| line.text.contains(piece)) {
            self.forbidden = Some(line.text.to_owned());
            return Next::Stop;
        }
        Next::More
    }

    fn judge(&self, ending: &Ending) -> Result<(), (Exit, String)> {
        if let Some(line) = &self.forbidden {
            return Err((Exit::Failed, format!("this line must not come: {line}")));
        }
        let Some(missing) = self.case.expect.get(self.seen) else { return Ok(()) };
        let missing = format!("no line with \"{missing}\"");
        Err(match ending {
            Ending::Late(place) => (Exit::Timeout, format!("{missing} within the time limit{place}")),
            Ending::Silent => (Exit::Timeout, "the image printed nothing".to_owned()),
            Ending::NoRun(why) => (Exit::Failed, format!("QEMU did not run: {why}")),
            Ending::Off | Ending::Stopped => (Exit::Failed, format!("{missing} before the end")),
        })
    }
}

/// The image with its multiboot header made unrecognisable, so that QEMU enters it by its PVH note.
fn without_multiboot(made: &Artefacts) -> Result<PathBuf> {
    const MAGIC: [u8; 4] = 0x1bad_b002_u32.to_le_bytes();
    /// The header must lie within the first 8 KiB (Multiboot Specification 0.6.96, section 3.1).
    const REACH: usize = 8192;
    let mut file = fs::read(&made.image).with_context(|| format!("cannot read {}", made.image.display()))?;
    let reach = REACH.min(file.len());
    let at = file[..reach].windows(4).position(|word| word == MAGIC).context("no multiboot header")?;
    file[at..at + 4].fill(0);
    scratch("tollgate-pvh", &file)
}

/// A file for one case, in the directory of the artefacts.
fn scratch(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = places::boot_dir().join(name);
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case {
        name: "test",
        quick: false,
        setup: |_, _| Ok(()),
        expect: &["first", "second"],
        never: TROUBLE,
    };

    fn follow(lines: &[&str]) -> Watch<'static> {
        let mut watch = Watch::new(&CASE);
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
}
