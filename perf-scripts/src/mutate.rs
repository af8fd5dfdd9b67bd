//! `mutate`: shows that a test guards what it is named after. Each mutation of `mutations.toml` takes one guard
//! out of a copy of the tree, and the test it names must then fail (or hang). A mutation whose text is no
//! longer in the code is an error too, so the list cannot grow stale unnoticed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::failure::{Exit, stop};
use crate::places;
use crate::process::{Finished, run};
use crate::progress::Step;

/// The list, in the workspace.
const LIST: &str = "gnttab-fast/tests/advisories/mutations.toml";
const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// The slowest test takes a few seconds, and gives up on a hang after thirty.
const TEST_LIMIT: Duration = Duration::from_secs(120);
/// What is not copied: nothing that is built from needs it.
const LEFT_OUT: [&str; 3] = [".git", "results", "docs"];

/// What `mutate` may be asked.
#[derive(Args, Debug, Default)]
pub struct MutateArgs {
    /// Only mutations whose test has this in its name
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only the few that CI tries
    #[arg(long)]
    quick: bool,
    /// List the mutations and stop
    #[arg(long)]
    list: bool,
    /// Write what became of each as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl MutateArgs {
    /// What CI asks.
    pub fn few() -> Self {
        Self { quick: true, ..Self::default() }
    }
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct List {
    mutation: Vec<Mutation>,
}

/// One guard taken out.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Mutation {
    /// Number of the advisory.
    xsa: u32,
    /// The guard that is gone, in words.
    what: String,
    /// Package and test target: `gnttab-fast/advisories`. Targets that begin with `loom` are models; `lib` is
    /// the package's unit tests.
    suite: String,
    /// The test that must fail, with its path.
    test: String,
    /// Tried in CI.
    #[serde(default)]
    quick: bool,
    edit: Vec<Edit>,
}

/// A text that stands once in a file, and what it becomes.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Edit {
    file: String,
    find: String,
    replace: String,
}

/// What became of a mutation.
struct Verdict<'a> {
    mutation: &'a Mutation,
    /// How the test failed, or why this shows nothing.
    outcome: Result<String, String>,
}

/// The verb itself. Returns how many mutations were caught.
pub fn mutate(args: &MutateArgs) -> Result<usize> {
    let list = read()?;
    let wanted: Vec<&Mutation> = list
        .mutation
        .iter()
        .filter(|m| !args.quick || m.quick)
        .filter(|m| args.filter.as_ref().is_none_or(|text| m.test.contains(text.as_str())))
        .collect();
    if args.list {
        wanted.iter().for_each(|m| println!("XSA-{:<4} {:<90} {}", m.xsa, m.test, m.what));
        return Ok(wanted.len());
    }
    if wanted.is_empty() {
        return Err(stop(Exit::Usage, "no mutation's test has that in its name; --list shows them"));
    }
    let tree = Tree::new()?;
    let mut verdicts = Vec::new();
    for mutation in wanted {
        let verdict = Verdict { mutation, outcome: tree.attempt(mutation)? };
        println!("{}", line(&verdict));
        verdicts.push(verdict);
    }
    if let Some(path) = &args.json {
        let text = format!("{:#}\n", report(&verdicts));
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let missed = verdicts.iter().filter(|v| v.outcome.is_err()).count();
    if missed == 0 {
        Ok(verdicts.len())
    } else {
        Err(stop(Exit::Failed, format!("{missed} mutations not caught")))
    }
}

fn read() -> Result<List> {
    let path = places::root().join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).map_err(|error| stop(Exit::BadInput, format!("{LIST}: {error}")))
}

fn line(verdict: &Verdict<'_>) -> String {
    let Mutation { xsa, what, test, .. } = verdict.mutation;
    match &verdict.outcome {
        Ok(how) => format!("caught  XSA-{xsa:<4} {what}\n        {test}: {how}"),
        Err(why) => format!("MISSED  XSA-{xsa:<4} {what}\n        {test}: {why}"),
    }
}

fn report(verdicts: &[Verdict<'_>]) -> serde_json::Value {
    verdicts
        .iter()
        .map(|v| {
            json!({
                "xsa": v.mutation.xsa,
                "what": v.mutation.what,
                "test": v.mutation.test,
                "caught": v.outcome.is_ok(),
                "how": v.outcome.as_ref().unwrap_or_else(|why| why),
            })
        })
        .collect()
}

/// A copy of the tree, to be changed.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn new() -> Result<Self> {
        let root = places::target().join("mutate/tree");
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
        }
        copy_dir(&places::root(), &root)?;
        Ok(Self { root })
    }

    /// Tries one mutation: how its test failed, or why nothing is shown. The tree is as before after it.
    fn attempt(&self, mutation: &Mutation) -> Result<Result<String, String>> {
        let _step = Step::new(format!("XSA-{}: {}", mutation.xsa, mutation.what));
        let mut saved = Vec::new();
        let mut stale = None;
        for edit in &mutation.edit {
            let path = self.root.join(&edit.file);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", edit.file))?;
            match text.matches(&edit.find).count() {
                1 => fs::write(&path, text.replace(&edit.find, &edit.replace))?,
                n => stale = Some(format!("{} has the text to be replaced {n} times, not once", edit.file)),
            }
            saved.push((path, text));
        }
        let outcome = match stale {
            Some(why) => Err(why),
            None => self.judge(mutation)?,
        };
        for (path, text) in saved.into_iter().rev() {
            fs::write(&path, text)?;
        }
        Ok(outcome)
    }

    fn judge(&self, mutation: &Mutation) -> Result<Result<String, String>> {
        let step = Step::new("cargo test");
        let built = run(self.cargo(mutation).arg("--no-run"), &step, BUILD_LIMIT)?;
        if !built.status.success() {
            return Ok(Err(format!("does not build\n{}", built.tail(30))));
        }
        let mut command = self.cargo(mutation);
        command.args(["--", "--exact", &mutation.test]);
        Ok(match run(&mut command, &step, TEST_LIMIT) {
            Err(_) => Ok("it does not end".to_owned()),
            Ok(done) if done.all.contains("running 0 tests") => Err("there is no such test".to_owned()),
            Ok(done) if done.status.success() => Err("it passes all the same".to_owned()),
            Ok(done) => Ok(failure(&done)),
        })
    }

    fn cargo(&self, mutation: &Mutation) -> Command {
        let (package, target) = mutation.suite.split_once('/').unwrap_or((&mutation.suite, "lib"));
        let mut command = places::cargo();
        command.current_dir(&self.root).args(["test", "--locked", "--quiet", "-p", package]);
        match target {
            "lib" => command.arg("--lib"),
            target => command.args(["--test", target]),
        };
        let models = target.starts_with("loom");
        if models {
            command.arg("--release");
            command.env("RUSTFLAGS", "--cfg loom -Cno-redzone=yes -Cforce-frame-pointers=yes");
        }
        let build = if models { "mutate/loom" } else { "mutate/build" };
        // Built often and run once each.
        command.env("CARGO_PROFILE_TEST_DEBUG", "0").env("CARGO_PROFILE_TEST_OPT_LEVEL", "0");
        command.arg("--target-dir").arg(places::target().join(build));
        command
    }
}

/// What a failed test said: the line after the first panic's place.
fn failure(done: &Finished) -> String {
    let mut lines = done.all.lines().skip_while(|line| !line.contains("panicked at"));
    let place = lines.next().and_then(|line| line.split("panicked at ").nth(1)).unwrap_or("");
    let said: Vec<&str> = lines
        .map(str::trim)
        .take_while(|line| {
            !line.is_empty() && !line.starts_with("note:") && !line.starts_with("stack backtrace")
        })
        .take(3)
        .collect();
    if said.is_empty() && place.is_empty() {
        return done.tail(3).replace('\n', "; ");
    }
    format!("{} {}", place.trim_end_matches(':'), said.join("; "))
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let kind = entry.file_type()?;
        let left_out = name.to_str().is_none_or(|n| LEFT_OUT.contains(&n) || n.starts_with("target"));
        if left_out || entry.path() == places::target() {
            continue;
        }
        let there = to.join(&name);
        if kind.is_dir() {
            copy_dir(&entry.path(), &there)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &there).with_context(|| format!("cannot copy {}", there.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_well_formed_and_ci_has_its_few() {
        let list = read().unwrap();
        let quick = list.mutation.iter().filter(|m| m.quick).count();
        assert!((1..=8).contains(&quick), "{quick}");
        for mutation in &list.mutation {
            let number = format!("xsa_{:03}_", mutation.xsa);
            let name = mutation.test.rsplit("::").next().unwrap();
            // The tests of other crates have names of their own.
            let here = mutation.suite.starts_with("gnttab-fast/");
            assert!(!here || name.starts_with("xsa_"), "{}", mutation.test);
            assert!(!here || mutation.xsa == 50 || name.starts_with(&number), "{}", mutation.test);
            assert!(!mutation.edit.is_empty() && mutation.edit.iter().all(|e| e.find != e.replace));
        }
    }

    #[test]
    fn a_failure_is_told_by_its_place_and_words() {
        let mut command = Command::new("sh");
        let script = "echo 'thread x panicked at tests/a.rs:1:2:'; echo 'assertion failed'; echo; exit 1";
        command.args(["-c", script]);
        let done = run(&mut command, &Step::new("test"), Duration::from_secs(20)).unwrap();
        assert_eq!(failure(&done), "tests/a.rs:1:2 assertion failed");
    }
}
