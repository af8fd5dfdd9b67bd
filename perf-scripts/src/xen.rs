//! Debian's Xen: the hypervisor out of its package, and the machine on which a guest of ours is its dom0.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::progress::Step;
use crate::qemu::{Machine, Module};
use crate::{places, process, setup};

/// Debian's package.
pub const PACKAGE: &str = "xen-hypervisor-4.17-amd64";
/// How tables call it.
pub const NAME: &str = "Xen 4.17";

/// Memory of the machine that [`with_pvh_dom0`] makes, and of the domain in it.
pub const MACHINE_MIB: u32 = 1024;
/// QEMU options for a machine with the IOMMU that a PVH dom0 needs.
pub const WITH_IOMMU: [&str; 4] = ["-machine", "q35", "-device", "intel-iommu,intremap=on"];
/// TCG reports an intercepted RDTSCP as RDTSC, which Xen then does not emulate.
pub const CPU: &str = "max,-la57,-pku,-rdtscp";

/// Xen with a guest of ours as its PVH dom0.
pub fn with_pvh_dom0(image: &Path, guest: &Path) -> Machine {
    let mut machine = Machine::new(image);
    machine.devices = WITH_IOMMU.map(str::to_owned).to_vec();
    machine.cpu_model = Some(CPU.to_owned());
    machine.mem_mib = MACHINE_MIB;
    // Its own lines could tear the guest's.
    machine.cmdline = "console=com1 loglvl=warning guest_loglvl=none noreboot dom0=pvh dom0_mem=512M \
                       dom0_max_vcpus=1 iommu=no-sharept"
        .to_owned();
    machine.modules.push(Module::new(guest, ""));
    machine
}

/// The hypervisor out of its package, which is downloaded if need be and not installed; and its version.
pub fn hypervisor(no_install: bool) -> Result<(PathBuf, String)> {
    let dir = places::target().join("xen");
    if let Some(found) = find(&dir) {
        return Ok(found);
    }
    anyhow::ensure!(!no_install, "--no-install");
    let step = Step::new(format!("Downloading {PACKAGE}"));
    let package = setup::download(PACKAGE, &dir, &step)?;
    let succeed = |command: &mut Command| {
        let done = process::run(command, &step, setup::INSTALL_LIMIT)?;
        anyhow::ensure!(done.status.success(), "{}", done.tail(2));
        Ok(())
    };
    succeed(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&dir))?;
    let boot = dir.join("boot");
    succeed(Command::new("gzip").args(["-d", "-f"]).arg(boot.join("xen-4.17-amd64.gz")))?;
    find(&dir).context("the package holds no boot/xen-4.17-amd64.gz")
}

/// What was unpacked before: the file, and the version in the package's name.
fn find(dir: &Path) -> Option<(PathBuf, String)> {
    let image = Some(dir.join("boot/xen-4.17-amd64")).filter(|image| image.is_file())?;
    let package = setup::downloaded(PACKAGE, dir)?;
    let version = package.file_stem()?.to_str()?.split('_').nth(1)?.to_owned();
    Some((image, version))
}
