//! Of the nested page tables: what a lookup finds, and that a change is one at a time.

use std::{sync::atomic::AtomicBool, thread, vec, vec::Vec};

use super::*;

extern crate std;

/// Frames as far as these tests go: numbers. Nothing is ever read through them.
const LARGE_FRAME: Mfn = Mfn(0x8_0000);

fn entry(mfn: u64, kind: P2mKind) -> Option<P2mEntry> {
    Some(P2mEntry { mfn: Mfn(mfn), kind })
}

#[test]
fn what_is_set_is_found_and_only_that() {
    let p2m = P2m::new().expect("memory");
    for gfn in [0, 511, 512, 1 << 18, 1 << 27, MAX_GFN - 1] {
        assert_eq!(p2m.lookup(Gfn(gfn)), None);
        assert_eq!(p2m.set(Gfn(gfn), Mfn(gfn + 7), 0, P2mKind::GrantRo), Ok(None));
        assert_eq!(p2m.lookup(Gfn(gfn)), entry(gfn + 7, P2mKind::GrantRo));
    }
    assert_eq!(p2m.lookup(Gfn(1)), None);
    assert_eq!(p2m.lookup(Gfn(MAX_GFN)), None);
    assert_eq!(p2m.set(Gfn(MAX_GFN), Mfn(1), 0, P2mKind::RamRw), Err(P2mError::OutOfRange));
    assert_eq!(
        p2m.set(Gfn(512), Mfn(9), 0, P2mKind::RamRw),
        Ok(entry(519, P2mKind::GrantRo)),
        "the old translation is told"
    );
    assert_eq!(p2m.clear(Gfn(512)), Ok(entry(9, P2mKind::RamRw)));
    assert_eq!(p2m.clear(Gfn(512)), Ok(None));
    assert_eq!(p2m.clear(Gfn(MAX_GFN)), Ok(None));
}

#[test]
fn kinds_come_back_and_have_their_rights() {
    for (kind, write, execute) in [
        (P2mKind::RamRw, true, true),
        (P2mKind::RamRo, false, true),
        (P2mKind::Shared, true, false),
        (P2mKind::GrantRw, true, false),
        (P2mKind::GrantRo, false, false),
        (P2mKind::Foreign, true, false),
    ] {
        let bits = leaf(Mfn(0x1234), kind);
        assert_eq!(decode(bits, 0), entry(0x1234, kind));
        assert_eq!(bits & WRITE != 0, write, "{kind:?}");
        assert_eq!(bits & NO_EXECUTE == 0, execute, "{kind:?}");
        assert_eq!((bits & PRESENT, bits & USER), (PRESENT, USER), "nested walks are user accesses");
    }
    assert_eq!(decode(0, 0), None);
}

#[test]
fn a_large_leaf_splits_around_what_changes() {
    let p2m = P2m::new().expect("memory");
    let base = 1 << 18;
    assert_eq!(p2m.set(Gfn(base + 1), LARGE_FRAME, 9, P2mKind::RamRw), Err(P2mError::Misplaced));
    assert_eq!(p2m.set(Gfn(base), Mfn(LARGE_FRAME.0 + 1), 9, P2mKind::RamRw), Err(P2mError::Misplaced));
    assert_eq!(p2m.set(Gfn(base), LARGE_FRAME, 1, P2mKind::RamRw), Err(P2mError::Misplaced));
    assert_eq!(p2m.set(Gfn(base), LARGE_FRAME, 9, P2mKind::RamRw), Ok(None));
    assert_eq!(p2m.set(Gfn(base), LARGE_FRAME, 9, P2mKind::RamRw), Err(P2mError::Misplaced));
    assert_eq!(p2m.lookup(Gfn(base + 511)), entry(LARGE_FRAME.0 + 511, P2mKind::RamRw));

    assert_eq!(p2m.clear(Gfn(base + 3)), Ok(entry(LARGE_FRAME.0 + 3, P2mKind::RamRw)));
    assert_eq!(
        p2m.set(Gfn(base + 4), Mfn(77), 0, P2mKind::GrantRw),
        Ok(entry(LARGE_FRAME.0 + 4, P2mKind::RamRw))
    );
    for offset in 0..512 {
        let expected = match offset {
            3 => None,
            4 => entry(77, P2mKind::GrantRw),
            _ => entry(LARGE_FRAME.0 + offset, P2mKind::RamRw),
        };
        assert_eq!(p2m.lookup(Gfn(base + offset)), expected, "{offset}");
    }
    assert_eq!(p2m.lookup(Gfn(base + 512)), None);
}

#[test]
fn an_unexpected_translation_stays() {
    let p2m = P2m::new().expect("memory");
    p2m.set(Gfn(5), Mfn(50), 0, P2mKind::GrantRw).expect("memory");
    assert_eq!(p2m.clear_if(Gfn(5), |old| old.mfn == Mfn(51)), Ok(None));
    assert_eq!(p2m.lookup(Gfn(5)), entry(50, P2mKind::GrantRw));
    assert!(!p2m.clear_exactly(Gfn(5), Mfn(51), P2mKind::GrantRw), "another frame");
    assert!(!p2m.clear_exactly(Gfn(5), Mfn(50), P2mKind::GrantRo), "other rights");
    assert_eq!(p2m.lookup(Gfn(5)), entry(50, P2mKind::GrantRw));
    assert!(p2m.clear_exactly(Gfn(5), Mfn(50), P2mKind::GrantRw));
    assert!(!p2m.clear_exactly(Gfn(5), Mfn(50), P2mKind::GrantRw), "once");
    assert!(p2m.set_vacant(Gfn(5), Mfn(52), P2mKind::GrantRo));
    assert!(!p2m.set_vacant(Gfn(5), Mfn(53), P2mKind::GrantRo), "something is there");
    assert!(!p2m.set_vacant(Gfn(1 << 18), Mfn(53), P2mKind::GrantRo), "there is no table");
    assert!(!p2m.set_vacant(Gfn(MAX_GFN), Mfn(53), P2mKind::GrantRo));
    assert_eq!(p2m.clear_if(Gfn(5), |old| old.mfn == Mfn(52)), Ok(entry(52, P2mKind::GrantRo)));
}

/// Changes with the lock and without, at one gfn: each frame that went in comes out once.
#[test]
fn leaves_change_hands_one_at_a_time() {
    const ROUNDS: u64 = 20_000;
    let p2m = P2m::new().expect("memory");
    p2m.set(Gfn(6), Mfn(1), 0, P2mKind::RamRw).expect("memory");
    let (into, out) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for me in 0..2 {
            let (p2m, into, out) = (&p2m, &into, &out);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mfn = Mfn(round * 2 + me + 1);
                    let set = if round % 3 == 0 {
                        p2m.set_if(Gfn(5), mfn, P2mKind::GrantRw, |old| old.is_none()).is_ok()
                    } else {
                        p2m.set_vacant(Gfn(5), mfn, P2mKind::GrantRw)
                    };
                    if set {
                        into.fetch_add(mfn.0, Ordering::Relaxed);
                    }
                    let Some(now) = p2m.lookup(Gfn(5)) else { continue };
                    let gone = if round % 5 == 0 {
                        p2m.clear_if(Gfn(5), |old| old == now) == Ok(Some(now))
                    } else {
                        p2m.clear_exactly(Gfn(5), now.mfn, now.kind)
                    };
                    if gone {
                        out.fetch_add(now.mfn.0, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let left = p2m.lookup(Gfn(5)).map_or(0, |entry| entry.mfn.0);
    assert_eq!(into.load(Ordering::Relaxed), out.load(Ordering::Relaxed) + left);
}

#[test]
fn release_gives_every_leaf_back_once_in_steps() {
    let p2m = P2m::new().expect("memory");
    p2m.set(Gfn(512), LARGE_FRAME, 9, P2mKind::RamRw).expect("memory");
    for gfn in [0, 3, 1 << 18, (1 << 27) + 5, MAX_GFN - 1] {
        p2m.set(Gfn(gfn), Mfn(gfn + 1), 0, P2mKind::GrantRo).expect("memory");
    }
    let mut leaves = vec![];
    let mut steps = 0;
    while !p2m.release_step(1, |entry, order| leaves.push((entry.mfn.0, order))) {
        steps += 1;
        assert!(steps < 10_000, "release goes on");
    }
    assert!(steps > 3, "one budget does not do it all");
    leaves.sort_unstable();
    let mut expected: Vec<_> = [1, 4, (1 << 18) + 1, (1 << 27) + 6, MAX_GFN].map(|mfn| (mfn, 0)).into();
    expected.push((LARGE_FRAME.0, 9));
    expected.sort_unstable();
    assert_eq!(leaves, expected);
    assert!(p2m.release_step(1, |_, _| unreachable!()), "nothing is left");
    assert_eq!(p2m.lookup(Gfn(0)), None);
}

#[test]
fn readers_never_meet_a_hole_in_a_split() {
    let p2m = P2m::new().expect("memory");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for round in 0..64 {
                    // Frame 7 of each range is never touched, so a mapped range always has it.
                    let gfn = round * 512;
                    let first = p2m.lookup(Gfn(gfn));
                    let seventh = p2m.lookup(Gfn(gfn + 7));
                    if first.is_some() {
                        assert_eq!(seventh, entry(LARGE_FRAME.0 + 7, P2mKind::RamRw));
                    }
                }
            }
        });
        for round in 0..64 {
            p2m.set(Gfn(round * 512), LARGE_FRAME, 9, P2mKind::RamRw).expect("memory");
            p2m.clear(Gfn(round * 512 + 9)).expect("memory");
        }
        done.store(true, Ordering::Relaxed);
    });
}
