//! Instructions of the library's operations: one round of each workload of `benches/callgrind`, by callgrind.
//!
//! The runner writes one JSON line for each benchmark. Only our side is gated; the baseline is there to be
//! compared with.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Rows;
use crate::failure::{Exit, stop};
use crate::places;
use crate::process::run;
use crate::progress::Step;

const LIMIT: Duration = Duration::from_secs(1500);
/// The group of benchmarks that is gated.
const OURS: &str = "ours";

/// Builds them with `features` and runs them.
pub fn measure(features: &[&str]) -> Result<Rows> {
    let mut command = places::cargo();
    command.args(["bench", "--locked", "-p", "benches", "--bench", "callgrind"]);
    command.args(features.iter().flat_map(|feature| ["--features", *feature]));
    command.args(["--", "--output-format=json"]);
    let done = run(&mut command, &Step::new("Counting instructions of the library's operations"), LIMIT)?;
    if !done.status.success() {
        return Err(stop(Exit::Failed, format!("the callgrind benches failed\n{}", done.tail(15))));
    }
    let rows = rows(&done.out)?;
    if rows.is_empty() {
        return Err(stop(Exit::Failed, format!("the callgrind benches told no counts\n{}", done.tail(15))));
    }
    Ok(rows)
}

/// The rows of the runner's JSON lines.
fn rows(output: &str) -> Result<Rows> {
    let mut rows = Rows::new();
    for line in output.lines().filter(|line| line.starts_with('{')) {
        let summary: Value = serde_json::from_str(line).context("the runner's JSON")?;
        let function = summary["function_name"].as_str().context("no `function_name`")?;
        let id = summary["id"].as_str().unwrap_or_default();
        if !function.starts_with(OURS) {
            continue;
        }
        let count = instructions(&summary).with_context(|| format!("no instructions of {function} {id}"))?;
        rows.push((format!("{function} {id}").trim_end().to_owned(), count));
    }
    Ok(rows)
}

/// `Ir` of the whole run: the new value, where an older one stands beside it.
fn instructions(summary: &Value) -> Option<u64> {
    let total = summary["profiles"]
        .as_array()?
        .iter()
        .find(|profile| profile["tool"] == "Callgrind")
        .map(|profile| &profile["summaries"]["total"])?;
    let metrics = &total["summary"]["Callgrind"]["Ir"]["metrics"];
    let new = metrics.get("Both").map_or(&metrics["Left"], |both| &both[0]);
    new.as_u64().or_else(|| new["Int"].as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(function: &str, metrics: &str) -> String {
        format!(
            r#"{{"function_name":"{function}","id":"b1","profiles":[{{"tool":"Callgrind","summaries":{{"total":{{
            "summary":{{"Callgrind":{{"Ir":{{"diffs":null,"metrics":{metrics}}}}}}}}}}}}}]}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn the_new_count_is_read_whether_or_not_there_is_an_old_one() {
        let output = [
            line("ours_round", r#"{"Left":{"Int":7}}"#),
            line("ours_other", r#"{"Both":[{"Int":8},{"Int":9}]}"#),
            line("xen_round", r#"{"Left":{"Int":1}}"#),
        ];
        let expected = [("ours_round b1".to_owned(), 7), ("ours_other b1".to_owned(), 8)];
        assert_eq!(rows(&output.join("\n")).unwrap(), expected);
        assert!(rows(&line("ours_round", "{}")).is_err());
    }
}
