//! `sched_op` (public/sched.h).
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use super::{Call, Outcome};
use crate::{
    abi::{
        errno::Errno,
        sched::{self as abi, POLL_MAX_PORTS, Shutdown, op},
    },
    domain::{
        lifecycle,
        vcpu::{NOT_POLLING, POLLING_ANY},
    },
    event::{deliver::is_pending, port_limit},
    sched,
    vt::Width,
};

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, arg, ..] = call.args();
    match u32::try_from(cmd) {
        Ok(op::YIELD) => Outcome::Yield,
        Ok(op::BLOCK) => {
            // "Block with upcalls enabled": the reset of the mask is part of the operation.
            if let Some(info) = call.vcpu.info(call.domain) {
                info.upcall_mask().store(0, Ordering::SeqCst);
            }
            Outcome::Block
        }
        Ok(op::SHUTDOWN) => match call.read::<Shutdown>(arg) {
            Ok(request) if request.reason <= abi::SHUTDOWN_SOFT_RESET => {
                lifecycle::shutdown(call.domain, request.reason);
                Outcome::Yield
            }
            Ok(_) => Outcome::Done(Errno::EINVAL.ret()),
            Err(error) => Outcome::Done(error.ret()),
        },
        // The reason for a shutdown that comes by other ways; a PVH guest has none.
        Ok(op::SHUTDOWN_CODE) => Outcome::Done(Errno::EINVAL.ret()),
        Ok(op::POLL) => poll(call, arg).unwrap_or_else(|error| Outcome::Done(error.ret())),
        Ok(op::REMOTE_SHUTDOWN) => Outcome::Done(Errno::EPERM.ret()),
        other => {
            call.refuse("sched_op", other.map_or(cmd, u64::from));
            Outcome::Done(Errno::ENOSYS.ret())
        }
    }
}

/// `SCHEDOP_poll`: returns at once if one of the ports is pending, else blocks until one is or the time has
/// come. Masked ports count: that is what polling is for.
///
/// The order is the waiter's half of a protocol whose other half is `event::deliver`: say what we wait for,
/// then look whether it is there. A sender sets the bit first and then looks who waits.
fn poll(call: &Call<'_>, arg: u64) -> Result<Outcome, Errno> {
    let (ports, count, timeout) = match call.width {
        Width::Bits64 => {
            let request: abi::Poll = call.read(arg)?;
            (request.ports, request.nr_ports, request.timeout)
        }
        Width::Bits32 => {
            let request: abi::compat::Poll = call.read(arg)?;
            let [low, high] = request.timeout.map(u64::from);
            (u64::from(request.ports), request.nr_ports, high << 32 | low)
        }
    };
    if count > POLL_MAX_PORTS {
        return Err(Errno::EINVAL);
    }
    let limit = port_limit(call.domain);
    let vcpu = call.vcpu;
    let port_at = |index: u32| {
        let at = ports.wrapping_add(u64::from(index) * 4);
        let port: u32 = call.read(at)?;
        if port == 0 || port >= limit { Err(Errno::EINVAL) } else { Ok(port) }
    };
    // With one port a sender to any other need not wake us.
    let waits_for = if count == 1 { port_at(0)? } else { POLLING_ANY };
    vcpu.poll.store(waits_for, Ordering::SeqCst);
    let look = || {
        for index in 0..count {
            if is_pending(call.domain, port_at(index)?) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match look() {
        Ok(false) => {}
        found => {
            vcpu.poll.store(NOT_POLLING, Ordering::SeqCst);
            return found.map(|_| Outcome::Done(0));
        }
    }
    if timeout != 0 {
        vcpu.poll_until_ns.store(timeout, Ordering::SeqCst);
        sched::timers_changed(vcpu);
    }
    Ok(Outcome::Block)
}
