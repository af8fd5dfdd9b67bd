//! `fuzz`: the targets of `gnttab-fast/fuzz` under libFuzzer, each for a while, from the committed corpus on. Built
//! by the stable toolchain: coverage counters are a pass of LLVM's, and no sanitizer is linked. What is found is
//! kept under the target directory; an input that fails is told with its file.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::failure::{Exit, stop};
use crate::places;
use crate::process::run;
use crate::progress::Step;

const BUILD_LIMIT: Duration = Duration::from_secs(1200);
/// The directory of the package, with `corpus/` in it.
const PACKAGE: &str = "gnttab-fast/fuzz";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What cargo-fuzz passes for coverage, without its sanitizer; and the workspace's own flags, which an
/// environment RUSTFLAGS replaces.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Coverflow-checks \
    -Ccodegen-units=1 -Cno-redzone=yes -Cforce-frame-pointers=yes";

/// What `fuzz` may be asked.
#[derive(Args, Debug)]
pub struct FuzzArgs {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 15)]
    seconds: u32,
    /// The target; all of them if none is named
    target: Option<String>,
}

/// The verb itself.
pub fn fuzz(args: &FuzzArgs) -> Result<()> {
    let corpus = places::root().join(PACKAGE).join("corpus");
    let mut targets: Vec<String> = fs::read_dir(&corpus)
        .with_context(|| format!("cannot read {}", corpus.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| args.target.as_ref().is_none_or(|target| target == name))
        .collect();
    targets.sort();
    if targets.is_empty() {
        return Err(stop(
            Exit::Usage,
            format!("no such target; {} has a directory for each", corpus.display()),
        ));
    }
    let build = places::target().join("fuzz");
    let mut command = places::cargo();
    command.args(["build", "--locked", "--release", "-p", "gnttab-fuzz", "--features", "libfuzzer"]);
    command.args(["--target", TRIPLE, "--target-dir"]).arg(&build).env("RUSTFLAGS", FLAGS);
    let done = run(&mut command, &Step::new("Building the fuzz targets"), BUILD_LIMIT)?;
    if !done.status.success() {
        return Err(stop(Exit::Build, format!("the fuzz targets do not build\n{}", done.tail(30))));
    }
    let program = build.join(TRIPLE).join("release/fuzz-target");
    for target in &targets {
        let found = build.join("found").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let mut command = std::process::Command::new(&program);
        command.env("TOLLGATE_FUZZ_TARGET", target).arg(&found).arg(corpus.join(target));
        command.arg(format!("-max_total_time={}", args.seconds)).args(["-max_len=4096", "-timeout=20"]);
        command.arg(format!("-artifact_prefix={}/failed-{target}-", build.display()));
        let limit = Duration::from_secs(u64::from(args.seconds) + 120);
        let done = run(&mut command, &Step::new(format!("Fuzzing {target}")), limit)?;
        if !done.status.success() {
            return Err(stop(Exit::Failed, format!("{target} failed\n{}", done.tail(30))));
        }
        println!("ok      {target:<12} {}", done.tail(1));
    }
    Ok(())
}
