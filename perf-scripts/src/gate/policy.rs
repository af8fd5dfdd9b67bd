//! What version 2 and transitive grants cost a version-1 table that does not use them.
//!
//! The benches' workloads are counted twice, as everybody builds them and with `only-v1`, which leaves both
//! out. The difference of a round, divided by its elements, may be [`ALLOWED`] instructions at most: a branch
//! that is never taken, and what it compares. The rows held are what goes beyond that.

use anyhow::{Context as _, Result};

use super::{Rows, callgrind};
use crate::failure::{Exit, stop};

/// Instructions an element may cost more.
const ALLOWED: u64 = 3;

/// What each round of an operation costs beyond what is allowed, in instructions: nothing, as it should be.
pub fn measure() -> Result<Rows> {
    let (with, without) = (callgrind::measure(&[])?, callgrind::measure(&["only-v1"])?);
    let rows = differences(&with, &without)?;
    Ok(rows
        .into_iter()
        .map(|(name, more, elements)| (name, more.saturating_sub(ALLOWED * elements)))
        .collect())
}

/// Name, instructions more, elements.
fn differences(with: &Rows, without: &Rows) -> Result<Vec<(String, u64, u64)>> {
    let mut rows = Vec::new();
    for (name, with) in with {
        let (_, without) =
            without.iter().find(|(other, _)| other == name).with_context(|| format!("no second {name}"))?;
        // The workloads of traffic have no one number of elements.
        if let Some(elements) = elements(name) {
            rows.push((name.clone(), with.saturating_sub(*without), elements));
        }
    }
    if rows.is_empty() {
        return Err(stop(Exit::Failed, "the callgrind benches have no rows of batches"));
    }
    Ok(rows)
}

/// Elements in a round of the rows of copies, whatever their batch (`benches/definitions/ops.toml`).
const COPIES: u64 = 32;

/// The elements of a row such as `... map_unmap_b32`, of which each pair makes two.
fn elements(name: &str) -> Option<u64> {
    let batch = name.split('_').find_map(|word| word.strip_prefix('b')?.parse::<u64>().ok())?;
    Some(if name.contains("map_unmap") { 2 * batch } else { COPIES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_its_elements() {
        assert_eq!(elements("ours_round copy_gref_own_b1_64"), Some(32));
        assert_eq!(elements("ours_round map_unmap_b1"), Some(2));
        assert_eq!(elements("ours_round tx_small"), None);
    }

    #[test]
    fn differences_are_by_name() {
        let rows = |n: u64| vec![("a_b32_64".to_owned(), n), ("block".to_owned(), n)];
        assert_eq!(differences(&rows(100), &rows(90)).unwrap(), [("a_b32_64".to_owned(), 10, 32)]);
        assert_eq!(differences(&rows(90), &rows(100)).unwrap()[0].1, 0);
        assert!(differences(&rows(1), &vec![]).is_err());
    }
}
