//! Instructions that reach a page of device registers, decoded from their bytes.
//!
//! The bytes are the guest's and may be anything; what decodes to anything but a move of a 32-bit word between memory
//! and a general register, or of a constant to memory, is refused. The address is not computed: the exit has told it.
#![forbid(unsafe_code)]

use iced_x86::{Code, Decoder, DecoderOptions, OpKind, Register};

use super::insn::MAX_LEN;

/// A general register by its number: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegisterNumber(pub u8);

/// What an instruction does to the word in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Into a register.
    Load(RegisterNumber),
    /// From somewhere.
    Store(Source),
}

/// What is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A register's low word.
    Register(RegisterNumber),
    /// A constant.
    Value(u32),
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// Its length in bytes.
    pub length: u8,
}

/// Decodes the instruction that `bytes` begin with, in code of 16, 32 or 64 bits; `None` when it is not one of those
/// above.
#[must_use]
pub fn decode(bytes: &[u8], code_bits: u32) -> Option<Access> {
    let bytes = bytes.get(..bytes.len().min(MAX_LEN))?;
    let mut decoder = Decoder::try_new(code_bits, bytes, DecoderOptions::NONE).ok()?;
    // Checked first: without bytes there is nothing to decode.
    if !decoder.can_decode() {
        return None;
    }
    let found = decoder.decode();
    let kind = match found.code() {
        Code::Mov_r32_rm32 | Code::Mov_EAX_moffs32 if found.op1_kind() == OpKind::Memory => {
            Kind::Load(number(found.op0_register())?)
        }
        Code::Mov_rm32_r32 | Code::Mov_moffs32_EAX if found.op0_kind() == OpKind::Memory => {
            Kind::Store(Source::Register(number(found.op1_register())?))
        }
        Code::Mov_rm32_imm32 if found.op0_kind() == OpKind::Memory => {
            Kind::Store(Source::Value(found.immediate32()))
        }
        _ => return None,
    };
    Some(Access { kind, length: u8::try_from(found.len()).ok()? })
}

fn number(register: Register) -> Option<RegisterNumber> {
    let full = register.full_register();
    (full.is_gpr64()).then(|| u8::try_from(full.number()).ok().map(RegisterNumber))?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(register: u8, length: u8) -> Option<Access> {
        Some(Access { kind: Kind::Load(RegisterNumber(register)), length })
    }

    fn store(from: Source, length: u8) -> Option<Access> {
        Some(Access { kind: Kind::Store(from), length })
    }

    #[test]
    fn the_moves_of_kernels_are_known() {
        let register = |number| Source::Register(RegisterNumber(number));
        // mov eax, [0xffffffffff5fd020]; mov ecx, [rdi]; mov r9d, [rax + rcx * 4 + 8]
        assert_eq!(decode(&[0x8b, 0x04, 0x25, 0x20, 0xd0, 0x5f, 0xff], 64), load(0, 7));
        assert_eq!(decode(&[0x8b, 0x0f, 0xc3], 64), load(1, 2));
        assert_eq!(decode(&[0x44, 0x8b, 0x4c, 0x88, 0x08], 64), load(9, 5));
        // mov [rdi - 0xa03000], esi; mov [0xffffffffff5fd0b0], 0; mov [rsp], esp
        assert_eq!(decode(&[0x89, 0xb7, 0x00, 0xd0, 0x5f, 0xff], 64), store(register(6), 6));
        let constant = [0xc7, 0x04, 0x25, 0xb0, 0xd0, 0x5f, 0xff, 0x78, 0x56, 0x34, 0x12];
        assert_eq!(decode(&constant, 64), store(Source::Value(0x1234_5678), 11));
        assert_eq!(decode(&[0x89, 0x24, 0x24], 64), store(register(4), 3));
        // 32-bit code: mov eax, [0xfee00020]; mov [0xfee000b0], eax
        assert_eq!(decode(&[0xa1, 0x20, 0, 0xe0, 0xfe], 32), load(0, 5));
        assert_eq!(decode(&[0xa3, 0xb0, 0, 0xe0, 0xfe], 32), store(register(0), 5));
        // A prefix that means nothing here counts.
        assert_eq!(decode(&[0x2e, 0x8b, 0x0f], 64), load(1, 3));
    }

    #[test]
    fn everything_else_is_refused() {
        for (bytes, bits) in [
            (&[][..], 64),
            (&[0x8b], 64),
            // mov ecx, edi; mov rcx, [rdi]; mov cx, [rdi]; mov cl, [rdi]; add [rdi], ecx; xchg [rdi], ecx; push [rdi]
            (&[0x89, 0xf9], 64),
            (&[0x48, 0x8b, 0x0f], 64),
            (&[0x66, 0x8b, 0x0f], 64),
            (&[0x8a, 0x0f], 64),
            (&[0x01, 0x0f], 64),
            (&[0x87, 0x0f], 64),
            (&[0xff, 0x37], 64),
            // rep movsd; movaps [rdi], xmm0; 15 prefixes
            (&[0xf3, 0xa5], 64),
            (&[0x0f, 0x29, 0x07], 64),
            (&[0x66; 20], 64),
            // No such width of code.
            (&[0x8b, 0x0f], 48),
        ] {
            assert_eq!(decode(bytes, bits), None, "{bytes:x?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// Any bytes at all: no panic, and what is taken lies within them.
        #[test]
        fn no_bytes_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..20),
            bits in prop_oneof![Just(16u32), Just(32), Just(64)],
        ) {
            if let Some(access) = decode(&bytes, bits) {
                prop_assert!(access.length >= 2 && usize::from(access.length) <= bytes.len().min(MAX_LEN));
                let (Kind::Load(RegisterNumber(number))
                | Kind::Store(Source::Register(RegisterNumber(number)))) = access.kind else { return Ok(()) };
                let registers = if bits == 64 { 16 } else { 8 };
                prop_assert!(number < registers);
            }
        }
    }
}
