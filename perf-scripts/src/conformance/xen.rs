//! Xen's side: Debian's package in QEMU, or what it said when it was recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::console::Column;
use super::{column, guest_of};
use crate::failure::{Exit, stop};
use crate::image::Artefacts;
use crate::places;
use crate::progress::Step;
use crate::qemu::{Machine, Module};
use crate::setup;

const PACKAGE: &str = "xen-hypervisor-4.17-amd64";
const NAME: &str = "Xen 4.17";

/// Where the column for machines without the package is kept.
pub fn recorded_path() -> PathBuf {
    places::root().join("results/conformance-xen-4.17.json")
}

/// What Tollgate is compared with.
pub enum Reference {
    /// The hypervisor itself, unpacked, and its version.
    Real { image: PathBuf, version: String },
    /// What it said once.
    Recorded(Value),
}

impl Reference {
    /// The real one where it can be had.
    pub fn choose(recorded: bool, no_install: bool) -> Result<Self> {
        if !recorded {
            match unpacked(no_install) {
                Ok((image, version)) => return Ok(Self::Real { image, version }),
                Err(why) => eprintln!("no {PACKAGE} here ({why:#}); comparing with the recorded column"),
            }
        }
        let path = recorded_path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::Recorded(serde_json::from_str(&text).context("the recorded column is no JSON")?))
    }

    /// For the column's head.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Real { .. } => NAME,
            Self::Recorded(_) => "Xen 4.17 (recorded)",
        }
    }

    /// What Xen says, with `gnttab=policy`.
    pub fn column(&self, made: &Artefacts, width: u8, policy: &str) -> Result<Column> {
        match self {
            Self::Real { image, .. } => {
                let words = if policy.is_empty() { String::new() } else { format!(", gnttab={policy}") };
                column(machine(image, made, width, policy)?, &format!("{NAME}, {width}-bit{words}"))
            }
            Self::Recorded(record) => recorded(record, width, policy).with_context(|| {
                format!(
                    "{width}-bit, gnttab={policy} is not in the recorded column; record it with --bless-xen"
                )
            }),
        }
    }

    /// All columns as they are recorded: those of a policy only where they differ from those without.
    pub fn record(&self, made: &Artefacts, widths: &[u8], policies: &[&str]) -> Result<String> {
        let Self::Real { version, .. } = self else {
            return Err(stop(Exit::MissingTool, format!("recording needs the package {PACKAGE}")));
        };
        let mut columns = Vec::new();
        for &width in widths {
            let plain = self.column(made, width, "")?;
            for &policy in policies {
                let own = if policy.is_empty() { plain.clone() } else { self.column(made, width, policy)? };
                let same = own.cases().map(|(case, _)| case).eq(plain.cases().map(|(case, _)| case));
                if !same || !own.fails.is_empty() {
                    return Err(stop(
                        Exit::Failed,
                        format!("{width}-bit, gnttab={policy}: other cases than without, or failures"),
                    ));
                }
                let cases: BTreeMap<&str, &str> = own
                    .cases()
                    .filter(|(case, value)| policy.is_empty() || plain.get(case) != Some(value))
                    .collect();
                columns.push(json!({ "width": width, "gnttab": policy, "cases": cases }));
            }
        }
        let record = json!({ "package": PACKAGE, "version": version, "columns": columns });
        Ok(format!("{record:#}\n"))
    }
}

/// A recorded column.
fn recorded(record: &Value, width: u8, policy: &str) -> Option<Column> {
    let find = |policy: &str| {
        let columns = record["columns"].as_array()?;
        let is = |column: &&Value| column["width"] == width && column["gnttab"] == policy;
        columns.iter().find(is)?["cases"].as_object()
    };
    let mut cases = find("")?.clone();
    if !policy.is_empty() {
        cases.extend(find(policy)?.clone());
    }
    let text = |(case, value): (String, Value)| Some((case, value.as_str()?.to_owned()));
    Some(Column::new(cases.into_iter().map(text).collect::<Option<_>>()?))
}

/// Xen with a guest of ours as its PVH dom0. It needs an IOMMU for that, and QEMU's own faults are gone
/// round: TCG reports an intercepted RDTSCP as RDTSC, which Xen then does not emulate.
fn machine(image: &Path, made: &Artefacts, width: u8, policy: &str) -> Result<Machine> {
    let mut machine = Machine::new(image);
    machine.devices = ["-machine", "q35", "-device", "intel-iommu,intremap=on"].map(str::to_owned).to_vec();
    machine.cpu_model = Some("max,-la57,-pku,-rdtscp".to_owned());
    machine.mem_mib = 1024;
    // Its own lines could tear the guest's.
    machine.cmdline = "console=com1 loglvl=warning guest_loglvl=none noreboot dom0=pvh dom0_mem=512M \
                       dom0_max_vcpus=1 iommu=no-sharept"
        .to_owned();
    if !policy.is_empty() {
        machine.cmdline.push_str(&format!(" gnttab={policy}"));
    }
    machine.modules.push(Module::new(made.guest(guest_of(width))?, ""));
    Ok(machine)
}

/// The hypervisor out of its package, which is downloaded if need be and not installed; and its version.
fn unpacked(no_install: bool) -> Result<(PathBuf, String)> {
    let dir = places::target().join("xen");
    if let Some(found) = find(&dir) {
        return Ok(found);
    }
    anyhow::ensure!(!no_install, "--no-install");
    let step = Step::new(format!("Downloading {PACKAGE}"));
    let package = setup::download(PACKAGE, &dir, &step)?;
    let succeed = |command: &mut std::process::Command| {
        let done = crate::process::run(command, &step, setup::INSTALL_LIMIT)?;
        anyhow::ensure!(done.status.success(), "{}", done.tail(2));
        Ok(())
    };
    succeed(std::process::Command::new("dpkg-deb").arg("-x").arg(&package).arg(&dir))?;
    let boot = dir.join("boot");
    succeed(std::process::Command::new("gzip").args(["-d", "-f"]).arg(boot.join("xen-4.17-amd64.gz")))?;
    find(&dir).context("the package holds no boot/xen-4.17-amd64.gz")
}

/// What was unpacked before: the file, and the version in the package's name.
fn find(dir: &Path) -> Option<(PathBuf, String)> {
    let image = Some(dir.join("boot/xen-4.17-amd64")).filter(|image| image.is_file())?;
    let package = setup::downloaded(PACKAGE, dir)?;
    let version = package.file_stem()?.to_str()?.split('_').nth(1)?.to_owned();
    Some((image, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_recorded_by_what_it_changes() {
        let record = json!({ "columns": [
            { "width": 64, "gnttab": "", "cases": { "a": "1", "b": "2" } },
            { "width": 64, "gnttab": "max_ver:1", "cases": { "b": "3" } },
        ] });
        let cases = |policy| {
            let column = recorded(&record, 64, policy)?;
            Some(column.cases().map(|(case, value)| format!("{case}={value}")).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(cases("").as_deref(), Some("a=1 b=2"));
        assert_eq!(cases("max_ver:1").as_deref(), Some("a=1 b=3"));
        assert_eq!(cases("other"), None);
        assert!(recorded(&record, 32, "").is_none());
    }
}
