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
    Err(stop(Exit::Failed, format!("{}\ndocs/command-line.md is not up to date", done.tail(12))))
}
