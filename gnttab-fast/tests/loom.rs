//! Models of the active entry's races, run on the shipped code:
//! `RUSTFLAGS="--cfg loom" cargo test -p gnttab-fast --release --test loom`.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gnttab_fast::abi::gtf;
use gnttab_fast::active::{Active, Backing, Found, Frame, Pin};
use gnttab_fast::{DomId, EntryV1, Mfn, Status, Version, WordV1};
use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use std::cell::Cell;

const GRANTEE: DomId = DomId(2);
const OPEN: u64 = gtf::PERMIT_ACCESS as u64 | (GRANTEE.0 as u64) << 16;
const IN_USE: u64 = (gtf::READING | gtf::WRITING) as u64;

/// One entry: both words of ours, the guest's, and a frame's content for each gfn that may be granted.
struct World {
    words: [AtomicU64; 2],
    shared: AtomicU64,
    frames: [UnsafeCell<u32>; 2],
}

/// An entry that grants `gfn`.
fn entry(gfn: u64) -> u64 {
    OPEN | gfn << 32
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            words: [AtomicU64::new(0), AtomicU64::new(0)],
            shared: AtomicU64::new(entry(0)),
            frames: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    fn active(&self) -> Active<'_> {
        Active::new(&self.words)
    }

    fn bits(&self) -> u64 {
        self.shared.load(Ordering::SeqCst) & IN_USE
    }

    /// What the guest does to take the grant back: true if it had it free.
    fn revoke(&self) -> bool {
        let seen = self.shared.load(Ordering::Acquire);
        seen & IN_USE == 0
            && self.shared.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn unpin(&self, pin: Pin) {
        self.active().unpin(pin, |_, bits| EntryV1::new(&self.shared).unmark(bits));
    }
}

/// The world as one CPU's operation sees it. Gfn n is mfn n.
struct Grant<'a> {
    world: &'a World,
    /// The frame this operation made sure of last.
    sure: Cell<Option<Frame>>,
}

impl Grant<'_> {
    fn pin(world: &World, pin: Pin) -> Result<Frame, Status> {
        let grant = Grant { world, sure: Cell::new(None) };
        let result = world.active().pin(GRANTEE, pin, &grant);
        if let Ok(frame) = result {
            assert_eq!(grant.sure.get(), Some(frame), "a frame nobody made sure of");
            assert_eq!(world.active().frame(), frame, "a frame of another life");
            let want = gtf::READING | if pin.writes() { gtf::WRITING } else { 0 };
            assert_eq!(world.bits() & u64::from(want), u64::from(want), "pinned without its bits");
        }
        result
    }
}

impl Backing for &Grant<'_> {
    type Mark = WordV1;

    fn mark(&self, _: Version, grantee: Option<DomId>, pin: Pin) -> Result<WordV1, Status> {
        EntryV1::new(&self.world.shared).mark(grantee, pin, false)
    }

    fn unmark(&self, _: Version, bits: u16) {
        EntryV1::new(&self.world.shared).unmark(bits);
    }

    fn find(&self, mark: WordV1, _: Pin) -> Result<Found, Status> {
        let frame = Frame::whole(Mfn(mark.gfn().0));
        self.sure.set(Some(frame));
        Ok(Found { frame, writable: true, sub_page: false })
    }

    fn recheck(&self, _: WordV1, _: Frame, _: bool) -> Result<(), Status> {
        Ok(())
    }

    fn passes_on(&self) -> bool {
        false
    }

    fn hold(&self, frame: Frame) -> bool {
        self.sure.set(Some(frame));
        true
    }

    fn let_go(&self, _: Frame) {}

    fn maps(&self) -> bool {
        false
    }
}

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

/// Reads or writes the frame granted, as a copy does; loom objects if the guest has it meanwhile.
fn touch(world: &World, frame: Frame, pin: Pin) {
    let cell = &world.frames[usize::try_from(frame.mfn().0).unwrap()];
    if pin.writes() {
        // SAFETY: loom fails the model if anybody else has the cell now, which is the question.
        cell.with_mut(|p| unsafe { *p += 1 });
    } else {
        // SAFETY: as above, for writers.
        cell.with(|p| unsafe { *p });
    }
}

/// The guest uses a frame it had granted for something else.
fn reuse(world: &World, frame: usize) {
    // SAFETY: as in `touch`.
    world.frames[frame].with_mut(|p| unsafe { *p = 7 });
}

fn first_pin_against_revoke(pin: Pin) {
    model(move || {
        let world = World::new();
        let guest = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if world.revoke() {
                    // The frame is the guest's alone again.
                    reuse(&world, 0);
                    return true;
                }
                false
            })
        };
        let pinned = Grant::pin(&world, pin);
        if let Ok(frame) = pinned {
            touch(&world, frame, pin);
            world.unpin(pin);
        }
        let revoked = guest.join().unwrap();
        assert!(revoked || pinned.is_ok());
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}

#[test]
fn first_read_pin_against_revoke() {
    first_pin_against_revoke(Pin::Read);
}

#[test]
fn first_write_pin_against_revoke() {
    first_pin_against_revoke(Pin::Write);
}

#[test]
fn last_unpin_against_revoke() {
    model(|| {
        let world = World::new();
        let frame = Grant::pin(&world, Pin::Write).unwrap();
        let guest = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if world.revoke() {
                    reuse(&world, 0);
                }
            })
        };
        touch(&world, frame, Pin::Write);
        world.unpin(Pin::Write);
        guest.join().unwrap();
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}

#[test]
fn last_unpin_against_new_pin() {
    model(|| {
        let world = World::new();
        Grant::pin(&world, Pin::Write).unwrap();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let frame = Grant::pin(&world, Pin::Read).unwrap();
                touch(&world, frame, Pin::Read);
                assert_ne!(world.bits() & u64::from(gtf::READING), 0);
            })
        };
        world.unpin(Pin::Write);
        other.join().unwrap();
        let pins = world.active().pins();
        assert_eq!((pins.host_read, pins.host_write, pins.grantee), (1, 0, GRANTEE.0));
        assert_eq!(world.bits(), u64::from(gtf::READING));
        world.unpin(Pin::Read);
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}

/// Keeps the entry busy while its frame is used, as a block of short copies does. `None` if it is not idle or not
/// granted.
fn hold(world: &World, pin: Pin) -> Option<()> {
    if !world.active().try_lock_v1() {
        return None;
    }
    let shared = EntryV1::new(&world.shared);
    let marked = shared.mark(Some(GRANTEE), pin, false);
    if let Ok(word) = marked {
        let bits = gtf::READING | if pin.writes() { gtf::WRITING } else { 0 };
        assert_eq!(world.bits(), u64::from(bits));
        touch(world, Frame::whole(Mfn(word.gfn().0)), pin);
        shared.unmark(bits);
    }
    world.active().unlock_idle(Version::V1);
    marked.ok().map(drop)
}

fn held_against_revoke(pin: Pin) {
    model(move || {
        let world = World::new();
        let guest = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if world.revoke() {
                    reuse(&world, 0);
                    world.shared.store(entry(1), Ordering::Release);
                }
            })
        };
        // Of two frames it uses the one granted, or none while none is.
        let _ = hold(&world, pin);
        guest.join().unwrap();
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}

#[test]
fn an_entry_held_for_a_read_against_revoke() {
    held_against_revoke(Pin::Read);
}

#[test]
fn an_entry_held_for_a_write_against_revoke() {
    held_against_revoke(Pin::Write);
}

/// Who pins waits for who holds; who would hold does not wait for who pins. Both write: loom objects if they do at
/// once.
#[test]
fn a_held_entry_against_a_pin() {
    model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let frame = Grant::pin(&world, Pin::Write).unwrap();
                assert_eq!(frame, Frame::whole(Mfn(0)));
                touch(&world, frame, Pin::Write);
                world.unpin(Pin::Write);
            })
        };
        let _ = hold(&world, Pin::Write);
        other.join().unwrap();
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}

/// Of two who would hold it one does, or one after the other.
#[test]
fn two_who_hold_an_entry() {
    model(|| {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || hold(&world, Pin::Write))
        };
        let here = hold(&world, Pin::Write);
        let there = other.join().unwrap();
        assert!(here.is_some() || there.is_some());
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}

fn two_pins(first: Pin, second: Pin) {
    model(move || {
        let world = World::new();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                Grant::pin(&world, second).unwrap();
                world.unpin(second);
            })
        };
        Grant::pin(&world, first).unwrap();
        world.unpin(first);
        other.join().unwrap();
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}

#[test]
fn two_read_pins() {
    two_pins(Pin::Read, Pin::Read);
}

#[test]
fn a_read_and_a_write_pin() {
    two_pins(Pin::Read, Pin::Write);
}

#[test]
fn two_write_pins() {
    two_pins(Pin::Write, Pin::Write);
}

/// The entry is let go and granted anew with another frame while another CPU joins: that one uses the frame
/// it made sure of, whichever of the two (checked in [`Grant::pin`]).
#[test]
fn a_joiner_never_uses_a_frame_of_an_earlier_life() {
    model(|| {
        let world = World::new();
        Grant::pin(&world, Pin::Read).unwrap();
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if let Ok(frame) = Grant::pin(&world, Pin::Read) {
                    touch(&world, frame, Pin::Read);
                    world.unpin(Pin::Read);
                }
            })
        };
        world.unpin(Pin::Read);
        if world.revoke() {
            reuse(&world, 0);
            world.shared.store(entry(1), Ordering::Release);
        }
        Grant::pin(&world, Pin::Read).unwrap();
        world.unpin(Pin::Read);
        other.join().unwrap();
        assert_eq!(world.bits(), 0);
        assert!(world.active().is_idle());
    });
}
