//! Model-specific registers as guests see them.
//!
//! Those of the local APIC are not here ([`crate::dev::lapic`]). What is not listed does not exist for a guest: #GP(0), which Linux's careful accessors expect.
#![forbid(unsafe_code)]

use crossbeam_epoch::Guard;
use gnttab_fast::types::{Gfn, PAGE_SHIFT, PAGE_SIZE};

use super::{GuestException, Vcpu, cpuid::HYPERCALL_MSR};
use crate::{
    abi::xen::hypercall,
    arch::x86::time,
    mm::{
        guest::{Access, GuestSpace},
        p2m::P2m,
    },
};

const TSC: u32 = 0x10;
const PATCH_LEVEL: u32 = 0x8b;
const MTRR_CAP: u32 = 0xfe;
const MISC_ENABLE: u32 = 0x1a0;
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const EFER: u32 = 0xc000_0080;
const TSC_AUX: u32 = 0xc000_0103;
const AMD_SYSCFG: u32 = 0xc001_0010;
const AMD_HWCR: u32 = 0xc001_0015;
const AMD_INT_PENDING: u32 = 0xc001_0055;

/// RDMSR.
///
/// # Errors
/// The exception the guest gets.
pub fn read(vcpu: &Vcpu, msr: u32) -> Result<u64, GuestException> {
    Ok(match msr {
        TSC => time::rdtsc(),
        // No variable ranges, everything write-back: what Xen tells a PVH guest's careful reader as well.
        MTRR_CAP | MTRR_DEF_TYPE | MISC_ENABLE | AMD_SYSCFG | AMD_HWCR => 0,
        // The microcode is the host's business, and none is told; C1E is never on here. Linux reads the second without
        // care.
        PATCH_LEVEL | AMD_INT_PENDING => 0,
        PAT => vcpu.pat(),
        EFER => vcpu.efer(),
        TSC_AUX => vcpu.tsc_aux(),
        _ => return Err(GuestException::GeneralProtection),
    })
}

/// WRMSR.
///
/// # Errors
/// The exception the guest gets; nothing has changed.
pub fn write(vcpu: &mut Vcpu, p2m: &P2m, guard: &Guard, msr: u32, value: u64) -> Result<(), GuestException> {
    let done = match msr {
        HYPERCALL_MSR => write_hypercall_page(vcpu, p2m, guard, value),
        PAT => vcpu.set_pat(value),
        EFER => vcpu.set_efer(value),
        TSC_AUX => vcpu.set_tsc_aux(value),
        MISC_ENABLE | AMD_HWCR => value == 0,
        _ => false,
    };
    if done { Ok(()) } else { Err(GuestException::GeneralProtection) }
}

/// The page of 32-byte stubs a guest calls hypercalls through: the value is its guest-physical address,
/// with the page's number (only 0) in the low bits.
fn write_hypercall_page(vcpu: &Vcpu, p2m: &P2m, guard: &Guard, value: u64) -> bool {
    if value & 0xfff != 0 {
        return false;
    }
    let space = GuestSpace::new(p2m, vcpu.paging(), guard);
    let Ok(page) = space.frame(Gfn(value >> PAGE_SHIFT), Access::Write) else { return false };
    page.write(0, &hypercall_page()).is_ok()
}

fn hypercall_page() -> [u8; PAGE_SIZE] {
    // Slots without a hypercall hold INT3.
    let mut page = [0xcc; PAGE_SIZE];
    for (number, slot) in (0u8..).zip(page.chunks_exact_mut(32)).take(hypercall::PAGE_SLOTS as usize) {
        // mov eax, number; vmmcall; ret
        slot[..9].copy_from_slice(&[0xb8, number, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3]);
        if u32::from(number) == hypercall::IRET {
            // ud2: no HVM guest may call it.
            slot[..2].copy_from_slice(&[0x0f, 0x0b]);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_loads_its_number_and_returns() {
        let page = hypercall_page();
        assert_eq!(page[20 * 32..20 * 32 + 9], [0xb8, 20, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3]);
        assert_eq!(page[23 * 32..23 * 32 + 2], [0x0f, 0x0b]);
        assert_eq!(page[64 * 32..], [0xcc; PAGE_SIZE - 64 * 32]);
    }
}
