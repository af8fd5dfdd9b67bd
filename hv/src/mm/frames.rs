//! Frames of RAM: who owns each, how many references it has, and which are free.
//!
//! One 16-byte entry for each frame, in an array indexed by frame number. Its first word holds kind,
//! owner and reference count together, so that taking a reference is one compare-exchange which fails
//! exactly when the frame is not (any more) that domain's. Free frames form a binary buddy system of
//! naturally aligned blocks, under one lock that no hot path takes.
//!
//! # Lives of a frame
//! *Free* -> [`alloc`] -> *owned*, with the allocation's own reference. A hypervisor frame goes back by
//! [`free`] at once. A domain's frame goes back when its last reference is dropped ([`put_ref`]); a
//! hypervisor frame that others may still read, by [`crate::epoch::retire_frame`]. Both of these become
//! *retired*: they wait in limbo until every pCPU that was pinned has let go, then on the ready list
//! until somebody has time to merge them into the buddy system. Between pin and unpin a translated
//! frame therefore stays what it was, without a reference.
//!
//! # Races
//! Limbo and ready list are stacks of frame numbers linked through the entries' second word. Anybody
//! pushes, by compare-exchange; taking is always of the whole stack, by a swap, so the ABA problem does
//! not arise. The second word belongs to the list the frame is on: to the buddy system under its lock,
//! to the pusher before a push and to the taker after a swap. Kinds change only on the way between
//! those owners.

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use gnttab_fast::types::{DomId, Mfn, PAGE_SHIFT, PAGE_SIZE};
use spin::Mutex;

use super::direct::{phys_to_virt, u64_of, usize_of};

/// Whom a frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody: it can be allocated.
    Free,
    /// The hypervisor itself.
    Hypervisor,
    /// A domain.
    Domain(DomId),
}

/// The largest order [`alloc`] serves: 2^18 frames, 1 GiB.
pub const MAX_ORDER: u8 = 18;

/// The order of a 2 MiB block.
pub const ORDER_2M: u8 = 9;

/// No frame, where a list ends.
const NONE: u32 = u32::MAX;

/// One frame's entry.
#[derive(Debug)]
pub(crate) struct Frame {
    /// References (bits 0-31), domain (32-47), order of a free block (48-55), kind (56-63).
    state: AtomicU64,
    /// Next frame of the list it is on.
    next: AtomicU32,
    /// The buddy system: previous block. Limbo's and the ready list's first frames: next chain.
    other: AtomicU32,
}

/// What a frame is just now; the top byte of its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Kind {
    /// A hole, a device, firmware's.
    NotRam = 0,
    Free = 1,
    Hypervisor = 2,
    Domain = 3,
    Retired = 4,
}

/// A state word, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State(u64);

impl State {
    /// In the order byte: inside a free block, not its first frame.
    const TAIL: u8 = 0xff;

    const fn new(kind: Kind, order: u8, domain: u16, refs: u32) -> Self {
        Self((kind as u64) << 56 | (order as u64) << 48 | (domain as u64) << 32 | refs as u64)
    }

    const fn owned(owner: Owner) -> Self {
        match owner {
            Owner::Free => Self::new(Kind::Free, Self::TAIL, 0, 0),
            Owner::Hypervisor => Self::new(Kind::Hypervisor, 0, 0, 1),
            Owner::Domain(DomId(domain)) => Self::new(Kind::Domain, 0, domain, 1),
        }
    }

    const fn kind(self) -> Kind {
        match self.0 >> 56 {
            1 => Kind::Free,
            2 => Kind::Hypervisor,
            3 => Kind::Domain,
            4 => Kind::Retired,
            _ => Kind::NotRam,
        }
    }

    const fn order(self) -> u8 {
        self.0.to_le_bytes()[6]
    }

    const fn domain(self) -> DomId {
        let bytes = self.0.to_le_bytes();
        DomId(u16::from_le_bytes([bytes[4], bytes[5]]))
    }

    const fn refs(self) -> u32 {
        let bytes = self.0.to_le_bytes();
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// Whether this is the first frame of a free block of that order.
    fn heads(self, order: u8) -> bool {
        self.kind() == Kind::Free && self.order() == order
    }
}

/// The entries: set once at boot.
static TABLE: (AtomicPtr<Frame>, AtomicUsize) = (AtomicPtr::new(core::ptr::null_mut()), AtomicUsize::new(0));
static BUDDY: Mutex<Buddy> = Mutex::new(Buddy { heads: [NONE; MAX_ORDER as usize + 1], free: 0 });
/// Frames of RAM under management.
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Frames in limbo or ready.
static RETIRED: AtomicU64 = AtomicU64::new(0);
/// Retired frames no epoch has seen yet.
static LIMBO: AtomicU32 = AtomicU32::new(NONE);
/// Chains of frames whose grace period is over.
static READY: AtomicU32 = AtomicU32::new(NONE);
/// Frames owned, by domain.
static OWNED: [AtomicU32; DomId::FIRST_RESERVED.0 as usize] =
    [const { AtomicU32::new(0) }; DomId::FIRST_RESERVED.0 as usize];

#[inline]
fn entry(mfn: Mfn) -> Option<&'static Frame> {
    // `init` itself comes by here, after it has stored the length.
    #[cfg(not(feature = "bare-metal"))]
    if TABLE.1.load(Ordering::Relaxed) == 0 {
        host::init();
    }
    // The length is stored after the pointer.
    let len = TABLE.1.load(Ordering::Acquire);
    let index = usize_of(mfn.0);
    if index >= len {
        return None;
    }
    let table = TABLE.0.load(Ordering::Relaxed);
    // SAFETY: there is a length, so `init` stored a pointer to that many initialised entries which live for ever; they
    // hold atomics only.
    unsafe {
        core::hint::assert_unchecked(!table.is_null());
        Some(&*table.add(index))
    }
}

/// An entry that is known to exist: its number came from the table's own lists.
fn listed(mfn: u32) -> &'static Frame {
    entry(Mfn(mfn.into())).expect("lists hold frames of the table")
}

/// The number of a frame as lists hold it.
fn short(mfn: Mfn) -> u32 {
    u32::try_from(mfn.0).expect("the table has fewer than 2^32 frames")
}

/// Free blocks by order, as doubly linked lists through the entries.
#[derive(Debug)]
struct Buddy {
    heads: [u32; MAX_ORDER as usize + 1],
    free: u64,
}

impl Buddy {
    fn push(&mut self, mfn: u32, order: u8) {
        let head = &mut self.heads[usize::from(order)];
        let frame = listed(mfn);
        frame.state.store(State::new(Kind::Free, order, 0, 0).0, Ordering::Relaxed);
        frame.next.store(*head, Ordering::Relaxed);
        frame.other.store(NONE, Ordering::Relaxed);
        if *head != NONE {
            listed(*head).other.store(mfn, Ordering::Relaxed);
        }
        *head = mfn;
    }

    fn unlink(&mut self, mfn: u32, order: u8) {
        let frame = listed(mfn);
        let (next, previous) = (frame.next.load(Ordering::Relaxed), frame.other.load(Ordering::Relaxed));
        match previous {
            NONE => self.heads[usize::from(order)] = next,
            previous => listed(previous).next.store(next, Ordering::Relaxed),
        }
        if next != NONE {
            listed(next).other.store(previous, Ordering::Relaxed);
        }
        frame.state.store(State::owned(Owner::Free).0, Ordering::Relaxed);
    }

    /// Takes a block out; its entries stay marked free until the caller names the owner.
    fn take(&mut self, order: u8) -> Option<u32> {
        let from = (order..=MAX_ORDER).find(|&order| self.heads[usize::from(order)] != NONE)?;
        let mfn = self.heads[usize::from(from)];
        self.unlink(mfn, from);
        // The lower half is split on, so memory is handed out from the bottom of a block upwards.
        for half in (order..from).rev() {
            self.push(mfn + (1 << half), half);
        }
        self.free -= 1 << order;
        Some(mfn)
    }

    /// Puts a block in, whose entries are marked free, and merges it with its free buddies.
    fn give(&mut self, mfn: u32, order: u8) {
        self.free += 1 << order;
        let (mut mfn, mut order) = (mfn, order);
        while order < MAX_ORDER {
            let buddy = mfn ^ (1 << order);
            let merges = entry(Mfn(buddy.into()))
                .is_some_and(|frame| State(frame.state.load(Ordering::Relaxed)).heads(order));
            if !merges {
                break;
            }
            self.unlink(buddy, order);
            mfn = mfn.min(buddy);
            order += 1;
        }
        self.push(mfn, order);
    }

    /// Gives `start..end` as blocks as large as alignment lets them be.
    fn give_range(&mut self, start: u32, end: u32) {
        let mut at = start;
        while at < end {
            let fits = (end - at).ilog2();
            let order = at.trailing_zeros().min(fits).min(MAX_ORDER.into());
            self.give(at, u8::try_from(order).unwrap_or(0));
            at += 1 << order;
        }
    }
}

/// Bytes of table for frames up to `end` (a physical address).
#[must_use]
pub(crate) const fn table_bytes(end: u64) -> u64 {
    (end >> PAGE_SHIFT) * u64_of(size_of::<Frame>())
}

/// The largest physical address the table can describe.
#[cfg(feature = "bare-metal")]
pub(crate) const LIMIT: u64 = (NONE as u64) << PAGE_SHIFT;

/// Puts all frames under management: those of `ram` are the hypervisor's, those of `free` (parts of
/// `ram`) can be allocated. Ranges are in bytes, and rounded inwards to frames.
///
/// # Safety
/// `table` points to [`table_bytes`]`(end)` writable bytes that nobody else uses, now or later; `free`
/// memory is reached by nobody; called once.
pub(crate) unsafe fn init(
    table: *mut u8,
    end: u64,
    ram: impl Iterator<Item = (u64, u64)>,
    free: impl Iterator<Item = (u64, u64)>,
) {
    let frames = usize_of(end >> PAGE_SHIFT);
    let table = table.cast::<Frame>();
    for index in 0..frames {
        let frame = Frame {
            state: AtomicU64::new(State::new(Kind::NotRam, 0, 0, 0).0),
            next: AtomicU32::new(NONE),
            other: AtomicU32::new(NONE),
        };
        // SAFETY: the caller's promise covers `frames` entries.
        unsafe { table.add(index).write(frame) };
    }
    TABLE.0.store(table, Ordering::Relaxed);
    TABLE.1.store(frames, Ordering::Release);
    let whole_frames = |(start, end): (u64, u64)| {
        let round = |at: u64| short(Mfn((at >> PAGE_SHIFT).min(NONE.into())));
        (round(start.saturating_add(u64_of(PAGE_SIZE) - 1)), round(end))
    };
    for (start, end) in ram.map(whole_frames) {
        for mfn in start..end {
            listed(mfn).state.store(State::owned(Owner::Hypervisor).0, Ordering::Relaxed);
        }
        TOTAL.fetch_add(end.saturating_sub(start).into(), Ordering::Relaxed);
    }
    let mut buddy = BUDDY.lock();
    for (start, end) in free.map(whole_frames) {
        for mfn in start..end {
            listed(mfn).state.store(State::owned(Owner::Free).0, Ordering::Relaxed);
        }
        buddy.give_range(start, end);
    }
}

/// Takes `1 << order` contiguous, naturally aligned, zeroed frames for `owner`; each starts with one
/// reference, the allocation's own. A domain's frame goes back by [`put_ref`], frame by frame; the
/// hypervisor's by [`free`].
///
/// # Panics
/// When asked to allocate for nobody.
#[must_use]
pub fn alloc(order: u8, owner: Owner) -> Option<Mfn> {
    assert!(owner != Owner::Free, "frames are allocated for somebody");
    #[cfg(not(feature = "bare-metal"))]
    host::init();
    if order > MAX_ORDER {
        return None;
    }
    // The lock is let go before `reclaim` takes it.
    let mut taken = BUDDY.lock().take(order);
    if taken.is_none() {
        reclaim(u32::MAX);
        taken = BUDDY.lock().take(order);
    }
    let taken = taken?;
    let first = Mfn(taken.into());
    // SAFETY: the block was free, is in RAM, and is ours alone now.
    unsafe { phys_to_virt(first.0 << PAGE_SHIFT).write_bytes(0, PAGE_SIZE << order) };
    for mfn in taken..taken + (1 << order) {
        // Release: whoever finds the new owner finds the cleared frame too.
        listed(mfn).state.store(State::owned(owner).0, Ordering::Release);
    }
    if let Owner::Domain(domain) = owner {
        count(domain).fetch_add(1 << order, Ordering::Relaxed);
    }
    Some(first)
}

/// Gives back what [`alloc`] handed to [`Owner::Hypervisor`], at once. What other CPUs may still be
/// reading goes through [`crate::epoch::retire_frame`] instead.
///
/// # Panics
/// When a frame is not the hypervisor's: freed twice, or never allocated.
pub fn free(mfn: Mfn, order: u8) {
    let first = short(mfn);
    for mfn in first..first + (1 << order) {
        let state = listed(mfn).state.swap(State::owned(Owner::Free).0, Ordering::Relaxed);
        assert!(State(state).kind() == Kind::Hypervisor, "frame {mfn:#x} is not the hypervisor's to free");
    }
    BUDDY.lock().give(first, order);
}

/// The owner of a frame; `None` when it is not RAM. A retired frame is nobody's.
#[must_use]
pub fn owner(mfn: Mfn) -> Option<Owner> {
    let state = State(entry(mfn)?.state.load(Ordering::Acquire));
    match state.kind() {
        Kind::NotRam => None,
        Kind::Free | Kind::Retired => Some(Owner::Free),
        Kind::Hypervisor => Some(Owner::Hypervisor),
        Kind::Domain => Some(Owner::Domain(state.domain())),
    }
}

/// Takes a reference to a frame of `domain`; false when it is not (or no longer) that domain's.
#[must_use]
#[inline]
pub fn get_ref(mfn: Mfn, domain: DomId) -> bool {
    let Some(frame) = entry(mfn) else { return false };
    // Kind, order and domain in one comparison: only free blocks have an order.
    let theirs = State::new(Kind::Domain, 0, domain.0, 0).0 >> 32;
    frame
        .state
        .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
            (word >> 32 == theirs && State(word).refs() < u32::MAX).then_some(word + 1)
        })
        .is_ok()
}

/// Drops a reference to a domain's frame. After the last one the frame is nobody's, and is reused after
/// an epoch grace period.
///
/// # Panics
/// When the frame is no domain's: more references were dropped than taken.
#[inline]
pub fn put_ref(mfn: Mfn) {
    if let Some(frame) = entry(mfn) {
        let word = frame.state.load(Ordering::Relaxed);
        let others = State(word).kind() == Kind::Domain && State(word).refs() > 1;
        let drop = || frame.state.compare_exchange(word, word - 1, Ordering::Release, Ordering::Relaxed);
        if others && drop().is_ok() {
            return;
        }
    }
    put_last_ref(mfn);
}

/// Drops a reference that is the last, or was.
#[cold]
#[inline(never)]
fn put_last_ref(mfn: Mfn) {
    let frame = entry(mfn).expect("a frame with references is RAM");
    let before = frame.state.fetch_update(Ordering::Release, Ordering::Relaxed, |word| {
        let state = State(word);
        (state.kind() == Kind::Domain).then(|| match state.refs() {
            1 => State::new(Kind::Retired, 0, state.domain().0, 0).0,
            _ => word - 1,
        })
    });
    match before.map(State) {
        Ok(state) if state.refs() == 1 => {
            count(state.domain()).fetch_sub(1, Ordering::Relaxed);
            push_limbo(short(mfn), frame);
        }
        Ok(_) => {}
        Err(_) => panic!("frame {:#x} has no reference to drop", mfn.0),
    }
}

/// Retires a frame of the hypervisor; the other half of [`crate::epoch::retire_frame`].
///
/// # Panics
/// When the frame is not the hypervisor's.
pub(crate) fn retire(mfn: Mfn) {
    let frame = entry(mfn).expect("a retired frame is RAM");
    let before = frame.state.swap(State::new(Kind::Retired, 0, 0, 0).0, Ordering::Release);
    assert!(State(before).kind() == Kind::Hypervisor, "frame {:#x} is not the hypervisor's to retire", mfn.0);
    push_limbo(short(mfn), frame);
}

/// How many frames `domain` owns now, for leak audits.
#[must_use]
pub fn owned_by(domain: DomId) -> u32 {
    count(domain).load(Ordering::Relaxed)
}

fn count(domain: DomId) -> &'static AtomicU32 {
    &OWNED[usize::from(domain.0)]
}

fn push_limbo(mfn: u32, frame: &Frame) {
    RETIRED.fetch_add(1, Ordering::Relaxed);
    push(&LIMBO, mfn, &frame.next);
}

/// Pushes onto a stack whose links are `link`s.
fn push(stack: &AtomicU32, mfn: u32, link: &AtomicU32) {
    let mut head = stack.load(Ordering::Relaxed);
    loop {
        link.store(head, Ordering::Relaxed);
        // Release: the taker's Acquire swap sees the link.
        match stack.compare_exchange_weak(head, mfn, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => head = now,
        }
    }
}

/// Retired frames, linked by `next`, that no reader can reach any more once a grace period has passed.
#[derive(Debug)]
pub(crate) struct Chain(u32);

/// Everything in limbo, for one grace period.
pub(crate) fn take_limbo() -> Option<Chain> {
    match LIMBO.swap(NONE, Ordering::Acquire) {
        NONE => None,
        head => Some(Chain(head)),
    }
}

/// The grace period of a chain is over. Constant time: this runs wherever the epoch happens to advance.
pub(crate) fn ready(Chain(head): Chain) {
    push(&READY, head, &listed(head).other);
}

/// Merges up to `budget` ready frames into the buddy system.
pub(crate) fn reclaim(budget: u32) {
    let mut chain = READY.swap(NONE, Ordering::Acquire);
    if chain == NONE {
        return;
    }
    let mut left = budget;
    let mut buddy = BUDDY.lock();
    while chain != NONE {
        let next_chain = listed(chain).other.load(Ordering::Relaxed);
        let mut mfn = chain;
        while mfn != NONE && left != 0 {
            let frame = listed(mfn);
            let next = frame.next.load(Ordering::Relaxed);
            frame.state.store(State::owned(Owner::Free).0, Ordering::Relaxed);
            buddy.give(mfn, 0);
            mfn = next;
            left -= 1;
        }
        if mfn != NONE {
            ready(Chain(mfn));
        }
        chain = next_chain;
    }
    RETIRED.fetch_sub((budget - left).into(), Ordering::Relaxed);
}

/// What [`stats`] tells, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Under management.
    pub total: u64,
    /// Ready to be allocated.
    pub free: u64,
    /// Waiting for a grace period.
    pub retired: u64,
}

/// The state of the allocator.
#[must_use]
pub fn stats() -> Stats {
    #[cfg(not(feature = "bare-metal"))]
    host::init();
    Stats {
        total: TOTAL.load(Ordering::Relaxed),
        free: BUDDY.lock().free,
        retired: RETIRED.load(Ordering::Relaxed),
    }
}

#[cfg(not(feature = "bare-metal"))]
mod host {
    //! The arena under management, at first use.

    use alloc::alloc::{Layout, alloc_zeroed};

    use super::super::direct::{ARENA_SIZE, ARENA_START, usize_of};

    pub(super) fn init() {
        static DONE: spin::Once = spin::Once::new();
        DONE.call_once(|| {
            let end = ARENA_START + ARENA_SIZE;
            let layout =
                Layout::from_size_align(usize_of(super::table_bytes(end)), 64).expect("a good layout");
            let arena = || core::iter::once((ARENA_START, end));
            // SAFETY: a fresh allocation of the table's size, never freed; the arena belongs to the
            // frames from here on; `Once` calls this once.
            unsafe { super::init(alloc_zeroed(layout), end, arena(), arena()) };
        });
    }
}

#[cfg(test)]
mod tests;
