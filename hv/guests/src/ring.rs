//! The two ends of a shared ring (`public/io/ring.h`): free-running indexes, and notification only when the
//! other end has said, by its event index, that it wants one.
//!
//! The page is written by both ends at any time, so it is reached through raw copies and atomics alone and
//! every entry is read once. Ordering: entries are written before the producer index (release) and read
//! after it (acquire); between publishing an index and reading the other's event index, and between setting
//! an event index and looking at the other's producer index again, stands a full fence, or both ends could
//! go to sleep.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of a ring page.
pub const PAGE: usize = 4096;
/// Offset of the first entry.
const ENTRIES: usize = 64;

/// The indexes at the head of the page, in their order.
#[derive(Clone, Copy)]
enum Index {
    ReqProd = 0,
    ReqEvent = 1,
    RspProd = 2,
    RspEvent = 3,
}

/// A ring page as both ends see it.
#[derive(Clone, Copy, Debug)]
struct Page {
    base: *mut u8,
    entry: usize,
    slots: u32,
}

impl Page {
    /// The number of slots is the largest power of two that fits, as `__RING_SIZE` has it.
    fn new(base: *mut u8, entry: usize) -> Self {
        let fit = (PAGE - ENTRIES) / entry;
        let slots = if fit.is_power_of_two() { fit } else { fit.next_power_of_two() / 2 };
        Self { base, entry, slots: u32::try_from(slots).expect("a page has few slots") }
    }

    fn index(&self, index: Index) -> &AtomicU32 {
        // SAFETY: the creator of the ring end vouches for a page at `base` that stays; its head is four
        // aligned words, which everyone reaches by atomics only.
        unsafe { &*self.base.cast::<AtomicU32>().add(index as usize) }
    }

    fn entry(&self, at: u32) -> *mut u8 {
        // No overflow: the masked index is below `slots`, which fit into the page.
        let slot = usize::try_from(at & (self.slots - 1)).expect("32 bits fit");
        self.base.wrapping_add(ENTRIES + slot * self.entry)
    }

    fn read<T: FromBytes>(&self, at: u32) -> T {
        assert!(size_of::<T>() <= self.entry);
        // SAFETY: the entry lies in the page and is at least as long as `T`; any bytes are a `T`. The other
        // end may write meanwhile, against the protocol; volatile keeps it one read of whatever is there.
        unsafe { self.entry(at).cast::<Unaligned<T>>().read_volatile().0 }
    }

    fn write<T: IntoBytes + Immutable>(&self, at: u32, value: T) {
        assert!(size_of::<T>() <= self.entry);
        // SAFETY: the entry lies in the page and is at least as long as `T`.
        unsafe { self.entry(at).cast::<Unaligned<T>>().write_volatile(Unaligned(value)) }
    }
}

/// Entries are as long as the longer of request and response, so need not be aligned for either.
#[repr(C, packed)]
struct Unaligned<T>(T);

/// The end that makes requests.
#[derive(Debug)]
pub struct Front<Req, Rsp> {
    page: Page,
    req_prod: u32,
    rsp_cons: u32,
    kinds: PhantomData<(Req, Rsp)>,
}

impl<Req: IntoBytes + Immutable, Rsp: FromBytes> Front<Req, Rsp> {
    /// Makes an empty ring in the page at `base`.
    ///
    /// # Safety
    /// `base` is an aligned page of [`PAGE`] bytes that stays and that nobody reaches but by ring ends.
    #[must_use]
    pub unsafe fn new(base: *mut u8) -> Self {
        let page = Page::new(base, size_of::<Req>().max(size_of::<Rsp>()));
        page.index(Index::ReqProd).store(0, Ordering::Relaxed);
        page.index(Index::RspProd).store(0, Ordering::Relaxed);
        page.index(Index::ReqEvent).store(1, Ordering::Relaxed);
        page.index(Index::RspEvent).store(1, Ordering::Release);
        Self { page, req_prod: 0, rsp_cons: 0, kinds: PhantomData }
    }

    /// Slots of the ring.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.page.slots
    }

    /// Requests that may still be made.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.page.slots - self.outstanding()
    }

    /// Requests without a response yet.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Number of the next request.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.req_prod
    }

    /// Writes the next request; [`Self::push`] publishes it.
    pub fn put(&mut self, request: Req) {
        self.put_other(request);
    }

    /// Writes something else into the next slot: extra info.
    pub fn put_other<T: IntoBytes + Immutable>(&mut self, other: T) {
        assert!(self.room() > 0, "the ring is full");
        self.page.write(self.req_prod, other);
        self.req_prod = self.req_prod.wrapping_add(1);
    }

    /// Publishes the requests; whether the backend wants to be told.
    #[must_use]
    pub fn push(&mut self) -> bool {
        let old = self.page.index(Index::ReqProd).load(Ordering::Relaxed);
        self.page.index(Index::ReqProd).store(self.req_prod, Ordering::Release);
        fence(Ordering::SeqCst);
        passed(self.page.index(Index::ReqEvent).load(Ordering::Relaxed), old, self.req_prod)
    }

    /// Number of responses to take; more than were asked for is the backend's fault.
    pub fn ready(&self) -> Result<u32, Overrun> {
        let ready = self.page.index(Index::RspProd).load(Ordering::Acquire).wrapping_sub(self.rsp_cons);
        if ready > self.outstanding() { Err(Overrun) } else { Ok(ready) }
    }

    /// Takes the next response; there must be one.
    pub fn take(&mut self) -> Rsp {
        self.take_other()
    }

    /// Takes the next slot as something else: extra info.
    pub fn take_other<T: FromBytes>(&mut self) -> T {
        let value = self.page.read(self.rsp_cons);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        value
    }

    /// Number of the next response.
    #[must_use]
    pub fn next_response(&self) -> u32 {
        self.rsp_cons
    }

    /// Asks to be told once `after` more responses are there; whether there are already.
    pub fn wait_for(&mut self, after: u32) -> bool {
        self.page.index(Index::RspEvent).store(self.rsp_cons.wrapping_add(after), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.page.index(Index::RspProd).load(Ordering::Acquire).wrapping_sub(self.rsp_cons) >= after
    }
}

/// The other end has produced more than the ring holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun;

/// The end that answers requests.
#[derive(Debug)]
pub struct Back<Req, Rsp> {
    page: Page,
    req_cons: u32,
    rsp_prod: u32,
    kinds: PhantomData<(Req, Rsp)>,
}

impl<Req: FromBytes, Rsp: IntoBytes + Immutable> Back<Req, Rsp> {
    /// Attaches to the ring that the frontend made in the page at `base`.
    ///
    /// # Safety
    /// As for [`Front::new`].
    #[must_use]
    pub unsafe fn new(base: *mut u8) -> Self {
        let page = Page::new(base, size_of::<Req>().max(size_of::<Rsp>()));
        Self { page, req_cons: 0, rsp_prod: 0, kinds: PhantomData }
    }

    /// Number of requests to take; more than the ring holds is the frontend's fault.
    pub fn ready(&self) -> Result<u32, Overrun> {
        let ready = self.page.index(Index::ReqProd).load(Ordering::Acquire).wrapping_sub(self.req_cons);
        let held = self.req_cons.wrapping_sub(self.rsp_prod);
        if ready > self.page.slots - held.min(self.page.slots) { Err(Overrun) } else { Ok(ready) }
    }

    /// Takes the next request; there must be one.
    pub fn take(&mut self) -> Req {
        self.take_other()
    }

    /// Takes the next slot as something else: extra info.
    pub fn take_other<T: FromBytes>(&mut self) -> T {
        let value = self.page.read(self.req_cons);
        self.req_cons = self.req_cons.wrapping_add(1);
        value
    }

    /// Looks at the request `ahead` slots after the next one.
    #[must_use]
    pub fn peek(&self, ahead: u32) -> Req {
        self.page.read(self.req_cons.wrapping_add(ahead))
    }

    /// Writes the next response; [`Self::push`] publishes it.
    pub fn put(&mut self, response: Rsp) {
        self.put_other(response);
    }

    /// Writes something else into the next slot: extra info.
    pub fn put_other<T: IntoBytes + Immutable>(&mut self, other: T) {
        self.page.write(self.rsp_prod, other);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    /// Publishes the responses; whether the frontend wants to be told.
    #[must_use]
    pub fn push(&mut self) -> bool {
        let old = self.page.index(Index::RspProd).load(Ordering::Relaxed);
        self.page.index(Index::RspProd).store(self.rsp_prod, Ordering::Release);
        fence(Ordering::SeqCst);
        passed(self.page.index(Index::RspEvent).load(Ordering::Relaxed), old, self.rsp_prod)
    }

    /// Asks to be told once `after` more requests are there; whether there are already.
    pub fn wait_for(&mut self, after: u32) -> bool {
        self.page.index(Index::ReqEvent).store(self.req_cons.wrapping_add(after), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.page.index(Index::ReqProd).load(Ordering::Acquire).wrapping_sub(self.req_cons) >= after
    }
}

/// Whether going from `old` to `new` passes `event`.
fn passed(event: u32, old: u32, new: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;

    #[repr(align(4096))]
    struct RingPage([u8; PAGE]);

    type Ends = (Front<[u8; 12], [u8; 4]>, Back<[u8; 12], [u8; 4]>);

    fn page() -> *mut u8 {
        Box::leak(Box::new(RingPage([0xa5; PAGE]))).0.as_mut_ptr()
    }

    fn ring() -> Ends {
        let base = page();
        // SAFETY: a leaked page nobody else has.
        unsafe { (Front::new(base), Back::new(base)) }
    }

    #[test]
    fn sizes_are_the_headers() {
        assert_eq!(ring().0.slots(), 256);
        // SAFETY: as above.
        let block = unsafe { Front::<[u8; 112], [u8; 16]>::new(page()) };
        assert_eq!(block.slots(), 32);
    }

    #[test]
    fn requests_and_responses_cross_in_order() {
        let (mut front, mut back) = ring();
        let mut sent = 0_u8;
        let mut answered = 0_u8;
        for round in 0..100 {
            for _ in 0..(round % 7) {
                front.put([sent; 12]);
                sent = sent.wrapping_add(1);
            }
            let _ = front.push();
            for _ in 0..back.ready().unwrap() {
                let request = back.take();
                back.put([request[0]; 4]);
            }
            let _ = back.push();
            for _ in 0..front.ready().unwrap() {
                assert_eq!(front.take(), [answered; 4]);
                answered = answered.wrapping_add(1);
            }
        }
        assert_eq!(sent, answered);
        assert_eq!(front.room(), 256);
    }

    #[test]
    fn the_other_end_is_told_when_it_asked() {
        let (mut front, mut back) = ring();
        front.put([1; 12]);
        assert!(front.push(), "the first request is always announced");
        front.put([2; 12]);
        assert!(!front.push(), "nobody asked for the second");
        back.take();
        back.take();
        assert!(!back.wait_for(2));
        front.put([3; 12]);
        assert!(!front.push());
        front.put([4; 12]);
        assert!(front.push());
        assert!(back.wait_for(1), "there already");
        back.put([1; 4]);
        assert!(back.push());
    }

    #[test]
    fn impossible_indexes_are_refused() {
        let (front, back) = ring();
        front.page.index(Index::ReqProd).store(257, Ordering::Relaxed);
        assert_eq!(back.ready(), Err(Overrun));
        front.page.index(Index::RspProd).store(1, Ordering::Relaxed);
        assert_eq!(front.ready(), Err(Overrun));
    }
}
