//! Input of the serial console: every byte is a debug key ([`debug_keys`](crate::debug_keys)).
//!
//! Nobody polls: the port raises its interrupt, whose handler does no more than note it here, because root
//! mode takes interrupts in two places only ([`irq`](crate::arch::x86::irq)); who opened the window then calls
//! [`work`], which reads the port under the console's lock and acts on the bytes without it.
//!
//! The keys are the hypervisor's as long as no guest can be given the console's input; when one can, three
//! Ctrl-A will change over, as in Xen.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;

use super::console;
use crate::debug_keys;

/// The port's interrupt has come and nobody has looked since.
static ARRIVED: AtomicBool = AtomicBool::new(false);

/// Keys of one look. What is typed faster than the hypervisor prints is lost beyond this.
pub const KEYS: usize = 64;

/// The port's interrupt; called by its handler.
pub fn arrived() {
    ARRIVED.store(true, Ordering::Release);
}

/// Acts on what was typed, if anything was.
#[inline]
pub fn work() {
    if ARRIVED.load(Ordering::Relaxed) {
        act();
    }
}

#[cold]
fn act() {
    // Taken back before the port is read: a byte that comes later raises the interrupt again.
    if !ARRIVED.swap(false, Ordering::Acquire) {
        return;
    }
    let mut keys = ArrayVec::<u8, KEYS>::new();
    console::receive(&mut keys);
    keys.into_iter().for_each(debug_keys::handle);
}
