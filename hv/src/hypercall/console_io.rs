//! `console_io` (public/xen.h): a guest's early console. Each finished line is printed with its domain's name.
#![forbid(unsafe_code)]

use super::{Call, Outcome};
use crate::{
    abi::{
        errno::Errno,
        xen::{CONSOLEIO_READ, CONSOLEIO_WRITE},
    },
    dev::console,
    sched,
};

/// Bytes taken before looking whether to let others run.
const CHUNK: usize = 128;

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, count, buffer, ..] = call.args();
    match u32::try_from(cmd) {
        Ok(CONSOLEIO_WRITE) => write(call, count, buffer),
        // Input comes by the console ring, which every domain has.
        Ok(CONSOLEIO_READ) => Outcome::Done(0),
        _ => Outcome::Done(Errno::ENOSYS.ret()),
    }
}

fn write(call: &mut Call<'_>, count: u64, buffer: u64) -> Outcome {
    // The ABI's count is an int.
    let Ok(count) = i32::try_from(count & 0xffff_ffff) else { return Outcome::Done(Errno::EINVAL.ret()) };
    let Ok(count) = usize::try_from(count) else { return Outcome::Done(Errno::EINVAL.ret()) };
    let mut done = 0;
    while done < count {
        if done > 0 && sched::should_yield() {
            let [cmd, ..] = call.args();
            return call.again([cmd, (count - done) as u64, buffer.wrapping_add(done as u64), 0, 0, 0]);
        }
        let mut bytes = [0; CHUNK];
        let piece = &mut bytes[..CHUNK.min(count - done)];
        if call.space().read(buffer.wrapping_add(done as u64), piece).is_err() {
            return Outcome::Done(Errno::EFAULT.ret());
        }
        console::guest_write(&call.domain.console, call.domain.who(), piece);
        done += piece.len();
    }
    Outcome::Done(0)
}
