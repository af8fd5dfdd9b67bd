//! Xen's side: Debian's package in QEMU, or what it said when it was recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::console::Column;
use super::{column, guest_of};
use crate::failure::{Exit, stop};
use crate::image::Artefacts;
use crate::places;
use crate::xen::{self, NAME, PACKAGE};

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
            match xen::hypervisor(no_install) {
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

    /// Its version, as the package has it.
    pub fn version(&self) -> &str {
        match self {
            Self::Real { version, .. } => version,
            Self::Recorded(record) => record["version"].as_str().unwrap_or(""),
        }
    }

    /// What Xen says, with `gnttab=policy`.
    pub fn column(&self, made: &Artefacts, width: u8, policy: &str) -> Result<Column> {
        match self {
            Self::Real { image, .. } => {
                let words = if policy.is_empty() { String::new() } else { format!(", gnttab={policy}") };
                let mut machine = xen::with_pvh_dom0(image, made.guest(guest_of(width))?);
                if !policy.is_empty() {
                    machine.cmdline.push_str(&format!(" gnttab={policy}"));
                }
                column(machine, &format!("{NAME}, {width}-bit{words}"))
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
