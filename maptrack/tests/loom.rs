//! Models of the races, run by `RUSTFLAGS="--cfg loom" cargo test -p maptrack --release --test loom`.
//!
//! Under loom a page has two entries and a full list is two entries, so growth, refill, spill and stealing
//! come within a few steps. Preemptions are bounded; each model says what it is about.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use maptrack::{BadHandle, Halves, Handle, HeapPages, MapInfo, Maptrack};

type Table = Maptrack<HeapPages>;

fn model(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut b = loom::model::Builder::new();
    b.preemption_bound = Some(preemptions);
    b.check(f);
}

fn info(halves: Halves) -> MapInfo {
    MapInfo { domid: 7, gref: 0xdead_beef, halves, readonly: false, gfn: 0x1234_5678_9abc }
}

fn publish(t: &Table, cpu: u32, halves: Halves) -> Handle {
    let r = t.alloc(cpu).expect("space");
    t.publish(r, &info(halves))
}

/// Every free handle can be had exactly once, and then there is none.
fn drain(t: &Table, free: u32) {
    let mut seen = Vec::new();
    for _ in 0..free {
        let h = t.alloc(0).expect("a free handle is found").handle().raw();
        assert!(!seen.contains(&h));
        seen.push(h);
    }
    assert!(t.alloc(0).is_err(), "more handles than entries");
}

#[test]
fn xsa_218_host_and_device_halves_unmapped_at_once_free_the_handle_once() {
    model(3, || {
        let t = Arc::new(Table::new(HeapPages, 1, 2));
        let h = publish(&t, 0, Halves::BOTH);
        let other = {
            let t = t.clone();
            thread::spawn(move || {
                let c = t.begin_unmap(h, Halves::DEVICE).expect("only this thread wants it");
                assert_eq!(c.halves(), Halves::DEVICE);
                t.finish_unmap(1, c)
            })
        };
        let c = t.begin_unmap(h, Halves::HOST).expect("only this thread wants it");
        assert_eq!((c.halves(), c.info().gfn), (Halves::HOST, 0x1234_5678_9abc));
        let here = t.finish_unmap(0, c);
        assert!(here ^ other.join().unwrap(), "exactly one frees");
        assert_eq!(t.begin_unmap(h, Halves::BOTH), Err(BadHandle));
        assert_eq!(t.in_use(), 0);
        drain(&t, 2);
    });
}

#[test]
fn xsa_218_the_same_half_is_unmapped_once() {
    model(3, || {
        let t = Arc::new(Table::new(HeapPages, 1, 2));
        let h = publish(&t, 0, Halves::HOST);
        let unmap = move |t: &Table, cpu| match t.begin_unmap(h, Halves::HOST) {
            Ok(c) => u32::from(t.finish_unmap(cpu, c)),
            Err(BadHandle) => 0,
        };
        let other = {
            let t = t.clone();
            thread::spawn(move || unmap(&t, 1))
        };
        let here = unmap(&t, 0);
        assert_eq!(here + other.join().unwrap(), 1);
        assert_eq!(t.in_use(), 0);
        drain(&t, 2);
    });
}

#[test]
fn a_rolled_back_claim_leaves_the_half_to_be_won_again() {
    model(3, || {
        let t = Arc::new(Table::new(HeapPages, 1, 2));
        let h = publish(&t, 0, Halves::BOTH);
        let other = {
            let t = t.clone();
            thread::spawn(move || match t.begin_unmap(h, Halves::BOTH) {
                Ok(c) => t.finish_unmap(1, c),
                Err(BadHandle) => false,
            })
        };
        if let Ok(c) = t.begin_unmap(h, Halves::HOST) {
            t.rollback(c);
        }
        if !other.join().unwrap() {
            assert_eq!(t.get(h), Some(info(Halves::BOTH)));
            let c = t.begin_unmap(h, Halves::BOTH).expect("nobody holds it");
            assert!(t.finish_unmap(0, c));
        }
        drain(&t, 2);
    });
}

#[test]
fn a_snapshot_never_mixes_two_lives() {
    model(2, || {
        let t = Arc::new(Table::new(HeapPages, 1, 1));
        let h = publish(&t, 0, Halves::HOST);
        let writer = {
            let t = t.clone();
            thread::spawn(move || {
                let c = t.begin_unmap(h, Halves::HOST).expect("live");
                assert!(t.finish_unmap(0, c));
                let r = t.alloc(0).expect("space");
                t.publish(r, &MapInfo { domid: 9, gref: 1, halves: Halves::HOST, readonly: true, gfn: 3 });
            })
        };
        if let Some(seen) = t.get(h) {
            assert_eq!(seen, info(Halves::HOST));
        }
        let mut live = Vec::new();
        assert_eq!(t.walk(0, 8, |h, i| live.push((h, i))), None);
        for (_, i) in live {
            assert!(
                i == info(Halves::HOST) || (i.domid, i.gref, i.readonly, i.gfn) == (9, 1, true, 3),
                "{i:?}"
            );
        }
        writer.join().unwrap();
    });
}

/// Two CPUs, two entries, each CPU wants one at a time: whatever is stolen from whom, a handle has one
/// owner, and neither CPU is ever told that there is none.
#[test]
fn xsa_228_stealing_gives_each_handle_one_owner_and_exhaustion_is_true() {
    model(3, || {
        let t = Arc::new(Table::new(HeapPages, 1, 2));
        let owned = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let turn = |t: &Table, owned: &[AtomicBool; 2], cpu| {
            let r = t.alloc(cpu).expect("one of two is always free");
            let mine = &owned[(r.handle().raw() & 1) as usize];
            assert!(!mine.swap(true, Ordering::AcqRel), "owned twice");
            mine.store(false, Ordering::Release);
            t.free(cpu, r);
        };
        let other = {
            let (t, owned) = (t.clone(), owned.clone());
            thread::spawn(move || {
                turn(&t, &owned, 1);
                turn(&t, &owned, 1);
            })
        };
        turn(&t, &owned, 0);
        turn(&t, &owned, 0);
        other.join().unwrap();
        drain(&t, 2);
    });
}

/// Three allocations of two handles on two CPUs: exactly one is refused.
#[test]
fn exhaustion_is_reported_to_the_one_that_came_too_late() {
    model(3, || {
        let t = Arc::new(Table::new(HeapPages, 1, 2));
        let other = {
            let t = t.clone();
            thread::spawn(move || t.alloc(1).is_ok())
        };
        let got = [t.alloc(0).is_ok(), t.alloc(0).is_ok(), other.join().unwrap()];
        assert_eq!(got.iter().filter(|&&ok| ok).count(), 2, "{got:?}");
        assert_eq!(t.in_use(), 2);
    });
}

/// A batch holds a magazine while another CPU, out of handles, wants to rob it.
#[test]
fn a_thief_waits_for_a_batch_and_no_two_wait_for_each_other() {
    model(2, || {
        let t = Arc::new(Table::new(HeapPages, 1, 2));
        let turn = |t: &Table, cpu| {
            let mut local = t.local(cpu);
            if let Ok(a) = local.alloc() {
                let b = local.alloc();
                local.free(a);
                if let Ok(b) = b {
                    local.free(b);
                }
            }
        };
        let other = {
            let t = t.clone();
            thread::spawn(move || turn(&t, 1))
        };
        turn(&t, 0);
        other.join().unwrap();
        assert_eq!(t.in_use(), 0);
        drain(&t, 2);
    });
}

/// The table grows while a guest asks about handles it guessed: the number of entries never runs ahead of
/// their pages, and a handle is bad until it is published.
#[test]
fn xsa_218_growth_publishes_the_page_before_the_limit() {
    model(3, || {
        let t = Arc::new(Table::new(HeapPages, 2, 2));
        let reader = {
            let t = t.clone();
            thread::spawn(move || {
                for index in [2, 0] {
                    let h = Handle::from_raw(1 << 22 | index);
                    if let Some(seen) = t.get(h) {
                        assert_eq!(seen, info(Halves::HOST));
                    }
                }
            })
        };
        let handles = [(); 3].map(|()| publish(&t, 0, Halves::HOST));
        assert_eq!(handles.map(|h| h.raw() & 3), [0, 1, 2]);
        reader.join().unwrap();
        assert_eq!(t.capacity(), 4);
    });
}

#[test]
fn xsa_218_two_growers_add_each_page_once() {
    model(3, || {
        let t = Arc::new(Table::new(HeapPages, 2, 2));
        let other = {
            let t = t.clone();
            thread::spawn(move || t.alloc(1).expect("space").handle())
        };
        let here = t.alloc(0).expect("space").handle();
        assert_ne!(here, other.join().unwrap());
        drain(&t, 2);
        assert_eq!(t.capacity(), 4);
    });
}
