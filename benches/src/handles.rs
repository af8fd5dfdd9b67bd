//! Grant handles alone: a handle is allocated and freed, ours and the baseline's.

use crate::ab::{self, Row};
use crate::baseline::Xen;
use crate::engine::{self, MAPTRACK_FRAMES, SHAPE};
use maptrack::{HeapPages, Maptrack};
use std::hint::black_box;

/// Pairs in one call of a timed closure.
const PAIRS: usize = 64;

/// Handles in use while pairs are measured.
const FILLS: [u32; 10] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144];

/// A row: how many handles are in use, and the CPUs that allocate and free.
#[derive(Clone, Debug)]
pub struct Case {
    /// The row's name.
    pub name: String,
    fill: u32,
    from: u32,
    to: u32,
}

/// The rows: `maptrack.pair.FILL`, and `maptrack.cross.FILL` where another CPU frees.
#[must_use]
pub fn cases() -> Vec<Case> {
    let case = |kind: &str, fill, to| Case { name: format!("maptrack.{kind}.{fill}"), fill, from: 0, to };
    FILLS.iter().flat_map(|&fill| [case("pair", fill, 0), case("cross", fill, 1)]).collect()
}

/// Measures one.
///
/// # Panics
/// If a handle is refused below the limit.
#[must_use]
pub fn row(case: &Case, samples: usize) -> Row {
    let &Case { fill, from, to, .. } = case;
    let machine = engine::machine(SHAPE);
    let xen = Xen::new(&machine);
    let ours = Maptrack::new(HeapPages, MAPTRACK_FRAMES, SHAPE.cpus);
    xen.take_handles(fill);
    let held: Vec<_> = (0..fill).map(|_| ours.alloc(from).expect("below the limit")).collect();
    let row = ab::compare(
        &case.name,
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
}
