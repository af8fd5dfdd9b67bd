//! Lengths of intercepted instructions, for CPUs that do not save the next RIP.
//!
//! The exit already says which instruction it was; only prefixes can make it longer than its opcode. So
//! the bytes at RIP are looked at, prefixes skipped, and the opcode compared. A guest that has changed its
//! code since resumes somewhere of its own choosing: its own affair.
#![forbid(unsafe_code)]

/// Longest x86 instruction.
pub const MAX_LEN: usize = 15;

/// An instruction that can be intercepted and is stepped over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "they are the mnemonics")]
pub enum Insn {
    Cpuid,
    Rdmsr,
    Wrmsr,
    Hlt,
    Vmmcall,
    Xsetbv,
    Wbinvd,
    Invd,
}

impl Insn {
    /// The opcode bytes.
    #[must_use]
    pub const fn opcode(self) -> &'static [u8] {
        match self {
            Self::Cpuid => &[0x0f, 0xa2],
            Self::Rdmsr => &[0x0f, 0x32],
            Self::Wrmsr => &[0x0f, 0x30],
            Self::Hlt => &[0xf4],
            Self::Vmmcall => &[0x0f, 0x01, 0xd9],
            Self::Xsetbv => &[0x0f, 0x01, 0xd1],
            Self::Wbinvd => &[0x0f, 0x09],
            Self::Invd => &[0x0f, 0x08],
        }
    }

    /// Its length in `bytes`, counting prefixes; the bare opcode's when it is not (any more) there.
    #[must_use]
    pub fn length_in(self, bytes: &[u8], long_mode: bool) -> u64 {
        let is_prefix = |byte: u8| {
            matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
                || (long_mode && byte & 0xf0 == 0x40)
        };
        let prefixes = bytes.iter().take_while(|&&byte| is_prefix(byte)).count();
        let found = bytes.get(prefixes..).is_some_and(|rest| rest.starts_with(self.opcode()));
        let length = self.opcode().len() + if found { prefixes } else { 0 };
        length as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_count_and_strangers_do_not() {
        assert_eq!(Insn::Vmmcall.length_in(&[0x0f, 0x01, 0xd9, 0xc3], true), 3);
        assert_eq!(Insn::Cpuid.length_in(&[0x66, 0x48, 0x0f, 0xa2], true), 4);
        assert_eq!(Insn::Hlt.length_in(&[0x2e, 0xf4], false), 2);
        // 0x48 is DEC EAX outside 64-bit mode, no prefix: what stands there is not the instruction.
        assert_eq!(Insn::Cpuid.length_in(&[0x48, 0x0f, 0xa2], false), 2);
        assert_eq!(Insn::Cpuid.length_in(&[], true), 2);
        assert_eq!(Insn::Rdmsr.length_in(&[0x66; MAX_LEN], true), 2);
    }
}
