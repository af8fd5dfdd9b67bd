//! Where vectors arrive.
//!
//! Each vector has a stub of a few bytes that pushes its number and joins the common path, which saves
//! all that compiled Rust may use - general registers and XMM0-15 - and calls [`arrived`]. Every vector
//! runs on a stack of the interrupt stack table, with interrupts off.
//!
//! Interrupts arrive in [`super::irq`]'s two places only; their handlers acknowledge and count, and what
//! they mean is looked up by the code that opened the window. An exception is a bug of the hypervisor
//! and ends in a panic, and so does a machine check: what it struck cannot go on. An NMI may strike
//! anywhere, even in the middle of a lock or of the console, and go on; it touches atomics only.

use core::{
    arch::naked_asm,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use x86_64::{VirtAddr, structures::idt::InterruptDescriptorTable};

use super::{apic, percpu, power, tables::Ist, vectors};
use crate::dev::input;

/// The registers of interrupted code, as the common path leaves them on the stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the registers' names say it all")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Interrupts that no handler is for; a panic tells how many.
pub static STRAY_INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// A panic wants every other CPU to stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// Vectors up to here are the CPU's own.
const EXCEPTIONS: usize = 32;
/// Exceptions that push an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
const WITH_ERROR: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

const NMI: u64 = 2;

#[unsafe(naked)]
unsafe extern "sysv64" fn stub<const VECTOR: i32>() {
    naked_asm!("push 0", "push {vector}", "jmp {common}", vector = const VECTOR, common = sym common)
}

#[unsafe(naked)]
unsafe extern "sysv64" fn stub_with_error<const VECTOR: i32>() {
    naked_asm!("push {vector}", "jmp {common}", vector = const VECTOR, common = sym common)
}

/// Entered with vector and error code above the CPU's frame. 22 words make a frame, so the stack is
/// aligned to 16 again where it is called from.
#[unsafe(naked)]
unsafe extern "sysv64" fn common() {
    naked_asm!(
        "push rax",
        "push rbx",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push rbp",
        "push r8",
        "push r9",
        "push r10",
        "push r11",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rdi, rsp",
        "sub rsp, 256",
        "movaps [rsp], xmm0",
        "movaps [rsp + 16], xmm1",
        "movaps [rsp + 32], xmm2",
        "movaps [rsp + 48], xmm3",
        "movaps [rsp + 64], xmm4",
        "movaps [rsp + 80], xmm5",
        "movaps [rsp + 96], xmm6",
        "movaps [rsp + 112], xmm7",
        "movaps [rsp + 128], xmm8",
        "movaps [rsp + 144], xmm9",
        "movaps [rsp + 160], xmm10",
        "movaps [rsp + 176], xmm11",
        "movaps [rsp + 192], xmm12",
        "movaps [rsp + 208], xmm13",
        "movaps [rsp + 224], xmm14",
        "movaps [rsp + 240], xmm15",
        "cld",
        "call {arrived}",
        "movaps xmm0, [rsp]",
        "movaps xmm1, [rsp + 16]",
        "movaps xmm2, [rsp + 32]",
        "movaps xmm3, [rsp + 48]",
        "movaps xmm4, [rsp + 64]",
        "movaps xmm5, [rsp + 80]",
        "movaps xmm6, [rsp + 96]",
        "movaps xmm7, [rsp + 112]",
        "movaps xmm8, [rsp + 128]",
        "movaps xmm9, [rsp + 144]",
        "movaps xmm10, [rsp + 160]",
        "movaps xmm11, [rsp + 176]",
        "movaps xmm12, [rsp + 192]",
        "movaps xmm13, [rsp + 208]",
        "movaps xmm14, [rsp + 224]",
        "movaps xmm15, [rsp + 240]",
        "add rsp, 256",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop r11",
        "pop r10",
        "pop r9",
        "pop r8",
        "pop rbp",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rbx",
        "pop rax",
        "add rsp, 16",
        "iretq",
        arrived = sym arrived,
    )
}

/// What the common path calls.
extern "sysv64" fn arrived(frame: &TrapFrame) {
    match frame.vector {
        NMI => nmi(),
        vector if vector < 32 => crate::panic::exception(frame),
        vector if vector == u64::from(vectors::VEC_SPURIOUS) => {}
        vector => {
            match u8::try_from(vector) {
                Ok(vectors::VEC_KICK | vectors::VEC_TIMER) => {}
                Ok(vectors::VEC_CONSOLE) => input::arrived(),
                _ => {
                    STRAY_INTERRUPTS.fetch_add(1, Ordering::Relaxed);
                }
            }
            apic::eoi();
        }
    }
}

fn nmi() {
    if let Some(cpu) = percpu::try_this() {
        cpu.nmis.fetch_add(1, Ordering::Relaxed);
    }
    if STOP.load(Ordering::Acquire) {
        power::stop();
    }
}

/// Stops every other CPU, wherever it is.
pub(crate) fn stop_others() {
    STOP.store(true, Ordering::Release);
    apic::nmi_others();
}

/// Names of the exceptions, for panics.
#[must_use]
pub const fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD error",
        21 => "control protection",
        _ => "exception",
    }
}

/// Sixteen stubs from a vector on.
macro_rules! sixteen {
    ($stub:ident, $base:literal) => {
        [
            $stub::<{ $base }>,
            $stub::<{ $base + 1 }>,
            $stub::<{ $base + 2 }>,
            $stub::<{ $base + 3 }>,
            $stub::<{ $base + 4 }>,
            $stub::<{ $base + 5 }>,
            $stub::<{ $base + 6 }>,
            $stub::<{ $base + 7 }>,
            $stub::<{ $base + 8 }>,
            $stub::<{ $base + 9 }>,
            $stub::<{ $base + 10 }>,
            $stub::<{ $base + 11 }>,
            $stub::<{ $base + 12 }>,
            $stub::<{ $base + 13 }>,
            $stub::<{ $base + 14 }>,
            $stub::<{ $base + 15 }>,
        ]
    };
}

type Stub = unsafe extern "sysv64" fn();

/// Fills the table: all exceptions, and all of the upper half where our vectors and strays arrive.
pub(super) fn fill(idt: &mut InterruptDescriptorTable) {
    let at = |stub: Stub| VirtAddr::new(crate::mm::direct::u64_of((stub as *const ()).addr()));
    let plain: [[Stub; 16]; 2] = [sixteen!(stub, 0), sixteen!(stub, 16)];
    let error: [[Stub; 16]; 2] = [sixteen!(stub_with_error, 0), sixteen!(stub_with_error, 16)];
    for vector in 0..EXCEPTIONS {
        let set = if WITH_ERROR >> vector & 1 != 0 { &error } else { &plain };
        let address = at(set[vector / 16][vector % 16]);
        let ist = match vector {
            2 => Ist::Nmi,
            8 => Ist::DoubleFault,
            18 => Ist::MachineCheck,
            _ => Ist::Exception,
        } as u16;
        // SAFETY: the stubs take exactly the frame their vector pushes, and end in IRETQ or not at all;
        // the stacks are of the running CPU's TSS and used by nothing else.
        unsafe {
            match vector {
                0 => idt.divide_error.set_handler_addr(address).set_stack_index(ist),
                1 => idt.debug.set_handler_addr(address).set_stack_index(ist),
                2 => idt.non_maskable_interrupt.set_handler_addr(address).set_stack_index(ist),
                3 => idt.breakpoint.set_handler_addr(address).set_stack_index(ist),
                4 => idt.overflow.set_handler_addr(address).set_stack_index(ist),
                5 => idt.bound_range_exceeded.set_handler_addr(address).set_stack_index(ist),
                6 => idt.invalid_opcode.set_handler_addr(address).set_stack_index(ist),
                7 => idt.device_not_available.set_handler_addr(address).set_stack_index(ist),
                8 => idt.double_fault.set_handler_addr(address).set_stack_index(ist),
                10 => idt.invalid_tss.set_handler_addr(address).set_stack_index(ist),
                11 => idt.segment_not_present.set_handler_addr(address).set_stack_index(ist),
                12 => idt.stack_segment_fault.set_handler_addr(address).set_stack_index(ist),
                13 => idt.general_protection_fault.set_handler_addr(address).set_stack_index(ist),
                14 => idt.page_fault.set_handler_addr(address).set_stack_index(ist),
                16 => idt.x87_floating_point.set_handler_addr(address).set_stack_index(ist),
                17 => idt.alignment_check.set_handler_addr(address).set_stack_index(ist),
                18 => idt.machine_check.set_handler_addr(address).set_stack_index(ist),
                19 => idt.simd_floating_point.set_handler_addr(address).set_stack_index(ist),
                20 => idt.virtualization.set_handler_addr(address).set_stack_index(ist),
                21 => idt.cp_protection_exception.set_handler_addr(address).set_stack_index(ist),
                28 => idt.hv_injection_exception.set_handler_addr(address).set_stack_index(ist),
                29 => idt.vmm_communication_exception.set_handler_addr(address).set_stack_index(ist),
                30 => idt.security_exception.set_handler_addr(address).set_stack_index(ist),
                // Reserved: they cannot arrive.
                _ => continue,
            };
        }
    }
    let interrupts: [[Stub; 16]; 2] = [sixteen!(stub, 0xe0), sixteen!(stub, 0xf0)];
    for (vector, &stub) in (0xe0u8..=0xff).zip(interrupts.as_flattened()) {
        // SAFETY: as above.
        unsafe { idt[vector].set_handler_addr(at(stub)).set_stack_index(Ist::Interrupt as u16) };
    }
}
