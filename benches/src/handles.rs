//! Grant handles alone: a handle is allocated and freed, ours and the baseline's.

use crate::ab::{self, Row};
use crate::baseline::Xen;
use crate::engine;
use maptrack::{HeapPages, Maptrack};
use std::hint::black_box;

/// Pairs in one call of a timed closure.
const PAIRS: usize = 64;

/// How many handles are in use while pairs are measured, and the CPUs that allocate and free.
const CASES: [(&str, u32, u32, u32); 4] = [
    ("maptrack.pair.1", 1, 0, 0),
    ("maptrack.pair.262000", 262_000, 0, 0),
    ("maptrack.cross.1", 1, 0, 1),
    ("maptrack.cross.262000", 262_000, 0, 1),
];

/// The rows whose names contain `filter`.
///
/// # Panics
/// If a handle is refused below the limit.
#[must_use]
pub fn rows(filter: &str, samples: usize) -> Vec<Row> {
    let row = |&(name, fill, from, to): &(&str, u32, u32, u32)| {
        let machine = engine::machine();
        let xen = Xen::new(&machine);
        let ours = Maptrack::new(HeapPages, 1024, 2);
        xen.take_handles(fill);
        let held: Vec<_> = (0..fill).map(|_| ours.alloc(from).expect("below the limit")).collect();
        let row = ab::compare(
            name,
            "ns/pair",
            PAIRS,
            samples,
            || {
                for _ in 0..PAIRS {
                    let r = ours.alloc(from).expect("below the limit");
                    ours.free(to, black_box(r));
                }
            },
            || {
                for _ in 0..PAIRS {
                    black_box(xen.handle_pair(from as usize, to as usize));
                }
            },
        );
        assert_eq!(ours.in_use(), held.len() as u64, "every pair gave its handle back");
        row
    };
    CASES.iter().filter(|c| c.0.contains(filter)).map(row).collect()
}
