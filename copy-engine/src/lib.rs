//! Copy kernels, their choice at boot, vector state, and batches.
//!
//! A grant copy moves at most a page, mostly a header of 64 to 128 bytes or an Ethernet frame, between frames
//! of two guests which may write them meanwhile. This crate does the moving; which bytes may move is
//! settled before it is called.
//!
//! - [`Engine`] holds the kernel chosen at boot ([`Engine::select`], the option `copy=`): by name, or by a
//!   short measurement.
//! - [`Session`] is the right to use it during one hypercall; it looks after the guest's wide registers.
//! - [`Session::copy_batch`] takes the [`Segment`]s of a hypercall at once.
//! - [`arch`] holds the kernels, one file per instruction set, and tells how they go about it.
//!
//! **Guest memory is never a reference.** It changes under us, so the only accesses are moves in assembly
//! from and to raw addresses. The compiler can neither assume anything of the contents nor repeat a read, and
//! a guest that writes while we copy spoils its own bytes only: each byte copied is one that its source
//! held during the call.
//!
//! **Overlap is allowed**, since a guest may grant and copy within one frame: a single copy gives what copying
//! through a buffer would give, and a batch what its segments give one after the other.
//!
//! **Wide registers stay in here.** No function that names a YMM or ZMM register is inlined into another crate;
//! the image audit relies on that.
#![cfg_attr(not(test), no_std)]

pub mod arch;
mod batch;
mod cpu;
mod engine;
pub mod naive;
mod select;
mod session;

pub use engine::{Choice, Engine, Unavailable};
pub use select::{SIZES, Scratch, Selection, Timing};
pub use session::Session;

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

impl AsRef<Self> for Segment {
    #[inline]
    fn as_ref(&self) -> &Self {
        self
    }
}
