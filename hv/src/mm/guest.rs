//! Access to guest memory: by linear address, as the vCPU's present paging mode maps it, and by frame.
//!
//! The guest, on its other vCPUs and through its own grants, may write any of these bytes while we look at
//! them. So nothing here is ever a reference to guest bytes, except to atomics: values are copied in or out,
//! by an instruction the compiler does not know, and each is read once. A fault never changes anything and
//! is the guest's own: `-EFAULT`.
//!
//! The walker reads the guest's page tables in guest memory (AMD APM vol. 2, chapter 5), as supervisor,
//! with CR0.WP and NX as they stand; it sets accessed and dirty bits as the hardware would, so that a
//! guest that relies on them does not lose a page. A page that the p2m maps read-only (a read-only grant, XSA-98)
//! refuses writes whatever the guest's tables say.
//!
//! A page found here stays what it is while the caller is pinned ([`crate::epoch`]): hence the lifetime.

use core::{
    marker::PhantomData,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use arrayvec::ArrayVec;
use crossbeam_epoch::Guard;
use gnttab_fast::{
    Cells,
    types::{Gfn, Mfn, PAGE_SHIFT, PAGE_SIZE},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{p2m::P2m, phys_to_virt};

/// The guest's address does not translate, or may not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

/// What a page is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// The registers that decide how linear addresses translate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Paging {
    /// CR0
    pub cr0: u64,
    /// CR3
    pub cr3: u64,
    /// CR4
    pub cr4: u64,
    /// EFER
    pub efer: u64,
}

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const PTE_PRESENT: u64 = 1 << 0;
const PTE_WRITE: u64 = 1 << 1;
const PTE_ACCESSED: u64 = 1 << 5;
const PTE_DIRTY: u64 = 1 << 6;
const PTE_LARGE: u64 = 1 << 7;
const PTE_FRAME: u64 = 0x000f_ffff_ffff_f000;

/// A page of guest memory that the hypervisor may touch while `'a` lasts.
#[derive(Clone, Copy, Debug)]
pub struct GuestPage<'a> {
    base: *mut u8,
    writable: bool,
    _lives: PhantomData<&'a ()>,
}

// SAFETY: a GuestPage is an address of the direct map, which is the same on every CPU, and all access through it
// is by atomics or copies that tolerate races.
unsafe impl Send for GuestPage<'_> {}
// SAFETY: as above.
unsafe impl Sync for GuestPage<'_> {}

impl<'a> GuestPage<'a> {
    /// May it be written?
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.writable
    }

    /// Where it is, for the copy engine.
    #[must_use]
    pub const fn base(&self) -> *mut u8 {
        self.base
    }

    #[inline(always)]
    const fn check_writable(&self) -> Result<(), Fault> {
        if !self.writable {
            return Err(Fault);
        }
        Ok(())
    }

    /// Copies out of the page.
    ///
    /// # Errors
    /// When `offset + out.len()` passes the end of the page.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result<(), Fault> {
        check(offset, out.len())?;
        // SAFETY: the range is inside the page just checked, the page is mapped while 'a lasts, `out` is ours.
        unsafe { copy_bytes(out.as_mut_ptr(), self.base.add(offset), out.len()) };
        Ok(())
    }

    /// Copies into the page.
    ///
    /// # Errors
    /// When the range passes the end of the page, or the page is read-only.
    #[inline]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        check(offset, bytes.len())?;
        self.check_writable()?;
        // SAFETY: as in `read`, and the page may be written.
        unsafe { copy_bytes(self.base.add(offset), bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// The structures from `offset` on that lie in the page, at most `most`; none if they are not aligned there.
    ///
    /// # Errors
    /// When the page is read-only.
    #[inline]
    pub fn cells<T: Cells>(&self, offset: usize, most: usize) -> Result<&'a [T], Fault> {
        self.check_writable()?;
        if !offset.is_multiple_of(align_of::<T>()) {
            return Ok(&[]);
        }
        let fit = (PAGE_SIZE.saturating_sub(offset) / size_of::<T>()).min(most);
        // SAFETY: `fit` structures from `offset` lie in the page, aligned as the page and `offset` are. `Cells`
        // are atomic integers without padding, so any bytes are one and the guest's writes are no data race;
        // the page is mapped while 'a lasts. For none, `base` is still a good place to point to.
        Ok(unsafe { core::slice::from_raw_parts(self.base.wrapping_add(offset).cast::<T>(), fit) })
    }

    /// Entry `index` of the page as a table.
    #[inline(always)]
    fn entry(&self, index: u64) -> &'a AtomicU64 {
        let offset = (index & 511) as usize * 8;
        // SAFETY: inside the page and aligned, as the page is; the rest as in `atomic`.
        unsafe { &*self.base.add(offset).cast::<AtomicU64>() }
    }

    /// Copies aligned words out of the page, each read once.
    ///
    /// # Errors
    /// When they pass the end of the page, or are not aligned.
    #[inline(always)]
    pub fn read_words(&self, offset: usize, out: &mut [[u8; 8]]) -> Result<(), Fault> {
        check(offset, size_of_val(out))?;
        if !offset.is_multiple_of(8) {
            return Err(Fault);
        }
        for (index, word) in out.iter_mut().enumerate() {
            // SAFETY: word `index` of the range just checked; the rest as in `atomic`.
            let from = unsafe { &*self.base.add(offset + index * 8).cast::<AtomicU64>() };
            *word = from.load(Ordering::Relaxed).to_le_bytes();
        }
        Ok(())
    }

    #[inline]
    fn atomic<T>(&self, offset: usize) -> Result<&'a T, Fault> {
        check(offset, size_of::<T>())?;
        if !offset.is_multiple_of(align_of::<T>()) {
            return Err(Fault);
        }
        // SAFETY: inside the page and aligned, just checked; T is an atomic integer (private callers), for which
        // every bit pattern is valid and concurrent access is defined; the page is mapped while 'a lasts.
        Ok(unsafe { &*self.base.add(offset).cast::<T>() })
    }

    /// A 16-bit word shared with the guest. Whoever stores checks [`GuestPage::writable`] first.
    ///
    /// # Errors
    /// When it is not inside the page, or not aligned.
    pub fn atomic_u16(&self, offset: usize) -> Result<&'a AtomicU16, Fault> {
        self.atomic(offset)
    }

    /// A 32-bit word shared with the guest.
    ///
    /// # Errors
    /// When it is not inside the page, or not aligned.
    pub fn atomic_u32(&self, offset: usize) -> Result<&'a AtomicU32, Fault> {
        self.atomic(offset)
    }

    /// A 64-bit word shared with the guest.
    ///
    /// # Errors
    /// When it is not inside the page, or not aligned.
    pub fn atomic_u64(&self, offset: usize) -> Result<&'a AtomicU64, Fault> {
        self.atomic(offset)
    }
}

#[inline(always)]
fn check(offset: usize, len: usize) -> Result<(), Fault> {
    if offset.checked_add(len).is_some_and(|end| end <= PAGE_SIZE) { Ok(()) } else { Err(Fault) }
}

/// Longer copies are left to REP MOVS.
const FEW_BYTES: usize = 64;

/// Copies bytes that somebody else may be writing or reading: one pass, by words, in instructions
/// the compiler cannot split, repeat or reorder.
///
/// # Safety
/// `to` is valid for writes and `from` for reads of `len` bytes.
#[inline(always)]
unsafe fn copy_bytes(to: *mut u8, from: *const u8, len: usize) {
    if len > FEW_BYTES {
        // SAFETY: the caller's.
        unsafe { copy_many(to, from, len) };
        return;
    }
    let mut at = 0;
    macro_rules! word {
        ($register:literal, $kind:ident, $bytes:literal) => {
            // SAFETY: `at + $bytes` is at most `len`, so both places are inside the ranges (caller).
            unsafe {
                core::arch::asm!(
                    concat!("mov {word", $register, "}, [{from}]"),
                    concat!("mov [{to}], {word", $register, "}"),
                    word = out($kind) _, from = in(reg) from.add(at), to = in(reg) to.add(at),
                    options(nostack, preserves_flags)
                );
            }
            at += $bytes;
        };
    }
    // The usual structure has a size the compiler knows: no loop is left of this.
    while at + 8 <= len {
        word!("", reg, 8);
    }
    if len & 4 != 0 {
        word!(":e", reg, 4);
    }
    if len & 2 != 0 {
        word!(":x", reg, 2);
    }
    if at < len {
        word!("", reg_byte, 1);
    }
    let _ = at;
}

/// # Safety
/// As [`copy_bytes`].
unsafe fn copy_many(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: both ranges are valid (caller); DF is clear as the ABI wants; the direct map holds guest bytes only.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov ecx, {tail:e}",
            "rep movsb",
            tail = in(reg) len & 7,
            inout("rcx") len >> 3 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
}

/// The memory of one vCPU's domain as hypercall arguments name it.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpace<'a> {
    p2m: &'a P2m,
    paging: Paging,
    guard: &'a Guard,
}

/// Most pages one [`ArgWindow`] spans.
pub const WINDOW_PAGES: usize = 4;

/// A range of linear addresses whose pages have been walked: an array of hypercall arguments.
#[derive(Clone, Debug)]
pub struct ArgWindow<'a> {
    pages: ArrayVec<GuestPage<'a>, WINDOW_PAGES>,
    /// Offset of the first byte in the first page.
    start: usize,
    len: usize,
}

impl<'a> ArgWindow<'a> {
    /// Bytes of the range.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Is the range empty?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies out of the range.
    ///
    /// # Errors
    /// When `at + out.len()` passes its end.
    pub fn read(&self, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        self.pieces(at, out.len(), |page, offset, done, len| page.read(offset, &mut out[done..done + len]))
    }

    /// Copies into the range.
    ///
    /// # Errors
    /// When `at + bytes.len()` passes its end, or a page is read-only.
    pub fn write(&self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        self.pieces(at, bytes.len(), |page, offset, done, len| page.write(offset, &bytes[done..done + len]))
    }

    fn pieces(
        &self,
        at: usize,
        len: usize,
        mut each: impl FnMut(&GuestPage<'a>, usize, usize, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Fault);
        }
        let mut done = 0;
        while done < len {
            let offset = self.start + at + done;
            let page = self.pages.get(offset / PAGE_SIZE).ok_or(Fault)?;
            let offset = offset % PAGE_SIZE;
            let piece = (len - done).min(PAGE_SIZE - offset);
            each(page, offset, done, piece)?;
            done += piece;
        }
        Ok(())
    }
}

impl<'a> GuestSpace<'a> {
    /// The space of a vCPU with this `paging` on this `p2m`; pages stay while `guard` is held.
    #[must_use]
    pub const fn new(p2m: &'a P2m, paging: Paging, guard: &'a Guard) -> Self {
        Self { p2m, paging, guard }
    }

    /// The guard pages live under.
    #[must_use]
    pub const fn guard(&self) -> &'a Guard {
        self.guard
    }

    /// A frame of the domain by its number.
    ///
    /// # Errors
    /// When nothing is mapped there, or it may not be accessed so.
    #[inline(always)]
    pub fn frame(&self, gfn: Gfn, access: Access) -> Result<GuestPage<'a>, Fault> {
        let (mfn, writable) = self.p2m.frame(gfn).ok_or(Fault)?;
        if access == Access::Write && !writable {
            return Err(Fault);
        }
        Ok(GuestPage { base: phys_to_virt(mfn.0 << PAGE_SHIFT), writable, _lives: PhantomData })
    }

    /// The machine frame at a linear address, for who pins it.
    ///
    /// # Errors
    /// As [`GuestSpace::page`].
    pub fn mfn(&self, linear: u64, access: Access) -> Result<Mfn, Fault> {
        let gfn = Gfn(self.walk(linear, access)? >> PAGE_SHIFT);
        let entry = self.p2m.lookup(gfn).filter(|entry| access == Access::Read || entry.writable());
        entry.map(|entry| entry.mfn).ok_or(Fault)
    }

    /// The page at a linear address.
    ///
    /// # Errors
    /// When the guest's tables or the p2m do not allow it.
    #[inline(never)]
    pub fn page(&self, linear: u64, access: Access) -> Result<GuestPage<'a>, Fault> {
        self.page_here(linear, access)
    }

    /// [`GuestSpace::page`], to stand where it is called.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn page_here(&self, linear: u64, access: Access) -> Result<GuestPage<'a>, Fault> {
        self.frame(Gfn(self.walk(linear, access)? >> PAGE_SHIFT), access)
    }

    /// Walks the pages of `len` bytes at `linear`, once each.
    ///
    /// # Errors
    /// When one of them does not translate, or the range spans more than [`WINDOW_PAGES`].
    pub fn window(&self, linear: u64, len: usize, access: Access) -> Result<ArgWindow<'a>, Fault> {
        let mut pages = ArrayVec::new();
        let start = offset_of(linear);
        // Nothing is touched for an empty range, wherever it is.
        let count = if len == 0 { 0 } else { start.checked_add(len).ok_or(Fault)?.div_ceil(PAGE_SIZE) };
        let mut at = linear - start as u64;
        for _ in 0..count {
            pages.try_push(self.page(at, access)?).map_err(|_| Fault)?;
            at = at.wrapping_add(PAGE_SIZE as u64);
        }
        Ok(ArgWindow { pages, start, len })
    }

    /// Copies from linear addresses.
    ///
    /// # Errors
    /// When a page does not translate: what was copied by then is in `out`, and worthless.
    #[inline]
    pub fn read(&self, linear: u64, out: &mut [u8]) -> Result<(), Fault> {
        let offset = offset_of(linear);
        if out.len() <= PAGE_SIZE - offset {
            return if out.is_empty() { Ok(()) } else { self.page(linear, Access::Read)?.read(offset, out) };
        }
        self.pages(linear, out.len(), Access::Read, |page, offset, done, len| {
            page.read(offset, &mut out[done..done + len])
        })
    }

    /// Copies to linear addresses.
    ///
    /// # Errors
    /// When a page does not translate or may not be written: the pages before it have been.
    #[inline]
    pub fn write(&self, linear: u64, bytes: &[u8]) -> Result<(), Fault> {
        let offset = offset_of(linear);
        if bytes.len() <= PAGE_SIZE - offset {
            let none = bytes.is_empty();
            return if none { Ok(()) } else { self.page(linear, Access::Write)?.write(offset, bytes) };
        }
        self.pages(linear, bytes.len(), Access::Write, |page, offset, done, len| {
            page.write(offset, &bytes[done..done + len])
        })
    }

    fn pages(
        &self,
        linear: u64,
        len: usize,
        access: Access,
        mut each: impl FnMut(&GuestPage<'a>, usize, usize, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = linear.wrapping_add(done as u64);
            let offset = offset_of(at);
            let piece = (len - done).min(PAGE_SIZE - offset);
            each(&self.page(at, access)?, offset, done, piece)?;
            done += piece;
        }
        Ok(())
    }

    /// Reads one structure of the ABI.
    ///
    /// # Errors
    /// As [`GuestSpace::read`].
    pub fn read_val<T: FromBytes + IntoBytes>(&self, linear: u64) -> Result<T, Fault> {
        let mut value = T::new_zeroed();
        self.read(linear, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes one structure of the ABI.
    ///
    /// # Errors
    /// As [`GuestSpace::write`].
    pub fn write_val<T: IntoBytes + Immutable>(&self, linear: u64, value: &T) -> Result<(), Fault> {
        self.write(linear, value.as_bytes())
    }

    /// Linear to guest-physical.
    #[inline(always)]
    fn walk(&self, linear: u64, access: Access) -> Result<u64, Fault> {
        let Paging { cr0, cr3, cr4, efer } = self.paging;
        if cr0 & CR0_PG == 0 {
            return Ok(linear & 0xffff_ffff);
        }
        if efer & EFER_LMA != 0 {
            // Five levels are not offered to guests (CPUID), and not walked.
            if cr4 & CR4_LA57 != 0 {
                return Err(Fault);
            }
            let canonical = linear.cast_signed() << 16 >> 16;
            if canonical.cast_unsigned() != linear {
                return Err(Fault);
            }
            return self.walk_wide::<true>(cr3 & PTE_FRAME, linear, access);
        }
        self.walk_32(linear & 0xffff_ffff, access)
    }

    /// Linear to guest-physical outside long mode.
    #[cold]
    fn walk_32(&self, linear: u64, access: Access) -> Result<u64, Fault> {
        let Paging { cr3, cr4, .. } = self.paging;
        if cr4 & CR4_PAE == 0 {
            return self.walk_narrow(linear, access);
        }
        // The four pointers stand in a 32-byte line at CR3; they have no rights of their own.
        let page = self.frame(Gfn(cr3 >> PAGE_SHIFT), Access::Read)?;
        let offset = usize::try_from((cr3 & 0xfe0) + (linear >> 30) * 8).map_err(|_| Fault)?;
        let entry = page.atomic_u64(offset)?.load(Ordering::Acquire);
        if entry & PTE_PRESENT == 0 {
            return Err(Fault);
        }
        self.walk_wide::<false>(entry & PTE_FRAME, linear, access)
    }

    /// Tables of 64-bit entries, from a PML4 or, unless `LONG`, from a page directory down.
    #[inline(always)]
    fn walk_wide<const LONG: bool>(&self, root: u64, linear: u64, access: Access) -> Result<u64, Fault> {
        let mut table = root;
        // Rights that all levels have.
        let mut rights = PTE_WRITE;
        if LONG {
            let (page, slot, entry) = self.entry::<3>(table, linear)?;
            // Level 3 has no leaves.
            if entry & PTE_LARGE != 0 {
                return Err(Fault);
            }
            rights &= entry;
            table = below(&page, slot, entry)?;
            let (page, slot, entry) = self.entry::<2>(table, linear)?;
            rights &= entry;
            if entry & PTE_LARGE != 0 {
                return self.leaf::<2>(&page, slot, (entry, rights), linear, access);
            }
            table = below(&page, slot, entry)?;
        }
        let (page, slot, entry) = self.entry::<1>(table, linear)?;
        rights &= entry;
        if entry & PTE_LARGE != 0 {
            return self.leaf::<1>(&page, slot, (entry, rights), linear, access);
        }
        let (page, slot, entry) = self.entry::<0>(below(&page, slot, entry)?, linear)?;
        self.leaf::<0>(&page, slot, (entry, rights & entry), linear, access)
    }

    /// The entry for `linear` in the table at `table`, of level `LEVEL`.
    #[inline(always)]
    fn entry<const LEVEL: u32>(
        &self,
        table: u64,
        linear: u64,
    ) -> Result<(GuestPage<'a>, &'a AtomicU64, u64), Fault> {
        let page = self.frame(Gfn(table >> PAGE_SHIFT), Access::Read)?;
        let slot = page.entry(linear >> (PAGE_SHIFT + 9 * LEVEL));
        Ok((page, slot, slot.load(Ordering::Acquire)))
    }

    /// The end of a walk: the leaf of level `LEVEL` at `slot` of `page`, and the rights that all levels have.
    #[inline(always)]
    fn leaf<const LEVEL: u32>(
        &self,
        page: &GuestPage<'_>,
        slot: &AtomicU64,
        (entry, rights): (u64, u64),
        linear: u64,
        access: Access,
    ) -> Result<u64, Fault> {
        if entry & PTE_PRESENT == 0 {
            return Err(Fault);
        }
        self.may(rights != 0, access)?;
        mark(page, slot, entry, marks(true, access));
        let within = (1 << (PAGE_SHIFT + 9 * LEVEL)) - 1;
        Ok((entry & PTE_FRAME & !within) | (linear & within))
    }

    /// Two levels of 32-bit entries, with 4 MiB pages.
    fn walk_narrow(&self, linear: u64, access: Access) -> Result<u64, Fault> {
        let mut table = self.paging.cr3 & 0xffff_f000;
        let mut writable = true;
        for level in [1u32, 0] {
            let page = self.frame(Gfn(table >> PAGE_SHIFT), Access::Read)?;
            let shift = PAGE_SHIFT + 10 * level;
            let index = usize::try_from((linear >> shift) & 1023).map_err(|_| Fault)?;
            let slot = page.atomic_u32(index * 4)?;
            let entry = slot.load(Ordering::Acquire);
            let wide = u64::from(entry);
            if wide & PTE_PRESENT == 0 {
                return Err(Fault);
            }
            writable &= wide & PTE_WRITE != 0;
            let large = level == 1 && wide & PTE_LARGE != 0 && self.paging.cr4 & CR4_PSE != 0;
            let last = level == 0 || large;
            if last {
                self.may(writable, access)?;
            }
            let marks = u32::try_from(marks(last, access)).map_err(|_| Fault)?;
            if entry & marks != marks && page.writable() {
                let _ = slot.compare_exchange(entry, entry | marks, Ordering::AcqRel, Ordering::Relaxed);
            }
            if large {
                // PSE-36: bits 13 to 20 of the entry are bits 32 to 39 of the address.
                let high = ((wide >> 13) & 0xff) << 32;
                return Ok(high | (wide & 0xffc0_0000) | (linear & 0x003f_ffff));
            }
            if last {
                return Ok((wide & 0xffff_f000) | (linear & 0xfff));
            }
            table = wide & 0xffff_f000;
        }
        Err(Fault)
    }

    fn may(&self, writable: bool, access: Access) -> Result<(), Fault> {
        if access == Access::Write && !writable && self.paging.cr0 & CR0_WP != 0 {
            return Err(Fault);
        }
        Ok(())
    }
}

/// Where in its page an address lies.
#[expect(clippy::cast_possible_truncation, reason = "below the page size")]
const fn offset_of(linear: u64) -> usize {
    (linear % PAGE_SIZE as u64) as usize
}

/// Sets bits of an entry that was `entry`, as the hardware would. Lost against a concurrent change: the guest
/// races itself, and we keep to what we read.
#[inline(always)]
fn mark(page: &GuestPage<'_>, slot: &AtomicU64, entry: u64, bits: u64) {
    if entry & bits != bits && page.writable() {
        let _ = slot.compare_exchange(entry, entry | bits, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The table that an entry of a table above points to.
#[inline(always)]
fn below(page: &GuestPage<'_>, slot: &AtomicU64, entry: u64) -> Result<u64, Fault> {
    if entry & (PTE_PRESENT | PTE_ACCESSED) != PTE_PRESENT | PTE_ACCESSED {
        if entry & PTE_PRESENT == 0 {
            return Err(Fault);
        }
        mark(page, slot, entry, PTE_ACCESSED);
    }
    Ok(entry & PTE_FRAME)
}

/// The bits the hardware would set.
const fn marks(last: bool, access: Access) -> u64 {
    match (last, access) {
        (true, Access::Write) => PTE_ACCESSED | PTE_DIRTY,
        _ => PTE_ACCESSED,
    }
}

#[cfg(test)]
mod tests;
