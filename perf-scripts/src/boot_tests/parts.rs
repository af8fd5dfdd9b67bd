//! What cases of several areas use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::image::Artefacts;
use crate::places;
use crate::qemu::{Machine, Module};

/// What no good boot prints.
pub const TROUBLE: &[&str] = &["panic", "@fail", "bad option", "crashed"];

/// One domain that runs a guest of ours and powers the machine off after it.
pub fn hello(machine: &mut Machine, made: &Artefacts, guest: &str) -> Result<()> {
    module(machine, made, guest, &format!("domain={guest}"))
}

pub fn module(machine: &mut Machine, made: &Artefacts, guest: &str, string: &str) -> Result<()> {
    machine.cmdline = "when_done=poweroff".to_owned();
    machine.modules.push(Module::new(made.guest(guest)?, string));
    Ok(())
}

/// A data module called `frames`: one frame for every class of traffic.
pub fn frames(machine: &mut Machine) -> Result<()> {
    let frames = [60, 1514, 9000].map(|length| vec![0x5a; length]);
    let trace = tollgate_guests::trace::encode(&frames).context("three frames are no 4 GiB")?;
    machine.modules.push(Module::new(scratch("frames", &trace)?, "data"));
    Ok(())
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file for one case, in the directory of the artefacts.
pub fn scratch(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = places::boot_dir().join(name);
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
