//! Instructions of whole hypercalls: the `bench` guest under QEMU's `-icount`, one pCPU, TCG.
//!
//! RDTSC counts one for each instruction there, of guest and hypervisor together, and a repeated run gives
//! the same figures. The copy kernel is given, since the self-measurement chooses by the processor.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Rows;
use crate::failure::{Exit, stop};
use crate::image::Artefacts;
use crate::progress::Step;
use crate::qemu::{self, Ending, Machine, Module, Next};

/// For one boot.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The machine that measures.
pub fn machine(made: &Artefacts) -> Result<Machine> {
    let guest = made.guest("bench")?;
    let mut machine = Machine::new(&made.image);
    machine.cmdline = "when_done=poweroff copy=sse2".to_owned();
    machine.modules = vec![
        Module::new(guest, "domain=bench -- peer=2"),
        Module::new(guest, "domain=serve -- serve peer=1"),
    ];
    machine.icount = true;
    machine.limit = LIMIT;
    Ok(machine)
}

/// Boots and reads the rows.
pub fn measure(made: &Artefacts) -> Result<Rows> {
    read(&machine(made)?, &Step::new("Counting instructions of hypercalls"), Next::More)
}

/// In each row of the guest's.
const ROLE: &str = r#""role":"bench""#;

/// Boots a machine whose guest is `bench` and reads its rows; `then`: whether the boot goes on after the last
/// one, to its power-off.
pub fn read(machine: &Machine, step: &Step, then: Next) -> Result<Rows> {
    let (mut rows, mut failure, mut complete) = (Rows::new(), None, false);
    let boot = qemu::boot(machine, |line| {
        step.at(line.text);
        if line.text.starts_with("@fail") || qemu::is_panic(line) {
            failure = Some(line.text.to_owned());
            return Next::Stop;
        }
        // On Xen dom0 prints as well.
        if let Some(json) = line.text.strip_prefix("@result ").filter(|json| json.contains(ROLE)) {
            match row(json) {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => {
                    complete = true;
                    return then;
                }
                Err(error) => failure = Some(format!("{json}: {error:#}")),
            }
        }
        Next::More
    })?;
    if let Some(why) = failure {
        return Err(stop(Exit::Failed, format!("bench: {why}\n{}", boot.tail(10))));
    }
    match boot.ending {
        Ending::Off if complete => Ok(rows),
        Ending::Stopped if complete && then == Next::Stop => Ok(rows),
        Ending::NoRun(why) => Err(stop(Exit::Failed, format!("QEMU did not run: {why}"))),
        Ending::Late(place) => Err(stop(Exit::Timeout, format!("bench is still running{place}"))),
        _ => Err(stop(Exit::Failed, format!("bench did not come to its end\n{}", boot.tail(10)))),
    }
}

/// A row of the guest's; `None` for the line that says that all was verified.
fn row(json: &str) -> Result<Option<(String, u64)>> {
    let value: serde_json::Value = serde_json::from_str(json)?;
    if value["ok"] == true {
        return Ok(None);
    }
    let number = |field: &str| value[field].as_u64().with_context(|| format!("no `{field}`"));
    let mut name = value["op"].as_str().context("no `op`")?.to_owned();
    match number("batch")? {
        0 => {}
        1 => name.push_str(", 1 element"),
        batch => name.push_str(&format!(", {batch} elements")),
    }
    if number("bytes")? != 0 {
        name.push_str(&format!(" of {} B", number("bytes")?));
    }
    if number("width")? != 64 {
        name.push_str(&format!(", {}-bit caller", number("width")?));
    }
    Ok(Some((name, number("cycles")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names() {
        let json =
            r#"{"role":"bench","op":"copy gref->own","width":32,"batch":8,"bytes":64,"cycles":9,"mean":9}"#;
        assert_eq!(
            row(json).unwrap(),
            Some(("copy gref->own, 8 elements of 64 B, 32-bit caller".to_owned(), 9))
        );
        let json =
            r#"{"role":"bench","op":"xen_version","width":64,"batch":0,"bytes":0,"cycles":6,"mean":6}"#;
        assert_eq!(row(json).unwrap(), Some(("xen_version".to_owned(), 6)));
        assert_eq!(row(r#"{"role":"bench","ok":true}"#).unwrap(), None);
        assert!(row(r#"{"op":"x"}"#).is_err());
    }
}
