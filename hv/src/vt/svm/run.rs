//! The world switch itself.
//!
//! `VMRUN` switches RIP, RSP, RAX, RFLAGS, the control registers and CS, SS, DS, ES; `VMSAVE` and `VMLOAD` the
//! rest of the hidden segment state and the syscall MSRs; this stub the other general registers, XMM0 to 15
//! and MXCSR. The upper halves of the vector registers stay the guest's: in root mode only the copy kernels
//! touch them, and they put back what they used. CR2 is in the VMCB; CR8 is virtual.
//!
//! The global interrupt flag is clear from before the guest's registers are in until after they are out,
//! so no NMI or interrupt sees a mixture. RFLAGS.IF is set under it because with V_INTR_MASKING the host's flag
//! at VMRUN decides whether a physical interrupt ends guest mode; it is clear again before GIF is set. The other
//! flags, DF among them, come back with the host's RFLAGS at the exit (15.6).

use core::mem::offset_of;

use super::super::Gprs;

/// What the stub switches by hand.
#[derive(Clone, Default)]
#[repr(C, align(16))]
pub struct Switched {
    /// XMM0 to XMM15.
    pub xmm: [[u64; 2]; 16],
    pub gprs: Gprs,
    pub mxcsr: u32,
}

/// The value of MXCSR in root mode: every exception masked, round to nearest.
const HOST_MXCSR: u32 = 0x1f80;
static MXCSR: u32 = HOST_MXCSR;

macro_rules! reg {
    ($field:ident) => {
        offset_of!(Switched, gprs) + offset_of!(Gprs, $field)
    };
}

/// Runs the guest of `vmcb_pa` until its next exit.
///
/// # Safety
/// In root mode with interrupts off, SVM on, and the host save area set. `vmcb_pa` is the physical address of a VMCB that
/// only this pCPU uses now; `host_pa` that of this pCPU's page of host state, filled by VMSAVE; `switched` is
/// valid and nobody else's.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter(switched: *mut Switched, vmcb_pa: u64, host_pa: u64) {
    core::arch::naked_asm!(
        "push rbp", "push rbx", "push r12", "push r13", "push r14", "push r15",
        "push rdx",                     // host_pa
        "push rdi",                     // switched
        "mov rax, rsi",
        "ldmxcsr [rdi + {mxcsr}]",
        "movaps xmm0, [rdi]",           "movaps xmm1, [rdi + 0x10]",
        "movaps xmm2, [rdi + 0x20]",    "movaps xmm3, [rdi + 0x30]",
        "movaps xmm4, [rdi + 0x40]",    "movaps xmm5, [rdi + 0x50]",
        "movaps xmm6, [rdi + 0x60]",    "movaps xmm7, [rdi + 0x70]",
        "movaps xmm8, [rdi + 0x80]",    "movaps xmm9, [rdi + 0x90]",
        "movaps xmm10, [rdi + 0xa0]",   "movaps xmm11, [rdi + 0xb0]",
        "movaps xmm12, [rdi + 0xc0]",   "movaps xmm13, [rdi + 0xd0]",
        "movaps xmm14, [rdi + 0xe0]",   "movaps xmm15, [rdi + 0xf0]",
        "clgi",
        "sti",
        "vmload rax",
        "mov rbx, [rdi + {rbx}]", "mov rcx, [rdi + {rcx}]", "mov rdx, [rdi + {rdx}]",
        "mov rsi, [rdi + {rsi}]", "mov rbp, [rdi + {rbp}]",
        "mov r8, [rdi + {r8}]",   "mov r9, [rdi + {r9}]",   "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]", "mov r12, [rdi + {r12}]", "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]", "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "vmrun rax",
        "vmsave rax",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rbx}], rbx", "mov [rdi + {rcx}], rcx", "mov [rdi + {rdx}], rdx",
        "mov [rdi + {rsi}], rsi", "mov [rdi + {rbp}], rbp",
        "mov [rdi + {r8}], r8",   "mov [rdi + {r9}], r9",   "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11", "mov [rdi + {r12}], r12", "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14", "mov [rdi + {r15}], r15",
        "pop [rdi + {rdi}]",
        "mov rax, [rsp + 8]",
        "vmload rax",
        "cli",
        "stgi",
        "movaps [rdi], xmm0",           "movaps [rdi + 0x10], xmm1",
        "movaps [rdi + 0x20], xmm2",    "movaps [rdi + 0x30], xmm3",
        "movaps [rdi + 0x40], xmm4",    "movaps [rdi + 0x50], xmm5",
        "movaps [rdi + 0x60], xmm6",    "movaps [rdi + 0x70], xmm7",
        "movaps [rdi + 0x80], xmm8",    "movaps [rdi + 0x90], xmm9",
        "movaps [rdi + 0xa0], xmm10",   "movaps [rdi + 0xb0], xmm11",
        "movaps [rdi + 0xc0], xmm12",   "movaps [rdi + 0xd0], xmm13",
        "movaps [rdi + 0xe0], xmm14",   "movaps [rdi + 0xf0], xmm15",
        "stmxcsr [rdi + {mxcsr}]",
        "ldmxcsr [rip + {host_mxcsr}]",
        "add rsp, 16",
        "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp",
        "ret",
        mxcsr = const offset_of!(Switched, mxcsr),
        host_mxcsr = sym MXCSR,
        rbx = const reg!(rbx), rcx = const reg!(rcx), rdx = const reg!(rdx), rsi = const reg!(rsi),
        rdi = const reg!(rdi), rbp = const reg!(rbp), r8 = const reg!(r8), r9 = const reg!(r9),
        r10 = const reg!(r10), r11 = const reg!(r11), r12 = const reg!(r12), r13 = const reg!(r13),
        r14 = const reg!(r14), r15 = const reg!(r15),
    )
}
