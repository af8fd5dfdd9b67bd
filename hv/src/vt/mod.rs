//! The seam to the hardware's virtualisation: vendor-neutral exits above, SVM below.
//!
//! What the rest of the hypervisor knows of a vCPU's hardware state goes through [`Vcpu`]: run it until
//! something needs a decision ([`Exit`]), look at and change its registers ([`Gprs`] and the methods), give it
//! an event. Nothing above this module names a VMCB. A second backend (Intel VMX with EPT) is a second
//! module with a type of the same methods and an enum of the two here: the choice is made once, by the CPU,
//! and every pCPU of a machine makes the same one.
//!
//! A vCPU's state belongs to the pCPU that runs it (the scheduler holds its lock meanwhile); nobody else
//! looks in. What one vCPU leaves in registers the exit stub does not switch (x87, upper vector halves, debug
//! registers, XCR0, TSC_AUX) is switched by [`Vcpu::load`] and [`Vcpu::unload`] when the scheduler changes
//! vCPUs, not on every exit.

pub mod capabilities;
pub mod cpuid;
pub mod insn;
pub mod mmio;
pub mod msr;
mod svm;

use core::fmt;

pub use svm::{CpuVt, Vcpu, init_cpu};

/// Why this pCPU cannot run guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VtError {
    /// Neither SVM nor anything else we can drive.
    NoSvm,
    /// The firmware has switched SVM off and locked it (VM_CR.SVMDIS).
    Disabled,
    /// SVM without nested paging.
    NoNestedPaging,
    /// No frame for the CPU's host save area.
    NoMemory,
}

impl fmt::Display for VtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSvm => {
                "this CPU has no AMD SVM (CPUID 8000_0001 ECX[2]); under QEMU use -cpu max or EPYC, under KVM load \
                 kvm_amd with nested=1"
            }
            Self::Disabled => "the firmware has disabled SVM (VM_CR.SVMDIS): enable it in the BIOS set-up",
            Self::NoNestedPaging => {
                "this CPU has SVM but no nested paging (CPUID 8000_000A EDX[0]), which Tollgate needs"
            }
            Self::NoMemory => "no memory left for the CPU's host save area",
        })
    }
}

/// Width of the code that made a hypercall.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 64-bit mode: the 64-bit ABI.
    Bits64,
    /// Anything else: the 32-bit (compat) ABI.
    Bits32,
}

/// The general registers, except RAX and RSP, which the hardware keeps with the rest.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "they are the registers' names")]
pub struct Gprs {
    // First the arguments of a 64-bit hypercall, in their order: they are copied together.
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub r10: u64,
    pub r8: u64,
    pub r9: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rbp: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// Why a vCPU stopped running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// VMMCALL.
    Hypercall,
    /// CPUID.
    Cpuid,
    /// RDMSR of that register.
    MsrRead(u32),
    /// WRMSR of that value to that register.
    MsrWrite(u32, u64),
    /// IN or OUT.
    Io {
        /// Port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// IN.
        input: bool,
        /// INS or OUTS.
        string: bool,
    },
    /// HLT.
    Hlt,
    /// A guest-physical address that the nested tables do not map so.
    NestedFault {
        /// The address.
        gpa: u64,
        /// A write.
        write: bool,
        /// An instruction fetch.
        exec: bool,
        /// Something is mapped, but not so.
        present: bool,
    },
    /// A physical interrupt waits: take it in a window.
    ExternalInterrupt,
    /// An NMI has come (it is taken on return to root mode).
    Nmi,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// XSETBV of EDX:EAX to that register.
    Xsetbv {
        /// ECX.
        index: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// An instruction guests do not have: give it #UD.
    Undefined,
    /// An instruction guests may not use: give it #GP(0).
    Denied,
    /// WBINVD or INVD: nothing cached of a guest's needs it.
    CacheControl,
    /// Triple fault.
    Shutdown,
    /// The state we built is refused by the hardware: ours or the guest's fault, the domain ends.
    Invalid,
    /// Anything else, with the hardware's own numbers.
    Other {
        /// Exit code.
        code: u64,
        /// First word of detail.
        info1: u64,
        /// Second word of detail.
        info2: u64,
    },
}

/// Exceptions the hypervisor gives to guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestException {
    /// #UD
    InvalidOpcode,
    /// #GP(0)
    GeneralProtection,
}

/// Where a vCPU starts, for [`Vcpu::start_pvh`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PvhEntry {
    /// The entry point.
    pub entry: u32,
    /// Guest-physical address of `hvm_start_info`.
    pub start_info: u32,
}
