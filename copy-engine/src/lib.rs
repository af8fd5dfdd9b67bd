//! Copy kernels, their choice at boot, vector state, and batches.
#![no_std]

use core::marker::PhantomData;

/// What `copy=` may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// Measure at boot and take the fastest.
    #[default]
    Auto,
    /// `REP MOVS` above short lengths.
    Rep,
    /// SSE2: 16-byte vectors.
    Sse2,
    /// AVX2: 32-byte vectors.
    Avx2,
    /// AVX-512: 64-byte vectors.
    Avx512,
}

impl Choice {
    /// Reads the value of `copy=`: `auto`, `rep`, `sse2`, `avx2` or `avx512`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(Self::Auto),
            "rep" => Some(Self::Rep),
            "sse2" => Some(Self::Sse2),
            "avx2" => Some(Self::Avx2),
            "avx512" => Some(Self::Avx512),
            _ => None,
        }
    }
}

/// One copy of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where the bytes go.
    pub dst: *mut u8,
    /// Where they come from.
    pub src: *const u8,
    /// How many.
    pub len: usize,
}

/// The kernel that `copy=` names cannot run on this processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unavailable(pub Choice);

/// Memory for the measurement at boot.
#[repr(C, align(4096))]
pub struct Scratch([u8; 3 * 4096]);

impl Scratch {
    /// Zeroes; may be a static's initial value.
    pub const fn new() -> Self {
        Self([0; 3 * 4096])
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What the choice was and why; `Display` is one line for the boot log.
#[derive(Clone, Copy, Debug)]
pub struct Selection;

impl core::fmt::Display for Selection {
    fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        todo!()
    }
}

/// The chosen kernel. One for the whole machine; copied freely.
#[derive(Clone, Copy, Debug)]
pub struct Engine;

impl Engine {
    /// SSE2, which every x86-64 processor has: needs no probing, for statics and tests.
    pub const SSE2: Self = Self;

    /// Chooses a kernel for this processor. `clock` is read around each measured run (RDTSC).
    pub fn select(
        _choice: Choice,
        _scratch: &mut Scratch,
        _clock: impl Fn() -> u64,
    ) -> Result<(Self, Selection), Unavailable> {
        todo!()
    }

    /// Opens a session: once per hypercall, not per element. Saves what the kernel will touch of the
    /// guest's vector state; dropping it puts it back.
    pub fn begin(&self) -> Session<'_> {
        todo!()
    }
}

/// The right to copy: the guest's wide vector state is safe until this is dropped.
/// Stays on the pCPU that opened it.
pub struct Session<'e> {
    _engine: &'e Engine,
    _here: PhantomData<*mut ()>,
}

impl Session<'_> {
    /// Copies `len` bytes. The ranges may overlap: the result is that of copying through a buffer.
    ///
    /// # Safety
    /// `src` must be readable and `dst` writable for `len` bytes until this returns. Others (guests) may
    /// write either range meanwhile: each byte copied is one that its source held during the call.
    pub unsafe fn copy(&self, _dst: *mut u8, _src: *const u8, _len: usize) {
        todo!()
    }

    /// Copies the segments in their order, each as [`Session::copy`] does, asking for later segments'
    /// lines while it copies the present one.
    ///
    /// # Safety
    /// As for [`Session::copy`], for each segment.
    pub unsafe fn copy_batch(&self, _segments: &[Segment]) {
        todo!()
    }
}
