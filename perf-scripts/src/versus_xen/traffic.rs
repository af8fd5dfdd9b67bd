//! Traffic between a Linux client and its backend: the same kernel, initramfs and work on both hypervisors.
//!
//! On Xen the domains are made by its own toolstack from a paravirtual dom0 ([`super::dom0`]), with a driver
//! domain as the backend, and for completeness once with dom0 as the backend.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::dom0::{Dom0, File, Layout};
use super::record::Report;
use super::rows::{Better, Row};
use crate::counter::{self, Counter, Executed};
use crate::failure::{Exit, stop};
use crate::image::Artefacts;
use crate::linux::traffic::{DISK_TESTS, Said, TESTS};
use crate::linux::{self, Flavour};
use crate::progress::Step;
use crate::qemu::{self, Ending, Machine, Module, Next};
use crate::{places, xen};

/// What one boot told.
type Told = Vec<Said>;

/// Boots all in turns; without the guests of ours, Xen alone; `alone`: Tollgate alone.
pub fn measure(
    made: Option<&Artefacts>,
    (image, version): &(PathBuf, String),
    runs: u32,
    alone: bool,
) -> Result<Report> {
    let dir = places::target().join("linux");
    let step = Step::new("Fetching Debian's kernels and Xen's toolstack");
    let kernel = linux::kernel(Flavour::Cloud, &dir, &step)?;
    let initramfs = linux::traffic::initramfs(&kernel, &dir, &step)?;
    let bytes = fs::read(&kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    let files = [File { name: "kernel", bytes: &bytes }, File { name: "initramfs", bytes: &initramfs }];
    let dom0 = Dom0::make("dom0-linux", &files, &step)?;
    let data = dir.join(DATA);
    fs::write(&data, &initramfs).with_context(|| format!("cannot write {}", data.display()))?;
    drop(step);

    let counter = Counter::build()?;
    let counted = |mut machine: Machine, code| {
        machine.devices.extend(counter.options(&code, &marks()));
        machine
    };
    let plain = [Layout::Driver, Layout::Dom0].map(|layout| (layout, dom0.machine(image, layout)));
    let ours = made.map(|made| on_tollgate(made, &kernel, &data, &plain[0].1)).transpose()?;
    let ours = ours.map(|machine| counted(machine, counter::TOLLGATE));
    let sides = plain.map(|(layout, machine)| (layout, counted(machine, counter::XEN)));
    let mut told: BTreeMap<&str, Vec<Told>> = BTreeMap::new();
    for run in 1..=runs {
        if let Some(machine) = &ours {
            let title = format!("Linux on Tollgate, run {run} of {runs}");
            told.entry(OURS).or_default().push(boot(machine, &title)?);
        }
        for (layout, machine) in sides.iter().filter(|_| !alone) {
            let title = format!("Linux on {}, backend {}, run {run} of {runs}", xen::NAME, layout.name());
            told.entry(layout.name()).or_default().push(boot(machine, &title)?);
        }
    }
    let runs_of = |side: &str| told.get(side).map_or(&[][..], Vec::as_slice);
    let mut rows = rows("driver domain", true, runs_of(OURS), runs_of(Layout::Driver.name()), &DISK_TESTS)?;
    let bars = rows.iter().filter(|row| row.unit == THROUGHPUT).cloned().collect();
    // Tollgate has no dom0: its driver domain stands beside it, for comparison.
    rows.extend(self::rows("PV dom0", false, runs_of(OURS), runs_of(Layout::Dom0.name()), &[])?);
    let mut notes = vec![
        format!("{}: {version}", xen::PACKAGE),
        format!("kernel of the domains: {}", kernel.file_name().unwrap_or_default().to_string_lossy()),
    ];
    notes.extend(sides.iter().map(|(layout, machine)| format!("Xen, {}: {}", layout.name(), machine.told())));
    Ok(Report {
        part: "linux",
        title: "Linux traffic, Tollgate beside Debian's Xen 4.17".to_owned(),
        rows,
        bars,
        notes,
        words: WORDS.to_owned(),
    })
}

/// The store, which writes what a toolstack would, the driver domain and its client, on the machine Xen has.
fn on_tollgate(made: &Artefacts, kernel: &Path, data: &Path, peer: &Machine) -> Result<Machine> {
    let mut machine = Machine { image: made.image.clone(), modules: Vec::new(), ..peer.clone() };
    machine.cmdline = "when_done=poweroff copy=sse2".to_owned();
    let domain = |name: &str| {
        let string =
            format!("domain={name} mem=256M data={DATA} -- console=hvc0 quiet role={name} disk={DISK}");
        Module::new(kernel, string)
    };
    machine.modules = vec![
        Module::new(
            made.guest("store")?,
            "domain=store store -- name=driver name=client vif=client:driver vbd=client:driver:/dev/ram0",
        ),
        domain("driver"),
        domain("client"),
        Module::new(data, "data"),
    ];
    Ok(machine)
}

/// Among the sides.
const OURS: &str = "tollgate";
/// The initramfs of the domains.
const DATA: &str = "traffic.cpio";
/// Size of the driver's RAM disk, MiB; dom0's script has the same.
const DISK: u32 = 16;
const THROUGHPUT: &str = "Mbit/s";
const PER_FRAME: &str = "instructions per frame";
const OURS_PER_FRAME: &str = "hypervisor's per frame";

/// For the summary.
const WORDS: &str = "\
Under `-icount shift=0,sleep=off` a nanosecond of guest time is an instruction, so Mbit/s are of guest time and do \
not depend on the host. Figures are what the receiver got. Instructions per frame are those of the whole machine - \
both kernels, iperf3 and the hypervisor - during a measurement, and those at the hypervisor's addresses among them, \
as a plugin of QEMU's translator counts them, by the frames that crossed the client's ring, both ways; a frame of TCP may be an aggregate of up to 64 KiB. The disk is the driver's RAM disk, written and read past \
the client's cache in requests of 1 MiB, its data compared. One processor, 256 MiB a domain. On \
Tollgate both domains boot at once, on Xen one after the other, which their times from kernel entry tell.
";

/// Where the counts of a boot are.
fn marks() -> PathBuf {
    places::target().join("linux/marks.txt")
}

/// Boots a machine and takes in what its domains say, and what was executed meanwhile.
fn boot(machine: &Machine, title: &str) -> Result<Told> {
    let step = Step::new(title);
    let mut told = Told::new();
    let mut failure = None;
    let boot = qemu::boot(machine, |line| {
        step.at(line.text);
        if line.text.starts_with("@fail") || qemu::is_panic(line) {
            failure = Some(line.text.to_owned());
            return Next::Stop;
        }
        if let Some(json) = line.text.strip_prefix("@result ") {
            match Said::parse(json) {
                Ok(said) => told.push(said),
                Err(error) => {
                    failure = Some(format!("{error:#}"));
                    return Next::Stop;
                }
            }
        }
        if told.last().is_some_and(|said| said.ok) { Next::Stop } else { Next::More }
    })?;
    let why = match (failure, boot.ending) {
        (Some(why), _) => (Exit::Failed, why),
        (None, Ending::Stopped) => {
            count(&mut told, &counter::read(&marks())?)?;
            return Ok(told);
        }
        (None, Ending::Late(place)) => (Exit::Timeout, format!("not done in time{place}")),
        (None, ending) => (Exit::Failed, format!("it ended before the client was done: {ending:?}")),
    };
    Err(stop(
        why.0,
        format!("{title}: {}\n{}", why.1, boot.lines[boot.lines.len().saturating_sub(30)..].join("\n")),
    ))
}

/// What was executed goes to the client's measurements, whose order it has.
fn count(told: &mut Told, executed: &[Executed]) -> Result<()> {
    let measured = |said: &&mut Said| TESTS.iter().any(|(test, _)| *test == said.what);
    let measured: Vec<_> = told.iter_mut().filter(measured).collect();
    ensure!(measured.len() == executed.len(), "{} measurements, {} counts", measured.len(), executed.len());
    for (said, executed) in measured.into_iter().zip(executed) {
        said.executed = Some(*executed);
    }
    Ok(())
}

/// How many times faster a measurement is to be with the backend in a domain of its own.
fn to_reach(test: &str) -> Option<f64> {
    if test.starts_with("tcp_") {
        Some(1.8)
    } else if test.starts_with("udp_64_") {
        Some(2.0)
    } else {
        test.starts_with("disk_").then_some(1.0)
    }
}
/// How many times fewer instructions the hypervisor is to spend on a frame.
const FEWER: f64 = 5.0;

/// The rows of a backend, with what is to be reached if that is asked for; a side that was not measured has no runs.
fn rows(
    backend: &str,
    judged: bool,
    ours: &[Told],
    peer: &[Told],
    disk: &[(&str, &str)],
) -> Result<Vec<Row>> {
    let each = |runs: &[Told], figure: &dyn Fn(&Told) -> Option<f64>| {
        runs.iter()
            .map(|told| figure(told).context("a domain did not tell all its figures"))
            .collect::<Result<Vec<_>>>()
    };
    let row = |name: String, unit, better, least: Option<f64>, figure: &dyn Fn(&Told) -> Option<f64>| {
        Ok::<_, anyhow::Error>(Row {
            name: format!("{backend}: {name}"),
            unit,
            better,
            ours: each(ours, figure)?,
            peer: each(peer, figure)?,
            least: least.filter(|_| judged),
        })
    };
    let mut rows = vec![
        row("client, kernel entry to userspace".to_owned(), "s", Better::Less, None, &|told| {
            find(told, "client", "boot")?.uptime_s
        })?,
        row("ping, least".to_owned(), "ms", Better::Less, None, &|told| {
            find(told, "client", "ping")?.least_ms
        })?,
    ];
    for &(test, words) in TESTS.iter().chain(disk) {
        rows.push(row(words.to_owned(), THROUGHPUT, Better::More, to_reach(test), &|told| {
            Some(find(told, "client", test)?.bits_per_second / 1e6)
        })?);
    }
    let all: fn(&Executed) -> u64 = |executed| executed.all;
    let of_hypervisor: fn(&Executed) -> u64 = |executed| executed.hypervisor;
    for (unit, least, part) in [(PER_FRAME, None, all), (OURS_PER_FRAME, Some(FEWER), of_hypervisor)] {
        for (test, words) in TESTS {
            rows.push(row(words.to_owned(), unit, Better::Less, least, &|told| {
                let said = find(told, "client", test)?;
                let executed = part(said.executed.as_ref()?);
                (said.frames > 0.0).then(|| executed as f64 / said.frames)
            })?);
        }
    }
    Ok(rows)
}

fn find<'a>(told: &'a Told, role: &str, what: &str) -> Option<&'a Said> {
    told.iter().find(|said| said.role == role && said.what == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rate: f64) -> Told {
        let said =
            |role: &str, what: &str| Said { role: role.to_owned(), what: what.to_owned(), ..Said::default() };
        let mut told = vec![
            Said { uptime_s: Some(9.0), ..said("driver", "boot") },
            Said { uptime_s: Some(1.5), ..said("client", "boot") },
            Said { least_ms: Some(0.2), ..said("client", "ping") },
        ];
        for (test, _) in TESTS.into_iter().chain(DISK_TESTS) {
            told.push(Said { frames: 1000.0, seconds: 1.0, bits_per_second: rate, ..said("client", test) });
        }
        count(&mut told, &[Executed { all: 5_000_000, hypervisor: 40_000 }; TESTS.len()]).unwrap();
        told
    }

    #[test]
    fn figures_become_rows() {
        let rows = rows("driver domain", true, &[told(2e9), told(2e9)], &[told(1e9), told(1e9)], &DISK_TESTS)
            .unwrap();
        assert_eq!(rows.len(), 2 + 3 * TESTS.len() + DISK_TESTS.len());
        assert_eq!(rows[0].ours, [1.5, 1.5]);
        let tcp = rows.iter().find(|row| row.name == "driver domain: TCP, client to backend").unwrap();
        assert_eq!((tcp.unit, tcp.ratio()), (THROUGHPUT, Some(2.0)));
        assert_eq!(tcp.least, Some(1.8));
        let cost = rows.iter().find(|row| row.unit == PER_FRAME).unwrap();
        assert!((cost.peer[0] - 5000.0).abs() < 0.1);
        let cost = rows.iter().find(|row| row.unit == OURS_PER_FRAME).unwrap();
        assert!((cost.peer[0] - 40.0).abs() < 0.1);
        assert!(count(&mut told(1e9), &[]).is_err());
    }

    #[test]
    fn a_side_that_was_not_measured_has_no_ratio() {
        let rows = rows("PV dom0", false, &[], &[told(1e9)], &[]).unwrap();
        assert!(rows.iter().all(|row| row.ours.is_empty() && row.ratio().is_none() && row.least.is_none()));
        assert!(self::rows("x", false, &[], &[Told::new()], &[]).is_err());
    }
}
