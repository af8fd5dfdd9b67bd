//! `test`: what CI runs. Every step is timed and counted, and a failing step does not keep the later
//! ones from running: one run tells everything that is wrong.

mod traffic;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;

use crate::boot_tests;
use crate::failure::{Exit, stop};
use crate::image::{self, ImageArgs};
use crate::linux::{self, Flavour, LinuxArgs};
use crate::process::run;
use crate::progress::Step;
use crate::{audit, conformance, docs, gate, mutate, places, setup};

const CARGO_LIMIT: Duration = Duration::from_secs(1500);
/// Loom explores every interleaving up to this many preemptions.
const LOOM_PREEMPTIONS: &str = "2";

/// What `test` may be asked.
#[derive(Args, Debug)]
pub struct TestArgs {
    /// Leave out loom and most of the boots
    #[arg(long)]
    quick: bool,
    /// Run only the steps whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// List the steps and stop
    #[arg(long)]
    list: bool,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How many checks a step made; a step that fails as a whole is an error instead.
type Counted = Result<usize>;

/// One step of the run.
struct TestStep {
    name: String,
    /// Part of `--quick`.
    quick: bool,
    run: Box<dyn Fn() -> Counted>,
}

impl TestStep {
    fn new(name: impl Into<String>, quick: bool, run: impl Fn() -> Counted + 'static) -> Self {
        Self { name: name.into(), quick, run: Box::new(run) }
    }
}

/// What became of a step.
struct Verdict {
    name: String,
    passed: usize,
    failure: Option<String>,
    took: Duration,
}

/// The verb itself.
pub fn test(args: &TestArgs, no_install: bool) -> Result<()> {
    let steps: Vec<TestStep> = steps(no_install)
        .into_iter()
        .filter(|step| !args.quick || step.quick)
        .filter(|step| args.only.as_ref().is_none_or(|only| step.name.contains(only.as_str())))
        .collect();
    if args.list {
        steps.iter().for_each(|step| println!("{}", step.name));
        return Ok(());
    }
    if steps.is_empty() {
        return Err(stop(Exit::Usage, "no step has that in its name; --list shows them"));
    }
    setup::need(&[setup::QEMU, setup::OBJDUMP], no_install)?;
    for part in gate::Part::ALL {
        if steps.iter().any(|step| step.name == gate_step(part)) {
            setup::need(part.tools(), no_install)?;
        }
    }

    let since = Instant::now();
    let mut verdicts = Vec::new();
    for step in &steps {
        let since = Instant::now();
        let (passed, failure) = match (step.run)() {
            Ok(passed) => (passed, None),
            Err(error) => (0, Some(format!("{error:#}"))),
        };
        let verdict = Verdict { name: step.name.clone(), passed, failure, took: since.elapsed() };
        println!("{}", line(&verdict));
        verdicts.push(verdict);
    }

    let passed: usize = verdicts.iter().map(|verdict| verdict.passed).sum();
    let failed = verdicts.iter().filter(|verdict| verdict.failure.is_some()).count();
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", report(&verdicts, passed, failed));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Once more at the end, where whoever keeps only the end of a log finds it.
    for verdict in verdicts.iter().filter(|verdict| verdict.failure.is_some()) {
        println!("{}", line(verdict));
    }
    println!("{passed} passed, {failed} failed ({:.0} s)", since.elapsed().as_secs_f64());
    if failed == 0 { Ok(()) } else { Err(stop(Exit::Failed, format!("{failed} steps failed"))) }
}

fn line(verdict: &Verdict) -> String {
    let took = verdict.took.as_secs_f64();
    match &verdict.failure {
        None if verdict.passed == 1 => format!("ok      {:<44} {took:>7.1} s", verdict.name),
        None => format!("ok      {:<44} {took:>7.1} s  {} passed", verdict.name, verdict.passed),
        Some(why) => {
            format!("FAILED  {:<44} {took:>7.1} s\n        {}", verdict.name, why.replace('\n', "\n        "))
        }
    }
}

fn report(verdicts: &[Verdict], passed: usize, failed: usize) -> serde_json::Value {
    let steps: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            json!({
                "name": verdict.name,
                "passed": verdict.passed,
                "failure": verdict.failure,
                "seconds": verdict.took.as_secs_f64(),
            })
        })
        .collect();
    json!({ "passed": passed, "failed": failed, "steps": steps })
}

fn steps(no_install: bool) -> Vec<TestStep> {
    let mut steps = vec![
        TestStep::new("fmt", true, || cargo(&["fmt", "--all", "--check"])),
        TestStep::new("clippy: workspace", true, || {
            cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
        }),
        TestStep::new("clippy: image", true, || clippy_bare_metal("hv")),
        TestStep::new("clippy: guests", true, || clippy_bare_metal("tollgate-guests")),
        TestStep::new("host tests", true, || {
            counted(places::cargo().args(["test", "--locked", "--workspace", "--no-fail-fast"]))
        }),
        TestStep::new("docs", true, || docs::docs(&docs::DocsArgs { check: true }).map(|()| 1)),
    ];
    for (package, models) in [("maptrack", &["loom"][..]), ("gnttab-fast", &["loom", "loom_table"])] {
        steps.push(TestStep::new(format!("loom: {package}"), false, move || loom(package, models)));
    }
    steps.push(TestStep::new("mutations", false, || mutate::mutate(&mutate::MutateArgs::few())));
    steps.push(TestStep::new("image", true, || image::build(&ImageArgs::default()).map(|_| 1)));
    steps.push(TestStep::new("audit", true, || {
        let (findings, _) = audit::check(&image::build(&ImageArgs::default())?.image)?;
        if findings.is_empty() { Ok(1) } else { Err(stop(Exit::Failed, audit::told(&findings))) }
    }));
    for part in gate::Part::ALL {
        steps.push(TestStep::new(gate_step(part), part.quick(), move || gate::check(part)));
    }
    for case in boot_tests::all() {
        steps.push(TestStep::new(format!("boot: {}", case.name), case.quick, || {
            boot_tests::run(case, &image::build(&ImageArgs::default())?).map(|()| 1)
        }));
    }
    for (name, kernel, domains, vcpus) in [
        ("linux: cloud kernel", Flavour::Cloud, 1, 1),
        ("linux: cloud kernel, two domains of 2 vCPUs", Flavour::Cloud, 2, 2),
        ("linux: generic kernel, 4 vCPUs", Flavour::Generic, 1, 4),
    ] {
        steps.push(TestStep::new(name, false, move || {
            linux::run(&LinuxArgs::test(kernel, domains, vcpus)).map(|results| results.len())
        }));
    }
    steps.push(TestStep::new("linux: cloud kernel, xAPIC, 2 vCPUs, a shell", false, || {
        linux::run(&LinuxArgs::test(Flavour::Cloud, 1, 2).with_shell("nox2apic")).map(|results| results.len())
    }));
    steps.push(TestStep::new("linux: a driver domain, two clients, a disk", false, || {
        linux::network::run(&LinuxArgs::devices()).map(|_| 1)
    }));
    steps.push(TestStep::new("linux: a client and the driver lost in mid traffic, and back", false, || {
        linux::faults::run(&LinuxArgs::devices()).map(|()| 1)
    }));
    steps.push(TestStep::new("linux: six clients on a bridge, 128 MiB each", false, || {
        linux::many::run(&LinuxArgs::devices().of_mib(128), 6).map(|_| 1)
    }));
    steps.push(TestStep::new("linux: three minutes of mixed traffic", false, || {
        linux::soak::run(&LinuxArgs::devices(), 180).map(|_| 1)
    }));
    for &policy in conformance::POLICIES {
        let name = if policy.is_empty() {
            "conformance".to_owned()
        } else {
            format!("conformance: gnttab={policy}, also per domain")
        };
        steps.push(TestStep::new(name, policy.is_empty(), move || conformance::check(policy, no_install)));
    }
    for case in traffic::CASES {
        steps.push(TestStep::new(format!("netback: {}", case.words), case.quick, || traffic::run(case)));
    }
    steps
}

fn gate_step(part: gate::Part) -> String {
    format!("gate: {part}")
}

fn cargo(words: &[&str]) -> Counted {
    succeed(places::cargo().args(words)).map(|_| 1)
}

fn clippy_bare_metal(package: &str) -> Counted {
    let mut command = places::cargo();
    command.args(["clippy", "--locked", "-p", package, "--bins", "--features", "bare-metal", "--release"]);
    command.arg("--target-dir").arg(places::target().join("image")).args(["--", "-D", "warnings"]);
    succeed(&mut command).map(|_| 1)
}

fn loom(package: &str, models: &[&str]) -> Counted {
    let mut command = places::cargo();
    command.args(["test", "--locked", "--release", "-p", package, "--lib"]);
    command.args(models.iter().flat_map(|model| ["--test", *model]));
    command.arg("--target-dir").arg(places::target().join("loom"));
    // An environment RUSTFLAGS replaces the configuration's, so its flags stand here too.
    command.env("RUSTFLAGS", "--cfg loom -Cno-redzone=yes -Cforce-frame-pointers=yes");
    command.env("LOOM_MAX_PREEMPTIONS", LOOM_PREEMPTIONS);
    counted(&mut command)
}

fn succeed(command: &mut Command) -> Result<String> {
    let step = Step::new(words(command));
    let done = run(command, &step, CARGO_LIMIT)?;
    if done.status.success() {
        return Ok(done.all);
    }
    Err(stop(Exit::Failed, format!("{} failed\n{}", words(command), done.tail(40))))
}

/// Runs tests and counts those that passed; running none is a failure.
fn counted(command: &mut Command) -> Counted {
    let passed = passed_tests(&succeed(command)?);
    if passed == 0 {
        return Err(stop(Exit::Failed, format!("{} ran no test", words(command))));
    }
    Ok(passed)
}

fn words(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    format!("cargo {}", words.join(" "))
}

/// Adds up libtest's "test result: ok. 3 passed; ..." lines.
fn passed_tests(output: &str) -> usize {
    output
        .lines()
        .filter_map(|line| {
            line.trim().strip_prefix("test result: ")?.split_once(". ")?.1.split_once(" passed")
        })
        .filter_map(|(count, _)| count.parse::<usize>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted() {
        let output = "\
running 3 tests
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: ok. 40 passed; 0 failed; 1 ignored
warning: 7 passed by
";
        assert_eq!(passed_tests(output), 43);
        assert_eq!(passed_tests(""), 0);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = steps(true).into_iter().map(|step| step.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_failure_shows_its_words() {
        let verdict = Verdict {
            name: "x".to_owned(),
            passed: 0,
            failure: Some("one\ntwo".to_owned()),
            took: Duration::from_secs(1),
        };
        assert!(line(&verdict).ends_with("\n        one\n        two"));
        assert_eq!(report(&[verdict], 0, 1)["steps"][0]["failure"], "one\ntwo");
    }
}
