//! Which accelerator `--accel auto` means on this machine. `/dev/kvm` may open and still be unable to
//! run a plain kernel, or lack nested SVM, so the question is put to a real boot of the image with a guest
//! that has to finish.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::image::Artefacts;
use crate::progress::Step;
use crate::qemu::{self, Accel, Ending, Machine, Module, Next};

/// A KVM that works has run the guest in about a second.
const PATIENCE: Duration = Duration::from_secs(6);
/// The guest, and what it prints at its end.
const GUEST: &str = "hello";
const DONE: &str = "@result";

/// Turns `auto` into what works here, saying so in one line when that is not KVM.
pub fn choose(wanted: Accel, made: &Artefacts) -> Result<Accel> {
    if wanted != Accel::Auto {
        return Ok(wanted);
    }
    match kvm_works(made)? {
        Ok(()) => Ok(Accel::Kvm),
        Err(why) => {
            eprintln!("KVM is of no use here ({why}); using TCG");
            Ok(Accel::Tcg)
        }
    }
}

/// Boots the image under KVM; the inner error says why it does not do.
fn kvm_works(made: &Artefacts) -> Result<Result<(), String>> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Err("no /dev/kvm".to_owned()));
    }
    let step = Step::new("Trying KVM");
    let mut machine = Machine::new(&made.image);
    machine.modules.push(Module::new(made.guest(GUEST)?, format!("domain={GUEST}")));
    machine.accel = Accel::Kvm;
    machine.limit = PATIENCE;
    machine.first_line = PATIENCE;
    let mut verdict = None;
    let boot = qemu::boot(&machine, |line| {
        step.at(line.text);
        if line.text.starts_with("error:") {
            verdict = Some(Err(line.text.to_owned()));
        } else if line.domain.is_some() && line.text.starts_with(DONE) {
            verdict = Some(Ok(()));
        }
        if verdict.is_some() { Next::Stop } else { Next::More }
    })?;
    Ok(verdict.unwrap_or_else(|| {
        Err(match boot.ending {
            Ending::NoRun(why) => why.lines().next_back().unwrap_or("QEMU did not run").to_owned(),
            Ending::Silent => format!("the image printed nothing within {} s", PATIENCE.as_secs()),
            _ => format!("a guest did not run to its end within {} s", PATIENCE.as_secs()),
        })
    }))
}
