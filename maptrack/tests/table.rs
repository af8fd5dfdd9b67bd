//! Behaviour named by the interface and by advisories, and real threads at work.
#![cfg(not(loom))]

use core::ptr::NonNull;
use maptrack::{
    BadHandle, ENTRIES_PER_PAGE, Halves, Handle, HeapPages, MapInfo, Maptrack, NoSpace, Page, PageSource,
};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::{hint, thread};

fn info(halves: Halves) -> MapInfo {
    MapInfo { domid: 3, gref: 9, halves, readonly: false, gfn: 77 }
}

fn published(t: &Maptrack<HeapPages>, halves: Halves) -> Handle {
    let r = t.alloc(0).expect("space");
    t.publish(r, &info(halves))
}

/// Counts its pages and can run dry.
struct Ration<'a> {
    left: &'a AtomicUsize,
    out: &'a AtomicUsize,
}

// SAFETY: the pages are `HeapPages`'s; refusing some changes nothing about the others.
unsafe impl PageSource for Ration<'_> {
    fn take(&self) -> Option<NonNull<Page>> {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).ok()?;
        self.out.fetch_add(1, Ordering::Relaxed);
        HeapPages.take()
    }

    unsafe fn give_back(&self, page: NonNull<Page>) {
        self.out.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's promise about us holds for `HeapPages`, to which we handed all through.
        unsafe { HeapPages.give_back(page) }
    }
}

#[test]
fn xsa_394_unmapping_neither_half_leaves_the_handle() {
    let t = Maptrack::new(HeapPages, 1, 1);
    let h = published(&t, Halves::HOST);
    for asked in [Halves::NONE, Halves::DEVICE, Halves::NONE] {
        let c = t.begin_unmap(h, asked).expect("legal");
        assert!(c.halves().is_empty());
        assert!(!t.finish_unmap(0, c));
        let c = t.begin_unmap(h, asked).expect("legal");
        t.rollback(c);
        assert_eq!(t.get(h), Some(info(Halves::HOST)));
    }
    let c = t.begin_unmap(h, Halves::BOTH).expect("live");
    assert_eq!(c.halves(), Halves::HOST);
    assert!(t.finish_unmap(0, c));
}

#[test]
fn halves_go_one_by_one_in_either_order() {
    let t = Maptrack::new(HeapPages, 1, 1);
    for (first, second) in [(Halves::HOST, Halves::DEVICE), (Halves::DEVICE, Halves::HOST)] {
        let h = published(&t, Halves::BOTH);
        let c = t.begin_unmap(h, first).expect("live");
        assert_eq!(t.begin_unmap(h, Halves::BOTH), Err(BadHandle), "one of the two is claimed");
        assert!(!t.finish_unmap(0, c));
        assert_eq!(t.get(h), Some(info(second)));
        let c = t.begin_unmap(h, Halves::BOTH).expect("live");
        assert_eq!(c.halves(), second);
        assert!(t.finish_unmap(0, c));
        assert_eq!(t.get(h), None);
    }
}

#[test]
fn a_freed_handle_is_bad_even_when_its_entry_lives_again() {
    let t = Maptrack::new(HeapPages, 1, 1);
    let old = published(&t, Halves::HOST);
    let c = t.begin_unmap(old, Halves::HOST).expect("live");
    assert!(t.finish_unmap(0, c));
    let new = published(&t, Halves::HOST);
    assert_ne!(old, new);
    assert_eq!(old.raw() & 0x3f_ffff, new.raw() & 0x3f_ffff, "last freed, first used");
    assert_eq!(t.begin_unmap(old, Halves::HOST), Err(BadHandle));
    assert_eq!(t.get(old), None);
    assert_eq!(t.get(new), Some(info(Halves::HOST)));
}

#[test]
fn the_default_limit_can_be_used_to_the_last_handle() {
    let t = Maptrack::new(HeapPages, 1024, 3);
    assert_eq!(t.limit(), 262_144);
    let mut seen = vec![false; 262_144];
    for i in 0..t.limit() {
        let r = t.alloc(i % 3).expect("below the limit");
        let index = (r.handle().raw() & 0x3f_ffff) as usize;
        assert!(!core::mem::replace(&mut seen[index], true));
    }
    assert_eq!(t.alloc(1), Err(NoSpace));
    assert_eq!(t.in_use(), 262_144);
}

#[test]
fn a_million_handles_work() {
    let t = Maptrack::new(HeapPages, 4096, 1);
    let mut local = t.local(0);
    let taken: Vec<_> = (0..1 << 20).map(|_| local.alloc().expect("below the limit")).collect();
    assert_eq!(local.alloc(), Err(NoSpace));
    taken.into_iter().for_each(|r| local.free(r));
    drop(local);
    assert_eq!(t.in_use(), 0);
}

#[test]
fn xsa_380_a_lone_free_handle_is_found_on_any_cpu() {
    let cpus = 64;
    let t = Maptrack::new(HeapPages, 1, cpus);
    let mut taken: Vec<_> = (0..ENTRIES_PER_PAGE).map(|i| t.alloc(i % cpus).expect("space")).collect();
    for cpu in 0..cpus {
        assert_eq!(t.alloc(0), Err(NoSpace));
        t.free(cpu, taken.pop().expect("one left"));
        taken.push(t.alloc((cpu + 17) % cpus).expect("stolen from wherever it is"));
    }
}

#[test]
fn an_empty_page_source_means_no_space_and_nothing_lost() {
    let (left, out) = (AtomicUsize::new(1), AtomicUsize::new(0));
    {
        let t = Maptrack::new(Ration { left: &left, out: &out }, 8, 2);
        let mut taken: Vec<_> = (0..ENTRIES_PER_PAGE).map(|_| t.alloc(0).expect("one page")).collect();
        assert_eq!(t.alloc(1), Err(NoSpace));
        t.free(0, taken.pop().expect("taken"));
        taken.push(t.alloc(1).expect("stolen though the source is dry"));
        left.store(1, Ordering::Relaxed);
        taken.push(t.alloc(1).expect("the source has a page again"));
        assert_eq!((t.capacity(), t.limit(), out.load(Ordering::Relaxed)), (512, 2048, 2));
    }
    assert_eq!(out.load(Ordering::Relaxed), 0, "all pages went back");
}

#[test]
#[should_panic(expected = "holds already")]
fn holding_ones_own_magazine_twice_is_told() {
    let t = Maptrack::new(HeapPages, 1, 1);
    let _batch = t.local(0);
    let _ = t.alloc(0);
}

/// Mappers on some CPUs, unmappers on others, at a limit so tight that they live by stealing. Every index
/// has an owner flag; a mapper that is refused must find, at the end, that everything can be had.
#[test]
fn xsa_228_threads_map_and_unmap_each_others_handles() {
    const ROUNDS: u32 = 60_000;
    for pages in [1, 2] {
        let t = Maptrack::new(HeapPages, pages, 4);
        let owned: Vec<_> = (0..t.limit()).map(|_| AtomicBool::new(false)).collect();
        let queue = Mutex::new(Vec::new());
        let (mapping, refused) = (AtomicU32::new(2), AtomicU32::new(0));
        thread::scope(|s| {
            for cpu in 0..2 {
                let (t, owned, queue, mapping, refused) = (&t, &owned, &queue, &mapping, &refused);
                s.spawn(move || {
                    for i in 0..ROUNDS {
                        let Ok(r) = t.alloc(cpu) else {
                            refused.fetch_add(1, Ordering::Relaxed);
                            thread::yield_now();
                            continue;
                        };
                        let index = (r.handle().raw() & 0x3f_ffff) as usize;
                        assert!(!owned[index].swap(true, Ordering::AcqRel), "{index} given out twice");
                        let gfn = u64::from(r.handle().raw()) ^ 0xabcd;
                        let h = t.publish(r, &MapInfo { gref: i, gfn, ..info(Halves::BOTH) });
                        queue.lock().expect("no panic").push(h);
                    }
                    mapping.fetch_sub(1, Ordering::Release);
                });
            }
            for cpu in 2..4 {
                let (t, owned, queue, mapping) = (&t, &owned, &queue, &mapping);
                s.spawn(move || {
                    loop {
                        let done = mapping.load(Ordering::Acquire) == 0;
                        let batch: Vec<_> = {
                            let mut queue = queue.lock().expect("no panic");
                            let n = queue.len().min(32);
                            queue.drain(..n).collect()
                        };
                        if batch.is_empty() && done {
                            break;
                        }
                        for &h in &batch {
                            let dev = t.begin_unmap(h, Halves::DEVICE).expect("ours");
                            let host = t.begin_unmap(h, Halves::HOST).expect("ours");
                            assert_eq!(host.info().gfn, u64::from(h.raw()) ^ 0xabcd);
                            assert_eq!(t.begin_unmap(h, Halves::HOST), Err(BadHandle));
                            assert!(!t.finish_unmap(cpu, host));
                            owned[(h.raw() & 0x3f_ffff) as usize].store(false, Ordering::Release);
                            assert!(t.local(cpu).finish_unmap(dev));
                        }
                        hint::spin_loop();
                    }
                });
            }
        });
        assert_eq!(t.in_use(), 0, "{} refused", refused.load(Ordering::Relaxed));
        for _ in 0..t.limit() {
            let _ = t.alloc(1).expect("none was lost");
        }
        assert_eq!(t.alloc(1), Err(NoSpace));
    }
}

/// As many threads as handles, each wanting one at a time: nobody is ever refused.
#[test]
fn exhaustion_is_never_reported_while_a_handle_is_free() {
    let threads = 4;
    let t = Maptrack::new(HeapPages, 1, threads);
    let held: Vec<_> = (threads..t.limit()).map(|_| t.alloc(0).expect("space")).collect();
    thread::scope(|s| {
        for cpu in 0..threads {
            let t = &t;
            s.spawn(move || {
                for _ in 0..50_000 {
                    let r = t.alloc(cpu).expect("four are free for four");
                    t.free(cpu, r);
                }
            });
        }
    });
    assert_eq!(t.in_use(), held.len() as u64);
}
