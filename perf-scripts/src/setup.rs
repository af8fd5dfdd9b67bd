//! `setup`: the tools the other verbs need, who needs them, and how they are installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::failure::{Exit, stop};
use crate::places::find_program;
use crate::process::run;
use crate::progress::Step;

/// Installing is the only step that waits for the network.
pub const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// How a tool comes onto the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A Debian package.
    Apt(&'static str),
    /// A crate with a binary, at exactly this version.
    Cargo(&'static str, &'static str),
}

/// A program some verb calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    program: &'static str,
    why: &'static str,
    source: Source,
    /// Installed by `setup` only when asked by name.
    optional: bool,
}

/// Boots the image.
pub const QEMU: Tool = Tool {
    program: "qemu-system-x86_64",
    why: "boots the image (netback, run, test)",
    source: Source::Apt("qemu-system-x86"),
    optional: false,
};
/// Reads the image's code.
pub const OBJDUMP: Tool = Tool {
    program: "objdump",
    why: "disassembles the image (audit)",
    source: Source::Apt("binutils"),
    optional: false,
};
/// Counts instructions of the host-side benches.
pub const VALGRIND: Tool = Tool {
    program: "valgrind",
    why: "counts instructions (the callgrind benches)",
    source: Source::Apt("valgrind"),
    optional: false,
};
/// Must be of the same version as the library in `Cargo.toml`.
pub const IAI_RUNNER: Tool = Tool {
    program: "iai-callgrind-runner",
    why: "drives valgrind (the callgrind benches)",
    source: Source::Cargo("iai-callgrind-runner", "0.16.1"),
    optional: false,
};
/// Records captures.
pub const TCPDUMP: Tool = Tool {
    program: "tcpdump",
    why: "records captures (benches/traces/record.sh only)",
    source: Source::Apt("tcpdump"),
    optional: true,
};

/// Every tool, in the order they are checked.
const TOOLS: &[Tool] = &[QEMU, OBJDUMP, VALGRIND, IAI_RUNNER, TCPDUMP];

/// What `setup` may be asked.
#[derive(Args, Debug)]
pub struct SetupArgs {
    /// Also install what only recording needs (tcpdump)
    #[arg(long)]
    recording: bool,
}

impl Tool {
    /// The command that installs it, for people.
    fn how(&self) -> String {
        match self.source {
            Source::Apt(package) => format!("apt-get install {package}"),
            Source::Cargo(name, version) => format!("cargo install {name} --version {version} --locked"),
        }
    }

    /// Whether the program is there (and of the right version, where that matters).
    fn present(&self) -> bool {
        match self.source {
            Source::Apt(_) => find_program(self.program).is_some(),
            // iai-callgrind's runner tells its version among the errors, and fails.
            Source::Cargo(_, version) => {
                Command::new(self.program).arg("--version").output().is_ok_and(|output| {
                    [output.stdout, output.stderr]
                        .iter()
                        .any(|text| String::from_utf8_lossy(text).contains(version))
                })
            }
        }
    }

    fn install(&self) -> Result<()> {
        let step = Step::new(format!("Installing {}: {}", self.program, self.why));
        let failed = |why: String| {
            let how = self.how();
            stop(Exit::MissingTool, format!("cannot install {}: {why}\nby hand: {how}", self.program))
        };
        let mut command = match self.source {
            Source::Apt(package) => {
                let mut command = if is_root() { Command::new("apt-get") } else { Command::new("sudo") };
                if !is_root() {
                    command.args(["-n", "apt-get"]);
                }
                command.env("DEBIAN_FRONTEND", "noninteractive");
                command.args(["install", "-y", "--no-install-recommends", package]);
                command
            }
            Source::Cargo(name, version) => {
                let mut command = crate::places::cargo();
                command.args(["install", name, "--version", version, "--locked"]);
                command
            }
        };
        let mut done = run(&mut command, &step, INSTALL_LIMIT).map_err(|error| failed(error.to_string()))?;
        if !done.status.success() && matches!(self.source, Source::Apt(_)) {
            // A fresh machine may have no package lists yet.
            let mut update = Command::new(command.get_program());
            let words: Vec<_> = command.get_args().take_while(|word| *word != "install").collect();
            update.args(words).arg("update");
            step.at("apt-get update");
            run(&mut update, &step, INSTALL_LIMIT).map_err(|error| failed(error.to_string()))?;
            done = run(&mut command, &step, INSTALL_LIMIT).map_err(|error| failed(error.to_string()))?;
        }
        if done.status.success() && self.present() { Ok(()) } else { Err(failed(done.tail(3))) }
    }
}

/// Downloads a Debian package into `dir` without installing it; returns the file.
pub fn download(package: &str, dir: &Path, step: &Step) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let apt = |word: &str, package: Option<&str>| {
        let mut command = Command::new("apt-get");
        // As who runs this: the directory need not be open to apt's own user.
        command.current_dir(dir).args(["-o", "APT::Sandbox::User=root", word]).args(package);
        run(&mut command, step, INSTALL_LIMIT)
    };
    let mut done = apt("download", Some(package))?;
    if !done.status.success() && is_root() {
        // A fresh machine may have no package lists yet.
        apt("update", None)?;
        done = apt("download", Some(package))?;
    }
    if !done.status.success() {
        return Err(stop(Exit::MissingTool, done.tail(1)));
    }
    downloaded(package, dir).with_context(|| format!("apt-get left no {package} in {}", dir.display()))
}

/// A package's file in `dir`.
pub fn downloaded(package: &str, dir: &Path) -> Option<PathBuf> {
    let is = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(&format!("{package}_")) && name.ends_with(".deb"))
    };
    fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(is)
}

/// The user id from `/proc`: no `unsafe` call needed for it.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Makes sure that `tools` are there: installs what is missing, or only tells with `no_install`.
pub fn need(tools: &[Tool], no_install: bool) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.present()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if no_install {
        return Err(stop(Exit::MissingTool, told(&missing)));
    }
    missing.iter().try_for_each(|tool| tool.install())
}

/// What is missing, why it is needed and how to get it, one line each.
fn told(missing: &[&Tool]) -> String {
    let lines: Vec<String> = missing
        .iter()
        .map(|tool| format!("missing: {}, which {}; install: {}", tool.program, tool.why, tool.how()))
        .collect();
    lines.join("\n")
}

/// The verb itself.
pub fn setup(args: &SetupArgs, no_install: bool) -> Result<()> {
    let wanted: Vec<Tool> = TOOLS.iter().copied().filter(|tool| args.recording || !tool.optional).collect();
    need(&wanted, no_install)?;
    for tool in TOOLS {
        let state = if tool.present() { "present" } else { "not installed (setup --recording)" };
        println!("{:<22} {state:<34} {}", tool.program, tool.why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_told_with_its_reason_and_its_cure() {
        let tool = Tool {
            program: "no-such-program",
            why: "tests this",
            source: Source::Apt("nothing"),
            optional: false,
        };
        let error = need(&[tool], true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "missing: no-such-program, which tests this; install: apt-get install nothing"
        );
        assert_eq!(
            error.downcast_ref::<crate::failure::Stop>().map(|stop| stop.exit),
            Some(Exit::MissingTool)
        );
    }

    #[test]
    fn a_present_tool_is_left_alone() {
        let tool = Tool { program: "sh", why: "", source: Source::Apt(""), optional: false };
        need(&[tool], true).unwrap();
    }
}
