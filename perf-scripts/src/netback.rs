//! `netback`, the main job: two guests exchange a capture's frames through grant copy and grant map, the
//! way Linux's netfront and netback do, and every byte is checked on arrival.
//!
//! The guests count and verify ([`results`] reads their lines); this side sends the capture along as a
//! boot module, watches the console, and holds the guests' sums against what was asked. A run passes only
//! if every packet arrived, in order and unchanged, and nothing on the console says otherwise.

mod results;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use serde_json::json;
use tollgate_guests::options::Options;
use tollgate_guests::{cut, trace};

use crate::failure::{Exit, stop};
use crate::image::{self, Artefacts, ImageArgs};
use crate::progress::Step;
use crate::qemu::{self, Accel, Ending, Line, Machine, Module, Next};
use crate::{accel, capture, places, setup};
use results::Report;

/// A boot alone takes a few seconds in TCG; this is for machines that are busy with other things.
const BOOT_ALLOWANCE: Duration = Duration::from_secs(60);
/// What a guest needs beside the trace.
const DOMAIN_MIB: u32 = 64;
/// What the machine needs beside the domains and the trace.
const HYPERVISOR_MIB: u32 = 192;
/// The capture used when the caller brings none.
const OWN_CAPTURE: &str = "benches/traces/mixed.pcap";

/// What `netback` may be asked.
#[derive(Args, Clone, Debug)]
pub struct NetbackArgs {
    /// How QEMU emulates the CPU
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Number of pCPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Memory of the machine, MiB; without it, what the domains and the capture need
    #[arg(long, value_name = "MIB")]
    pub mem: Option<u32>,
    /// Grant policy of the whole machine: the hypervisor's gnttab= option
    #[arg(long, value_name = "ITEMS")]
    pub gnttab: Option<String>,
    /// More words for the hypervisor's command line
    #[arg(long, value_name = "STRING")]
    pub cmdline: Option<String>,
    /// Frames from this capture (pcap or pcapng, Ethernet) instead of benches/traces/mixed.pcap
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Which traffic
    #[arg(long, value_enum, default_value_t = Profile::Imix)]
    pub profile: Profile,
    /// Send for this long (guest time)
    #[arg(long, value_name = "N", conflicts_with = "packets")]
    pub seconds: Option<u32>,
    /// Send this many packets per direction
    #[arg(long, value_name = "N")]
    pub packets: Option<u64>,
    /// Count guest time in instructions: repeatable, one CPU thread, always TCG
    #[arg(long)]
    pub icount: bool,
    /// Test hook: the sender changes one byte of packet N, so the run must fail
    #[arg(long, value_name = "N")]
    pub corrupt: Option<u64>,
    /// End the run after this many seconds of wall time
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    pub limit: u64,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Frontend to backend, small frames: all of a packet is copied
    TxSmall,
    /// Frontend to backend, large frames: 128 bytes are copied, the rest mapped
    TxBulk,
    /// Backend to frontend, full-size frames
    RxMtu,
    /// Backend to frontend, aggregated frames with extra-info slots
    RxGro,
    /// Frontend to frontend through the backend
    VmVm,
    /// Block-ring traffic: map, use, unmap
    Block,
    /// The capture's own mix, both directions
    Imix,
    /// Each of the above in turn
    All,
}

impl Profile {
    /// Every kind but `all`.
    pub const EACH: [Self; 7] =
        [Self::TxSmall, Self::TxBulk, Self::RxMtu, Self::RxGro, Self::VmVm, Self::Block, Self::Imix];

    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TxSmall => "tx-small",
            Self::TxBulk => "tx-bulk",
            Self::RxMtu => "rx-mtu",
            Self::RxGro => "rx-gro",
            Self::VmVm => "vm-vm",
            Self::Block => "block",
            Self::Imix => "imix",
            Self::All => "all",
        }
    }
}

/// The verb itself.
pub fn netback(args: &NetbackArgs, no_install: bool) -> Result<()> {
    let (accel, reports) = measure(args, no_install)?;
    show(&reports, args.icount);
    if let Some(path) = &args.json {
        let runs: Vec<_> = reports.iter().map(Report::json).collect();
        let accel = format!("{accel:?}").to_lowercase();
        let all = json!({ "accel": accel, "cpus": args.cpus, "icount": args.icount, "runs": runs });
        fs::write(path, format!("{all:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Runs what was asked; every report that comes back has been verified.
pub fn measure(args: &NetbackArgs, no_install: bool) -> Result<(Accel, Vec<Report>)> {
    let profiles: &[Profile] = match &args.profile {
        Profile::All => &Profile::EACH,
        one => std::slice::from_ref(one),
    };
    let trace = prepare_trace(args.pcap.as_deref(), profiles)?;
    setup::need(&[setup::QEMU], no_install)?;
    let made = image::build(&ImageArgs::default())?;
    let accel = if args.icount { Accel::Tcg } else { accel::choose(args.accel, &made)? };
    let reports =
        profiles.iter().map(|&profile| run(args, profile, accel, &made, &trace)).collect::<Result<_>>()?;
    Ok((accel, reports))
}

/// Converts the capture into the guests' trace file, and refuses one that has nothing for a profile.
fn prepare_trace(pcap: Option<&Path>, profiles: &[Profile]) -> Result<PathBuf> {
    let own = places::root().join(OWN_CAPTURE);
    let pcap = pcap.unwrap_or(&own);
    let frames = capture::read(pcap)?;
    for profile in profiles {
        let words = format!("profile={}", profile.name());
        let options = Options::parse(&words).map_err(|error| stop(Exit::Usage, error.to_string()))?;
        if !frames.iter().any(|frame| options.profile.takes(cut::class(frame.len()))) {
            let why = format!(
                "{}: it has no frame of the size that profile {} sends",
                pcap.display(),
                profile.name()
            );
            return Err(stop(Exit::BadInput, why));
        }
    }
    let dir = places::boot_dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("trace.bin");
    let file = trace::encode(&frames).context("the capture is over 4 GiB")?;
    fs::write(&path, file).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The hypervisor's command line.
fn cmdline(args: &NetbackArgs) -> String {
    let mut line = String::from("when_done=poweroff");
    if let Some(items) = &args.gnttab {
        line.push_str(&format!(" gnttab={items}"));
    }
    if let Some(more) = &args.cmdline {
        line.push_str(&format!(" {more}"));
    }
    line
}

/// The domains of a run: the backend first, so that it is domain 1, then one frontend, or two.
fn modules(
    args: &NetbackArgs,
    profile: Profile,
    made: &Artefacts,
    trace: &Path,
    mem_mib: u32,
) -> Result<Vec<Module>> {
    let mut words = format!("profile={}", profile.name());
    if let Some(packets) = args.packets {
        words.push_str(&format!(" packets={packets}"));
    }
    if let Some(seconds) = args.seconds {
        words.push_str(&format!(" seconds={seconds}"));
    }
    if let Some(packet) = args.corrupt {
        words.push_str(&format!(" corrupt={packet}"));
    }
    let domain =
        |name: &str, more: &str| format!("domain={name} mem={mem_mib}M data=trace.bin -- {words}{more}");
    let front = made.guest("netfront")?;
    let mut modules = vec![Module::new(made.guest("netback")?, domain("netback", ""))];
    if profile == Profile::VmVm {
        modules.push(Module::new(front, domain("sender", " side=send")));
        modules.push(Module::new(front, domain("receiver", " side=receive")));
    } else {
        modules.push(Module::new(front, domain("netfront", "")));
    }
    modules.push(Module::new(trace, "data"));
    Ok(modules)
}

/// One boot with one kind of traffic.
fn run(args: &NetbackArgs, profile: Profile, accel: Accel, made: &Artefacts, trace: &Path) -> Result<Report> {
    let mut machine = Machine::new(&made.image);
    machine.cmdline = cmdline(args);
    // Each domain holds the trace once, the machine holds it once more as a module.
    let size = fs::metadata(trace).with_context(|| format!("cannot read {}", trace.display()))?.len();
    let trace_mib = u32::try_from(size.div_ceil(1 << 20))?;
    let domain_mib = DOMAIN_MIB + trace_mib;
    machine.modules = modules(args, profile, made, trace, domain_mib)?;
    machine.accel = accel;
    machine.cpus = args.cpus;
    let domains = u32::try_from(machine.modules.len() - 1)?;
    machine.mem_mib = args.mem.unwrap_or(HYPERVISOR_MIB + trace_mib + domains * domain_mib);
    machine.icount = args.icount;
    machine.limit = Duration::from_secs(args.limit).max(BOOT_ALLOWANCE);

    let step = Step::new(format!("Running {}", profile.name()));
    let mut report = Report::new(profile.name());
    let mut trouble = None;
    let boot = qemu::boot(&machine, |line| {
        match report.line(line, step.elapsed()) {
            Ok(Some(progress)) => step.at(progress),
            Ok(None) if line.domain.is_none() => step.at(line.text),
            Ok(None) => {}
            Err(error) => trouble = Some(error),
        }
        trouble = trouble.take().or_else(|| complaint(line));
        if trouble.is_some() { Next::Stop } else { Next::More }
    })?;
    let failed = |exit: Exit, why: String| Err(stop(exit, format!("{}: {why}", profile.name())));
    match (trouble, &boot.ending) {
        (Some(error), _) => Err(error.context(format!("{}\n{} failed", boot.tail(20), profile.name()))),
        (None, Ending::Off) => {
            report
                .check(args.packets)
                .map_err(|why| stop(Exit::Failed, format!("{}: {why}\n{}", profile.name(), boot.tail(20))))?;
            Ok(report)
        }
        (None, Ending::Silent) => failed(Exit::Timeout, "the image printed nothing".to_owned()),
        (None, Ending::NoRun(why)) => failed(Exit::Failed, format!("QEMU did not run: {why}")),
        (None, Ending::Late(place)) => {
            failed(Exit::Timeout, format!("not done after {} s{place}", machine.limit.as_secs()))
        }
        (None, Ending::Stopped) => bail!("{}: the run was ended without a reason", profile.name()),
    }
}

/// The error a line of the console means, if any.
fn complaint(line: &Line<'_>) -> Option<anyhow::Error> {
    let text = line.text;
    if qemu::is_panic(line) {
        return Some(stop(Exit::Failed, format!("the hypervisor panicked: {text}")));
    }
    if line.domain.is_some() {
        return None;
    }
    if text.contains("bad option") {
        return Some(stop(Exit::Usage, text));
    }
    let leaked = text
        .split_once("leaked frames: ")
        .is_some_and(|(_, count)| count.trim().split(',').next() != Some("0"));
    if text.starts_with("error:") || leaked || text.contains("says it has crashed") {
        return Some(stop(Exit::Failed, text));
    }
    None
}

/// The answer for people.
fn show(reports: &[Report], icount: bool) {
    let mut table = comfy_table::Table::new();
    let unit = if icount { "instr." } else { "cycles" };
    table.load_style(UTF8_BORDERS_ONLY).set_header(
        ["profile", "direction", "packets", "bytes", "copies", "maps", "unmaps"]
            .map(str::to_owned)
            .into_iter()
            .chain(["copy", "map", "unmap", "packet"].map(|op| format!("{unit}/{op}"))),
    );
    reports.iter().for_each(|report| report.rows(&mut table));
    println!("{table}");
    if let Some(first) = reports.first().and_then(|report| report.first_packet) {
        println!("first verified packet {:.1} s after power-on", first.as_secs_f64());
    }
    println!("every byte verified");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: NetbackArgs,
    }

    fn args(words: &[&str]) -> NetbackArgs {
        Cli::try_parse_from(std::iter::once(&"netback").chain(words)).unwrap().args
    }

    #[test]
    fn the_hypervisors_line_holds_what_was_asked() {
        assert_eq!(cmdline(&args(&[])), "when_done=poweroff");
        assert_eq!(
            cmdline(&args(&["--gnttab", "max_ver:1,no-transitive", "--cmdline", "loglvl=all noreboot"])),
            "when_done=poweroff gnttab=max_ver:1,no-transitive loglvl=all noreboot"
        );
    }

    #[test]
    fn complaints_carry_their_exit_code() {
        let code = |raw| {
            complaint(&Line::parse(raw))
                .and_then(|error| error.downcast::<crate::failure::Stop>().ok())
                .map(|stop| stop.exit)
        };
        assert_eq!(code("(hv) warning: bad option 'x': no such option"), Some(Exit::Usage));
        assert_eq!(code("(hv) error: cannot boot: no SVM"), Some(Exit::Failed));
        assert_eq!(code("(hv) panic: at x"), Some(Exit::Failed));
        assert_eq!(code("(hv) error: d1 x: leaked frames: 3, handles: 0"), Some(Exit::Failed));
        assert_eq!(code("(hv) d1 x: leaked frames: 0, handles: 0"), None);
        assert_eq!(code("(hv) Tollgate"), None);
        assert_eq!(code("(d1 x) bad option"), None);
    }

    #[test]
    fn every_profile_has_its_name() {
        for profile in Profile::EACH.into_iter().chain([Profile::All]) {
            let value = profile.to_possible_value().unwrap();
            assert_eq!(value.get_name(), profile.name());
        }
    }
}
