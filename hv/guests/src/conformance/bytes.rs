//! The only place here that touches memory: whole values by raw copies, single bytes by volatile access.
//!
//! Addresses are the guest's own: its argument pages, its pool, frames it has mapped. The hypervisor, and
//! other names of the same page, may write them at any time, so nothing here is ever borrowed.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::rt::boot::MAPPED;
use crate::rt::memory::pointer;
use crate::rt::wide;

fn at(address: u64, length: usize) -> *mut u8 {
    assert!(address != 0 && address + wide(length) <= MAPPED, "{address:#x} is no address of ours");
    pointer(address)
}

/// Writes `value` to `address`.
pub fn put<T: IntoBytes + Immutable>(address: u64, value: &T) {
    let bytes = value.as_bytes();
    for (offset, byte) in bytes.iter().enumerate() {
        // SAFETY: `at` has checked that the range is mapped; it is memory no Rust object lives in.
        unsafe { at(address, bytes.len()).add(offset).write_volatile(*byte) };
    }
}

/// Reads a value from `address`.
pub fn get<T: FromBytes + IntoBytes>(address: u64) -> T {
    let mut value = T::new_zeroed();
    let length = size_of::<T>();
    for (offset, byte) in value.as_mut_bytes().iter_mut().enumerate() {
        // SAFETY: as in `put`.
        *byte = unsafe { at(address, length).add(offset).read_volatile() };
    }
    value
}

/// Fills `length` bytes.
pub fn fill(address: u64, length: usize, byte: u8) {
    // SAFETY: as in `put`.
    unsafe { at(address, length).write_bytes(byte, length) };
}

/// A 32-bit word at an aligned address, at once.
pub fn get_word(address: u64) -> u32 {
    // SAFETY: as in `put`; the callers' addresses are multiples of 4.
    unsafe { at(address, 4).cast::<u32>().read_volatile() }
}

/// A 16-bit word at an aligned address, at once: the hypervisor clears bits beside ours by atomics.
pub fn put_half(address: u64, value: u16) {
    // SAFETY: as in `put`; the callers' addresses are even.
    unsafe { at(address, 2).cast::<u16>().write_volatile(value) };
}

/// A 64-bit word at an aligned address.
pub fn put_long(address: u64, value: u64) {
    // SAFETY: as in `put`; the callers' addresses are multiples of 8.
    unsafe { at(address, 8).cast::<u64>().write_volatile(value) };
}

/// FNV-1a of `length` bytes.
#[must_use]
pub fn sum(address: u64, length: u64) -> u32 {
    (0..length).fold(0x811c_9dc5, |sum: u32, offset| {
        (sum ^ u32::from(get::<u8>(address + offset))).wrapping_mul(0x0100_0193)
    })
}
