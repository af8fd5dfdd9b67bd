//! `vcpu_op` (public/vcpu.h) and `set_timer_op`.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use gnttab_fast::types::Gfn;
use zerocopy::FromBytes;

use super::{Call, Outcome};
use crate::{
    abi::{
        errno::Errno,
        hvm::hvm_vcpu::{Context, MODE_32B, MODE_64B, X86_32, X86_64},
        vcpu::{self as abi, RegisterVcpuInfo, SSHOTTMR_FUTURE, op},
        xen::vcpu_info,
    },
    arch::x86::time,
    domain::{Vcpu, runstate::Area, vcpu::NO_TIMER},
    event::deliver,
    mm::{guest::Access, shared::SharedFrame},
    pvclock, sched,
    vt::Width,
};

/// The periods of a periodic timer that Xen takes.
const LEAST_PERIOD_NS: u64 = 1_000_000;
const MOST_PERIOD_NS: u64 = u64::MAX >> 2;

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, id, arg, ..] = call.args();
    let (Ok(cmd), Ok(id)) = (u32::try_from(cmd), u32::try_from(id)) else {
        return Outcome::Done(Errno::ENOENT.ret());
    };
    let Some(vcpu) = call.domain.vcpu(id) else { return Outcome::Done(Errno::ENOENT.ret()) };
    one(call, cmd, vcpu, arg).into()
}

fn one(call: &Call<'_>, cmd: u32, vcpu: &Vcpu, arg: u64) -> Result<i64, Errno> {
    // Timers are armed on the pCPU that runs the vCPU: the ABI lets a vCPU set only its own.
    let own = || if core::ptr::eq(vcpu, call.vcpu) { Ok(()) } else { Err(Errno::EINVAL) };
    match cmd {
        op::INITIALISE => initialise(call, vcpu, arg)?,
        op::UP => {
            if !vcpu.is_initialised() {
                return Err(Errno::EINVAL);
            }
            sched::start_vcpu(vcpu);
        }
        op::DOWN => sched::stop_vcpu(vcpu),
        op::IS_UP => return Ok(i64::from(vcpu.is_up())),
        op::GET_RUNSTATE_INFO => write_runstate(call, vcpu, arg)?,
        op::REGISTER_RUNSTATE_MEMORY_AREA => register_runstate(call, vcpu, arg)?,
        op::STOP_PERIODIC_TIMER => set_tick(vcpu, 0),
        op::SET_PERIODIC_TIMER => {
            let request: abi::SetPeriodicTimer = call.read(arg)?;
            if !(LEAST_PERIOD_NS..=MOST_PERIOD_NS).contains(&request.period_ns) {
                return Err(Errno::EINVAL);
            }
            own()?;
            set_tick(vcpu, request.period_ns);
            sched::timers_changed(vcpu);
        }
        op::SET_SINGLESHOT_TIMER => {
            own()?;
            let (at, flags) = match call.width {
                Width::Bits64 => {
                    let request: abi::SetSingleshotTimer = call.read(arg)?;
                    (request.timeout_abs_ns, request.flags)
                }
                Width::Bits32 => {
                    let request: abi::compat::SetSingleshotTimer = call.read(arg)?;
                    let [low, high] = request.timeout_abs_ns.map(u64::from);
                    (high << 32 | low, request.flags)
                }
            };
            if flags & SSHOTTMR_FUTURE != 0 && at < time::now_ns() {
                // Xen's own word for "it has passed".
                return Err(Errno::ETIME);
            }
            set_timer(vcpu, at);
        }
        op::STOP_SINGLESHOT_TIMER => {
            own()?;
            set_timer(vcpu, NO_TIMER);
        }
        op::REGISTER_VCPU_INFO => register_info(call, vcpu, arg)?,
        op::REGISTER_VCPU_TIME_MEMORY_AREA => {
            let at = address_argument(call, arg)?;
            call.write(at, &pvclock::now())?;
        }
        other => {
            call.refuse("vcpu_op", u64::from(other));
            return Err(Errno::ENOSYS);
        }
    }
    Ok(0)
}

/// `set_timer_op`: the calling vCPU's single-shot timer in one argument (two for a 32-bit caller); 0 stops it.
pub fn set_timer_op(call: &mut Call<'_>) -> Outcome {
    let at = match call.width {
        Width::Bits64 => call.args()[0],
        Width::Bits32 => call.args()[1] << 32 | call.args()[0],
    };
    set_timer(call.vcpu, if at == 0 { NO_TIMER } else { at.min(NO_TIMER - 1) });
    Outcome::Done(0)
}

fn set_timer(vcpu: &Vcpu, at: u64) {
    vcpu.timer_ns.store(at, Ordering::SeqCst);
    sched::timers_changed(vcpu);
}

/// Sets or, with 0, stops the periodic timer; its first tick is one period from now. Whoever fires it meanwhile looks
/// at the period last, so a stopped one stays so.
fn set_tick(vcpu: &Vcpu, period: u64) {
    vcpu.tick_period_ns.store(period, Ordering::SeqCst);
    let first = if period == 0 { NO_TIMER } else { time::now_ns().saturating_add(period) };
    vcpu.tick_ns.store(first, Ordering::SeqCst);
}

/// The address inside the `{ union { handle, u64 } }` that registers a memory area.
fn address_argument(call: &Call<'_>, arg: u64) -> Result<u64, Errno> {
    match call.width {
        Width::Bits64 => call.read::<u64>(arg),
        Width::Bits32 => call.read::<u32>(arg).map(u64::from),
    }
}

/// `VCPUOP_get_runstate_info`. 64-bit values are 4-aligned in the 32-bit layout.
fn write_runstate(call: &Call<'_>, vcpu: &Vcpu, arg: u64) -> Result<(), Errno> {
    let info = vcpu.runstate.info();
    match call.width {
        Width::Bits64 => call.write(arg, &info),
        Width::Bits32 => {
            let words = |value: u64| {
                let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
                [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
            };
            let info = abi::compat::RunstateInfo {
                state: info.state,
                state_entry_time: words(info.state_entry_time),
                time: info.time.map(words),
            };
            call.write(arg, &info)
        }
    }
}

/// `VCPUOP_register_runstate_memory_area`: the frames behind the address are pinned now, so that the area can
/// be written without the guest's page tables at every change.
fn register_runstate(call: &Call<'_>, vcpu: &Vcpu, arg: u64) -> Result<(), Errno> {
    let at = address_argument(call, arg)?;
    let size = match call.width {
        Width::Bits64 => size_of::<abi::RunstateInfo>(),
        Width::Bits32 => size_of::<abi::compat::RunstateInfo>(),
    };
    let offset = usize::try_from(at & 0xfff).map_err(|_| Errno::EFAULT)?;
    if !offset.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let pin = |at: u64| {
        let mfn = call.space().mfn(at, Access::Write)?;
        SharedFrame::pin(mfn, call.domain.id).ok_or(Errno::EFAULT)
    };
    let second = if offset + size > 4096 { Some(pin(at.wrapping_add(size as u64))?) } else { None };
    let area = Area { first: pin(at)?, second, offset, width: call.width };
    let flag = call.domain.runstate_update_flag.load(Ordering::Relaxed);
    if vcpu.runstate.register(area, flag) { Ok(()) } else { Err(Errno::EBUSY) }
}

fn initialise(call: &Call<'_>, vcpu: &Vcpu, arg: u64) -> Result<(), Errno> {
    let context: Context = call.read(arg)?;
    if core::ptr::eq(vcpu, call.vcpu) || vcpu.is_initialised() {
        return Err(Errno::EEXIST);
    }
    // Held by whoever runs it; it never ran.
    let mut arch = vcpu.arch.try_lock().ok_or(Errno::EBUSY)?;
    let registers = zerocopy::IntoBytes::as_bytes(&context.regs);
    let started = match context.mode {
        MODE_32B => X86_32::read_from_prefix(registers).is_ok_and(|(from, _)| arch.start_32(&from)),
        MODE_64B => X86_64::read_from_prefix(registers).is_ok_and(|(from, _)| arch.start_64(&from)),
        _ => false,
    };
    if !started {
        return Err(Errno::EINVAL);
    }
    drop(arch);
    if vcpu.set_initialised() { Ok(()) } else { Err(Errno::EEXIST) }
}

fn register_info(call: &Call<'_>, vcpu: &Vcpu, arg: u64) -> Result<(), Errno> {
    let request: RegisterVcpuInfo = call.read(arg)?;
    let offset = usize::try_from(request.offset).map_err(|_| Errno::EINVAL)?;
    if offset > 4096 - vcpu_info::SIZE || !offset.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let entry =
        call.domain.p2m.lookup(Gfn(request.mfn)).filter(|entry| entry.kind.is_ram() && entry.writable());
    let frame = entry.and_then(|entry| SharedFrame::pin(entry.mfn, call.domain.id)).ok_or(Errno::EINVAL)?;
    if !vcpu.register_info(call.domain, frame, offset) {
        return Err(Errno::EINVAL);
    }
    if let Some(info) = vcpu.info(call.domain) {
        pvclock::publish(info.frame, info.offset + vcpu_info::TIME);
    }
    deliver::announce_all(call.domain, vcpu);
    // Whoever runs it looks for the place anew.
    sched::wake(vcpu);
    Ok(())
}
