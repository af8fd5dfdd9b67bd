//! Every kernel against the naive copy: lengths, offsets, page-offset distances, overlap, guard bytes.

use copy_engine::{Choice, Engine, Scratch, Segment, naive};
use proptest::prelude::*;

/// Bytes on either side of the area that no copy may change.
const GUARD: usize = 128;
const PAGE: usize = 4096;

/// The engine for `choice`, or none where the processor lacks it.
fn engine(choice: Choice) -> Option<Engine> {
    let mut scratch = Box::new(Scratch::new());
    match Engine::select(choice, &mut scratch, || 0) {
        Ok((engine, _)) => Some(engine),
        Err(missing) => {
            println!("not tested: {missing}");
            None
        }
    }
}

/// Page-aligned memory with a recognisable content: no byte equals its neighbours', nor the one a vector,
/// a block or a page away.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
}

impl Memory {
    fn new(len: usize, salt: usize) -> Self {
        let mut bytes = vec![0; len + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        for (i, byte) in bytes[start..].iter_mut().enumerate() {
            let mixed = (i + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *byte = mixed.to_be_bytes()[2];
        }
        Self { bytes, start }
    }

    fn at(&mut self, offset: usize) -> *mut u8 {
        self.bytes[self.start + offset..].as_mut_ptr()
    }

    fn range(&self, from: usize, len: usize) -> &[u8] {
        &self.bytes[self.start + from..][..len]
    }
}

/// Copies between two areas and compares the destination with its guards; `fresh` refills it.
fn check_apart(
    engine: &Engine,
    source: &mut Memory,
    target: &mut Memory,
    from: usize,
    to: usize,
    len: usize,
) {
    let before = target.range(to - GUARD, len + 2 * GUARD).to_vec();
    let session = engine.begin();
    session.widen();
    // SAFETY: both areas are larger than any offset and length the tests use.
    unsafe { session.copy(target.at(to), source.at(from), len) };
    drop(session);
    let after = target.range(to - GUARD, len + 2 * GUARD);
    let say = || format!("{} from {from} to {to} length {len}", engine.name());
    assert!(after[..GUARD] == before[..GUARD], "bytes before the destination changed: {}", say());
    assert!(after[GUARD + len..] == before[GUARD + len..], "bytes after the destination changed: {}", say());
    assert!(&after[GUARD..][..len] == source.range(from, len), "wrong bytes: {}", say());
    // Undo, so that the next copy's bytes differ from what is there.
    target.bytes[target.start + to - GUARD..][..before.len()].copy_from_slice(&before);
}

/// Copies within one area and compares all of it with the naive copy's.
fn check_within(engine: &Engine, from: usize, to: usize, len: usize) {
    let area = GUARD + from.max(to) + len;
    let (mut fast, mut slow) = (Memory::new(area + GUARD, 7), Memory::new(area + GUARD, 7));
    let session = engine.begin();
    session.widen();
    // SAFETY: the areas hold both ranges with guards around them.
    unsafe {
        session.copy(fast.at(GUARD + to), fast.at(GUARD + from), len);
        naive::copy(slow.at(GUARD + to), slow.at(GUARD + from), len);
    }
    drop(session);
    assert!(
        fast.range(0, area + GUARD) == slow.range(0, area + GUARD),
        "{} within one area from {from} to {to} length {len}",
        engine.name()
    );
}

fn short_lengths_at_all_offsets(engine: &Engine) {
    let mut source = Memory::new(2 * PAGE, 1);
    let mut target = Memory::new(2 * PAGE, 2);
    for len in 0..=300 {
        for to in 0..64 {
            for from in 0..64 {
                check_apart(engine, &mut source, &mut target, GUARD + from, GUARD + to, len);
            }
        }
    }
}

fn long_lengths_at_telling_distances(engine: &Engine) {
    let mut source = Memory::new(4 * PAGE, 3);
    let mut target = Memory::new(4 * PAGE, 4);
    let pairs = [
        (0, 0),
        (0, 1),
        (1, 0),
        (0, 16),
        (2, 0),
        (0, 63),
        (0, 64),
        (31, 33),
        (0, 2047),
        (0, 2048),
        (100, 4095),
    ];
    for len in 0..=PAGE {
        for (from, to) in pairs {
            check_apart(engine, &mut source, &mut target, GUARD + from, GUARD + to, len);
        }
    }
}

fn overlapping_ranges(engine: &Engine) {
    for len in (0..300).chain([511, 512, 513, 1500, 2048, 4095, 4096, 9000]) {
        for distance in
            [0, 1, 2, 7, 8, 9, 15, 16, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 255, 1499, 4095]
        {
            check_within(engine, 0, distance, len);
            check_within(engine, distance, 0, len);
        }
    }
}

fn more_than_a_page(engine: &Engine) {
    let mut source = Memory::new(20 * PAGE, 5);
    let mut target = Memory::new(20 * PAGE, 6);
    for len in [4097, 5000, 8192, 9018, 65535, 65536, 70001] {
        for (from, to) in [(0, 0), (0, 1), (5, 0), (3, 3), (17, 2050)] {
            check_apart(engine, &mut source, &mut target, GUARD + from, GUARD + to, len);
        }
    }
}

/// Later segments read what earlier ones wrote; batches longer than the prefetch distance and empty ones.
fn batches_keep_their_order(engine: &Engine) {
    for count in [0_usize, 1, 2, 3, 4, 5, 8, 9, 64, 200] {
        let (mut fast, mut slow) = (Memory::new(8 * PAGE, 8), Memory::new(8 * PAGE, 8));
        let plan = |memory: &mut Memory| -> Vec<Segment> {
            (0..count)
                .map(|n| {
                    let len = (n * 97) % 700;
                    Segment { dst: memory.at(n * 131 + 350), src: memory.at(n * 131), len }
                })
                .collect()
        };
        let segments = plan(&mut fast);
        let session = engine.begin();
        session.widen();
        // SAFETY: the last segment ends below 200 * 131 + 350 + 700, within eight pages.
        unsafe { session.copy_batch(&segments) };
        drop(session);
        for segment in plan(&mut slow) {
            // SAFETY: likewise.
            unsafe { naive::copy(segment.dst, segment.src, segment.len) };
        }
        assert!(fast.range(0, 8 * PAGE) == slow.range(0, 8 * PAGE), "{} batch of {count}", engine.name());
    }
}

fn any_copy_is_the_naive_one(engine: &Engine) {
    let places = (0..3 * PAGE, 0..3 * PAGE, 0..=PAGE + 200);
    proptest!(ProptestConfig::with_cases(600), |((from, to, len) in places)| {
        check_within(engine, from, to, len);
    });
}

macro_rules! matrix {
    ($kernel:ident, $choice:ident: $($case:ident),*) => {
        mod $kernel {
            $(#[test]
            fn $case() {
                if let Some(engine) = super::engine(super::Choice::$choice) {
                    super::$case(&engine);
                }
            })*
        }
    };
    ($($kernel:ident is $choice:ident),*) => {
        $(matrix!($kernel, $choice:
            short_lengths_at_all_offsets, long_lengths_at_telling_distances, overlapping_ranges,
            more_than_a_page, batches_keep_their_order, any_copy_is_the_naive_one);)*
    };
}

matrix!(rep is Rep, sse2 is Sse2, avx2 is Avx2, avx512 is Avx512);
