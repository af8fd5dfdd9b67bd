//! Blocks, references, retirement, and threads that share them.
//!
//! Tests share the arena and run at the same time: each uses domains of its own, and none counts free frames.

use alloc::vec::Vec;

use super::*;

/// Orders of the blocks that one test holds at once.
const ORDERS: [u8; 5] = [0, 3, 1, 9, 0];

fn bytes(mfn: Mfn) -> *mut u8 {
    phys_to_virt(mfn.0 << PAGE_SHIFT)
}

#[test]
fn blocks_are_aligned_apart_zeroed_and_owned() {
    let domain = DomId(900);
    let blocks: Vec<_> =
        ORDERS.iter().map(|&order| (alloc(order, Owner::Domain(domain)).expect("room"), order)).collect();
    assert_eq!(owned_by(domain), 1 + 8 + 2 + 512 + 1);
    for &(first, order) in &blocks {
        assert_eq!(first.0 % (1 << order), 0);
        // SAFETY: the block is ours.
        let block = unsafe { core::slice::from_raw_parts_mut(bytes(first), PAGE_SIZE << order) };
        assert!(block.iter().all(|&byte| byte == 0));
        block.fill(0xff);
        assert_eq!(owner(first), Some(Owner::Domain(domain)));
    }
    for &(first, order) in &blocks {
        for mfn in first.0..first.0 + (1 << order) {
            put_ref(Mfn(mfn));
        }
    }
    assert_eq!(owned_by(domain), 0);
    assert_eq!(owner(blocks[0].0), Some(Owner::Free));
}

#[test]
fn references_hold_a_frame() {
    let (domain, other) = (DomId(901), DomId(902));
    let mfn = alloc(0, Owner::Domain(domain)).expect("room");
    assert!(!get_ref(mfn, other));
    assert!(get_ref(mfn, domain));
    put_ref(mfn);
    assert_eq!(owner(mfn), Some(Owner::Domain(domain)));
    put_ref(mfn);
    assert_eq!(owner(mfn), Some(Owner::Free));
    assert!(!get_ref(mfn, domain));
    assert_eq!(owned_by(domain), 0);
}

#[test]
fn too_large_a_block_is_refused() {
    assert_eq!(alloc(15, Owner::Hypervisor), None);
    assert_eq!(alloc(MAX_ORDER + 1, Owner::Hypervisor), None);
}

#[test]
fn what_is_not_ram_has_no_owner() {
    assert_eq!(owner(Mfn(0)), None);
    assert_eq!(owner(Mfn(u64::MAX >> PAGE_SHIFT)), None);
    assert!(!get_ref(Mfn(0), DomId(1)));
}

#[test]
fn a_pinned_reader_delays_reuse() {
    let domain = DomId(903);
    let guard = crate::epoch::pin();
    let mfn = alloc(0, Owner::Domain(domain)).expect("room");
    // SAFETY: the frame is ours; reads below happen while the guard keeps it from being reused.
    unsafe { bytes(mfn).write(0x77) };
    put_ref(mfn);
    for _ in 0..100 {
        crate::epoch::collect_some();
    }
    // SAFETY: as above.
    assert_eq!(unsafe { bytes(mfn).read() }, 0x77);
    assert_eq!(State(listed(short(mfn)).state.load(Ordering::Relaxed)).kind(), Kind::Retired);
    drop(guard);
}

#[test]
#[should_panic(expected = "no reference to drop")]
fn a_reference_too_many_is_noticed() {
    let mfn = alloc(0, Owner::Hypervisor).expect("room");
    put_ref(mfn);
}

#[test]
fn freed_frames_coalesce() {
    // A buddy system of our own over entries in the arena's table: one 4 MiB block.
    let first = short(alloc(10, Owner::Hypervisor).expect("room"));
    let mut buddy = Buddy { heads: [NONE; MAX_ORDER as usize + 1], free: 0 };
    for mfn in first..first + 1024 {
        listed(mfn).state.store(State::owned(Owner::Free).0, Ordering::Relaxed);
    }
    buddy.give_range(first + 1, first + 1024);
    assert_eq!(buddy.free, 1023);
    assert_eq!(buddy.take(9), Some(first + 512));
    let singles: Vec<u32> = core::iter::from_fn(|| buddy.take(0)).collect();
    assert_eq!(singles.len(), 511);
    assert_eq!(buddy.free, 0);
    for mfn in singles.iter().rev().chain(&[first]) {
        buddy.give(*mfn, 0);
    }
    buddy.give(first + 512, 9);
    assert_eq!((buddy.take(10), buddy.free), (Some(first), 0));
    for mfn in first..first + 1024 {
        listed(mfn).state.store(State::owned(Owner::Hypervisor).0, Ordering::Relaxed);
    }
    free(Mfn(first.into()), 10);
}

#[test]
fn many_threads_share_the_frames() {
    extern crate std;
    let threads: Vec<_> = (0..4u16)
        .map(|thread| {
            std::thread::spawn(move || {
                let domain = DomId(910 + thread);
                for round in 0..200 {
                    let held: Vec<_> =
                        (0..8).map(|_| alloc(0, Owner::Domain(domain)).expect("room")).collect();
                    for &mfn in &held {
                        // SAFETY: the frame is ours; another thread's byte here would be a double owner.
                        unsafe {
                            assert_eq!(bytes(mfn).read(), 0);
                            bytes(mfn).write(u8::try_from(thread + 1).expect("small"));
                        }
                    }
                    for &mfn in &held {
                        // SAFETY: as above.
                        assert_eq!(u16::from(unsafe { bytes(mfn).read() }), thread + 1);
                        put_ref(mfn);
                    }
                    if round % 8 == 0 {
                        crate::epoch::collect_some();
                    }
                }
                assert_eq!(owned_by(domain), 0);
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no thread fails");
    }
}
