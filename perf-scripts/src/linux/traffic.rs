//! The domains that measure traffic: one initramfs for both roles, and what they print.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::initramfs::Initramfs;
use super::packages::{self, Tree};
use crate::counter::{self, Executed};
use crate::progress::Step;

/// What each program begins with that runs as process 1.
pub const BEGINNING: &str = include_str!("domain.sh");
/// The one that measures.
const INIT: &str = include_str!("traffic.sh");
/// The same for domains that lose each other, for many of them, and for a long run; `rdinit=` chooses.
const OTHERS: [(&str, &str); 3] = [
    ("faults", include_str!("faults.sh")),
    ("many", include_str!("many.sh")),
    ("soak", include_str!("soak.sh")),
];
/// Beside busybox.
const PACKAGES: [&str; 2] = ["iperf3", "xenstore-utils"];
const PROGRAMS: [&str; 4] = ["iperf3", "xenstore-list", "xenstore-read", "xenstore-write"];
const MODULES: [&str; 11] = [
    "xen-evtchn",
    "xen-privcmd",
    "xenfs",
    "xen-netback",
    "xen-netfront",
    "xen-blkback",
    "xen-blkfront",
    "brd",
    "llc",
    "stp",
    "bridge",
];

/// The measurements a client makes, in their order, with words for them.
pub const TESTS: [(&str, &str); 6] = [
    ("tcp_from_client", "TCP, client to backend"),
    ("tcp_to_client", "TCP, backend to client"),
    ("udp_64_from_client", "UDP 64 B, client to backend"),
    ("udp_64_to_client", "UDP 64 B, backend to client"),
    ("udp_1400_from_client", "UDP 1400 B, client to backend"),
    ("udp_1400_to_client", "UDP 1400 B, backend to client"),
];

/// What it measures of a disk.
pub const DISK_TESTS: [(&str, &str); 2] =
    [("disk_write", "disk, write"), ("disk_read", "disk, read, data as written")];

/// The initramfs for `kernel`; packages are kept below `dir`.
pub fn initramfs(kernel: &Path, dir: &Path, step: &Step) -> Result<Vec<u8>> {
    let tree = Tree::fetch(&PACKAGES, &dir.join("traffic"), step)?;
    let mut archive = with_busybox(dir, step)?;
    for program in PROGRAMS {
        tree.program(&mut archive, &format!("usr/bin/{program}"), &format!("bin/{program}"))?;
    }
    packages::modules(&mut archive, kernel, &MODULES)?;
    archive.program("bin/mark", &counter::program());
    first_process(&mut archive, "init", INIT);
    for (name, script) in OTHERS {
        first_process(&mut archive, name, script);
    }
    Ok(archive.finish())
}

/// Adds a program for process 1.
pub fn first_process(archive: &mut Initramfs, name: &str, script: &str) {
    archive.program(name, format!("{BEGINNING}{script}").as_bytes());
}

/// An archive with busybox and room for programs with libraries.
pub fn with_busybox(dir: &Path, step: &Step) -> Result<Initramfs> {
    let mut archive = Initramfs::default();
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "etc", "var"] {
        archive.directory(directory);
    }
    packages::directories(&mut archive);
    archive.device("dev/console", 5, 1);
    archive.program("bin/busybox", &super::busybox(dir, step)?);
    archive.link("bin/sh", "busybox");
    Ok(archive)
}

/// A `@result` line of one of the domains.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub struct Said {
    pub role: String,
    /// `boot`, `ping`, one of [`TESTS`], or `end`.
    pub what: String,
    pub uptime_s: Option<f64>,
    pub least_ms: Option<f64>,
    /// Frames that crossed the domain's ring, both ways; at its end, all of them.
    pub frames: f64,
    /// As the receiver tells them.
    pub seconds: f64,
    pub bits_per_second: f64,
    /// The last line of a client.
    pub ok: bool,
    /// Where that was counted.
    #[serde(skip)]
    pub executed: Option<Executed>,
}

impl Said {
    /// From the text behind `@result `.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).with_context(|| format!("not understood: {json}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_client_are_read() {
        let said = Said::parse(
            r#"{"role":"client","what":"udp_64_to_client","frames":31859,"seconds":1.000257,"bytes":1138880,
                "bits_per_second":9108699.06,"lost_packets":13908,"packets":31703}"#,
        );
        let said = said.unwrap();
        assert!((said.frames - 31859.0).abs() < 0.5 && said.bits_per_second > 9.1e6 && !said.ok);
        assert!(TESTS.iter().any(|(name, _)| *name == said.what));
        assert!(Said::parse(r#"{"role":"client","ok":true}"#).unwrap().ok);
        assert_eq!(Said::parse(r#"{"what":"ping","least_ms":null}"#).unwrap().least_ms, None);
        assert!(Said::parse("{cut").is_err());
    }

    #[test]
    fn the_script_measures_what_is_expected_of_it() {
        for (test, _) in TESTS {
            assert!(INIT.lines().any(|line| line.trim().split(' ').take(2).eq(["measure", test])), "{test}");
        }
    }
}
