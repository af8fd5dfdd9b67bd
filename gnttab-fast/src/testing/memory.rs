//! The machine's frames, and a hypercall's argument memory.
#![allow(unsafe_code)]

use crate::cells::Cells;
use crate::host::{Batch, Fault, GuestMemory};
use crate::pages::SharedSource;
use crate::types::{DomId, Mfn, PAGE_SIZE};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use copy_engine::{Engine, Segment};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use maptrack::{Page, PageSource};
use zerocopy::FromBytes as _;

/// Number of the first frame: above 4 GiB, so that machine addresses do not fit 32 bits.
pub const FIRST_MFN: u64 = 0x10_0000;

/// A frame's bytes; the machine's guests write them at any time.
#[repr(C, align(4096))]
struct Bytes(UnsafeCell<[u8; PAGE_SIZE]>);

/// Who has a frame, and how many hold it.
struct State {
    /// Domid, or [`FREE`].
    owner: AtomicU32,
    refs: AtomicU32,
}

const FREE: u32 = u32::MAX;

/// All frames of the machine. Each is given out once.
pub struct FrameStore {
    frames: Box<[Bytes]>,
    states: Box<[State]>,
    next: AtomicUsize,
    /// None is given out for now.
    starved: AtomicBool,
}

// SAFETY: the bytes are reached through raw pointers only, as a guest's memory is, and the tests that race on
// them expect any of the racing values.
unsafe impl Sync for FrameStore {}
// SAFETY: as above.
unsafe impl Send for FrameStore {}

impl FrameStore {
    /// `frames` zeroed frames.
    #[must_use]
    pub fn new(frames: usize) -> Arc<Self> {
        Arc::new(Self {
            frames: (0..frames).map(|_| Bytes(UnsafeCell::new([0; PAGE_SIZE]))).collect(),
            states: (0..frames)
                .map(|_| State { owner: AtomicU32::new(FREE), refs: AtomicU32::new(0) })
                .collect(),
            next: AtomicUsize::new(0),
            starved: AtomicBool::new(false),
        })
    }

    /// A frame for a domain, with one reference: that of its physical map. `None` when all are used up.
    pub fn alloc(&self, owner: DomId) -> Option<Mfn> {
        if self.starved.load(Ordering::Relaxed) {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let state = self.states.get(index)?;
        state.owner.store(u32::from(owner.0), Ordering::Relaxed);
        state.refs.store(1, Ordering::Release);
        Some(Mfn(FIRST_MFN + index as u64))
    }

    /// Lets every allocation fail, or no longer.
    pub fn starve(&self, now: bool) {
        self.starved.store(now, Ordering::Relaxed);
    }

    fn state(&self, mfn: Mfn) -> Option<&State> {
        self.states.get(usize::try_from(mfn.0.checked_sub(FIRST_MFN)?).ok()?)
    }

    /// References to a frame.
    #[must_use]
    pub fn refs(&self, mfn: Mfn) -> u32 {
        self.state(mfn).map_or(0, |s| s.refs.load(Ordering::Acquire))
    }

    /// Whether `domain` has the frame and it is not free.
    #[must_use]
    pub fn owns(&self, domain: DomId, mfn: Mfn) -> bool {
        self.state(mfn).is_some_and(|s| {
            s.owner.load(Ordering::Relaxed) == u32::from(domain.0) && s.refs.load(Ordering::Acquire) != 0
        })
    }

    /// Takes a reference if [`owns`](Self::owns).
    #[must_use]
    pub fn get(&self, domain: DomId, mfn: Mfn) -> bool {
        self.owns(domain, mfn)
            && self.state(mfn).is_some_and(|s| {
                s.refs
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n != 0).then_some(n + 1))
                    .is_ok()
            })
    }

    /// Drops a reference.
    ///
    /// # Panics
    /// If there was none.
    pub fn put(&self, mfn: Mfn) {
        let old = self.state(mfn).map_or(0, |s| s.refs.fetch_sub(1, Ordering::AcqRel));
        assert_ne!(old, 0, "reference to {mfn:?} dropped twice");
    }

    /// Where a frame is.
    ///
    /// # Panics
    /// If there is no such frame.
    #[must_use]
    pub fn pointer(&self, mfn: Mfn) -> *mut u8 {
        let index = usize::try_from(mfn.0.wrapping_sub(FIRST_MFN)).unwrap_or(usize::MAX);
        assert!(index < self.frames.len(), "there is no {mfn:?}");
        // Not of the one frame: who has found a large page goes on to the others.
        UnsafeCell::raw_get(self.frames.as_ptr().cast::<UnsafeCell<[u8; PAGE_SIZE]>>())
            .wrapping_add(index)
            .cast()
    }

    /// The bytes of a frame.
    #[must_use]
    pub fn read(&self, mfn: Mfn) -> [u8; PAGE_SIZE] {
        // SAFETY: the pointer is a frame of ours; nobody keeps a reference into one.
        unsafe { self.pointer(mfn).cast::<[u8; PAGE_SIZE]>().read_volatile() }
    }

    /// Writes bytes at an offset of a frame, as its guest would.
    ///
    /// # Panics
    /// If they reach over its end.
    pub fn write(&self, mfn: Mfn, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= PAGE_SIZE);
        // SAFETY: in the frame, just checked; nobody keeps a reference into one.
        unsafe { self.pointer(mfn).add(offset).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// A word of a frame, as its guest reads it.
    ///
    /// # Panics
    /// If it is not in the frame.
    #[must_use]
    pub fn load(&self, mfn: Mfn, word: usize) -> u64 {
        self.word(mfn, word).load(Ordering::SeqCst)
    }

    /// Writes a word of a frame, as its guest does.
    ///
    /// # Panics
    /// If it is not in the frame.
    pub fn store(&self, mfn: Mfn, word: usize, value: u64) {
        self.word(mfn, word).store(value, Ordering::SeqCst);
    }

    /// Replaces a word that is `old`.
    ///
    /// # Panics
    /// If it is not in the frame.
    #[must_use]
    pub fn exchange(&self, mfn: Mfn, word: usize, old: u64, new: u64) -> bool {
        self.word(mfn, word).compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn word(&self, mfn: Mfn, word: usize) -> &core::sync::atomic::AtomicU64 {
        assert!(word < PAGE_SIZE / 8);
        // SAFETY: an aligned word of a frame of ours, which lives as long as `self`.
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.pointer(mfn).cast::<u64>().add(word)) }
    }

    /// Copies a batch with `engine`, or plainly.
    pub(super) fn copy<S: AsRef<Segment>>(batch: Batch<'_, S>, engine: Option<&Engine>) {
        if let Some(engine) = engine {
            // SAFETY: a batch's segments lie in frames translated by a mock host, which live as long as the
            // machine; nobody keeps a reference into one.
            unsafe { engine.begin().copy_batch(batch.segments()) };
            return;
        }
        for s in batch.segments().iter().map(AsRef::as_ref) {
            // SAFETY: as above.
            unsafe { s.dst.copy_from(s.src, s.len) };
        }
    }
}

/// Shared frames of one domain's table, taken from the machine's.
pub struct Shared {
    pub(super) ram: Arc<FrameStore>,
    pub(super) owner: DomId,
}

// SAFETY: a frame is given out once, zeroed, aligned, and lives as long as the machine's frames, which the
// source keeps.
unsafe impl PageSource for Shared {
    fn take(&self) -> Option<NonNull<Page>> {
        let mfn = self.ram.alloc(self.owner)?;
        NonNull::new(self.ram.pointer(mfn).cast())
    }

    unsafe fn give_back(&self, page: NonNull<Page>) {
        self.ram.put(self.mfn(page));
    }
}

// SAFETY: frames are numbered from FIRST_MFN in the order of their addresses.
unsafe impl SharedSource for Shared {
    fn mfn(&self, page: NonNull<Page>) -> Mfn {
        let distance = page.as_ptr().addr() - self.ram.frames.as_ptr().addr();
        Mfn(FIRST_MFN + (distance / PAGE_SIZE) as u64)
    }
}

/// Argument memory: bytes at an address, and nothing around them.
#[derive(Clone, Debug)]
pub struct Flat {
    base: u64,
    bytes: Vec<u8>,
    /// Bytes from here on cannot be written, though they can be read.
    readonly_from: usize,
}

impl Flat {
    /// `bytes` at `base`.
    #[must_use]
    pub fn new(base: u64, bytes: Vec<u8>) -> Self {
        let readonly_from = bytes.len();
        Self { base, bytes, readonly_from }
    }

    /// Makes the bytes from offset `from` on read-only.
    pub fn protect(&mut self, from: usize) {
        self.readonly_from = from;
    }

    /// The bytes as they are.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, to change.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    #[inline]
    fn range(&self, address: u64, len: usize) -> Result<core::ops::Range<usize>, Fault> {
        let from = usize::try_from(address.checked_sub(self.base).ok_or(Fault)?).map_err(|_| Fault)?;
        let to = from.checked_add(len).ok_or(Fault)?;
        if to > self.bytes.len() { Err(Fault) } else { Ok(from..to) }
    }
}

impl GuestMemory for Flat {
    fn in_place<T: Cells>(&mut self, address: u64, most: usize) -> Result<&[T], Fault> {
        let from = self.range(address, 0)?.start;
        // Pages are where they would be in a guest.
        let page_ends = from + (PAGE_SIZE - usize::try_from(address % PAGE_SIZE as u64).unwrap_or(0));
        let to = page_ends.min(self.readonly_from).min(self.bytes.len()).max(from);
        let fit = ((to - from) / size_of::<T>()).min(most);
        if !address.is_multiple_of(align_of::<T>() as u64) {
            return Ok(&[]);
        }
        let bytes = &mut self.bytes[from..from + fit * size_of::<T>()];
        Ok(<[T]>::mut_from_bytes(bytes).map_or(&[], |cells| cells))
    }

    #[inline]
    fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        let range = self.range(address, out.len())?;
        out.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    #[inline]
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let range = self.range(address, bytes.len())?;
        if range.end > self.readonly_from {
            return Err(Fault);
        }
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }
}
