//! What is needed to carry out an instruction in place of the CPU: its bytes, the registers by their numbers, and the
//! step behind it.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use crossbeam_epoch::Guard;

use super::{EFER_LMA, Vcpu, vmcb};
use crate::mm::{guest::GuestSpace, p2m::P2m};
use crate::vt::{Width, insn::MAX_LEN, mmio::RegisterNumber};

impl Vcpu {
    /// The bytes at RIP, each read once; as many as there are, 15 at most.
    pub fn instruction(&self, p2m: &P2m, guard: &Guard) -> ArrayVec<u8, MAX_LEN> {
        let c = self.state();
        let long = self.width() == Width::Bits64;
        let linear = if long { c.rip } else { c.rip.wrapping_add(c.cs.base) & 0xffff_ffff };
        let mut bytes = [0; MAX_LEN];
        let space = GuestSpace::new(p2m, self.paging(), guard);
        // Up to the end of the page: what is beyond may not be there, and need not.
        let first = usize::try_from(0x1000 - (linear & 0xfff)).unwrap_or(0).min(bytes.len());
        let mut got = if space.read(linear, &mut bytes[..first]).is_ok() { first } else { 0 };
        if got == first && space.read(linear.wrapping_add(first as u64), &mut bytes[first..]).is_ok() {
            got = bytes.len();
        }
        bytes.into_iter().take(got).collect()
    }

    /// Bits of the code that runs now: 16, 32 or 64.
    #[must_use]
    pub fn code_bits(&self) -> u32 {
        match self.width() {
            Width::Bits64 => 64,
            Width::Bits32 if self.state().cs.attributes & vmcb::ATTR_32 != 0 => 32,
            Width::Bits32 => 16,
        }
    }

    /// Steps over an instruction that has been decoded.
    pub fn skip(&mut self, length: u8) {
        let c = self.control();
        let next = c.rip.wrapping_add(length.into());
        let long = c.cs.attributes & vmcb::ATTR_LONG != 0 && c.efer & EFER_LMA != 0;
        c.rip = if long { next } else { next & 0xffff_ffff };
        c.interrupt_shadow = 0;
    }

    /// The low word of a register.
    #[must_use]
    pub fn register(&self, register: RegisterNumber) -> u32 {
        let c = self.state();
        let g = self.gprs();
        let value = match register.0 {
            0 => c.rax,
            1 => g.rcx,
            2 => g.rdx,
            3 => g.rbx,
            4 => c.rsp,
            5 => g.rbp,
            6 => g.rsi,
            7 => g.rdi,
            8 => g.r8,
            9 => g.r9,
            10 => g.r10,
            11 => g.r11,
            12 => g.r12,
            13 => g.r13,
            14 => g.r14,
            _ => g.r15,
        };
        u32::try_from(value & 0xffff_ffff).unwrap_or(0)
    }

    /// Sets a register to a word; its upper half becomes zero, as a 32-bit move leaves it.
    pub fn set_register(&mut self, register: RegisterNumber, value: u32) {
        let value = u64::from(value);
        match register.0 {
            0 => self.control().rax = value,
            4 => self.control().rsp = value,
            number => {
                let g = self.gprs_mut();
                match number {
                    1 => g.rcx = value,
                    2 => g.rdx = value,
                    3 => g.rbx = value,
                    5 => g.rbp = value,
                    6 => g.rsi = value,
                    7 => g.rdi = value,
                    8 => g.r8 = value,
                    9 => g.r9 = value,
                    10 => g.r10 = value,
                    11 => g.r11 = value,
                    12 => g.r12 = value,
                    13 => g.r13 = value,
                    14 => g.r14 = value,
                    _ => g.r15 = value,
                }
            }
        }
    }
}
