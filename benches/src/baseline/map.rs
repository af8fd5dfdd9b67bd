//! Map, and unmap in its two passes.

use super::locks::Cpu;
use super::table::Table;
use super::{Domain, Xen};
use crate::primitive::{AtomicU16, Ordering, fence};
use gnttab_fast::Status;
use gnttab_fast::abi::{MapGrantRef, UnmapGrantRef, map_flags};

/// Unmaps done between two flushes.
const CHUNK: usize = 32;
const PRESENT: u64 = 1;

const HOST: u16 = 2;
const READONLY: u16 = 4;

/// What the first pass of an unmap leaves to the second.
struct Undone<'x> {
    domain: &'x Domain,
    gref: u32,
    handle: u32,
    readonly: bool,
}

impl Xen<'_> {
    /// Enters a mapping into the mapper's nested page tables under the lock of its guest frames: looks up
    /// what was there, then walks again to write.
    #[inline(never)]
    fn enter_leaf(&self, cpu: &Cpu, gfn: u64, new: u64) -> bool {
        let me = self.me();
        me.p2m_lock.lock(cpu);
        let good =
            Self::lookup(me, gfn).is_some_and(|old| old & PRESENT == 0) && Self::write_leaf(me, gfn, new);
        me.p2m_lock.unlock(cpu);
        good
    }

    /// Takes a mapping of `mfn` down: the frame is locked and looked up, and then removed by what locks and
    /// looks it up again.
    #[inline(never)]
    fn clear_leaf(&self, cpu: &Cpu, gfn: u64, mfn: u32) -> bool {
        let me = self.me();
        let maps_it = |leaf: u64| leaf & PRESENT != 0 && leaf >> 12 == u64::from(mfn);
        me.p2m_lock.lock(cpu);
        let mut good = Self::lookup(me, gfn).is_some_and(maps_it);
        if good {
            me.p2m_lock.lock(cpu);
            good = Self::lookup(me, gfn).is_some_and(maps_it) && Self::write_leaf(me, gfn, 0);
            me.p2m_lock.unlock(cpu);
        }
        me.p2m_lock.unlock(cpu);
        good
    }

    #[inline(never)]
    fn lookup(me: &Domain, gfn: u64) -> Option<u64> {
        Some(me.p2m.walk(gfn)?.load(Ordering::Relaxed))
    }

    /// Writers hold the lock; the processor reads beside them, so it is one store.
    #[inline(never)]
    fn write_leaf(me: &Domain, gfn: u64, new: u64) -> bool {
        me.p2m.walk(gfn).is_some_and(|leaf| {
            leaf.store(new, Ordering::Release);
            true
        })
    }

    #[inline(never)]
    pub(super) fn map_one(&self, cpu: &Cpu, vcpu: usize, op: &mut MapGrantRef) {
        op.status = match self.try_map(cpu, vcpu, op) {
            Ok(()) => Status::Okay.abi(),
            Err(bad) => bad.abi(),
        };
    }

    fn try_map(&self, cpu: &Cpu, vcpu: usize, op: &mut MapGrantRef) -> Result<(), Status> {
        if op.flags & map_flags::HOST_MAP == 0 {
            return Err(Status::BadGntref);
        }
        let me = self.me();
        let rd = self.domain(cpu, op.dom).ok_or(Status::BadDomain)?;
        let result = self.map_from(cpu, vcpu, me, rd, op);
        Self::unlock_domain(cpu, rd);
        result
    }

    fn map_from(
        &self,
        cpu: &Cpu,
        vcpu: usize,
        me: &Domain,
        rd: &Domain,
        op: &mut MapGrantRef,
    ) -> Result<(), Status> {
        if !Self::permitted(me, rd) {
            return Err(Status::PermissionDenied);
        }
        let readonly = op.flags & map_flags::READONLY != 0;
        let handle = me.maptrack.get(cpu, vcpu).ok_or(Status::NoSpace)?;
        rd.table.lock.read(cpu);
        if !rd.table.has(op.gref) {
            rd.table.lock.read_unlock(cpu);
            me.maptrack.put(cpu, handle);
            return Err(Status::BadGntref);
        }
        let act = rd.table.acquire(cpu, op.gref);
        let pinned = self.pin(rd, act, op.gref, readonly);
        Table::release(cpu, act);
        rd.table.lock.read_unlock(cpu);
        let mfn = match pinned {
            Ok(mfn) => mfn,
            Err(bad) => {
                me.maptrack.put(cpu, handle);
                return Err(bad);
            }
        };
        // The frame is looked up a second time, by its number, and its owner compared.
        let page = &self.pages[mfn as usize];
        let again = page.get(rd.id);
        let typed = again && (readonly || page.get_writable());
        let entered = typed && self.enter_leaf(cpu, op.host_addr >> 12, u64::from(mfn) << 12 | PRESENT);
        if again {
            page.put();
        }
        if !entered {
            if typed && !readonly {
                page.put_writable();
            }
            self.release_for_copy(cpu, rd, op.gref, readonly);
            self.pages[mfn as usize].put();
            me.maptrack.put(cpu, handle);
            return Err(Status::GeneralError);
        }
        let mt = me.maptrack.entry(handle).ok_or(Status::GeneralError)?;
        mt.domid.store(rd.id, Ordering::Relaxed);
        mt.gref.store(op.gref, Ordering::Relaxed);
        mt.flags.store(HOST | if readonly { READONLY } else { 0 }, Ordering::Release);
        op.dev_bus_addr = u64::from(mfn) << 12;
        op.handle = handle;
        Ok(())
    }

    #[inline(never)]
    pub(super) fn unmap_batch(&self, cpu: &Cpu, ops: &mut [UnmapGrantRef]) {
        for chunk in ops.chunks_mut(CHUNK) {
            let mut undone: [Option<Undone<'_>>; CHUNK] = [const { None }; CHUNK];
            for (op, slot) in chunk.iter_mut().zip(&mut undone) {
                let local = *op;
                op.status = match self.unmap_first(cpu, &local) {
                    Ok(u) => {
                        *slot = Some(u);
                        Status::Okay.abi()
                    }
                    Err(bad) => bad.abi(),
                };
            }
            // The flush itself is left out on both sides.
            fence(Ordering::SeqCst);
            for u in undone.iter_mut().filter_map(Option::take) {
                self.unmap_second(cpu, &u);
            }
        }
    }

    /// Takes the mapping down.
    #[inline(never)]
    fn unmap_first(&self, cpu: &Cpu, op: &UnmapGrantRef) -> Result<Undone<'_>, Status> {
        let me = self.me();
        let mt = me.maptrack.entry(op.handle).ok_or(Status::BadHandle)?;
        let flags = read(&mt.flags);
        if flags & HOST == 0 {
            return Err(Status::BadHandle);
        }
        let gref = mt.gref.load(Ordering::Relaxed);
        let rd = self.domain(cpu, mt.domid.load(Ordering::Relaxed)).ok_or(Status::BadDomain)?;
        let result = self.unmap_from(cpu, op, rd, gref, flags);
        Self::unlock_domain(cpu, rd);
        result
    }

    fn unmap_from<'s>(
        &'s self,
        cpu: &Cpu,
        op: &UnmapGrantRef,
        rd: &'s Domain,
        gref: u32,
        flags: u16,
    ) -> Result<Undone<'s>, Status> {
        let me = self.me();
        if !Self::permitted(me, rd) {
            return Err(Status::PermissionDenied);
        }
        let mt = me.maptrack.entry(op.handle).ok_or(Status::BadHandle)?;
        rd.table.lock.read(cpu);
        let act = rd.table.acquire(cpu, gref);
        let result = if read(&mt.flags) != flags {
            Err(Status::BadHandle)
        } else {
            let mfn = act.mfn.load(Ordering::Relaxed);
            if self.clear_leaf(cpu, op.host_addr >> 12, mfn) {
                mt.flags.store(flags & !HOST, Ordering::Relaxed);
                Ok(Undone { domain: rd, gref, handle: op.handle, readonly: flags & READONLY != 0 })
            } else {
                Err(Status::GeneralError)
            }
        };
        Table::release(cpu, act);
        rd.table.lock.read_unlock(cpu);
        result
    }

    /// Drops what the mapping held.
    #[inline(never)]
    fn unmap_second(&self, cpu: &Cpu, u: &Undone<'_>) {
        let rd = u.domain;
        rd.table.lock.read(cpu);
        let act = rd.table.acquire(cpu, u.gref);
        let page = &self.pages[act.mfn.load(Ordering::Relaxed) as usize];
        if !u.readonly {
            page.put_writable();
        }
        self.unpin(rd, act, u.gref, u.readonly);
        page.put();
        Table::release(cpu, act);
        rd.table.lock.read_unlock(cpu);
        let maptrack = &self.me().maptrack;
        if let Some(mt) = maptrack.entry(u.handle) {
            mt.flags.store(0, Ordering::Relaxed);
            maptrack.put(cpu, u.handle);
        }
    }
}

#[inline]
fn read(flags: &AtomicU16) -> u16 {
    flags.load(Ordering::Acquire)
}
