//! `sysctl` (public/sysctl.h): the control domain asks something of the machine. Debug keys
//! and the list of domains, which the store may have too.
#![forbid(unsafe_code)]

use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{Call, Outcome, domain_list};
use crate::abi::errno::Errno;
use crate::abi::sysctl::{DEBUG_KEYS, DebugKeys, GETDOMAININFOLIST, INTERFACE_VERSION, Sysctl};
use crate::debug_keys;

/// Keys of one call: each prints a picture over a slow line, with this CPU and no other.
const MOST_KEYS: u32 = 64;

/// The hypercall. Version before privilege, as Xen has it: a tool built for another release learns that first.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [arg, ..] = call.args();
    answer(call, arg).map(|()| 0).into()
}

fn answer(call: &Call<'_>, arg: u64) -> Result<(), Errno> {
    let request: Sysctl = call.read(arg)?;
    if request.interface_version != INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    let of_the_store = call.domain.store && request.cmd == GETDOMAININFOLIST;
    if !call.domain.control && !of_the_store {
        return Err(Errno::EPERM);
    }
    match request.cmd {
        GETDOMAININFOLIST => domain_list::answer(call, arg, &request),
        DEBUG_KEYS => {
            let (keys, _) = DebugKeys::read_from_prefix(request.u.as_bytes()).map_err(|_| Errno::EINVAL)?;
            if keys.nr_keys > MOST_KEYS {
                return Err(Errno::E2BIG);
            }
            for index in 0..u64::from(keys.nr_keys) {
                debug_keys::handle(call.read(keys.keys.checked_add(index).ok_or(Errno::EFAULT)?)?);
            }
            Ok(())
        }
        other => {
            call.refuse("sysctl", u64::from(other));
            Err(Errno::ENOSYS)
        }
    }
}
