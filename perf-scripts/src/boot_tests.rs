//! The boots `cargo xtask test` makes, as data: what is booted, which lines must come in which order, and
//! how it must end. Bad input must end in one clear line and never in silence or a hang, so every case
//! has a time limit and an expected line.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::failure::{Exit, stop};
use crate::image::Artefacts;
use crate::places;
use crate::progress::Step;
use crate::qemu::{self, Ending, Line, Machine, Module, Next};

/// One boot.
pub struct Case {
    pub name: &'static str,
    /// Part of `test --quick`.
    pub quick: bool,
    /// What differs from a plain boot of the image.
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    /// Pieces of lines, in this order (several may be of one line); the boot ends well with the last one.
    expect: &'static [&'static str],
    /// Pieces of lines that must not come before that.
    never: &'static [&'static str],
}

/// What no good boot prints.
const TROUBLE: &[&str] = &["panic", "@fail", "bad option", "crashed"];

/// A case for which only the outcome of a refused input matters.
const fn refused(
    name: &'static str,
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    expect: &'static [&'static str],
) -> Case {
    Case { name, quick: false, setup, expect, never: &["panic"] }
}

/// Every case.
pub const CASES: &[Case] = &[
    Case {
        name: "multiboot",
        quick: true,
        setup: |machine, made| hello(machine, made, "hello"),
        expect: &[
            "loaded by multiboot",
            "CPUs: 1 running, of 1",
            "@result",
            "powered off",
            "leaked frames: 0",
            "switching off",
        ],
        never: TROUBLE,
    },
    Case {
        name: "32-bit guest",
        quick: true,
        setup: |machine, made| hello(machine, made, "hello32"),
        expect: &["32-bit kernel", "@result", "powered off", "leaked frames: 0", "switching off"],
        never: TROUBLE,
    },
    Case {
        name: "four CPUs, two vCPUs",
        quick: false,
        setup: |machine, made| {
            machine.cpus = 4;
            hello(machine, made, "hello")?;
            machine.modules[0].string = "domain=hello vcpus=2 cpus=1-3".to_owned();
            Ok(())
        },
        expect: &["CPUs: 4 running, of 4", "@result", "powered off", "leaked frames: 0"],
        never: TROUBLE,
    },
    Case {
        name: "maxcpus=",
        quick: false,
        setup: |machine, made| {
            machine.cpus = 4;
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" maxcpus=2");
            Ok(())
        },
        expect: &["CPUs: 2 running, of 4", "@result"],
        never: TROUBLE,
    },
    Case {
        // QEMU's PVH loader hands over one module and no string with it.
        name: "PVH",
        quick: true,
        setup: |machine, made| {
            module(machine, made, "hello", "")?;
            machine.image = without_multiboot(made)?;
            Ok(())
        },
        expect: &["loaded by PVH", "error: cannot boot: module 1", "the module string is empty"],
        never: &["panic"],
    },
    refused(
        "unknown option",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" colour=blue");
            Ok(())
        },
        &["bad option 'colour=blue': no such option", "@result"],
    ),
    refused(
        "bad value",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" maxcpus=none");
            Ok(())
        },
        &["bad option 'maxcpus=none': takes a count", "@result"],
    ),
    refused(
        "bad item of gnttab=",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" gnttab=max_ver:9,no-transitive");
            Ok(())
        },
        &["bad option 'gnttab=max_ver:9'", "gnttab=max_ver:2,no-transitive"],
    ),
    refused(
        "no SVM",
        |machine, made| {
            machine.cpu_model = Some("max,-svm".to_owned());
            hello(machine, made, "hello")
        },
        &["error: cannot boot: ", "this CPU has no AMD SVM"],
    ),
    refused(
        "no nested paging",
        |machine, made| {
            machine.cpu_model = Some("max,-npt".to_owned());
            hello(machine, made, "hello")
        },
        &["error: cannot boot: ", "no nested paging"],
    ),
    refused(
        "too little memory",
        |machine, _| {
            machine.mem_mib = 24;
            Ok(())
        },
        &["error: cannot boot: too little memory"],
    ),
    refused(
        "a domain larger than the machine",
        |machine, made| module(machine, made, "hello", "domain=large mem=4G"),
        &["error: cannot boot: domain 'large'"],
    ),
    refused("no modules", |_, _| Ok(()), &["error: cannot boot: no domain to run"]),
    refused(
        "unknown word in a module string",
        |machine, made| module(machine, made, "hello", "domain=x colour=blue"),
        &["error: cannot boot: module 1 ('hello'): 'colour=blue': no such word"],
    ),
    refused(
        "missing data module",
        |machine, made| module(machine, made, "hello", "domain=x data=disk.img"),
        &["error: cannot boot: domain 'x': no data module is called 'disk.img'"],
    ),
    refused(
        "module: not ELF",
        |machine, _| {
            let path = scratch("text", b"this is no kernel\n")?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('text'): not an ELF file"],
    ),
    refused(
        "module: ELF without a PVH note",
        |machine, _| {
            let own = std::env::current_exe().context("cannot tell this program's own file")?;
            machine.mem_mib = 1024;
            machine.modules.push(Module::new(own, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x'", "no PVH entry note"],
    ),
    refused(
        "module: truncated",
        |machine, made| {
            let file = read(made.guest("hello")?)?;
            let path = scratch("truncated", &file[..file.len().min(5000)])?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('truncated'): truncated"],
    ),
    refused(
        "module: overlapping segments",
        |machine, made| {
            let path = scratch("overlapping", &with_overlapping_segments(read(made.guest("hello")?)?)?)?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('overlapping'): two of its segments overlap"],
    ),
];

/// One domain that runs a guest of ours and powers the machine off after it.
fn hello(machine: &mut Machine, made: &Artefacts, guest: &str) -> Result<()> {
    module(machine, made, guest, &format!("domain={guest}"))
}

fn module(machine: &mut Machine, made: &Artefacts, guest: &str, string: &str) -> Result<()> {
    machine.cmdline = "when_done=poweroff".to_owned();
    machine.modules.push(Module::new(made.guest(guest)?, string));
    Ok(())
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
    forbidden: Option<String>,
}

impl<'a> Watch<'a> {
    fn new(case: &'a Case) -> Self {
        Self { case, seen: 0, forbidden: None }
    }

    fn line(&mut self, line: &Line<'_>) -> Next {
        let before = self.seen;
        while self.case.expect.get(self.seen).is_some_and(|piece| line.text.contains(piece)) {
            self.seen += 1;
        }
        if self.seen == self.case.expect.len() {
            return Next::Stop;
        }
        if self.seen > before {
            return Next::More;
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
    let mut file = read(&made.image)?;
    let reach = REACH.min(file.len());
    let at = file[..reach].windows(4).position(|word| word == MAGIC).context("no multiboot header")?;
    file[at..at + 4].fill(0);
    scratch("tollgate-pvh", &file)
}

/// An ELF64 file whose second loaded segment goes where the first one does.
fn with_overlapping_segments(mut file: Vec<u8>) -> Result<Vec<u8>> {
    /// Program headers of ELF64: where they begin, how long one is, and `p_paddr` in it.
    const TABLE: usize = 64;
    const ENTRY: usize = 56;
    const PHYSICAL: usize = 24;
    const LOAD: [u8; 4] = 1_u32.to_le_bytes();
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let loaded: Vec<usize> = (0..count)
        .map(|index| TABLE + index * ENTRY)
        .filter(|&at| file.get(at..at + 4) == Some(&LOAD))
        .collect();
    let [first, second, ..] = loaded[..] else { anyhow::bail!("the guest has fewer than two segments") };
    file.copy_within(first + PHYSICAL..first + PHYSICAL + 8, second + PHYSICAL);
    Ok(file)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
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
