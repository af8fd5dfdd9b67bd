//! `public/hvm/hvm_vcpu.h`: the state a secondary vCPU is given by `VCPUOP_initialise`. Both widths alike.

use crate::abi::{abi_struct, layout};

/// `VCPU_HVM_MODE_32B`
pub const MODE_32B: u32 = 0;
/// `VCPU_HVM_MODE_64B`
pub const MODE_64B: u32 = 1;

abi_struct! {
    /// `vcpu_hvm_x86_32`
    X86_32 {
        /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
        gprs: [u32; 8],
        /// Entry point.
        eip: u32,
        /// EFLAGS
        eflags: u32,
        /// CR0
        cr0: u32,
        /// CR3
        cr3: u32,
        /// CR4
        cr4: u32,
        /// Zero.
        pad1: u32,
        /// EFER
        efer: u64,
        /// Segment bases: CS, DS, SS, ES, TR.
        bases: [u32; 5],
        /// Segment limits: CS, DS, SS, ES, TR.
        limits: [u32; 5],
        /// Attributes: CS, DS, SS, ES, TR (bits 40 to 47 of the descriptor, then its bits 52 to 55).
        ars: [u16; 5],
        /// Zero.
        pad2: [u16; 3],
    }
}
layout!(X86_32, size 120, eip @ 32, cr0 @ 40, efer @ 56, bases @ 64, limits @ 84, ars @ 104);

abi_struct! {
    /// `vcpu_hvm_x86_64`: segments are flat.
    X86_64 {
        /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI.
        gprs: [u64; 8],
        /// Entry point.
        rip: u64,
        /// RFLAGS
        rflags: u64,
        /// CR0
        cr0: u64,
        /// CR3
        cr3: u64,
        /// CR4
        cr4: u64,
        /// EFER
        efer: u64,
    }
}
layout!(X86_64, size 112, rip @ 64, cr0 @ 80, efer @ 104);

abi_struct! {
    /// `vcpu_hvm_context`: the registers are an [`X86_32`] or an [`X86_64`], by `mode`.
    Context {
        /// `VCPU_HVM_MODE_*`
        mode: u32,
        /// Zero.
        pad: u32,
        /// The registers' bytes.
        regs: [u64; 15],
    }
}
layout!(Context, size 128, regs @ 8);
