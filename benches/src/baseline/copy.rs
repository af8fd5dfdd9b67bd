//! The copy loop: one element after the other, the last buffer of each side kept.

use super::locks::Cpu;
use super::{Domain, Xen};
use crate::engine::ME;
use crate::machine::PAGE;
use crate::primitive::Ordering;
use gnttab_fast::abi::{Copy, CopyPtr, copy_flags};
use gnttab_fast::{DomId, Status};

/// One side of a copy as it is held between elements.
struct Buffer<'x> {
    readonly: bool,
    domain: Option<&'x Domain>,
    ptr: CopyPtr,
    is_gref: bool,
    held: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    mfn: u32,
    start: u16,
    length: u16,
}

impl<'x> Xen<'x> {
    #[inline(never)]
    pub(super) fn copy_batch(&self, cpu: &Cpu, ops: &mut [Copy]) {
        let side =
            |readonly| Buffer { readonly, domain: None, ptr: CopyPtr::default(), is_gref: false, held: None };
        let (mut src, mut dest) = (side(true), side(false));
        for (i, op) in ops.iter_mut().enumerate() {
            if i != 0 && self.preempted() {
                break;
            }
            let local = *op;
            let status = match self.copy_one(cpu, &local, &mut src, &mut dest) {
                Ok(()) => Status::Okay,
                Err(bad) => {
                    self.release_buffer(cpu, &mut src);
                    self.release_buffer(cpu, &mut dest);
                    bad
                }
            };
            op.status = status.abi();
        }
        self.release_buffer(cpu, &mut src);
        self.release_buffer(cpu, &mut dest);
        for d in [src.domain, dest.domain].into_iter().flatten() {
            Self::unlock_domain(cpu, d);
        }
    }

    /// Softirqs and events that would end the batch early: read, and never there.
    #[inline]
    fn preempted(&self) -> bool {
        self.me().log_dirty.load(Ordering::Relaxed) == u64::MAX
    }

    fn copy_one<'s>(
        &'s self,
        cpu: &Cpu,
        op: &Copy,
        src: &mut Buffer<'s>,
        dest: &mut Buffer<'s>,
    ) -> Result<(), Status> {
        let other = |b: &Buffer<'_>, p: &CopyPtr| b.domain.is_none() || b.ptr.domid != p.domid;
        if other(src, &op.source) || other(dest, &op.dest) {
            for (b, p) in [(&mut *src, &op.source), (&mut *dest, &op.dest)] {
                self.release_buffer(cpu, b);
                if let Some(old) = b.domain.take() {
                    Self::unlock_domain(cpu, old);
                }
                let id = if p.domid == DomId::SELF.0 { ME } else { p.domid };
                b.domain = Some(self.domain(cpu, id).ok_or(Status::BadDomain)?);
                b.ptr.domid = p.domid;
            }
            if let (Some(s), Some(d)) = (src.domain, dest.domain)
                && !Self::permitted(s, d)
            {
                return Err(Status::PermissionDenied);
            }
        }
        self.claim_buffer(cpu, src, &op.source, op.flags & copy_flags::SOURCE_GREF != 0)?;
        self.claim_buffer(cpu, dest, &op.dest, op.flags & copy_flags::DEST_GREF != 0)?;
        let (Some(s), Some(d)) = (src.held, dest.held) else { return Err(Status::GeneralError) };
        for (p, h) in [(&op.source, s), (&op.dest, d)] {
            let end = u32::from(p.offset) + u32::from(op.len);
            if end > 4096 {
                return Err(Status::BadCopyArg);
            }
            if p.offset < h.start || end > u32::from(h.start) + u32::from(h.length) {
                return Err(Status::GeneralError);
            }
        }
        let (from, to) = (self.machine.frame(s.mfn), self.machine.frame(d.mfn));
        // SAFETY: both ranges end inside their frames, by the check above; the workload keeps what is
        // copied at the same time apart.
        unsafe {
            rep_movsq(
                to.add(usize::from(op.dest.offset) % PAGE),
                from.add(usize::from(op.source.offset) % PAGE),
                usize::from(op.len),
            );
        }
        if dest.domain.is_some_and(|d| d.log_dirty.load(Ordering::Relaxed) != 0) {
            return Err(Status::GeneralError);
        }
        Ok(())
    }

    #[inline(never)]
    fn claim_buffer(&self, cpu: &Cpu, b: &mut Buffer<'_>, p: &CopyPtr, gref: bool) -> Result<(), Status> {
        if b.held.is_some() && b.is_gref == gref && b.ptr.u == p.u {
            return Ok(());
        }
        self.release_buffer(cpu, b);
        let Some(domain) = b.domain else { return Err(Status::GeneralError) };
        let number = u32::try_from(p.u).map_err(|_| Status::BadGntref)?;
        let held = if gref {
            let (mfn, start, length) = self.acquire_for_copy(cpu, domain, number, b.readonly)?;
            Held { mfn, start, length }
        } else {
            if p.domid != DomId::SELF.0 {
                return Err(Status::PermissionDenied);
            }
            let page = self.pages.get(number as usize).ok_or(Status::BadPage)?;
            if !page.get(domain.id) {
                return Err(Status::BadPage);
            }
            Held { mfn: number, start: 0, length: 4096 }
        };
        b.ptr.u = p.u;
        b.is_gref = gref;
        b.held = Some(held);
        if !b.readonly && !self.pages[held.mfn as usize].get_writable() {
            b.held = None;
            self.pages[held.mfn as usize].put();
            return Err(Status::GeneralError);
        }
        Ok(())
    }

    #[inline(never)]
    fn release_buffer(&self, cpu: &Cpu, b: &mut Buffer<'_>) {
        let (Some(held), Some(domain)) = (b.held.take(), b.domain) else { return };
        let page = &self.pages[held.mfn as usize];
        if !b.readonly {
            page.put_writable();
        }
        if b.is_gref {
            self.release_for_copy(cpu, domain, u32::try_from(b.ptr.u).unwrap_or(u32::MAX), b.readonly);
        }
        page.put();
    }
}

/// Copies by `REP MOVSQ` and the rest by `REP MOVSB`.
///
/// # Safety
/// Both ranges are valid for `len` bytes, and nothing else uses them as Rust objects.
#[inline]
unsafe fn rep_movsq(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}
