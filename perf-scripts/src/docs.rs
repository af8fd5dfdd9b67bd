//! `docs`: prints the pages that come from tables. The printing is a test of `hv`, which has the tables
//! at hand; this crate need not compile the hypervisor to start.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::failure::{Exit, stop};
use crate::places;
use crate::process::run;
use crate::progress::Step;

const LIMIT: Duration = Duration::from_secs(600);

/// What `docs` may be asked.
#[derive(Args, Debug, Default)]
pub struct DocsArgs {
    /// Fail if a page is not what its table says, and write nothing
    #[arg(long)]
    pub check: bool,
}

/// The verb itself.
pub fn docs(args: &DocsArgs) -> Result<()> {
    let step = Step::new(if args.check { "Checking docs/" } else { "Writing docs/" });
    let mut command = places::cargo();
    command.args(["test", "--locked", "-p", "hv", "--test", "command_line_doc"]);
    if !args.check {
        command.env("TOLLGATE_BLESS", "1");
    }
    let done = run(&mut command, &step, LIMIT)?;
    if done.status.success() {
        return Ok(());
    }
    Err(stop(Exit::Failed, format!("{}\na page is not up to date", done.tail(12))))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::boot_tests;

    /// What is wrong with a test's name in the pages, if anything: `path/file.rs::name` or `boot: name`.
    fn missing(name: &str) -> Option<String> {
        if let Some(wanted) = name.strip_prefix("boot: ") {
            let there = boot_tests::all().any(|case| case.name == wanted);
            return (!there).then(|| format!("{name}: there is no such boot"));
        }
        let (path, test) = name.split_once("::")?;
        let wanted = format!("fn {test}(");
        let text = fs::read_to_string(places::root().join(path)).unwrap_or_default();
        (!text.contains(&wanted)).then(|| format!("{name}: {path} has no {wanted}"))
    }

    #[test]
    fn the_tests_that_the_pages_name_are_there() {
        for (page, at_least) in [("docs/invariants.md", 60), ("docs/advisories.md", 40)] {
            let text = fs::read_to_string(places::root().join(page)).unwrap();
            let names: Vec<&str> =
                text.split('`').filter(|word| word.starts_with("boot: ") || word.contains(".rs::")).collect();
            assert!(names.len() >= at_least, "{page} names {} tests", names.len());
            let missing: Vec<String> = names.iter().filter_map(|name| missing(name)).collect();
            assert!(missing.is_empty(), "{page}: {missing:#?}");
        }
    }
}
