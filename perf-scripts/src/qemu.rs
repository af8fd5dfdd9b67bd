//! Boots the image in QEMU and reads its console, line by line, within hard time limits.
//!
//! The child is held by its handle and killed by it when the boot is over, whoever ended it. A control
//! socket (QMP) is opened beside the console for one purpose: to ask, when a time limit has passed, where
//! each pCPU stands, so that the error names a function or a guest address and not merely "timeout".

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::places;
use crate::process::{Event, Job, Stream};
use crate::symbols::Symbols;

/// How the CPU is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if it really runs a guest with SVM, else TCG
    Auto,
    /// Nested virtualisation
    Kvm,
    /// QEMU's own translator: works everywhere, slow
    Tcg,
}

/// A file handed to the boot loader with its string.
#[derive(Clone, Debug)]
pub struct Module {
    pub path: PathBuf,
    /// What follows the file's name in the module's string.
    pub string: String,
}

impl Module {
    pub fn new(path: impl Into<PathBuf>, string: impl Into<String>) -> Self {
        Self { path: path.into(), string: string.into() }
    }
}

/// One boot.
#[derive(Clone, Debug)]
pub struct Machine {
    pub image: PathBuf,
    pub cmdline: String,
    pub modules: Vec<Module>,
    pub accel: Accel,
    pub cpus: u32,
    pub mem_mib: u32,
    /// Count guest time in instructions: one CPU thread, repeatable.
    pub icount: bool,
    /// TCG takes turns among the CPUs in one thread instead of running each in a thread of its own. Linux needs it:
    /// it loads x87 state all the time, and each time, on whatever CPU, QEMU (7.2) clears a flag of CPU 0 with a
    /// plain read and write (`cpu_clear_ignne`). That CPU's NPT and GIF flags are in the same word; one that changes
    /// meanwhile changes back, and the guest or the machine ends in a triple fault.
    pub one_thread: bool,
    /// One instruction at a time, so that a trace ([`boot_traced`]) has a line for each.
    pub single_step: bool,
    /// Instead of the accelerator's default model.
    pub cpu_model: Option<String>,
    /// The whole boot must end within this.
    pub limit: Duration,
    /// The first line must come within this.
    pub first_line: Duration,
    /// QEMU options for another machine or more devices than a plain one's.
    pub devices: Vec<String>,
    /// Typed on the serial line, in this order, each when a line with its piece has come.
    pub keys: Vec<Keys>,
}

/// Keys to be typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// A piece of the line after which.
    pub after: &'static str,
    pub keys: &'static str,
}

impl Machine {
    /// TCG, one CPU, 512 MiB, a minute.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            image: image.into(),
            cmdline: String::new(),
            modules: Vec::new(),
            accel: Accel::Tcg,
            cpus: 1,
            mem_mib: 512,
            icount: false,
            one_thread: false,
            single_step: false,
            cpu_model: None,
            limit: Duration::from_secs(60),
            first_line: Duration::from_secs(15),
            devices: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// QEMU with the console on its own input and output, for a person.
    pub fn shell_command(&self) -> Command {
        self.command(None)
    }

    fn command(&self, control: Option<&Path>) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        let (accel, model) = match self.accel {
            Accel::Kvm => ("kvm", "host"),
            Accel::Auto | Accel::Tcg if self.one_thread && !self.icount => ("tcg,thread=single", "max"),
            Accel::Auto | Accel::Tcg if self.cpus > 1 && !self.icount => ("tcg,thread=multi", "max"),
            Accel::Auto | Accel::Tcg => ("tcg", "max"),
        };
        command.args(["-accel", accel, "-cpu", self.cpu_model.as_deref().unwrap_or(model)]);
        command.args(["-m", &self.mem_mib.to_string(), "-smp", &self.cpus.to_string()]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
        command.args(&self.devices);
        if let Some(control) = control {
            command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", control.display()));
        }
        if self.icount {
            command.args(["-icount", "shift=0,sleep=off"]);
        }
        if self.single_step {
            // Blocks that are chained do not come by the place where they are traced.
            command.args(["-singlestep", "-d", "nochain"]);
        }
        command.arg("-kernel").arg(&self.image);
        if !self.cmdline.is_empty() {
            command.args(["-append", &self.cmdline]);
        }
        if !self.modules.is_empty() {
            command.args(["-initrd", &initrd(&self.modules)]);
        }
        command
    }
}

impl Machine {
    /// The command, for people who want to repeat a boot: files below cargo's target directory are named
    /// from there, the control socket is left out.
    pub fn told(&self) -> String {
        let command = self.command(None);
        let target = format!("{}/", places::target().display());
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        for word in command.get_args() {
            let word = word.to_string_lossy().replace(&target, "target/");
            words.push(if word.contains(char::is_whitespace) { format!("'{word}'") } else { word });
        }
        words.join(" ")
    }
}

/// QEMU's spelling of multiboot modules: parted by commas, a comma inside is doubled.
fn initrd(modules: &[Module]) -> String {
    let words: Vec<String> = modules
        .iter()
        .map(|module| format!("{} {}", module.path.display(), module.string).trim_end().replace(',', ",,"))
        .collect();
    words.join(",")
}

/// One line of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The domain that printed it, `d1 name`; none: the hypervisor.
    pub domain: Option<&'a str>,
    /// Without the prefix.
    pub text: &'a str,
}

impl<'a> Line<'a> {
    /// Takes a raw line apart.
    pub fn parse(raw: &'a str) -> Self {
        let guest = raw.strip_prefix("(d").and_then(|rest| {
            let end = rest.find(')')?;
            let inside = &raw[1..end + 2];
            rest.starts_with(|c: char| c.is_ascii_digit())
                .then(|| (inside, rest[end + 1..].strip_prefix(' ').unwrap_or(&rest[end + 1..])))
        });
        match guest {
            Some((domain, text)) => Self { domain: Some(domain), text },
            None => Self { domain: None, text: raw.strip_prefix("(hv) ").unwrap_or(raw) },
        }
    }
}

/// What the reader of the console wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Keep reading.
    More,
    /// Enough seen: end the boot.
    Stop,
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// QEMU ended by itself: power-off, or a restart, which `-no-reboot` turns into an end.
    Off,
    /// The reader had enough.
    Stopped,
    /// QEMU could not run: its words.
    NoRun(String),
    /// No line came at all.
    Silent,
    /// The time limit; where everything stood.
    Late(String),
}

/// A boot's story.
#[derive(Clone, Debug)]
pub struct Boot {
    pub ending: Ending,
    pub lines: Vec<String>,
}

impl Boot {
    /// The last lines, for error messages.
    pub fn tail(&self, count: usize) -> String {
        self.lines[self.lines.len().saturating_sub(count)..].join("\n")
    }
}

/// Whether the hypervisor itself says that it panics.
pub fn is_panic(line: &Line<'_>) -> bool {
    line.domain.is_none() && line.text.starts_with("panic")
}

/// Boots `machine` and shows each line to `reader` until one of them has enough.
pub fn boot(machine: &Machine, reader: impl FnMut(&Line<'_>) -> Next) -> Result<Boot> {
    boot_traced(machine, None, reader, |_| {})
}

/// [`boot`], and once a line with the text `from` has come, QEMU's log of executed code goes to `trace`.
pub fn boot_traced(
    machine: &Machine,
    from: Option<&str>,
    mut reader: impl FnMut(&Line<'_>) -> Next,
    mut trace: impl FnMut(&str),
) -> Result<Boot> {
    const TRACED: &str = "Trace ";
    let since = Instant::now();
    let control = Control::new();
    let mut command = machine.command(Some(&control.path));
    let mut job =
        if machine.keys.is_empty() { Job::spawn(&mut command) } else { Job::spawn_with_input(&mut command) }?;
    let mut typed = machine.keys.iter().peekable();
    let (mut lines, mut complaints) = (Vec::new(), String::new());
    let ending = loop {
        let limit = if lines.is_empty() { machine.first_line.min(machine.limit) } else { machine.limit };
        match job.next(limit.saturating_sub(since.elapsed())) {
            Event::Line(Stream::Err, line) if line.starts_with(TRACED) => trace(&line),
            Event::Line(Stream::Err, line) => {
                complaints.push_str(&line);
                complaints.push('\n');
            }
            Event::Line(Stream::Out, line) => {
                let line = printable(&line);
                if from.is_some_and(|from| Line::parse(&line).text == from) {
                    control.ask("log exec,nochain")?;
                }
                if let Some(due) = typed.next_if(|due| line.contains(due.after)) {
                    job.write(due.keys)?;
                }
                let next = reader(&Line::parse(&line));
                lines.push(line);
                if next == Next::Stop {
                    linger(&job, &mut lines);
                    break Ending::Stopped;
                }
            }
            Event::Quiet if lines.is_empty() => break Ending::Silent,
            Event::Quiet => break Ending::Late(whereabouts(machine, &control, &lines)),
            Event::Closed => {
                let status = job.wait()?;
                // Ended by a signal it exits as if the machine had switched itself off.
                let ended = complaints.contains("terminating on signal");
                let ending = if status.success() && !ended {
                    Ending::Off
                } else {
                    Ending::NoRun(complaints.trim().to_owned())
                };
                return Ok(Boot { ending, lines });
            }
        }
    };
    Ok(Boot { ending, lines })
}

/// Takes what follows the last line that was wanted: a panic's backtrace, a crashed guest's registers.
fn linger(job: &Job, lines: &mut Vec<String>) {
    const AT_MOST: Duration = Duration::from_secs(1);
    const BETWEEN_LINES: Duration = Duration::from_millis(150);
    let since = Instant::now();
    while since.elapsed() < AT_MOST {
        match job.next(BETWEEN_LINES) {
            Event::Line(Stream::Out, line) => lines.push(printable(&line)),
            Event::Line(Stream::Err, _) => {}
            Event::Quiet | Event::Closed => return,
        }
    }
}

/// A console line without control characters.
fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

/// What each domain said last and where each pCPU is.
fn whereabouts(machine: &Machine, control: &Control, lines: &[String]) -> String {
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for raw in lines {
        let line = Line::parse(raw);
        last.insert(line.domain.unwrap_or("hypervisor"), line.text);
    }
    let mut text = String::new();
    for (who, line) in last {
        text.push_str(&format!("\n  {who} said last: {line}"));
    }
    match control.registers() {
        Ok(registers) => {
            let symbols = fs::read(&machine.image).ok().and_then(|file| Symbols::read(&file).ok());
            for (cpu, rip) in instruction_pointers(&registers) {
                let place = symbols.as_ref().and_then(|symbols| symbols.name(rip));
                let place = place.unwrap_or_else(|| "a guest".to_owned());
                text.push_str(&format!("\n  pCPU {cpu} is at {rip:#x} in {place}"));
            }
        }
        Err(error) => text.push_str(&format!("\n  QEMU does not tell its registers: {error:#}")),
    }
    text
}

/// (CPU, RIP) of QEMU's `info registers -a`.
fn instruction_pointers(registers: &str) -> Vec<(u32, u64)> {
    let mut cpu = 0;
    let mut found = Vec::new();
    for line in registers.lines() {
        if let Some(number) = line.trim().strip_prefix("CPU#") {
            cpu = number.trim().parse().unwrap_or(cpu);
        }
        for key in ["RIP=", "EIP="] {
            let value = line.split_once(key).and_then(|(_, rest)| rest.split_whitespace().next());
            if let Some(rip) = value.and_then(|value| u64::from_str_radix(value, 16).ok()) {
                found.push((cpu, rip));
            }
        }
    }
    found
}

/// The QMP socket's path; the file goes with it.
struct Control {
    path: PathBuf,
}

impl Control {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // A socket's path must be short, so not below the workspace.
        Self { path: env::temp_dir().join(format!("tollgate-{}-{count}.qmp", std::process::id())) }
    }

    /// `info registers -a` of the running machine.
    fn registers(&self) -> Result<String> {
        self.ask("info registers -a")
    }

    /// What the monitor answers to `command`.
    fn ask(&self, command: &str) -> Result<String> {
        let stream = UnixStream::connect(&self.path).context("no control socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut writer = stream.try_clone()?;
        let ask = serde_json::json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": command },
        });
        writeln!(writer, "{{\"execute\":\"qmp_capabilities\"}}\n{ask}")?;
        for line in BufReader::new(stream).lines() {
            let answer: serde_json::Value = serde_json::from_str(&line?)?;
            if let Some(text) = answer["return"].as_str() {
                return Ok(text.to_owned());
            }
        }
        anyhow::bail!("the control socket closed")
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // QEMU removes it itself when it ends in peace.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_module_strings_are_doubled() {
        let modules = [
            Module::new("/t/netback", "domain=back gnttab=max_ver:1,no-transitive -- run"),
            Module::new("/t/trace", "data"),
            Module::new("/t/bare", ""),
        ];
        assert_eq!(
            initrd(&modules),
            "/t/netback domain=back gnttab=max_ver:1,,no-transitive -- run,/t/trace data,/t/bare"
        );
    }

    #[test]
    fn lines_know_who_printed_them() {
        let line = |raw| {
            let line = Line::parse(raw);
            (line.domain, line.text)
        };
        assert_eq!(line("(d1 netback) @result {}"), (Some("d1 netback"), "@result {}"));
        assert_eq!(line("(hv) error: x"), (None, "error: x"));
        assert_eq!(line("(d12 a) "), (Some("d12 a"), ""));
        assert_eq!(line("(done) x"), (None, "(done) x"));
        assert_eq!(line("(d1 cut"), (None, "(d1 cut"));
        assert_eq!(line(""), (None, ""));
    }

    #[test]
    fn a_guest_cannot_pretend_to_be_a_panicking_hypervisor() {
        assert!(is_panic(&Line::parse("(hv) panic: at x")));
        assert!(!is_panic(&Line::parse("(d1 x) (hv) panic: at x")));
    }

    #[test]
    fn instruction_pointers_are_read_per_cpu() {
        let text = "\r\nCPU#0\r\nRAX=0 RBX=0\r\nRIP=ffffffff80101000 RFL=00000002\r\n\r\nCPU#1\r\nEIP=0010000a E\r\n";
        assert_eq!(instruction_pointers(text), [(0, 0xffff_ffff_8010_1000), (1, 0x10_000a)]);
    }

    #[test]
    fn the_command_line_is_qemus() {
        let mut machine = Machine::new("/t/tollgate");
        machine.icount = true;
        machine.cpus = 4;
        let command = machine.command(Some(Path::new("/t/c")));
        let words: Vec<&str> = command.get_args().filter_map(|word| word.to_str()).collect();
        let line = words.join(" ");
        assert!(line.contains("-accel tcg -cpu max -m 512 -smp 4"), "{line}");
        assert!(line.contains("-icount shift=0,sleep=off"), "{line}");
        assert!(!line.contains("-append") && !line.contains("-initrd"), "{line}");
        machine.modules = vec![Module::new(places::target().join("boot/bench"), "domain=a -- b")];
        let told = machine.told();
        assert!(told.starts_with("qemu-system-x86_64 -accel tcg"), "{told}");
        assert!(
            told.ends_with("-initrd 'target/boot/bench domain=a -- b'") && !told.contains("qmp"),
            "{told}"
        );
    }
}
