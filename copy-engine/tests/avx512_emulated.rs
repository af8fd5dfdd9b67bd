//! The AVX-512 kernel where no processor has AVX-512.
//!
//! Its few kinds of instruction are carried out by a handler of the invalid-opcode signal, on a register
//! file of the test's own: so the kernel's addresses, its order of loads and stores, the alignment it
//! claims and the registers it uses are the real code's. On a processor that has AVX-512 nothing is trapped
//! and the same comparisons hold.
//!
//! One test function: the register file belongs to the thread that runs it.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use copy_engine::arch::avx512::Avx512;
use copy_engine::{Engine, Segment, naive};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// ZMM16-19.
struct Vectors(UnsafeCell<[[u8; 64]; 4]>);

// SAFETY: only the signal handler of the one test's thread touches it.
unsafe impl Sync for Vectors {}

static VECTORS: Vectors = Vectors(UnsafeCell::new([[0; 64]; 4]));
static EMULATED: AtomicUsize = AtomicUsize::new(0);

/// The value of a general register in the interrupted context.
fn general(context: &libc::ucontext_t, register: Register) -> u64 {
    let index = match register {
        Register::None => return 0,
        Register::RAX => libc::REG_RAX,
        Register::RBX => libc::REG_RBX,
        Register::RCX => libc::REG_RCX,
        Register::RDX => libc::REG_RDX,
        Register::RSI => libc::REG_RSI,
        Register::RDI => libc::REG_RDI,
        Register::RBP => libc::REG_RBP,
        Register::RSP => libc::REG_RSP,
        Register::R8 => libc::REG_R8,
        Register::R9 => libc::REG_R9,
        Register::R10 => libc::REG_R10,
        Register::R11 => libc::REG_R11,
        Register::R12 => libc::REG_R12,
        Register::R13 => libc::REG_R13,
        Register::R14 => libc::REG_R14,
        Register::R15 => libc::REG_R15,
        other => panic!("an address with {other:?}"),
    };
    context.uc_mcontext.gregs[usize::try_from(index).expect("a small index")].cast_unsigned()
}

fn address(context: &libc::ucontext_t, instruction: &Instruction) -> usize {
    let index = general(context, instruction.memory_index()) * u64::from(instruction.memory_index_scale());
    let sum = general(context, instruction.memory_base())
        .wrapping_add(index)
        .wrapping_add(instruction.memory_displacement64());
    usize::try_from(sum).expect("64-bit")
}

/// Which of the four registers, and how many of its bytes.
fn vector(register: Register) -> (usize, usize) {
    let number = register.number();
    assert!((16..20).contains(&number), "{register:?} is not one of those a session saves");
    (number - 16, register.size())
}

/// Carries out the one instruction that the processor refused.
extern "C" fn invalid_opcode(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler installed with SA_SIGINFO the interrupted context; the code at RIP is
    // readable, and so are 15 bytes from it, the kernel's functions being far from the text's end. The
    // register file is this thread's.
    let (context, code, vectors) = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = general_rip(context);
        (context, core::slice::from_raw_parts(rip as *const u8, 15), &mut *VECTORS.0.get())
    };
    let instruction = Decoder::with_ip(64, code, general_rip(context), DecoderOptions::NONE).decode();
    assert_eq!(instruction.op_mask(), Register::None, "{instruction:?}");
    let aligned = instruction.mnemonic() == Mnemonic::Vmovdqa64;
    match (instruction.mnemonic(), instruction.op0_kind(), instruction.op1_kind()) {
        (Mnemonic::Vmovdqu64 | Mnemonic::Vmovdqa64, OpKind::Register, OpKind::Memory) => {
            let (to, bytes) = vector(instruction.op0_register());
            let from = address(context, &instruction);
            assert!(!aligned || from.is_multiple_of(bytes));
            vectors[to] = [0; 64];
            // SAFETY: what the kernel's instruction would read.
            unsafe { core::ptr::copy(from as *const u8, vectors[to].as_mut_ptr(), bytes) };
        }
        (Mnemonic::Vmovdqu64 | Mnemonic::Vmovdqa64, OpKind::Memory, OpKind::Register) => {
            let (from, bytes) = vector(instruction.op1_register());
            let to = address(context, &instruction);
            assert!(!aligned || to.is_multiple_of(bytes), "an aligned store to {to:#x}");
            // SAFETY: what the kernel's instruction would write.
            unsafe { core::ptr::copy(vectors[from].as_ptr(), to as *mut u8, bytes) };
        }
        (Mnemonic::Vpxord, OpKind::Register, OpKind::Register) => {
            let (to, _) = vector(instruction.op0_register());
            assert_eq!(instruction.op1_register(), instruction.op2_register());
            vectors[to] = [0; 64];
        }
        _ => panic!("not an instruction of the kernel: {instruction:?}"),
    }
    EMULATED.fetch_add(1, Ordering::Relaxed);
    let rip = usize::try_from(libc::REG_RIP).expect("a small index");
    context.uc_mcontext.gregs[rip] = instruction.next_ip().cast_signed();
}

fn general_rip(context: &libc::ucontext_t) -> u64 {
    let rip = usize::try_from(libc::REG_RIP).expect("a small index");
    context.uc_mcontext.gregs[rip].cast_unsigned()
}

fn trap_invalid_opcodes() {
    // SAFETY: the handler follows the rules above; the structure's other fields are valid as zeroes.
    let result = unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = invalid_opcode as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &raw const action, core::ptr::null_mut())
    };
    assert_eq!(result, 0);
}

/// Copies within two copies of a filled area, by the kernel and naively, and compares the whole of them.
fn check(engine: &Engine, filled: &[u8], places: &[(usize, usize, usize)]) {
    let (mut fast, mut slow) = (filled.to_vec(), filled.to_vec());
    let (at, naive_at) = (fast.as_mut_ptr(), slow.as_mut_ptr());
    let segments: Vec<_> = places
        .iter()
        .map(|&(from, to, len)| Segment { dst: at.wrapping_add(to), src: at.wrapping_add(from), len })
        .collect();
    {
        let session = engine.begin();
        session.widen();
        // SAFETY: every place used lies within the area.
        unsafe { session.copy_batch(&segments) };
    }
    for &(from, to, len) in places {
        // SAFETY: likewise.
        unsafe { naive::copy(naive_at.wrapping_add(to), naive_at.wrapping_add(from), len) };
    }
    assert!(fast == slow, "{places:?}");
}

#[test]
fn avx512_copies_as_naively() {
    trap_invalid_opcodes();
    // SAFETY: the instructions exist, or are carried out above.
    let engine = Engine::from(unsafe { Avx512::new_unchecked() });
    let filled: Vec<u8> =
        (0..22_000_usize).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2]).collect();
    for len in (0..=700).chain([1023, 1500, 2048, 4095, 4096, 9000]) {
        for (from, to) in [(0, 11_000), (1, 11_063), (64, 12_288), (3, 12_291), (5, 12_283)] {
            check(&engine, &filled, &[(from, to, len)]);
        }
        // Page-offset distances that make it descend, and real overlap both ways.
        for distance in [4096 + 1, 4096 + 63, 4096 * 2 + 500, 1, 17, 64, 130, 300] {
            check(&engine, &filled, &[(100, 100 + distance, len)]);
            check(&engine, &filled, &[(100 + distance, 100, len)]);
        }
    }
    let batch: Vec<_> = (0..64).map(|n| (n * 131, n * 131 + 350, n * 97 % 700)).collect();
    check(&engine, &filled, &batch);
    let emulated = EMULATED.load(Ordering::Relaxed);
    assert_eq!(emulated == 0, Avx512::is_available(), "{emulated} instructions emulated");
}
