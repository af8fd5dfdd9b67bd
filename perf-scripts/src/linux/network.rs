//! A driver domain and two clients, all Linux, and the store: what `linux` boots unless it is asked for plain
//! domains. The first client measures the network and a disk which the driver serves, and the second beyond its
//! bridge; then all of them switch off, and nothing may be left.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::traffic::{self, DISK_TESTS, Said, TESTS};
use super::{BESIDE_MIB, LinuxArgs};
use crate::failure::{Exit, stop};
use crate::image::{self, ImageArgs};
use crate::progress::Step;
use crate::qemu::{self, Boot, Ending, Line, Machine, Module, Next};
use crate::{accel, places};

/// The domains behind the store, by name and role.
const DOMAINS: [(&str, &str); 3] = [("driver", "driver"), ("client", "client"), ("peer", "peer")];
/// Those with an interface, by role.
const CLIENTS: [&str; 2] = ["client", "peer"];
/// What a toolstack would write: both clients have an interface, the first a disk.
const NODES: &str =
    "name=driver name=client name=peer vif=client:driver vif=peer:driver vbd=client:driver:/dev/ram0";
/// Size of the disk, MiB.
const DISK: u32 = 16;
const DATA: &str = "traffic.cpio";

/// What the client measures beyond [`TESTS`].
const MORE: [(&str, &str); 2] =
    [("tcp_to_peer", "TCP, client to client"), ("tcp_from_peer", "TCP, client from client")];

/// What a domain did, as the hypervisor tells at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ended {
    domain: String,
    grants: [u64; 3],
}

/// All that one boot told.
#[derive(Debug, Default)]
pub struct Told {
    /// The `@result` lines with the seconds from power-on.
    said: Vec<(f64, Said)>,
    ended: Vec<Ended>,
}

/// A Linux domain with devices.
#[derive(Clone, Debug)]
pub struct Linux {
    pub name: String,
    /// More words of its module's string.
    pub module: String,
    /// Words for its script.
    pub kernel: String,
}

/// The machine with the store, which is d1, has these words more in its module's string and writes the nodes of these
/// devices, and these domains, d2 and so on.
pub fn machine(args: &LinuxArgs, store: &str, nodes: &str, domains: &[Linux]) -> Result<Machine> {
    let dir = places::target().join("linux");
    let made = image::build(&ImageArgs::default())?;
    let step = Step::new("Fetching Debian's kernel and programs");
    let kernel = match &args.kernel_file {
        Some(file) => file.clone(),
        None => super::kernel(args.kernel, &dir, &step)?,
    };
    let data = dir.join(DATA);
    fs::write(&data, traffic::initramfs(&kernel, &dir, &step)?).context("cannot write the initramfs")?;
    drop(step);

    let mut machine = Machine::new(&made.image);
    machine.cmdline = "when_done=poweroff".to_owned();
    machine.accel = accel::choose(args.accel, &made)?;
    machine.cpus = if args.icount { 1 } else { args.cpus };
    machine.icount = args.icount;
    machine.one_thread = true;
    let count = u32::try_from(domains.len()).unwrap_or(u32::MAX);
    machine.mem_mib = BESIDE_MIB + 128 + count.saturating_mul(args.mem + 12);
    machine.limit = Duration::from_secs(args.limit);
    let log = reset_log().display().to_string();
    machine.devices.extend(["-d", "cpu_reset", "-D", &log].map(str::to_owned));
    machine.modules.push(Module::new(made.guest("store")?, format!("domain=store {store} store -- {nodes}")));
    for Linux { name, module, kernel: words } in domains {
        let string = format!(
            "domain={name} {module} mem={}M vcpus={} data={DATA} -- console=hvc0 quiet {words} {}",
            args.mem, args.vcpus, args.append
        );
        machine.modules.push(Module::new(&kernel, string.trim_end()));
    }
    machine.modules.push(Module::new(&data, "data"));
    Ok(machine)
}

/// The hypervisor's last line of all.
const LAST_WORDS: &str = "when_done=poweroff: switching off";

/// Where QEMU tells of CPUs that are reset: a triple fault is one.
fn reset_log() -> PathBuf {
    places::target().join("linux/reset.log")
}

/// Whether QEMU told of a triple fault. It says no more than that.
fn reset() -> &'static str {
    let log = fs::read_to_string(reset_log()).unwrap_or_default();
    if log.contains("Triple fault") { ": Triple fault" } else { ": QEMU tells of no triple fault" }
}

/// What a line of a domain or of the hypervisor says is wrong.
pub fn trouble(line: &Line<'_>) -> Option<String> {
    if line.text.starts_with("@fail") || qemu::is_panic(line) {
        return Some(format!("{}: {}", line.domain.unwrap_or("hv"), line.text));
    }
    let leaked = line.domain.is_none()
        && line.text.contains("leaked frames")
        && !line.text.ends_with("leaked frames: 0, handles: 0");
    leaked.then(|| line.text.to_owned())
}

/// What was wrong with the end of a boot that was to switch itself off.
pub fn ended_badly(boot: &Boot, limit: u64) -> Option<String> {
    match &boot.ending {
        Ending::Off if boot.lines.iter().any(|line| line.ends_with(LAST_WORDS)) => None,
        Ending::Off => Some(format!("the machine vanished without a word{}", reset())),
        Ending::Late(place) => Some(format!("still running after {limit} s{place}")),
        other => Some(format!("the machine did not end in peace: {other:?}")),
    }
}

/// Boots all and takes in what they say.
///
/// # Errors
/// When a domain fails, does not end, or leaves something behind.
pub fn run(args: &LinuxArgs) -> Result<Told> {
    let domains = DOMAINS.map(|(name, role)| Linux {
        name: name.to_owned(),
        module: String::new(),
        kernel: format!("role={role} clients=2 disk={DISK} end=off"),
    });
    let machine = machine(args, "", NODES, &domains)?;

    let step = Step::new("Traffic between Linux domains");
    let since = Instant::now();
    let mut told = Told::default();
    let mut wrong = None;
    let boot = qemu::boot(&machine, |line| {
        let now = since.elapsed().as_secs_f64();
        step.at(line.text);
        if args.console {
            println!("{now:>7.2} ({}) {}", line.domain.unwrap_or("hv"), line.text);
        }
        wrong = trouble(line);
        if wrong.is_some() {
            return Next::Stop;
        }
        if line.domain.is_none() {
            told.ended.extend(ended(line.text));
        }
        if let Some(said) = line.text.strip_prefix("@result ") {
            match Said::parse(said) {
                Ok(said) => told.said.push((now, said)),
                Err(error) => {
                    wrong = Some(format!("{error:#}"));
                    return Next::Stop;
                }
            }
        }
        Next::More
    })?;
    let wrong = wrong.or_else(|| ended_badly(&boot, args.limit));
    match wrong.or_else(|| told.lacks()) {
        None => Ok(told),
        Some(why) => Err(stop(Exit::Failed, format!("{why}\n{}", boot.tail(40)))),
    }
}

/// From the line with which the hypervisor sees a domain off.
fn ended(text: &str) -> Option<Ended> {
    let (name, rest) = text.split_once(": ended with code ")?;
    let (_, grants) = rest.split_once("; grants: ")?;
    let mut numbers = grants.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok());
    Some(Ended {
        domain: name.split(' ').nth(1)?.to_owned(),
        grants: [numbers.next()?, numbers.next()?, numbers.next()?],
    })
}

impl Told {
    fn find(&self, role: &str, what: &str) -> Option<&(f64, Said)> {
        self.said.iter().find(|(_, said)| said.role == role && said.what == what)
    }

    /// What is missing for a whole run.
    fn lacks(&self) -> Option<String> {
        let boots = DOMAINS.iter().map(|(_, role)| (*role, "boot"));
        let figures = measurements().map(|(what, _)| ("client", what));
        let pings = ["ping", "ping_peer"].map(|what| ("client", what));
        let ends = CLIENTS.map(|role| (role, "end"));
        boots
            .chain(figures)
            .chain(pings)
            .chain(ends)
            .find(|(role, what)| self.find(role, what).is_none())
            .map(|(role, what)| format!("{role} did not tell of '{what}'"))
            .or_else(|| (self.ended.len() != DOMAINS.len()).then(|| "not every domain ended".to_owned()))
    }

    /// Frames that crossed the rings of both clients.
    fn frames(&self) -> f64 {
        let ends = CLIENTS.iter().filter_map(|role| self.find(role, "end"));
        ends.map(|(_, said)| said.frames).sum()
    }

    /// For people.
    pub fn print(&self) {
        for (_, role) in DOMAINS {
            if let Some((boot, said)) = self.find(role, "boot") {
                println!(
                    "{role:<32} in userspace after {boot:.1} s, {:.2} s of its own",
                    said.uptime_s.unwrap_or(0.0)
                );
            }
        }
        for (what, words) in [("ping", "ping, least, driver"), ("ping_peer", "ping, least, other client")] {
            if let Some(least) = self.find("client", what).and_then(|(_, said)| said.least_ms) {
                println!("{words:<32} {least:>10.3} ms");
            }
        }
        for (what, words) in measurements() {
            if let Some((_, said)) = self.find("client", what) {
                println!("{words:<32} {:>10.1} Mbit/s", said.bits_per_second / 1e6);
            }
        }
        println!(
            "grant operations of the whole run, disk and all, and how many for each of the {:.0} frames of both clients",
            self.frames()
        );
        println!("{:<16} {:>22} {:>22} {:>22}", "", "maps", "unmaps", "copies");
        for Ended { domain, grants } in &self.ended {
            let columns = grants
                .map(|count| format!(" {:>22}", format!("{count} ({:.3})", count as f64 / self.frames())));
            println!("{domain:<16}{}", columns.concat());
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let figures: serde_json::Map<_, _> = measurements()
            .filter_map(|(what, _)| {
                Some((what.to_owned(), json!(self.find("client", what)?.1.bits_per_second)))
            })
            .collect();
        let of = |what: &str, pick: &dyn Fn(&(f64, Said)) -> Value| -> serde_json::Map<_, _> {
            let roles = DOMAINS
                .iter()
                .filter_map(|(_, role)| Some(((*role).to_owned(), pick(self.find(role, what)?))));
            roles.collect()
        };
        let least = |what: &str| self.find("client", what).and_then(|(_, said)| said.least_ms);
        let grants: Vec<_> = self
            .ended
            .iter()
            .map(|Ended { domain, grants }| {
                let [maps, unmaps, copies] = grants;
                let per_frame = grants.map(|count| count as f64 / self.frames());
                json!({
                    "domain": domain,
                    "maps": maps,
                    "unmaps": unmaps,
                    "copies": copies,
                    "per_frame": per_frame,
                })
            })
            .collect();
        json!({
            "boot_s": of("boot", &|(boot, _)| json!(boot)),
            "uptime_s": of("boot", &|(_, said)| json!(said.uptime_s)),
            "ping_ms": least("ping"),
            "ping_peer_ms": least("ping_peer"),
            "bits_per_second": figures,
            "frames": self.frames(),
            "grants": grants,
        })
    }
}

fn measurements() -> impl Iterator<Item = (&'static str, &'static str)> {
    TESTS.into_iter().chain(MORE).chain(DISK_TESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domains_last_line_is_read() {
        let text = "d2 driver: ended with code 0 after 52.184 s; 1982 turns, 380 events; grants: 12 mapped, 11 unmapped, \
                    7 copies of 900 bytes";
        let found = ended(text).unwrap();
        assert_eq!((found.domain.as_str(), found.grants), ("driver", [12, 11, 7]));
        assert_eq!(ended("d2 driver: powered off"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut told = Told::default();
        assert_eq!(told.lacks().unwrap(), "driver did not tell of 'boot'");
        let said = |role: &str, what: &str| {
            (1.0, Said { role: role.to_owned(), what: what.to_owned(), ..Said::default() })
        };
        told.said.extend(DOMAINS.map(|(_, role)| said(role, "boot")));
        told.said.extend(measurements().map(|(what, _)| said("client", what)));
        assert_eq!(told.lacks().unwrap(), "client did not tell of 'ping'");
        told.said.extend(["ping", "ping_peer"].map(|what| said("client", what)));
        assert_eq!(told.lacks().unwrap(), "client did not tell of 'end'");
        let end = |role: &str| (9.0, Said { frames: 500.0, ..said(role, "end").1 });
        told.said.extend(CLIENTS.map(end));
        assert_eq!(told.lacks().unwrap(), "not every domain ended");
        let domain = |(name, _): (&str, &str)| Ended { domain: name.to_owned(), grants: [0; 3] };
        told.ended.extend(DOMAINS.map(domain));
        assert_eq!(told.lacks(), None);
        assert!(told.json()["bits_per_second"]["disk_read"].is_number());
    }

    #[test]
    fn the_script_makes_every_measurement() {
        let script = include_str!("traffic.sh");
        for (what, _) in MORE.into_iter().chain(DISK_TESTS) {
            assert!(
                script.contains(&format!("measure {what}")) || script.contains(&format!("moved {what}")),
                "{what}"
            );
        }
    }
}
