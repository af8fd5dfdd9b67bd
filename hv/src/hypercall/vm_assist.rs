//! `vm_assist` (public/xen.h): the one assist a translated guest has.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use super::{Call, Outcome};
use crate::abi::{
    errno::Errno,
    xen::{VMASST_CMD_DISABLE, VMASST_CMD_ENABLE, VMASST_TYPE_RUNSTATE_UPDATE_FLAG},
};

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, kind, ..] = call.args().map(u32::try_from);
    let on = match cmd {
        Ok(VMASST_CMD_ENABLE) => true,
        Ok(VMASST_CMD_DISABLE) => false,
        _ => return Outcome::Done(Errno::ENOSYS.ret()),
    };
    if kind != Ok(VMASST_TYPE_RUNSTATE_UPDATE_FLAG) {
        return Outcome::Done(Errno::EINVAL.ret());
    }
    call.domain.runstate_update_flag.store(on, Ordering::Relaxed);
    Outcome::Done(0)
}
