//! The per-CPU part: a magazine of two free lists, and [`Local`], the right to use one.
//!
//! `active` serves the CPU as a LIFO; `spare` is a full or an empty list beside it, so that a CPU which
//! swings around a list boundary trades with the depot once in `LIST_LEN` handles at the earliest.
//!
//! A magazine is used under its lock, a word that holds the locker's CPU number. The lock is local and
//! uncontended - one exchange on a line that is in the cache - except while another CPU steals, which
//! happens only when the table is at its limit. A hypercall takes it once for all elements of a batch.
//! Lock order: a CPU that holds its own magazine only *tries* others; who wants all of them (`exclusive`)
//! first lets go of its own and then locks in the order of CPU numbers. So no cycle.

use crate::Maptrack;
use crate::handle::{Claim, Halves, Handle, NoSpace, Reserved, Taken, Vacant};
use crate::list::{LIST_LEN, List};
use crate::primitive::{AtomicU32, AtomicU64, Ordering, spin_loop};
use crate::store::{Entry, PageSource, Store};

/// Lost races for fresh entries after which a CPU stops trying without exclusion.
const CARVE_TRIES: u32 = 4;

/// One CPU's free lists. All fields but `lock` are read and written under `lock` only.
pub(crate) struct Magazine {
    /// Number of the CPU that holds it plus one, 0 if free.
    lock: AtomicU32,
    active: AtomicU64,
    spare: AtomicU64,
}

impl Magazine {
    pub(crate) fn new() -> Self {
        Self {
            lock: AtomicU32::new(0),
            active: AtomicU64::new(List::EMPTY.to_word()),
            spare: AtomicU64::new(List::EMPTY.to_word()),
        }
    }

    /// Free handles in here, as of the last time it was let go.
    pub(crate) fn free(&self) -> u64 {
        u64::from(self.active().len()) + u64::from(self.spare().len())
    }

    /// Takes the lock, or tells who holds it: a CPU number plus one.
    #[inline]
    fn try_lock(&self, cpu: u32) -> Result<(), u32> {
        self.lock.compare_exchange(0, cpu + 1, Ordering::Acquire, Ordering::Relaxed).map(|_| ())
    }

    #[inline]
    fn lock(&self, cpu: u32) {
        if self.try_lock(cpu).is_err() {
            self.lock_contended(cpu);
        }
    }

    /// Waits for another CPU to let go: it holds the lock for one batch of handles at most.
    #[cold]
    fn lock_contended(&self, cpu: u32) {
        while let Err(holder) = self.try_lock(cpu) {
            assert!(holder != cpu + 1, "maptrack: pCPU {cpu} locks a magazine it holds already");
            spin_loop();
        }
    }

    #[inline]
    fn unlock(&self) {
        self.lock.store(0, Ordering::Release);
    }

    #[inline]
    fn active(&self) -> List {
        List::from_word(self.active.load(Ordering::Relaxed))
    }

    #[inline]
    fn set_active(&self, list: List) {
        self.active.store(list.to_word(), Ordering::Relaxed);
    }

    fn spare(&self) -> List {
        List::from_word(self.spare.load(Ordering::Relaxed))
    }

    fn set_spare(&self, list: List) {
        self.spare.store(list.to_word(), Ordering::Relaxed);
    }

    /// Takes the spare list, or the active one if there is no spare.
    fn rob(&self) -> List {
        let spare = self.spare();
        if spare.is_empty() {
            let active = self.active();
            self.set_active(List::EMPTY);
            active
        } else {
            self.set_spare(List::EMPTY);
            spare
        }
    }
}

/// One CPU's magazine, held. Take it once for a batch of elements and drop it at the batch's end.
///
/// Only the CPU it is named after may hold it, once. Others wait for it only when the table is exhausted,
/// and then with interrupts off in the hypervisor: so hold it across nothing that waits for other CPUs
/// (a TLB flush) and nothing longer than a batch.
pub struct Local<'a, S: PageSource> {
    table: &'a Maptrack<S>,
    magazine: &'a Magazine,
    /// The magazine's active list while it is held: in registers, written back when it is let go.
    active: List,
    cpu: u32,
}

impl<'a, S: PageSource> Local<'a, S> {
    #[inline]
    pub(crate) fn new(table: &'a Maptrack<S>, cpu: u32) -> Self {
        let magazine: &Magazine = &table.magazines[cpu as usize];
        magazine.lock(cpu);
        Self { table, magazine, active: magazine.active(), cpu }
    }

    /// Takes a free handle.
    ///
    /// # Errors
    /// [`NoSpace`] if at some instant of the call no handle was free anywhere and the table could not grow.
    #[inline]
    pub fn alloc(&mut self) -> Result<Reserved, NoSpace> {
        Ok(Reserved(self.alloc_vacant()?.handle))
    }

    /// [`Local::alloc`] for who publishes it soon.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn alloc_vacant(&mut self) -> Result<Vacant<'a>, NoSpace> {
        if self.active.is_empty() {
            self.active = refill(self.table, self.magazine, self.cpu);
        }
        let (index, entry) = self.active.pop(&self.table.store).ok_or(NoSpace)?;
        Ok(Vacant { handle: Handle::new(index, entry.generation()), entry })
    }

    /// Takes back a handle that was never published.
    #[inline]
    pub fn free(&mut self, reserved: Reserved) {
        let Reserved(handle) = reserved;
        self.free_vacant(Vacant { handle, entry: self.table.store.own_entry(handle.index()) });
    }

    /// Takes back a handle that was never published.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the right to it ends here")]
    pub fn free_vacant(&mut self, vacant: Vacant<'a>) {
        self.put(vacant.handle, vacant.entry);
    }

    /// Ends an unmap; see [`Maptrack::finish_unmap`].
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the claim ends here")]
    pub fn finish_unmap(&mut self, claim: Claim) -> bool {
        let entry = self.table.store.own_entry(claim.handle().index());
        self.finish(claim.handle(), claim.halves(), entry)
    }

    /// As [`Local::finish_unmap`].
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the claim ends here")]
    pub fn finish_taken(&mut self, taken: Taken<'a>) -> bool {
        self.finish(taken.handle(), taken.halves(), taken.entry)
    }

    #[inline]
    fn finish(&mut self, handle: Handle, halves: Halves, entry: Entry<'_>) -> bool {
        let last = entry.finish(handle, halves);
        if last {
            self.put(handle, entry);
        }
        last
    }

    #[inline]
    fn put(&mut self, handle: Handle, entry: Entry<'_>) {
        entry.retire(handle);
        if self.active.is_full() {
            spill(self.table, self.magazine, self.active);
            self.active = List::EMPTY;
        }
        self.active.push(entry, handle.index());
    }
}

impl<S: PageSource> Drop for Local<'_, S> {
    #[inline]
    fn drop(&mut self) {
        self.magazine.set_active(self.active);
        self.magazine.unlock();
    }
}

/// Puts a full active list aside, and what was there into the depot.
#[cold]
fn spill<S: PageSource>(table: &Maptrack<S>, magazine: &Magazine, full: List) {
    table.depot.push(&table.store, magazine.spare());
    magazine.set_spare(full);
}

/// Finds a list for the empty magazine that `cpu` holds: the spare, the depot, fresh entries, other CPUs'
/// lists, and at last, with every magazine held, the truth.
#[cold]
fn refill<S: PageSource>(table: &Maptrack<S>, magazine: &Magazine, cpu: u32) -> List {
    let spare = magazine.spare();
    if !spare.is_empty() {
        magazine.set_spare(List::EMPTY);
        return spare;
    }
    let shared = table.depot.pop(&table.store);
    if !shared.is_empty() {
        return shared;
    }
    let fresh = table.carve();
    if !fresh.is_empty() {
        return fresh;
    }
    let loot = steal(table, cpu);
    if !loot.is_empty() {
        return loot;
    }
    exclusive(table, magazine, cpu)
}

/// Asks each other CPU once, beginning with the next one, without waiting.
fn steal<S: PageSource>(table: &Maptrack<S>, cpu: u32) -> List {
    let (before, from_self) = table.magazines.split_at(cpu as usize);
    for victim in from_self.iter().skip(1).chain(before) {
        if victim.try_lock(cpu).is_ok() {
            let loot = victim.rob();
            victim.unlock();
            if !loot.is_empty() {
                return loot;
            }
        }
    }
    List::EMPTY
}

/// Holds all magazines at once. Every list outside a magazine and the depot is in the hands of a CPU that
/// holds its own magazine, so now there is none, and what is not found here is not free.
///
/// Our own magazine is let go first, for the order of locking. It is empty and only we fill it, so it is
/// still empty when we have it back - and from then on we keep it, the list in our hands.
fn exclusive<S: PageSource>(table: &Maptrack<S>, magazine: &Magazine, cpu: u32) -> List {
    magazine.set_active(List::EMPTY);
    magazine.unlock();
    for m in &table.magazines {
        m.lock(cpu);
    }
    let mut list = table.depot.pop(&table.store);
    if list.is_empty() {
        list = table.carve();
    }
    for (m, of) in table.magazines.iter().zip(0..) {
        if list.is_empty() {
            list = m.rob();
        }
        if of != cpu {
            m.unlock();
        }
    }
    list
}

impl<S: PageSource> Maptrack<S> {
    /// A list of entries never used before, growing the store if need be.
    #[cold]
    fn carve(&self) -> List {
        for _ in 0..CARVE_TRIES {
            let published = self.store.published();
            let first = self.fresh.load(Ordering::Acquire);
            if first >= published {
                if !self.store.grow(published) {
                    return List::EMPTY;
                }
                continue;
            }
            let end = published.min(first + LIST_LEN);
            if self.fresh.compare_exchange(first, end, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return fresh_list(&self.store, first, end);
            }
        }
        List::EMPTY
    }
}

/// Links the entries `first..end`, lowest first out.
fn fresh_list<S: PageSource>(store: &Store<S>, first: u32, end: u32) -> List {
    let mut list = List::EMPTY;
    for index in (first..end).rev() {
        let entry = store.own_entry(index);
        entry.init();
        list.push(entry, index);
    }
    list
}
