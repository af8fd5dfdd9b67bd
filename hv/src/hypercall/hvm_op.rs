//! `hvm_op` (public/hvm/hvm_op.h), the part a guest may use on itself.
#![forbid(unsafe_code)]

use super::{Call, Outcome};
use crate::{
    abi::{
        errno::Errno,
        hvm::{
            hvm_op::{EvtchnUpcallVector, Param, op},
            params,
        },
    },
    arch::x86::time,
    event::deliver,
    mm::tlb,
};

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, arg, ..] = call.args();
    let Ok(cmd) = u32::try_from(cmd) else { return Outcome::Done(Errno::ENOSYS.ret()) };
    one(call, cmd, arg).map(|()| 0).into()
}

fn one(call: &Call<'_>, cmd: u32, arg: u64) -> Result<(), Errno> {
    match cmd {
        op::SET_PARAM => {
            let request: Param = call.read(arg)?;
            call.only_self(request.domid)?;
            set_param(call, request.index, request.value)
        }
        op::GET_PARAM => {
            let mut request: Param = call.read(arg)?;
            call.only_self(request.domid)?;
            if !readable(request.index) {
                return Err(Errno::EINVAL);
            }
            request.value = call.domain.params.get(request.index).ok_or(Errno::EINVAL)?;
            call.write(arg, &request)
        }
        op::SET_EVTCHN_UPCALL_VECTOR => {
            let request: EvtchnUpcallVector = call.read(arg)?;
            if request.vector < 0x10 {
                return Err(Errno::EINVAL);
            }
            let vcpu = call.domain.vcpu(request.vcpu).ok_or(Errno::ENOENT)?;
            call.domain.latch_width(call.width);
            deliver::set_upcall_vector(call.domain, vcpu, request.vector);
            Ok(())
        }
        op::FLUSH_TLBS => {
            if arg != 0 {
                return Err(Errno::EINVAL);
            }
            tlb::flush_domain(&call.domain.tlb);
            Ok(())
        }
        op::GET_TIME => call.write(arg, &time::now_ns()),
        // Obsolete; Linux asks once to learn that it is.
        op::PAGETABLE_DYING => Err(Errno::ENOSYS),
        other => {
            call.refuse("hvm_op", u64::from(other));
            Err(Errno::ENOSYS)
        }
    }
}

/// Parameters a guest may read: where its console and store are, and what it set itself.
const fn readable(index: u32) -> bool {
    matches!(
        index,
        params::CALLBACK_IRQ
            | params::STORE_PFN
            | params::STORE_EVTCHN
            | params::PAE_ENABLED
            | params::CONSOLE_PFN
            | params::CONSOLE_EVTCHN
    )
}

fn set_param(call: &Call<'_>, index: u32, value: u64) -> Result<(), Errno> {
    if index >= params::NR_PARAMS {
        return Err(Errno::EINVAL);
    }
    if index != params::CALLBACK_IRQ {
        return Err(Errno::EPERM);
    }
    // Only the vector kind: a PVH guest has no interrupt lines. 0 switches the callback off.
    let kind = value >> params::CALLBACK_TYPE_SHIFT;
    if value != 0 && (kind != params::CALLBACK_TYPE_VECTOR || value & 0xff < 0x10) && value != 1 {
        return Err(Errno::EINVAL);
    }
    call.domain.latch_width(call.width);
    call.domain.params.set(index, value);
    Ok(())
}
