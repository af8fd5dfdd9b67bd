//! `XEN_SYSCTL_getdomaininfolist`: which domains there are and how they fare, for the control domain and for
//! the store, which connects and disconnects by it (`VIRQ_DOM_EXC` says when to ask).
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use gnttab_fast::types::DomId;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::Call;
use crate::abi::domctl::{DomainInfo, handle, info};
use crate::abi::errno::Errno;
use crate::abi::sysctl::{DomainInfoList, Sysctl};
use crate::domain::{Domain, Life, table};

/// Fills the caller's buffer from `first_domain` on, as far as it goes; dead domains are in no table.
pub fn answer(call: &Call<'_>, arg: u64, request: &Sysctl) -> Result<(), Errno> {
    let (mut list, _) = DomainInfoList::read_from_prefix(request.u.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let first = DomId(list.first_domain);
    list.num_domains = 0;
    for domain in table::all(call.guard).filter(|domain| domain.id >= first) {
        if list.num_domains == list.max_domains {
            break;
        }
        let offset = u64::from(list.num_domains) * size_of::<DomainInfo>() as u64;
        call.write(list.buffer.checked_add(offset).ok_or(Errno::EFAULT)?, &about(domain))?;
        list.num_domains += 1;
    }
    let mut answer = *request;
    list.write_to_prefix(answer.u.as_mut_bytes()).map_err(|_| Errno::EINVAL)?;
    call.write(arg, &answer)
}

fn about(domain: &Domain) -> DomainInfo {
    let vcpus = u32::try_from(domain.vcpus().len()).unwrap_or(0);
    let (life, code) = domain.life_and_code();
    let mut flags = info::HVM_GUEST | info::HAP;
    if domain.store {
        flags |= info::XS_DOMAIN;
    }
    if life >= Life::Shutdown {
        flags |= info::SHUTDOWN | (code & info::SHUTDOWN_MASK) << info::SHUTDOWN_SHIFT;
    }
    if life >= Life::Dying {
        flags |= info::DYING;
    }
    DomainInfo {
        domain: domain.id.0,
        flags,
        tot_pages: domain.pages.load(Ordering::Relaxed),
        max_pages: domain.max_frames,
        nr_online_vcpus: vcpus,
        max_vcpu_id: vcpus.saturating_sub(1),
        handle: handle(&domain.name),
        ..DomainInfo::new_zeroed()
    }
}
