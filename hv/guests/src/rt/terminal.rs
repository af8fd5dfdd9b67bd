//! The paravirtual console ring (public/io/console.h), the guest's end.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use hv::abi::hvm::{hvm_op, params};
use hv::abi::io::console as ring;
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;

use super::memory::pointer;
use super::{events, hypercall, size};

/// Our console ring.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    page: u64,
    /// The port that goes with it.
    pub port: u32,
}

impl Terminal {
    /// Asks the hypervisor where it is.
    #[must_use]
    pub fn open() -> Self {
        let param = |index| {
            let mut request = hvm_op::Param { domid: DOMID_SELF, pad: 0, index, value: 0 };
            events::check("HVMOP_get_param", {
                hypercall::op(number::HVM_OP, hvm_op::op::GET_PARAM, &mut request)
            });
            request.value
        };
        let port = u32::try_from(param(params::CONSOLE_EVTCHN)).unwrap_or(0);
        Self { page: param(params::CONSOLE_PFN) << 12, port }
    }

    /// A word of the page: one of the indexes.
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: an aligned word of the page, which is the hypervisor's to write and ours, for good; everyone
        // reaches it by atomics.
        unsafe { &*pointer(self.page).wrapping_add(offset & 0xffc).cast() }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: as above.
        unsafe { &*pointer(self.page).wrapping_add(offset & 0xfff).cast() }
    }

    /// Bytes of input that wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        let read = self.word(ring::IN_CONS).load(Ordering::Relaxed);
        self.word(ring::IN_PROD).load(Ordering::Acquire).wrapping_sub(read)
    }

    /// Takes input, all there is room for; how many bytes.
    pub fn read(&self, into: &mut [u8]) -> usize {
        let from = self.word(ring::IN_CONS).load(Ordering::Relaxed);
        let mut taken = 0_u32;
        for byte in into.iter_mut().take(size(self.waiting().into())) {
            let at = size(from.wrapping_add(taken).into()) % ring::IN_SIZE;
            *byte = self.byte(at).load(Ordering::Relaxed);
            taken += 1;
        }
        self.word(ring::IN_CONS).store(from.wrapping_add(taken), Ordering::Release);
        if taken != 0 {
            events::send(self.port);
        }
        size(taken.into())
    }

    /// Writes, by as many events as it takes.
    pub fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = self.word(ring::OUT_PROD).load(Ordering::Relaxed);
            let read = self.word(ring::OUT_CONS).load(Ordering::Acquire);
            let room = ring::OUT_SIZE - size(end.wrapping_sub(read).into());
            let (now, later) = bytes.split_at(bytes.len().min(room));
            for (index, &byte) in (0_u32..).zip(now) {
                let at = size(end.wrapping_add(index).into()) % ring::OUT_SIZE;
                self.byte(ring::OUT + at).store(byte, Ordering::Relaxed);
            }
            let added = u32::try_from(now.len()).unwrap_or(0);
            self.word(ring::OUT_PROD).store(end.wrapping_add(added), Ordering::Release);
            events::send(self.port);
            bytes = later;
        }
    }
}
