//! The permission maps: every port and every MSR exits, except the few registers VMLOAD and VMSAVE switch.
//!
//! One pair for the machine, filled before the first guest and only read afterwards, by the hardware.

use gnttab_fast::types::{Mfn, PAGE_SHIFT, PAGE_SIZE};
use spin::Once;

use crate::mm::{
    frames::{self, Owner},
    phys_to_virt,
};

/// Physical addresses of the two maps.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    /// Three pages, one bit for each port (APM vol. 2, 15.10.1).
    pub iopm: u64,
    /// Two pages, two bits for each MSR of three ranges (15.11).
    pub msrpm: u64,
}

/// MSRs a guest reads and writes without an exit: their guest values are switched with its segments.
const PASSED: [u32; 10] = [
    0x174,
    0x175,
    0x176, // SYSENTER_CS, _ESP, _EIP
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084, // STAR, LSTAR, CSTAR, SFMASK
    0xc000_0100,
    0xc000_0101,
    0xc000_0102, // FS_BASE, GS_BASE, KERNEL_GS_BASE
];

static MAPS: Once<Option<Maps>> = Once::new();

/// The machine's maps; `None` when there was no memory for them.
pub fn get() -> Option<Maps> {
    *MAPS.call_once(|| {
        let iopm = frames::alloc(2, Owner::Hypervisor)?;
        let msrpm = frames::alloc(1, Owner::Hypervisor)?;
        fill(iopm, 3 * PAGE_SIZE);
        fill(msrpm, 2 * PAGE_SIZE);
        for msr in PASSED {
            let (byte, mask) = msr_bits(msr)?;
            let at = phys_to_virt((msrpm.0 << PAGE_SHIFT) + byte);
            // SAFETY: inside the two pages just allocated, which nobody else knows yet.
            unsafe { *at &= !mask };
        }
        Some(Maps { iopm: iopm.0 << PAGE_SHIFT, msrpm: msrpm.0 << PAGE_SHIFT })
    })
}

fn fill(first: Mfn, len: usize) {
    // SAFETY: `len` bytes of frames just allocated here, which nobody else knows yet.
    unsafe { phys_to_virt(first.0 << PAGE_SHIFT).write_bytes(0xff, len) };
}

/// Byte and mask of the read and write bits of an MSR; `None` outside the ranges (those always exit).
const fn msr_bits(msr: u32) -> Option<(u64, u8)> {
    let (base, first) = match msr {
        0..=0x1fff => (0, 0),
        0xc000_0000..=0xc000_1fff => (0x800, 0xc000_0000),
        0xc001_0000..=0xc001_1fff => (0x1000, 0xc001_0000),
        _ => return None,
    };
    let index = msr - first;
    Some((base + (index / 4) as u64, 3 << ((index % 4) * 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_stand_where_the_manual_puts_them() {
        assert_eq!(msr_bits(0), Some((0, 3)));
        assert_eq!(msr_bits(0x175), Some((0x5d, 0xc)));
        assert_eq!(msr_bits(0xc000_0081), Some((0x820, 0xc)));
        assert_eq!(msr_bits(0xc001_1fff), Some((0x17ff, 0xc0)));
        assert_eq!(msr_bits(0x4000_0000), None);
    }
}
