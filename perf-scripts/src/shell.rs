//! `--shell NAME`: the terminal becomes the console of a running machine, with the input of one domain.
//!
//! The terminal is in raw mode meanwhile, so that every key goes to the guest, Ctrl-C too; Ctrl-] ends it. The
//! domain's own prefix is taken off its lines, so that a shell's line editing finds the column it believes to be in;
//! other lines keep theirs. Without a terminal (a pipe, a test) the same works without raw mode.

use std::io::{self, Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

use crate::failure::{Exit, stop};
use crate::qemu::Machine;

/// Ctrl-], as with telnet and `xl console`.
const END: u8 = 0x1d;
const KEYS: &str = "Ctrl-] ends the machine; Ctrl-A three times gives the input to the next domain, or to the \
                    hypervisor, whose key h lists its others";

/// The module word that gives a domain the input, for the one of that name.
pub fn word(domain: &str, shell: Option<&str>) -> &'static str {
    if shell == Some(domain) { "input " } else { "" }
}

/// What ended the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It ended by itself.
    Off,
    /// Somebody typed the key.
    Key,
}

/// Boots `machine` and lends it the terminal until it ends, by itself or by the key: no time limit holds here.
pub fn lend(machine: &Machine, domain: &str) -> Result<()> {
    println!("{KEYS}");
    let mut command = machine.shell_command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let raw = Raw::enter();
    let ended = run(command, domain);
    drop(raw);
    if ended? == End::Key {
        println!("\nended by Ctrl-]");
    }
    Ok(())
}

fn run(mut command: Command, domain: &str) -> Result<End> {
    let mut child = command.spawn().context("cannot start QEMU")?;
    let (sender, ended) = channel();
    let input = child.stdin.take().context("QEMU takes no input")?;
    let output = child.stdout.take().context("QEMU gives no output")?;
    let off = sender.clone();
    let filter = Filter::new(domain);
    let printer = thread::spawn(move || {
        print(output, filter);
        // Nobody listens only when the key has come first.
        let _ = off.send(End::Off);
    });
    // Ends with the process: it waits for keys.
    thread::spawn(move || typed(input, &sender));
    let end = ended.recv().context("nobody watches QEMU")?;
    // Fails only when it is gone already, which is what is wanted.
    let _ = child.kill();
    let status = child.wait().context("cannot wait for QEMU")?;
    let _ = printer.join();
    match end {
        End::Off if !status.success() => Err(stop(Exit::Failed, "QEMU did not run")),
        end => Ok(end),
    }
}

/// Hands keys on until the one that ends it.
fn typed(mut to: ChildStdin, end: &Sender<End>) {
    let mut keys = [0; 256];
    while let Ok(count @ 1..) = io::stdin().read(&mut keys) {
        let keys = &keys[..count];
        let last = keys.iter().position(|&key| key == END);
        if to.write_all(&keys[..last.unwrap_or(count)]).and_then(|()| to.flush()).is_err() {
            return;
        }
        if last.is_some() {
            let _ = end.send(End::Key);
            return;
        }
    }
    // The input's end is no key: the machine goes on until it ends by itself.
}

fn print(mut from: impl Read, mut filter: Filter) {
    let mut bytes = [0; 4096];
    let mut out = io::stdout();
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let shown = filter.take(&bytes[..count]);
        // A terminal that is gone takes nothing; the machine is ended by whoever took it away.
        let _ = out.write_all(&shown).and_then(|()| out.flush());
    }
}

/// Takes `(d1 NAME) ` off the beginnings of lines.
struct Filter {
    /// ` NAME) `
    behind: Vec<u8>,
    /// The beginning of a line, as long as it may be the prefix.
    held: Vec<u8>,
    at_start: bool,
}

impl Filter {
    fn new(domain: &str) -> Self {
        Self { behind: format!(" {domain}) ").into_bytes(), held: Vec::new(), at_start: true }
    }

    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if !self.at_start {
                shown.push(byte);
                self.at_start = byte == b'\n';
                continue;
            }
            self.held.push(byte);
            match self.fits() {
                Fits::Whole => {
                    self.held.clear();
                    self.at_start = false;
                }
                Fits::SoFar => {}
                Fits::Not => {
                    self.at_start = byte == b'\n';
                    shown.append(&mut self.held);
                }
            }
        }
        shown
    }

    /// Whether what is held is the prefix.
    fn fits(&self) -> Fits {
        let Some(rest) = self.held.strip_prefix(b"(d") else {
            return if b"(d".starts_with(&self.held) { Fits::SoFar } else { Fits::Not };
        };
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        match &rest[digits..] {
            [] if digits <= 5 => Fits::SoFar,
            rest if digits > 0 && rest == self.behind => Fits::Whole,
            rest if digits > 0 && self.behind.starts_with(rest) => Fits::SoFar,
            _ => Fits::Not,
        }
    }
}

enum Fits {
    Whole,
    SoFar,
    Not,
}

/// The terminal in raw mode; dropped, as it was before.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = io::stdin();
        let before = isatty(&stdin).then(|| tcgetattr(&stdin).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            if tcsetattr(&stdin, OptionalActions::Now, &raw).is_err() {
                return Self(None);
            }
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal is gone: nothing is left to restore.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_goes_and_others_stay() {
        let text =
            "(d1 a) / # ls\r\n(d12 a) x\n(hv) y\n(d2 b) z\n(d1 ab) n\n(d1 a) (d1 a) m\n(d\n(dx a) q\n\n(";
        let wanted = "/ # ls\r\nx\n(hv) y\n(d2 b) z\n(d1 ab) n\n(d1 a) m\n(d\n(dx a) q\n\n";
        for size in [1, 2, 3, 7, 100] {
            let mut filter = Filter::new("a");
            let shown: Vec<u8> = text.as_bytes().chunks(size).flat_map(|bytes| filter.take(bytes)).collect();
            assert_eq!(String::from_utf8(shown).unwrap(), wanted, "pieces of {size}");
        }
    }

    #[test]
    fn a_domain_is_given_the_input_by_its_name() {
        assert_eq!((word("a", Some("a")), word("b", Some("a")), word("a", None)), ("input ", "", ""));
    }
}
