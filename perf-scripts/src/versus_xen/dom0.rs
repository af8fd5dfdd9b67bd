//! Debian's Xen with its own toolstack: a PV dom0 whose root file system is an initramfs of what the toolstack
//! needs of Debian's packages, and the machine that boots it.
//!
//! dom0 runs Debian's generic kernel (the cloud one has no dom0 support), the domains that are measured the
//! same kernel and initramfs as on Tollgate.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::linux::packages::{self, Tree};
use crate::linux::{self, Flavour, traffic};
use crate::places;
use crate::progress::Step;
use crate::qemu::{Machine, Module};

/// What runs as process 1.
const INIT: &str = include_str!("dom0.sh");
const VIF_ONLINE: &str = include_str!("vif-online.sh");
/// Beside busybox.
const PACKAGES: [&str; 2] = ["xen-utils-4.17", "iperf3"];
/// Where Debian's toolstack lies.
const TOOLS: &str = "usr/lib/xen-4.17/bin";
const DAEMONS: [&str; 4] = ["xl", "xenstored", "xenconsoled", "xen-init-dom0"];
const PROGRAMS: [&str; 3] = ["iperf3", "xenstore-list", "xenstore-write"];
const MODULES: [&str; 6] =
    ["xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-privcmd", "xenfs", "xen-netback"];

/// A whole boot with its measurements takes two to three minutes on an idle processor.
pub const LIMIT: Duration = Duration::from_secs(1200);
/// Xen takes its time before its first line when the host is busy.
const FIRST_LINE: Duration = Duration::from_secs(90);
const MACHINE_MIB: u32 = 2048;

/// Which domains are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A Linux client, and a PVH domain that serves the network, as on Tollgate.
    Driver,
    /// A Linux client; dom0 itself serves the network.
    Dom0,
    /// Small guests of ours.
    Guests,
}

impl Layout {
    /// As dom0's script knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Dom0 => "dom0",
            Self::Guests => "guests",
        }
    }
}

/// A file in dom0's `/domains`.
pub struct File<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
}

/// The description of a small guest, as xl reads it; `kernel` is the name of a [`File`].
pub fn description(name: &str, kernel: &str, cmdline: &str) -> String {
    // The time-stamp counter as it is: no exit for each read.
    format!(
        "name='{name}'\ntype='pvh'\nmemory=64\nvcpus=1\nkernel='/domains/{kernel}'\ntsc_mode='native'\n\
         cmdline='{cmdline}'\n"
    )
}

/// The files of a dom0, made once for all boots.
#[derive(Clone, Debug)]
pub struct Dom0 {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Dom0 {
    /// Fetches what is needed below cargo's target directory. The Linux layouts want files `kernel` and
    /// `initramfs`, that of guests their descriptions, `*.cfg`, made in the order of their names.
    pub fn make(name: &str, files: &[File<'_>], step: &Step) -> Result<Self> {
        let dir = &places::target().join("linux");
        let own = linux::kernel(Flavour::Generic, dir, step)?;
        let tree = Tree::fetch(&PACKAGES, &dir.join("toolstack"), step)?;
        let mut archive = traffic::with_busybox(dir, step)?;
        for directory in ["usr", "usr/lib", "usr/lib/xen-4.17", TOOLS, "domains"] {
            archive.directory(directory);
        }
        for daemon in DAEMONS {
            let file = format!("{TOOLS}/{daemon}");
            tree.program(&mut archive, &file, &file)?;
        }
        for program in PROGRAMS {
            tree.program(&mut archive, &format!("usr/bin/{program}"), &format!("bin/{program}"))?;
        }
        // The C library opens it when a thread is cancelled, as xl does.
        tree.library(&mut archive, "libgcc_s.so.1")?;
        packages::modules(&mut archive, &own, &MODULES)?;
        for file in files {
            archive.program(&format!("domains/{}", file.name), file.bytes);
        }
        archive.program("vif-online", VIF_ONLINE.as_bytes());
        traffic::first_process(&mut archive, "init", INIT);
        let initramfs = dir.join(format!("{name}.cpio"));
        fs::write(&initramfs, archive.finish()).context("cannot write dom0's initramfs")?;
        Ok(Self { kernel: own, initramfs })
    }

    /// The machine: one processor under `-icount`. A PV dom0 cannot run with SMAP in TCG; RDTSCP see
    /// [`crate::xen::CPU`].
    pub fn machine(&self, xen: &Path, layout: Layout) -> Machine {
        let mut machine = Machine::new(xen);
        machine.cpu_model = Some(format!("{},-smap,-smep", crate::xen::CPU));
        machine.mem_mib = MACHINE_MIB;
        machine.icount = true;
        machine.limit = LIMIT;
        machine.first_line = FIRST_LINE;
        // What our guests print comes as messages of guests; others' would only be noise.
        let guests = if layout == Layout::Guests { "all" } else { "none" };
        machine.cmdline =
            format!("console=com1 loglvl=warning guest_loglvl={guests} noreboot dom0_mem=1024M,max:1024M");
        let words = format!("console=hvc0 panic=-1 quiet layout={}", layout.name());
        machine.modules = vec![Module::new(&self.kernel, words), Module::new(&self.initramfs, "")];
        machine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_knows_every_layout() {
        for layout in [Layout::Driver, Layout::Dom0, Layout::Guests] {
            assert!(INIT.contains(&format!("\n{})\n", layout.name())));
        }
        for module in MODULES {
            assert!([traffic::BEGINNING, INIT].concat().contains(module), "{module}");
        }
    }
}
