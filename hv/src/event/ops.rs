//! Binding, closing and asking: the slow half of event channels, under the domains' locks.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use crossbeam_epoch::Guard;
use gnttab_fast::types::DomId;
use spin::MutexGuard;

use super::{
    Binding, Port,
    deliver::{clear_pending, set_pending},
    fifo, port_limit,
};
use crate::{
    abi::{
        errno::Errno,
        event_channel::{BindInterdomain, Status, stat},
        xen::{NR_VIRQS, VIRQ_CONSOLE, VIRQ_DOM_EXC},
    },
    domain::{Domain, table},
};

type Locked<'a> = MutexGuard<'a, u32>;

/// The lowest free port, whose word is still closed.
fn lowest_free(domain: &Domain, lowest: &mut u32) -> Result<u32, Errno> {
    let limit = port_limit(domain);
    let free = (*lowest..limit).find(|&port| !domain.events.port(port).is_open()).ok_or(Errno::ENOSPC)?;
    domain.events.word_or_new(free).ok_or(Errno::ENOMEM)?;
    *lowest = free + 1;
    Ok(free)
}

fn put(domain: &Domain, _locked: &Locked<'_>, port: u32, to: Port) {
    if let Some(word) = domain.events.word(port) {
        // Release: a sender that sees the binding sees what was prepared for it.
        word.store(to.word(), Ordering::Release);
    }
}

/// A vCPU number that stands for one of the domain's.
fn vcpu_number(domain: &Domain, vcpu: u32) -> Result<u16, Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    u16::try_from(vcpu).map_err(|_| Errno::ENOENT)
}

/// `EVTCHNOP_alloc_unbound`: a port that `remote` may bind to.
///
/// # Errors
/// `ENOSPC`.
pub fn alloc_unbound(domain: &Domain, remote: DomId) -> Result<u32, Errno> {
    let mut locked = domain.events.lowest_free.lock();
    let port = lowest_free(domain, &mut locked)?;
    put(domain, &locked, port, Port { binding: Binding::Unbound(remote), vcpu: 0 });
    Ok(port)
}

/// The port of a domain's console ring, whose other end is the hypervisor.
///
/// # Errors
/// `ENOSPC`.
pub fn alloc_console(domain: &Domain) -> Result<u32, Errno> {
    let mut locked = domain.events.lowest_free.lock();
    let port = lowest_free(domain, &mut locked)?;
    put(domain, &locked, port, Port { binding: Binding::Console, vcpu: 0 });
    Ok(port)
}

/// Locks one domain's ports or two, in the order of their numbers.
fn lock_both<'a>(one: &'a Domain, other: &'a Domain) -> (Locked<'a>, Option<Locked<'a>>) {
    if one.id == other.id {
        return (one.events.lowest_free.lock(), None);
    }
    if one.id < other.id {
        let first = one.events.lowest_free.lock();
        let second = other.events.lowest_free.lock();
        (first, Some(second))
    } else {
        let second = other.events.lowest_free.lock();
        let first = one.events.lowest_free.lock();
        (first, Some(second))
    }
}

/// `EVTCHNOP_bind_interdomain`: a port of ours, bound to an unbound one of theirs. The new port is pending at
/// once: events sent before are not lost.
///
/// # Errors
/// `ESRCH`: no such domain; `EINVAL`: not a port that is unbound for us; `ENOSPC`.
pub fn bind_interdomain(
    domain: &Domain,
    request: &BindInterdomain,
    remote: DomId,
    vcpu: u32,
    guard: &Guard,
) -> Result<u32, Errno> {
    let peer = table::get(remote, guard).filter(|peer| !peer.is_dying()).ok_or(Errno::ESRCH)?;
    let vcpu = vcpu_number(domain, vcpu)?;
    let (mut ours, theirs) = lock_both(domain, peer);
    let there = peer.events.port(request.remote_port);
    if there.binding != Binding::Unbound(domain.id) {
        return Err(Errno::EINVAL);
    }
    let port = lowest_free(domain, &mut ours)?;
    let here = Port { binding: Binding::Interdomain(remote, request.remote_port), vcpu };
    put(domain, &ours, port, here);
    let bound = Port { binding: Binding::Interdomain(domain.id, port), ..there };
    put(peer, theirs.as_ref().unwrap_or(&ours), request.remote_port, bound);
    set_pending(domain, port, here);
    Ok(port)
}

/// Is it one for the whole domain, not for each vCPU?
const fn is_global(virq: u32) -> bool {
    matches!(virq, VIRQ_CONSOLE | VIRQ_DOM_EXC) || virq >= 4 && virq != 7 && virq != 13
}

/// `EVTCHNOP_bind_virq`.
///
/// # Errors
/// `EINVAL`: no such interrupt, or a global one on another vCPU than 0; `ENOENT`: no such vCPU; `EEXIST`; `ENOSPC`.
pub fn bind_virq(domain: &Domain, virq: u32, vcpu: u32) -> Result<u32, Errno> {
    if virq >= NR_VIRQS || (is_global(virq) && vcpu != 0) {
        return Err(Errno::EINVAL);
    }
    let notify = vcpu_number(domain, vcpu)?;
    let mut locked = domain.events.lowest_free.lock();
    let slot = domain.events.virq_slot(vcpu, virq).ok_or(Errno::ENOENT)?;
    if slot.load(Ordering::Relaxed) != 0 {
        return Err(Errno::EEXIST);
    }
    let port = lowest_free(domain, &mut locked)?;
    put(domain, &locked, port, Port { binding: Binding::Virq(virq), vcpu: notify });
    slot.store(port, Ordering::Release);
    Ok(port)
}

/// `EVTCHNOP_bind_ipi`.
///
/// # Errors
/// `ENOENT`: no such vCPU; `ENOSPC`.
pub fn bind_ipi(domain: &Domain, vcpu: u32) -> Result<u32, Errno> {
    let vcpu = vcpu_number(domain, vcpu)?;
    let mut locked = domain.events.lowest_free.lock();
    let port = lowest_free(domain, &mut locked)?;
    put(domain, &locked, port, Port { binding: Binding::Ipi, vcpu });
    Ok(port)
}

/// `EVTCHNOP_bind_vcpu`: which vCPU gets a port's events.
///
/// # Errors
/// `ENOENT`: no such vCPU; `EINVAL`: no such port, or one whose vCPU is part of what it is.
pub fn bind_vcpu(domain: &Domain, port: u32, vcpu: u32) -> Result<(), Errno> {
    let vcpu = vcpu_number(domain, vcpu)?;
    let locked = domain.events.lowest_free.lock();
    let bound = domain.events.port(port);
    match bound.binding {
        Binding::Unbound(_) | Binding::Interdomain(..) | Binding::Console => {}
        Binding::Virq(virq) if is_global(virq) => {}
        Binding::Closed | Binding::Virq(_) | Binding::Ipi => return Err(Errno::EINVAL),
    }
    put(domain, &locked, port, Port { vcpu, ..bound });
    Ok(())
}

/// `EVTCHNOP_status`: fills what is OUT.
///
/// # Errors
/// `EINVAL`: no such port.
pub fn status(domain: &Domain, request: &mut Status) -> Result<(), Errno> {
    if request.port >= port_limit(domain) {
        return Err(Errno::EINVAL);
    }
    let bound = domain.events.port(request.port);
    request.vcpu = u32::from(bound.vcpu);
    (request.status, request.u) = match bound.binding {
        Binding::Closed => (stat::CLOSED, [0, 0]),
        Binding::Unbound(remote) => (stat::UNBOUND, [u32::from(remote.0), 0]),
        Binding::Interdomain(remote, port) => (stat::INTERDOMAIN, [u32::from(remote.0), port]),
        Binding::Virq(virq) => (stat::VIRQ, [virq, 0]),
        Binding::Ipi => (stat::IPI, [0, 0]),
        // As a toolstack's console daemon would appear: in domain 0. It has no port there.
        Binding::Console => (stat::INTERDOMAIN, [0, 0]),
    };
    Ok(())
}

/// `EVTCHNOP_close`. The other end of a pair becomes unbound again, for us.
///
/// # Errors
/// `EINVAL`: no such port.
pub fn close(domain: &Domain, port: u32, guard: &Guard) -> Result<(), Errno> {
    loop {
        let seen = domain.events.port(port);
        let peer = match seen.binding {
            Binding::Closed => return Err(Errno::EINVAL),
            Binding::Interdomain(remote, _) => table::get(remote, guard),
            _ => None,
        };
        let (mut ours, theirs) = lock_both(domain, peer.unwrap_or(domain));
        // Another vCPU may have changed it before we had the locks. Then it is as it is now, with another
        // partner perhaps; each turn of the loop needs such a change.
        if domain.events.port(port) != seen {
            continue;
        }
        if let (Binding::Interdomain(_, there), Some(peer)) = (seen.binding, peer) {
            let their = peer.events.port(there);
            let unbound = Port { binding: Binding::Unbound(domain.id), vcpu: 0 };
            put(peer, theirs.as_ref().unwrap_or(&ours), there, Port { vcpu: their.vcpu, ..unbound });
        }
        if let Binding::Virq(virq) = seen.binding
            && let Some(slot) = domain.events.virq_slot(u32::from(seen.vcpu), virq)
        {
            // A global interrupt may have been moved to another vCPU: its slot is vCPU 0's.
            let slot = if is_global(virq) { domain.events.virq_slot(0, virq).unwrap_or(slot) } else { slot };
            slot.store(0, Ordering::Release);
        }
        put(domain, &ours, port, Port::CLOSED);
        *ours = (*ours).min(port);
        clear_pending(domain, port);
        fifo::forget(domain, port);
        return Ok(());
    }
}

/// Closes up to `budget` open ports; true when none is left. For `EVTCHNOP_reset` and the end of a domain.
pub fn close_some(domain: &Domain, budget: u32, guard: &Guard) -> bool {
    let mut left = budget;
    for port in 1..port_limit(domain) {
        if domain.events.port(port).is_open() {
            if left == 0 {
                return false;
            }
            left -= 1;
            // It may be closed by another vCPU meanwhile.
            let _ = close(domain, port, guard);
        }
    }
    true
}
