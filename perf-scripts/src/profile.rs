//! `profile`: where the instructions of one hypercall go, by function.
//!
//! QEMU runs one instruction at a time and logs each, between the marks the `bench` guest sets around what it
//! counts. The addresses of one repetition (the shortest) are counted and given to `addr2line`, which knows
//! the functions the compiler has inlined. So "self" is what the text of a function became, wherever it
//! stands, and `--outer` counts by the symbols of the image instead.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use comfy_table::presets::UTF8_BORDERS_ONLY;

use crate::failure::{Exit, stop};
use crate::gate;
use crate::image::{self, ImageArgs};
use crate::progress::Step;
use crate::qemu::{self, Ending, Next};
use crate::setup;
use crate::symbols;

/// The guest's function that marks begin and end.
const MARK: &str = "bench_mark";
/// The hypervisor's addresses begin here; what lies below is the guest's.
const HYPERVISOR: u64 = 1 << 63;
const LIMIT: Duration = Duration::from_secs(300);
/// Functions with less than this part of the whole are told in one row.
const LEAST_SHARE: u64 = 200;
/// Generic instances can fill lines.
const LONGEST_NAME: usize = 100;

/// What `profile` may be asked.
#[derive(Args, Debug)]
pub struct ProfileArgs {
    /// The operation, as the `bench` guest names it: "copy gref->own", "map r/w", "event send, new", xen_version ...
    op: String,
    /// Elements
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Bytes of an element of a copy
    #[arg(long, default_value_t = 64)]
    bytes: u32,
    /// By the image's symbols instead of the functions inlined into them
    #[arg(long)]
    outer: bool,
    /// Also each source line with at least this many instructions
    #[arg(long, value_name = "COUNT")]
    lines: Option<u64>,
    /// Also the executed instructions of this function (a part of its symbol's name), with their counts
    #[arg(long, value_name = "TEXT")]
    code: Option<String>,
}

/// The verb itself.
pub fn profile(args: &ProfileArgs, no_install: bool) -> Result<()> {
    setup::need(&[setup::QEMU, setup::OBJDUMP], no_install)?;
    let made = image::build(&ImageArgs::default())?;
    let mut machine = gate::icount::machine(&made)?;
    machine.single_step = true;
    machine.limit = LIMIT;
    // Only copies have lengths, only they and mappings have batches.
    let copies = args.op.starts_with("copy");
    let batched = copies || args.op.starts_with("map") || args.op.starts_with("unmap");
    let words = format!(
        " op={} width=64 batch={} bytes={}",
        args.op.replace(' ', "_"),
        if batched { args.batch } else { 0 },
        if copies { args.bytes } else { 0 },
    );
    machine.modules[0].string.push_str(&words);

    let mark = symbols::address(&fs::read(made.guest("bench")?)?, MARK)?;
    let mut trace = Trace::new(mark);
    let step = Step::new("Tracing");
    let boot = qemu::boot_traced(
        &machine,
        Some("@trace"),
        |line| {
            step.at(line.text);
            let bad = line.text.starts_with("@fail") || qemu::is_panic(line);
            if bad || line.text.contains("\"ok\":true") { Next::Stop } else { Next::More }
        },
        |line| trace.line(line),
    )?;
    drop(step);
    let Some(counts) = trace.shortest() else {
        let end = if boot.ending == Ending::Stopped { "nothing was traced" } else { "the boot ended early" };
        return Err(stop(
            Exit::Failed,
            format!("{end}: is \"{}\" a row of the bench guest?\n{}", args.op, boot.tail(6)),
        ));
    };
    report(args, &made.image, counts)
}

/// Instructions by address.
type Counts = BTreeMap<u64, u64>;

/// What lies between marks.
struct Trace {
    mark: u64,
    inside: bool,
    now: Counts,
    shortest: Option<(u64, Counts)>,
}

impl Trace {
    fn new(mark: u64) -> Self {
        Self { mark, inside: false, now: Counts::new(), shortest: None }
    }

    fn line(&mut self, line: &str) {
        let Some(pc) = address(line) else { return };
        if pc == self.mark {
            let counts = std::mem::take(&mut self.now);
            let total = counts.values().sum();
            if self.inside && self.shortest.as_ref().is_none_or(|(least, _)| total < *least) {
                self.shortest = Some((total, counts));
            }
            self.inside = !self.inside;
        } else if self.inside {
            *self.now.entry(pc).or_default() += 1;
        }
    }

    fn shortest(self) -> Option<Counts> {
        self.shortest.map(|(_, counts)| counts)
    }
}

/// The address in `Trace 0: 0x7f72 [cs_base/pc/flags/cflags] symbol`.
fn address(line: &str) -> Option<u64> {
    let inside = line.split_once('[')?.1;
    u64::from_str_radix(inside.split('/').nth(1)?, 16).ok()
}

fn report(args: &ProfileArgs, image: &Path, counts: Counts) -> Result<()> {
    let total: u64 = counts.values().sum();
    let guest: u64 = counts.range(..HYPERVISOR).map(|(_, count)| count).sum();
    let own: Counts = counts.range(HYPERVISOR..).map(|(&pc, &count)| (pc, count)).collect();
    println!("{}: {total} instructions, {guest} of them the guest's (with its marks)", args.op);
    let places = places(image, &own)?;
    let mut functions: HashMap<&str, u64> = HashMap::new();
    let mut lines: HashMap<(&str, &str), u64> = HashMap::new();
    for (pc, count) in &own {
        let place = places.get(pc).with_context(|| format!("addr2line does not know {pc:#x}"))?;
        *functions.entry(if args.outer { &place.outer } else { &place.inner }).or_default() += count;
        *lines.entry((&place.inner, &place.line)).or_default() += count;
    }
    let mut table = comfy_table::Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["instructions", "share", "function"]);
    let (shown, rest): (Vec<_>, Vec<_>) =
        sorted(functions).into_iter().partition(|(_, count)| count * LEAST_SHARE >= total);
    for (name, count) in shown {
        table.add_row([count.to_string(), share(count, total), cut(name)]);
    }
    let small: u64 = rest.iter().map(|(_, count)| count).sum();
    table.add_row([small.to_string(), share(small, total), format!("{} others", rest.len())]);
    println!("{table}");
    if let Some(least) = args.lines {
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_BORDERS_ONLY).set_header(["instructions", "share", "line", "function"]);
        for ((name, line), count) in sorted(lines).into_iter().filter(|(_, count)| *count >= least) {
            table.add_row([count.to_string(), share(count, total), line.to_owned(), cut(name)]);
        }
        println!("{table}");
    }
    if let Some(part) = &args.code {
        println!("{}", code(image, &own, &places, part)?);
    }
    Ok(())
}

fn sorted<K: Ord>(counts: HashMap<K, u64>) -> Vec<(K, u64)> {
    let mut rows: Vec<(K, u64)> = counts.into_iter().collect();
    rows.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    rows
}

fn cut(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

fn share(count: u64, total: u64) -> String {
    let tenths = count * 1000 / total.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// What stands at an address.
struct Place {
    /// The function whose text it is.
    inner: String,
    /// The symbol it lies in.
    outer: String,
    /// Source file and line.
    line: String,
}

/// Asks `addr2line` for every address.
fn places(image: &Path, counts: &Counts) -> Result<HashMap<u64, Place>> {
    let mut command = Command::new("addr2line");
    command.args(["-a", "-i", "-f", "-e"]).arg(image).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start addr2line")?;
    let mut input = child.stdin.take().context("addr2line without input")?;
    let asked: String = counts.keys().fold(String::new(), |mut text, pc| {
        let _ = writeln!(text, "{pc:#x}");
        text
    });
    let writer = std::thread::spawn(move || input.write_all(asked.as_bytes()));
    let output = child.wait_with_output().context("cannot read addr2line's answer")?;
    writer.join().map_err(|_| anyhow::anyhow!("addr2line's input broke"))??;
    ensure!(output.status.success(), "addr2line failed");
    Ok(answers(&String::from_utf8_lossy(&output.stdout)))
}

/// For each address its line, then pairs of a function and its place, the innermost first.
fn answers(text: &str) -> HashMap<u64, Place> {
    let mut places: HashMap<u64, Place> = HashMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(pc) = line.strip_prefix("0x").and_then(|pc| u64::from_str_radix(pc, 16).ok()) else {
            continue;
        };
        let mut frames: Vec<(String, String)> = Vec::new();
        while lines.peek().is_some_and(|next| !next.starts_with("0x")) {
            let name = lines.next().unwrap_or_default();
            let at = lines.next().unwrap_or_default();
            frames.push((format!("{:#}", rustc_demangle::demangle(name)), short(at)));
        }
        if let (Some((inner, line)), Some((outer, _))) = (frames.first(), frames.last()) {
            places.insert(pc, Place { inner: inner.clone(), outer: outer.clone(), line: line.clone() });
        }
    }
    places
}

/// The last two parts of a path, without addr2line's remarks.
fn short(place: &str) -> String {
    let place = place.split(" (discriminator").next().unwrap_or(place);
    let mut parts: Vec<&str> = place.rsplit('/').take(2).collect();
    parts.reverse();
    parts.join("/")
}

/// The executed instructions of the symbols with `part` in their names.
fn code(image: &Path, counts: &Counts, places: &HashMap<u64, Place>, part: &str) -> Result<String> {
    let of_it: Vec<u64> = counts
        .keys()
        .copied()
        .filter(|pc| places.get(pc).is_some_and(|at| at.outer.contains(part)))
        .collect();
    let (Some(first), Some(last)) = (of_it.first(), of_it.last()) else {
        return Err(stop(Exit::Usage, format!("no executed function has \"{part}\" in its name")));
    };
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn", "-M", "intel"])
        .arg(format!("--start-address={first:#x}"))
        .arg(format!("--stop-address={:#x}", last + 16))
        .arg(image)
        .output()
        .context("cannot start objdump")?;
    let mut text = String::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((pc, insn)) = line.trim().split_once(":\t") else { continue };
        let Some(pc) = u64::from_str_radix(pc, 16).ok().filter(|pc| of_it.binary_search(pc).is_ok()) else {
            continue;
        };
        let place = places.get(&pc).map_or("", |place| place.line.as_str());
        writeln!(text, "{:>7} {pc:x} {insn:<60} {place}", counts[&pc])?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_marks_counts_and_the_shortest_repetition_wins() {
        let mut trace = Trace::new(0x10);
        let line = |pc: u64| format!("Trace 0: 0x7f0 [0000000000000000/{pc:016x}/00c0b2/ff020201] x");
        for pc in [1, 0x10, 2, 2, 3, 0x10, 4, 0x10, 2, 0x10, 5] {
            trace.line(&line(pc));
        }
        assert_eq!(trace.shortest(), Some(Counts::from([(2, 1)])));
        assert_eq!(address("Stopped execution"), None);
    }

    #[test]
    fn the_innermost_function_has_the_instruction() {
        let text =
            "0x00000010\ninner\n/a/b/c.rs:3 (discriminator 2)\nouter\n/a/d.rs:9\n0x11\nouter\nd.rs:10\n";
        let places = answers(text);
        let place = &places[&0x10];
        assert_eq!(
            (place.inner.as_str(), place.outer.as_str(), place.line.as_str()),
            ("inner", "outer", "b/c.rs:3")
        );
        assert_eq!(places[&0x11].inner, "outer");
    }
}
