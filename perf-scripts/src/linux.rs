//! `linux`: Debian's own kernels, unmodified, as domains: from power-on to a program in userspace.
//!
//! Kernels and busybox come from Debian's archive by `apt-get download`; nothing is installed. The initramfs
//! holds busybox and one script, which says `@result` with what the kernel tells of itself and powers the
//! domain off.

pub mod faults;
pub mod initramfs;
pub mod many;
pub mod network;
pub mod packages;
pub mod soak;
pub mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::initramfs::Initramfs;
use crate::failure::{Exit, stop};
use crate::image::{self, ImageArgs};
use crate::progress::Step;
use crate::qemu::{self, Accel, Ending, Keys, Machine, Module, Next};
use crate::{accel, places, process, setup, shell};

/// Unpacking a package.
const UNPACK_LIMIT: Duration = Duration::from_secs(120);
/// Memory of the machine beside its domains: hypervisor, modules, a kernel being unpacked.
const BESIDE_MIB: u32 = 512;

/// Debian's flavours of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// For virtual machines (an LZ4 payload)
    Cloud,
    /// For everything (an XZ payload)
    Generic,
}

impl Flavour {
    const fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
        }
    }
}

/// What `linux` may be asked.
#[derive(Args, Clone, Debug)]
pub struct LinuxArgs {
    /// Which of Debian's kernels
    #[arg(long, value_enum, default_value_t = Flavour::Cloud)]
    kernel: Flavour,
    /// A kernel of your own (bzImage or vmlinux) instead
    #[arg(long, value_name = "FILE")]
    kernel_file: Option<PathBuf>,
    /// vCPUs of each domain
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    vcpus: u32,
    /// Only boot that many domains, each alone, instead of the driver domain and its two clients
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=24))]
    domains: Option<u32>,
    /// Instead: a client is killed in the middle of traffic, the driver domain twice; each comes back
    #[arg(long, conflicts_with_all = ["domains", "shell"])]
    faults: bool,
    /// Instead: so many domains with an interface each, on the driver domain's bridge, ping one another
    #[arg(long, value_name = "N", conflicts_with_all = ["domains", "shell", "faults"],
          value_parser = clap::value_parser!(u32).range(2..=40))]
    bridged: Option<u32>,
    /// Instead: so many seconds of mixed traffic, of which nothing may be lost and the hypervisor may not grow
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["domains", "shell", "faults", "bridged"],
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    soak: Option<u64>,
    /// Count guest time in instructions: figures do not depend on the host; one pCPU
    #[arg(long)]
    icount: bool,
    /// Memory of each domain, MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    mem: u32,
    /// Number of pCPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// How QEMU emulates the CPU
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,
    /// More for the kernel's command line
    #[arg(long, value_name = "STRING", default_value = "")]
    append: String,
    /// Lend the terminal to the machine, with a shell in this domain (linux1, ...)
    #[arg(long, value_name = "DOMAIN")]
    shell: Option<String>,
    /// Show every line of the console
    #[arg(long)]
    console: bool,
    /// End the run after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    limit: u64,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl LinuxArgs {
    /// For a test: this kernel, so many domains of so many vCPUs, on the translator.
    pub const fn test(kernel: Flavour, domains: u32, vcpus: u32) -> Self {
        Self {
            kernel,
            kernel_file: None,
            vcpus,
            domains: Some(domains),
            faults: false,
            bridged: None,
            soak: None,
            icount: false,
            mem: 256,
            cpus: 2,
            accel: Accel::Tcg,
            append: String::new(),
            shell: None,
            console: false,
            limit: 240,
            json: None,
        }
    }

    /// For a test: domains with devices, on the cloud kernel.
    pub const fn devices() -> Self {
        let mut args = Self::test(Flavour::Cloud, 1, 1);
        args.domains = None;
        args
    }

    /// For a test: domains of this size.
    #[must_use]
    pub const fn of_mib(mut self, mem: u32) -> Self {
        self.mem = mem;
        self
    }

    /// The same with more for the kernel's command line, and a shell in the first domain, which is asked something.
    #[must_use]
    pub fn with_shell(mut self, append: &str) -> Self {
        append.clone_into(&mut self.append);
        self.shell = Some(name(1));
        self
    }
}

/// The verb itself.
pub fn linux(args: &LinuxArgs, no_install: bool) -> Result<()> {
    setup::need(&[setup::QEMU], no_install)?;
    let domains = args.domains.unwrap_or(1);
    if let Some(domain) = &args.shell {
        let machine = machine(args)?;
        if !(1..=domains).any(|number| name(number) == *domain) {
            return Err(stop(
                Exit::BadInput,
                format!("--shell {domain}: the domains are linux1 to linux{domains}"),
            ));
        }
        return shell::lend(&machine, domain);
    }
    if args.faults {
        faults::run(args)?;
        println!(
            "the store, a client and, twice, the driver domain were lost in the middle of traffic, and came back"
        );
        return Ok(());
    }
    if let Some(seconds) = args.soak {
        let told = soak::run(args, seconds)?;
        told.print();
        return write(args, &told.json());
    }
    if let Some(clients) = args.bridged {
        let told = many::run(args, clients)?;
        told.print();
        return write(args, &told.json());
    }
    if args.domains.is_none() {
        let told = network::run(args)?;
        told.print();
        return write(args, &told.json());
    }
    let results = run(args)?;
    println!("{:<10} {:>10} {:>14} {:>8}  kernel", "domain", "boot, s", "guest time, s", "vCPUs");
    for result in &results {
        println!(
            "{:<10} {:>10.1} {:>14} {:>8}  {}",
            text(&result["domain"]),
            result["boot_s"].as_f64().unwrap_or(0.0),
            text(&result["uptime_s"]),
            text(&result["cpus"]),
            text(&result["linux"])
        );
    }
    write(args, &Value::from(results))
}

/// The results as JSON, where that is asked for.
fn write(args: &LinuxArgs, results: &Value) -> Result<()> {
    let Some(path) = &args.json else { return Ok(()) };
    fs::write(path, format!("{results:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

/// A value without quotes.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The name of a domain.
fn name(number: u32) -> String {
    format!("linux{number}")
}

/// The machine with its domains.
fn machine(args: &LinuxArgs) -> Result<Machine> {
    let dir = places::target().join("linux");
    let made = image::build(&ImageArgs::default())?;
    let step = Step::new("Fetching Debian's kernel and busybox");
    let kernel = match &args.kernel_file {
        Some(file) => file.clone(),
        None => kernel(args.kernel, &dir, &step)?,
    };
    let initrd = dir.join("initramfs.cpio");
    fs::write(&initrd, initramfs(&busybox(&dir, &step)?)).context("cannot write the initramfs")?;
    drop(step);

    let mut machine = Machine::new(&made.image);
    machine.cmdline = "when_done=poweroff".to_owned();
    machine.accel = accel::choose(args.accel, &made)?;
    machine.cpus = if args.icount { 1 } else { args.cpus };
    machine.icount = args.icount;
    machine.one_thread = true;
    let domains = args.domains.unwrap_or(1);
    machine.mem_mib = BESIDE_MIB + domains * (args.mem + 4);
    machine.limit = Duration::from_secs(args.limit);
    for domain in 1..=domains {
        let name = name(domain);
        let shell = args.shell.as_deref();
        let string = format!(
            "domain={name} {}mem={}M vcpus={} data=initramfs.cpio -- console=hvc0 {}{}",
            shell::word(&name, shell),
            args.mem,
            args.vcpus,
            if shell == Some(name.as_str()) { "shell " } else { "" },
            args.append
        );
        machine.modules.push(Module::new(&kernel, string.trim_end()));
    }
    machine.modules.push(Module::new(&initrd, "data"));
    Ok(machine)
}

/// Boots the domains; what each said from its userspace, with the seconds from power-on to that.
///
/// # Errors
/// When one of them does not reach its userspace with all its processors, or the machine does not end in peace.
pub fn run(args: &LinuxArgs) -> Result<Vec<Value>> {
    let mut machine = machine(args)?;
    let mut answered = args.shell.is_none();
    if !answered {
        machine.keys.push(Keys { after: "shell: a shell of", keys: "echo $((6*7))\nexit\n" });
    }
    let step = Step::new("Booting Linux");
    let since = Instant::now();
    let mut results = Vec::new();
    let boot = qemu::boot(&machine, |line| {
        step.at(line.text);
        if args.console {
            println!(
                "{:>7.2} ({}) {}",
                since.elapsed().as_secs_f64(),
                line.domain.unwrap_or("hv"),
                line.text
            );
        }
        answered |= line.text == "42";
        if let (Some(domain), Some(said)) = (line.domain, line.text.strip_prefix("@result "))
            && let Ok(Value::Object(mut result)) = serde_json::from_str(said)
        {
            result.insert("domain".to_owned(), json!(domain));
            result.insert("boot_s".to_owned(), json!(since.elapsed().as_secs_f64()));
            results.push(Value::Object(result));
        }
        Next::More
    })?;
    let wrong = match &boot.ending {
        Ending::Off => None,
        Ending::Late(place) => Some(format!("still running after {} s{place}", args.limit)),
        other => Some(format!("the machine did not end in peace: {other:?}")),
    };
    let wanted = usize::try_from(args.domains.unwrap_or(1)).unwrap_or(usize::MAX);
    let wrong = wrong.or_else(|| {
        (results.len() != wanted).then(|| format!("{} of {wanted} domains reached userspace", results.len()))
    });
    let wrong = wrong.or_else(|| {
        let short = results.iter().find(|result| result["cpus"].as_u64() != Some(args.vcpus.into()))?;
        Some(format!("{} has {} of {} vCPUs", short["domain"], short["cpus"], args.vcpus))
    });
    let wrong = wrong.or_else(|| (!answered).then(|| "the shell did not answer 42 to 6*7".to_owned()));
    match wrong {
        None => Ok(results),
        Some(why) => Err(stop(Exit::Failed, format!("{why}\n{}", boot.tail(40)))),
    }
}

/// The kernel of Debian's newest package of a flavour, fetched once; its modules lie beside `boot/`.
pub fn kernel(flavour: Flavour, dir: &Path, step: &Step) -> Result<PathBuf> {
    let package = depends(flavour.package(), step)?;
    let tree = unpacked(&package, dir, step)?;
    let version = package.strip_prefix("linux-image-").unwrap_or(&package);
    let kernel = tree.join(format!("boot/vmlinuz-{version}"));
    if kernel.is_file() {
        Ok(kernel)
    } else {
        Err(stop(Exit::MissingTool, format!("{package} has no kernel")))
    }
}

/// The versioned package a metapackage stands for.
fn depends(package: &str, step: &Step) -> Result<String> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", package]);
    let done = process::run(&mut command, step, UNPACK_LIMIT)?;
    done.all
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-"))
        })
        .map(str::to_owned)
        .ok_or_else(|| {
            let why = format!("apt knows no {package}; a Debian 12 or its package lists are missing");
            stop(Exit::MissingTool, why)
        })
}

/// A package's files under `dir`, downloaded when they are not there.
fn unpacked(package: &str, dir: &Path, step: &Step) -> Result<PathBuf> {
    let tree = dir.join(package);
    if tree.join(".complete").is_file() {
        return Ok(tree);
    }
    let deb = match setup::downloaded(package, dir) {
        Some(deb) => deb,
        None => setup::download(package, dir, step)?,
    };
    let mut command = Command::new("dpkg-deb");
    command.arg("-x").arg(&deb).arg(&tree);
    let done = process::run(&mut command, step, UNPACK_LIMIT)?;
    if !done.status.success() {
        return Err(stop(Exit::Failed, format!("cannot unpack {}: {}", deb.display(), done.tail(1))));
    }
    fs::write(tree.join(".complete"), "").context("cannot mark the package as unpacked")?;
    Ok(tree)
}

/// A busybox that needs no library.
pub fn busybox(dir: &Path, step: &Step) -> Result<Vec<u8>> {
    let file = unpacked("busybox-static", dir, step)?.join("bin/busybox");
    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// What runs as process 1. Numbers are what the kernel says.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
read up idle < /proc/uptime
echo "interrupts:"
busybox cat /proc/interrupts
echo "clock: $(busybox cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "@result {\"linux\":\"$(busybox uname -r)\",\"cpus\":$(busybox nproc),\"uptime_s\":$up}"
if busybox grep -qw shell /proc/cmdline; then
  echo "shell: a shell of linux; exit powers the domain off"
  busybox setsid busybox cttyhack busybox sh
fi
busybox poweroff -f
"#;

fn initramfs(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Initramfs::default();
    for directory in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.program("bin/busybox", busybox);
    archive.link("bin/sh", "busybox");
    archive.program("init", INIT.as_bytes());
    archive.finish()
}
