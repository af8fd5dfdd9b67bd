//! A second vCPU, for guests that want something to happen while the first one is inside a hypercall.
//!
//! It has no descriptor tables of its own, takes no interrupt, and runs one function that never returns. The
//! rest of the runtime belongs to the first vCPU: the function may use atomics and raw hypercalls only.

use core::arch::asm;

use hv::abi::hvm::hvm_vcpu::{Context, MODE_64B, X86_64};
use hv::abi::vcpu;
use hv::abi::xen::hypercall as number;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::events::check;
use super::memory::{PAGE, pages};
use super::{hypercall, wide};

/// Starts vCPU 1 in `run`. The domain must have been given two (`vcpus=2`).
pub fn start(run: extern "sysv64" fn() -> !) {
    const STACK_PAGES: u64 = 2;
    const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
    let (cr0, cr3, cr4): (u64, u64, u64);
    // SAFETY: reads control registers.
    unsafe {
        asm!(
            "mov {}, cr0", "mov {}, cr3", "mov {}, cr4",
            out(reg) cr0, out(reg) cr3, out(reg) cr4, options(nomem, nostack)
        );
    }
    let mut registers = X86_64 {
        rip: wide((run as *const ()).addr()),
        cr0,
        cr3,
        cr4,
        efer: EFER_LONG_MODE,
        ..X86_64::new_zeroed()
    };
    // As behind a call: a stack of 16 bytes' alignment and a return address, which is never used.
    registers.gprs[4] = pages(STACK_PAGES) + STACK_PAGES * PAGE - 8;
    let mut context = Context { mode: MODE_64B, ..Context::new_zeroed() };
    let bytes = registers.as_bytes();
    context.regs.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    let address = wide((&raw mut context).addr());
    // SAFETY: the context is read during the call; the function, its stack and our page tables stay.
    unsafe {
        let call = |cmd: u32, argument| hypercall::call(number::VCPU_OP, [u64::from(cmd), 1, argument, 0, 0]);
        check("VCPUOP_initialise", call(vcpu::op::INITIALISE, address));
        check("VCPUOP_up", call(vcpu::op::UP, 0));
    }
}
