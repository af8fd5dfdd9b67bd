//! Whose vector registers they are.
//!
//! During a hypercall the guest's XMM0-15 are in the exit stub's frame, but the upper halves of YMM0-15 and
//! all of ZMM16-31 still sit in the processor: nothing but the copy kernels touches them. A session is the
//! time in which a kernel may. It begins once per hypercall, however many elements that has, and saves by
//! hand exactly the registers the kernel uses: about 10 cycles, where XSAVE and XRSTOR take 200 to 400.
//!
//! **Live or not.** XGETBV with ECX = 1 (XINUSE, AMD APM volume 2, 11.5) tells which states differ from their
//! initial value. If the upper halves are in their initial state there is nothing to save, and they
//! must be *returned* to it: VZEROUPPER, rather than a load of zeroes, so that the guest's SSE code does not
//! pay for upper halves in use and its next XSAVE does not grow. If they are live, VZEROUPPER would destroy
//! the twelve registers we do not save, and the four are loaded back. Where XINUSE cannot be asked we save.
//!
//! In either case nothing of the copied bytes stays behind in a register for the guest to read.
//!
//! **XCR0** must be during a session what it was when the kernel was chosen: the hypervisor's own.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

use crate::arch::{avx2, avx512};
use crate::batch;
use crate::cpu::{self, STATE_YMM_HIGH, STATE_ZMM_16_31};
use crate::engine::{Engine, Kernel};

/// Room for what any kernel saves.
union Saved {
    ymm: MaybeUninit<avx2::Saved>,
    zmm: MaybeUninit<avx512::Saved>,
}

/// The right to copy: the guest's wide vector state is safe until this is dropped.
///
/// Stays on the pCPU that opened it.
pub struct Session<'e> {
    engine: &'e Engine,
    /// The registers were in use and are in `saved`.
    live: bool,
    saved: Saved,
    /// Registers belong to a pCPU: neither `Send` nor `Sync`.
    here: PhantomData<*mut ()>,
}

impl<'e> Session<'e> {
    /// [`Engine::begin`].
    #[inline]
    pub(crate) fn begin(engine: &'e Engine) -> Self {
        let mut session =
            Self { engine, live: false, saved: Saved { ymm: MaybeUninit::uninit() }, here: PhantomData };
        match engine.kernel {
            Kernel::Rep(_) | Kernel::Sse2(_) => {}
            Kernel::Avx2(_) => {
                session.live = in_use(engine, STATE_YMM_HIGH);
                if session.live {
                    // SAFETY: the token proves AVX; the area is the session's own.
                    unsafe { avx2::save(session.saved.ymm.as_mut_ptr()) };
                }
            }
            Kernel::Avx512(_) => {
                session.live = in_use(engine, STATE_ZMM_16_31);
                if session.live {
                    // SAFETY: the token proves AVX-512; the area is the session's own.
                    unsafe { avx512::save(session.saved.zmm.as_mut_ptr()) };
                }
            }
        }
        session
    }

    /// Copies `len` bytes. The ranges may overlap: the result is that of copying through a buffer.
    ///
    /// # Safety
    /// `src` must be readable and `dst` writable for `len` bytes until this returns. Others (guests) may
    /// read and write both ranges meanwhile; each byte written is then one that its source held during the
    /// call, and each destination byte may be written more than once. Nothing outside the ranges is accessed.
    #[inline]
    pub unsafe fn copy(&self, dst: *mut u8, src: *const u8, len: usize) {
        // SAFETY: the caller's promise; the session holds what the kernel overwrites.
        unsafe {
            match self.engine.kernel {
                Kernel::Rep(kernel) => batch::copy_one(kernel, dst, src, len),
                Kernel::Sse2(kernel) => batch::copy_one(kernel, dst, src, len),
                Kernel::Avx2(kernel) => batch::copy_one(kernel, dst, src, len),
                Kernel::Avx512(kernel) => batch::copy_one(kernel, dst, src, len),
            }
        }
    }

    /// Copies the segments in their order, each as [`Session::copy`] does, asking for later segments'
    /// lines while it copies the present one.
    ///
    /// # Safety
    /// As for [`Session::copy`], for each segment.
    #[inline]
    pub unsafe fn copy_batch(&self, segments: &[crate::Segment]) {
        // SAFETY: the caller's promise; the session holds what the kernel overwrites.
        unsafe {
            match self.engine.kernel {
                Kernel::Rep(kernel) => batch::copy(kernel, segments),
                Kernel::Sse2(kernel) => batch::copy(kernel, segments),
                Kernel::Avx2(kernel) => batch::copy(kernel, segments),
                Kernel::Avx512(kernel) => batch::copy(kernel, segments),
            }
        }
    }
}

impl Drop for Session<'_> {
    #[inline]
    fn drop(&mut self) {
        match self.engine.kernel {
            Kernel::Rep(_) | Kernel::Sse2(_) => {}
            Kernel::Avx2(_) => {
                // SAFETY: the token proves AVX. Live: `begin` has filled the area. Not live: every upper half
                // was zero, and what the kernel has left in four of them is ours.
                unsafe { if self.live { avx2::restore(self.saved.ymm.as_ptr()) } else { avx2::zero_upper() } }
            }
            Kernel::Avx512(_) => {
                // SAFETY: the token proves AVX-512. Live: `begin` has filled the area.
                unsafe { if self.live { avx512::restore(self.saved.zmm.as_ptr()) } else { avx512::zero() } }
            }
        }
    }
}

/// Whether a vector state may hold something of the guest's.
#[inline]
fn in_use(engine: &Engine, state: u32) -> bool {
    // SAFETY: the engine has found out that XINUSE can be asked.
    !engine.asks_xinuse || unsafe { cpu::xinuse() } & state != 0
}
