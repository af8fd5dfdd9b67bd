//! Which accelerator `--accel auto` means on this machine. `/dev/kvm` may open and still be unable to
//! run a plain kernel, or lack nested SVM, so the question is put to a real boot of the image.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::progress::Step;
use crate::qemu::{self, Accel, Ending, Machine, Next};

/// A KVM that works prints the hypervisor's SVM line in well under a second.
const PATIENCE: Duration = Duration::from_secs(6);
/// What the hypervisor prints once SVM is on.
const SVM_LINE: &str = "SVM";

/// Turns `auto` into what works here, saying so in one line when that is not KVM.
pub fn choose(wanted: Accel, image: &Path) -> Result<Accel> {
    if wanted != Accel::Auto {
        return Ok(wanted);
    }
    match kvm_works(image)? {
        Ok(()) => Ok(Accel::Kvm),
        Err(why) => {
            eprintln!("KVM is of no use here ({why}); using TCG");
            Ok(Accel::Tcg)
        }
    }
}

/// Boots the image under KVM; the inner error says why it does not do.
fn kvm_works(image: &Path) -> Result<Result<(), String>> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Err("no /dev/kvm".to_owned()));
    }
    let step = Step::new("Trying KVM");
    let mut machine = Machine::new(image);
    machine.accel = Accel::Kvm;
    machine.limit = PATIENCE;
    machine.first_line = PATIENCE;
    let mut verdict = None;
    let boot = qemu::boot(&machine, |line| {
        step.at(line.text);
        if line.text.starts_with("error:") {
            verdict = Some(Err(line.text.to_owned()));
        } else if line.text.contains(SVM_LINE) {
            verdict = Some(Ok(()));
        }
        if verdict.is_some() { Next::Stop } else { Next::More }
    })?;
    Ok(verdict.unwrap_or_else(|| {
        Err(match boot.ending {
            Ending::NoRun(why) => why.lines().next_back().unwrap_or("QEMU did not run").to_owned(),
            Ending::Silent => format!("the image printed nothing within {} s", PATIENCE.as_secs()),
            _ => "the image did not get as far as SVM".to_owned(),
        })
    }))
}
