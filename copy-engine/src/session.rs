//! Whose vector registers they are.
//!
//! During a hypercall the guest's XMM0-15 are in the exit stub's frame, but the upper halves of YMM0-15 and
//! all of ZMM16-31 still sit in the processor: nothing but the copy kernels touches them. A session is the
//! time in which a kernel may. It lasts one hypercall, however many elements that has, and saves by hand
//! exactly the registers the kernel uses: some 10 cycles, where XSAVE and XRSTOR take 200 to 400.
//!
//! **Live or not.** XGETBV with ECX = 1 (XINUSE, AMD APM volume 2, 11.5) tells which states differ from their
//! initial value. If the upper halves are in their initial state there is nothing to save, and they
//! must be *returned* to it: by VZEROUPPER, rather than a load of zeroes, so that the guest's SSE code does
//! not pay for upper halves in use and its next XSAVE does not grow. If they are live, VZEROUPPER would
//! destroy the twelve registers that are not saved, and the four are loaded back. Where XINUSE cannot be
//! asked the registers are saved. Either way nothing of the copied bytes stays behind for the guest to read.
//!
//! **Only when it pays.** Asking XINUSE and returning the registers cost 70 to 100 cycles here (Zen 3; the
//! question is the larger part), and the wide kernels win 4 cycles for a header and 90 for a page over SSE2,
//! which needs none of this. So a session begins with nothing saved, copies with SSE2 while there is
//! little to copy, and *widens* at the first batch that pays for it.
//!
//! **XCR0** must be during a session what it was when the kernel was chosen: the hypervisor's own.

use core::cell::{Cell, UnsafeCell};
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use crate::Segment;
use crate::arch::sse2::Sse2;
use crate::arch::{avx2, avx512};
use crate::batch;
use crate::cpu::{self, STATE_YMM_HIGH, STATE_ZMM_16_31};
use crate::engine::{Engine, Kernel};

/// Bytes from which a batch pays for widening.
const PAYS_BYTES: usize = 4096;
/// Segments from which it does without counting bytes, even if all are headers.
const PAYS_SEGMENTS: usize = 32;

/// What is known of the guest's wide registers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wide {
    /// Not touched, not looked at.
    Guests,
    /// Were in their initial state; to be returned to it.
    Initial,
    /// Were in use; saved.
    Saved,
}

/// Room for what any kernel saves.
type Area = avx512::Saved;
const _: () = assert!(size_of::<avx2::Saved>() <= size_of::<Area>());

/// The right to copy: the guest's wide vector state is safe until this is dropped.
///
/// Stays on the pCPU that opened it.
pub struct Session<'e> {
    engine: &'e Engine,
    wide: Cell<Wide>,
    area: UnsafeCell<MaybeUninit<Area>>,
    /// Registers belong to a pCPU: neither `Send` nor `Sync`.
    here: PhantomData<*mut ()>,
}

impl<'e> Session<'e> {
    /// [`Engine::begin`].
    #[inline]
    pub(crate) fn begin(engine: &'e Engine) -> Self {
        Self {
            engine,
            wide: Cell::new(Wide::Guests),
            area: UnsafeCell::new(MaybeUninit::uninit()),
            here: PhantomData,
        }
    }

    /// Uses the engine's own kernel from now on, however little there is to copy. Otherwise a session does so
    /// from its first batch of 32 segments or 4 KiB.
    #[inline(never)]
    pub fn widen(&self) {
        if self.wide.get() != Wide::Guests {
            return;
        }
        let area = self.area.get();
        let wide = match self.engine.kernel {
            Kernel::Rep(_) | Kernel::Sse2(_) => return,
            Kernel::Avx2(_) if in_use(self.engine, STATE_YMM_HIGH) => {
                // SAFETY: the token proves AVX; the area is the session's own, and no reference to it exists.
                unsafe { avx2::save(area.cast()) };
                Wide::Saved
            }
            Kernel::Avx512(_) if in_use(self.engine, STATE_ZMM_16_31) => {
                // SAFETY: the token proves AVX-512; the area is the session's own, as above.
                unsafe { avx512::save(area.cast()) };
                Wide::Saved
            }
            Kernel::Avx2(_) | Kernel::Avx512(_) => Wide::Initial,
        };
        self.wide.set(wide);
    }

    /// Copies `len` bytes. The ranges may overlap: the result is that of copying through a buffer.
    ///
    /// # Safety
    /// `src` must be readable and `dst` writable for `len` bytes until this returns. Others (guests) may
    /// read and write both ranges meanwhile; each byte written is then one that its source held during the
    /// call, and each destination byte may be written more than once. Nothing outside the ranges is accessed.
    #[inline]
    pub unsafe fn copy(&self, dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: the caller's promise; `kernel` has seen to the registers.
        unsafe {
            match self.kernel(|| len >= PAYS_BYTES) {
                Kernel::Rep(kernel) => batch::copy_one(kernel, dst, src, len),
                Kernel::Sse2(kernel) => batch::copy_one(kernel, dst, src, len),
                Kernel::Avx2(kernel) => batch::copy_one(kernel, dst, src, len),
                Kernel::Avx512(kernel) => batch::copy_one(kernel, dst, src, len),
            }
        }
    }

    /// Copies the segments, or those in what the caller keeps beside each, in their order, each as
    /// [`Session::copy`] does, asking for later segments' lines while it copies the present one.
    ///
    /// # Safety
    /// As for [`Session::copy`], for each segment.
    #[inline]
    pub unsafe fn copy_batch<S: AsRef<Segment>>(&self, segments: &[S]) {
        // SAFETY: the caller's promise; `kernel` has seen to the registers.
        unsafe {
            match self.kernel(|| pays(segments)) {
                Kernel::Rep(kernel) => batch::copy(kernel, segments),
                Kernel::Sse2(kernel) => batch::copy(kernel, segments),
                Kernel::Avx2(kernel) => batch::copy(kernel, segments),
                Kernel::Avx512(kernel) => batch::copy(kernel, segments),
            }
        }
    }

    /// The kernel to use: the engine's, if it needs no registers saved, or they are, or it `pays` to.
    #[inline]
    fn kernel(&self, pays: impl FnOnce() -> bool) -> Kernel {
        match self.engine.kernel {
            kernel @ (Kernel::Rep(_) | Kernel::Sse2(_)) => kernel,
            kernel if self.wide.get() != Wide::Guests => kernel,
            kernel if pays() => {
                self.widen();
                kernel
            }
            _ => Kernel::Sse2(Sse2::BASELINE),
        }
    }
}

impl Drop for Session<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.wide.get() != Wide::Guests {
            restore(self);
        }
    }
}

/// Returns the wide registers to what they were.
#[inline(never)]
fn restore(session: &mut Session<'_>) {
    let saved = session.wide.get() == Wide::Saved;
    let area = session.area.get();
    match session.engine.kernel {
        Kernel::Rep(_) | Kernel::Sse2(_) => {}
        // SAFETY: the token proves AVX. Saved: `widen` has filled the area. Otherwise every upper half was zero,
        // and what the kernel has left in four of them is nobody's.
        Kernel::Avx2(_) => unsafe { if saved { avx2::restore(area.cast()) } else { avx2::zero_upper() } },
        // SAFETY: the token proves AVX-512. Saved: `widen` has filled the area.
        Kernel::Avx512(_) => unsafe { if saved { avx512::restore(area.cast()) } else { avx512::zero() } },
    }
}

/// Whether a batch is worth the wide registers.
#[inline]
fn pays<S: AsRef<Segment>>(segments: &[S]) -> bool {
    if segments.len() >= PAYS_SEGMENTS {
        return true;
    }
    let bytes = segments.iter().fold(0_usize, |sum, segment| sum.saturating_add(segment.as_ref().len));
    bytes >= PAYS_BYTES
}

/// Whether a vector state may hold something of the guest's.
#[inline]
fn in_use(engine: &Engine, state: u32) -> bool {
    // SAFETY: the engine has found out that XINUSE can be asked.
    !engine.asks_xinuse || unsafe { cpu::xinuse() } & state != 0
}

#[cfg(test)]
mod tests {
    //! Only upper halves are compared: the low ones are the compiler's to use between the statements. It
    //! never touches the upper ones, but libc's `memcpy` zeroes them: nothing large may be moved here.

    use core::arch::asm;

    use super::*;
    use crate::{Choice, Engine};

    type Uppers = [[u64; 2]; 16];

    static PATTERN: [u64; 4] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 0x5555_aaaa_5555_aaaa, !0];

    /// Gives every YMM register the pattern turned by its number, or zeroes the upper halves.
    #[inline(always)]
    fn set_uppers(live: bool) {
        // SAFETY: called where AVX2 exists; the XMM registers are declared.
        unsafe {
            asm!("vzeroupper", options(nomem, nostack));
            if live {
                asm!(
                    "vmovdqu ymm0, [{p}]", "vpermq ymm1, ymm0, 0x39", "vpaddb ymm2, ymm1, ymm0",
                    "vpaddb ymm3, ymm2, ymm0", "vpaddb ymm4, ymm3, ymm0", "vpaddb ymm5, ymm4, ymm0",
                    "vpaddb ymm6, ymm5, ymm0", "vpaddb ymm7, ymm6, ymm0", "vpaddb ymm8, ymm7, ymm0",
                    "vpaddb ymm9, ymm8, ymm0", "vpaddb ymm10, ymm9, ymm0", "vpaddb ymm11, ymm10, ymm0",
                    "vpaddb ymm12, ymm11, ymm0", "vpaddb ymm13, ymm12, ymm0", "vpaddb ymm14, ymm13, ymm0",
                    "vpaddb ymm15, ymm14, ymm0",
                    p = in(reg) &raw const PATTERN,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
        }
    }

    #[inline(always)]
    fn uppers(into: &mut Uppers) {
        // SAFETY: called where AVX2 exists; sixteen times 16 bytes.
        unsafe {
            asm!(
                "vextracti128 [{p}], ymm0, 1", "vextracti128 [{p} + 16], ymm1, 1",
                "vextracti128 [{p} + 32], ymm2, 1", "vextracti128 [{p} + 48], ymm3, 1",
                "vextracti128 [{p} + 64], ymm4, 1", "vextracti128 [{p} + 80], ymm5, 1",
                "vextracti128 [{p} + 96], ymm6, 1", "vextracti128 [{p} + 112], ymm7, 1",
                "vextracti128 [{p} + 128], ymm8, 1", "vextracti128 [{p} + 144], ymm9, 1",
                "vextracti128 [{p} + 160], ymm10, 1", "vextracti128 [{p} + 176], ymm11, 1",
                "vextracti128 [{p} + 192], ymm12, 1", "vextracti128 [{p} + 208], ymm13, 1",
                "vextracti128 [{p} + 224], ymm14, 1", "vextracti128 [{p} + 240], ymm15, 1",
                p = in(reg) into,
                options(nostack, preserves_flags),
            );
        }
    }

    /// The upper halves before, within and after a session that copies `len` bytes.
    fn around(engine: &Engine, live: bool, len: usize) -> [Uppers; 3] {
        let source = [0x77_u8; 4096];
        let mut target = [0_u8; 4096];
        let mut seen = [[[0; 2]; 16]; 3];
        {
            let session = engine.begin();
            set_uppers(live);
            uppers(&mut seen[0]);
            // SAFETY: both arrays are longer than any `len` used.
            unsafe { session.copy(target.as_mut_ptr(), source.as_ptr(), len) };
            uppers(&mut seen[1]);
        }
        uppers(&mut seen[2]);
        assert!(target[..len] == source[..len]);
        seen
    }

    fn avx2() -> Option<Engine> {
        Engine::of(Choice::Avx2)
    }

    #[test]
    fn live_upper_halves_come_back() {
        let Some(engine) = avx2() else { return };
        let [before, within, after] = around(&engine, true, 4096);
        assert_ne!(before[0], [0; 2]);
        assert_ne!(before[15], before[14]);
        assert_ne!(within[..4], before[..4], "the kernel used the registers that it saves");
        assert_eq!(within[4..], before[4..], "and no others");
        assert_eq!(after, before);
    }

    #[test]
    fn initial_upper_halves_stay_initial() {
        let Some(engine) = avx2() else { return };
        let [before, within, after] = around(&engine, false, 4096);
        assert_eq!(before, [[0; 2]; 16]);
        assert_ne!(within[..4], before[..4]);
        assert_eq!(after, before);
        if engine.asks_xinuse {
            // SAFETY: as `asks_xinuse` says.
            assert_eq!(unsafe { cpu::xinuse() } & STATE_YMM_HIGH, 0, "in use, though all zero");
        }
    }

    #[test]
    fn without_xinuse_all_is_saved() {
        let Some(engine) = avx2() else { return };
        let blind = Engine { asks_xinuse: false, ..engine };
        for live in [true, false] {
            let [before, _, after] = around(&blind, live, 4096);
            assert_eq!(after, before);
        }
    }

    #[test]
    fn little_to_copy_touches_no_upper_half() {
        let Some(engine) = avx2() else { return };
        for live in [true, false] {
            for len in [0, 1, 40, 128, 1500, PAYS_BYTES - 1] {
                let [before, within, after] = around(&engine, live, len);
                assert_eq!((within, after), (before, before));
            }
        }
    }

    #[test]
    fn what_pays() {
        let segment = |len| Segment { dst: core::ptr::null_mut(), src: core::ptr::null(), len };
        assert!(!pays::<Segment>(&[]));
        assert!(!pays(&[segment(1000); 4]));
        assert!(pays(&[segment(1024); 4]));
        assert!(pays(&[segment(usize::MAX); 2]));
        assert!(!pays(&[segment(64); PAYS_SEGMENTS - 1]));
        assert!(pays(&[segment(64); PAYS_SEGMENTS]));
    }

    /// ZMM16-31 are the compiler's nowhere, so whole registers can be compared.
    #[test]
    fn zmm_registers_come_back() {
        let Some(engine) = Engine::of(Choice::Avx512) else { return };
        let source = [0x77_u8; 4096];
        let mut target = [0_u8; 4096];
        let (before, mut after) = ([[0x5a_u8; 64]; 4], [[0_u8; 64]; 4]);
        // SAFETY: AVX-512 exists; the areas hold four registers.
        unsafe {
            avx512::restore(before.as_ptr().cast());
            {
                let session = engine.begin();
                session.copy(target.as_mut_ptr(), source.as_ptr(), 4096);
            }
            avx512::save(after.as_mut_ptr().cast());
        }
        assert_eq!(after, before);
    }
}
