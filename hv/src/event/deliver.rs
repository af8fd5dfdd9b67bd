//! From a send to the bits a guest sees, and to its upcall. No lock anywhere here.
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering;

use crossbeam_epoch::Guard;

use super::{Binding, Port};
use crate::{
    abi::{
        errno::Errno,
        hvm::params,
        xen::{shared_info, shared_info_compat, vcpu_info},
    },
    domain::{
        Domain, Vcpu, table,
        vcpu::{Info, NOT_POLLING, POLL_DONE, POLLING_ANY},
    },
    sched,
    vt::Width,
};

/// Bit of `Vcpu::upcall_vector`: an upcall is due.
const UPCALL_DUE: u32 = 1 << 8;

/// `EVTCHNOP_send`.
///
/// # Errors
/// `EINVAL`: not a port one can send on.
#[inline]
pub fn send(domain: &Domain, port: u32, guard: &Guard) -> Result<(), Errno> {
    let own = domain.events.port(port);
    match own.binding {
        Binding::Interdomain(peer, peer_port) => {
            domain.counters.events_sent.add(1);
            let Some(peer) = table::get(peer, guard) else { return Ok(()) };
            let theirs = peer.events.port(peer_port);
            // Closed, or bound anew, since we read our word: the event is for nobody.
            if theirs.binding == Binding::Interdomain(domain.id, port) {
                set_pending(peer, peer_port, theirs);
            }
            Ok(())
        }
        Binding::Ipi => {
            domain.counters.events_sent.add(1);
            set_pending(domain, port, own);
            Ok(())
        }
        // Nobody listens yet: dropped, as the interface says.
        Binding::Unbound(_) => Ok(()),
        // The console's is the caller's to do, off this path.
        Binding::Closed | Binding::Virq(_) | Binding::Console => Err(Errno::EINVAL),
    }
}

/// The console ring behind `port`, if that is what it is, has room again.
pub fn raise_console(domain: &Domain, port: u32) {
    let bound = domain.events.port(port);
    if bound.binding == Binding::Console {
        set_pending(domain, port, bound);
    }
}

/// Raises a virtual interrupt of one vCPU, if the guest has bound it.
pub fn raise_virq(domain: &Domain, vcpu: u32, virq: u32) {
    let Some(slot) = domain.events.virq_slot(vcpu, virq) else { return };
    let port = slot.load(Ordering::Acquire);
    let bound = domain.events.port(port);
    if bound.binding == Binding::Virq(virq) {
        set_pending(domain, port, bound);
    }
}

/// Where the pending and mask words stand, in words of the guest's width.
struct Place {
    bit: u32,
    word: u32,
    pending: usize,
    mask: usize,
}

fn place(width: Width, port: u32) -> Place {
    match width {
        Width::Bits64 => {
            let (word, bit) = ((port / 64) & 63, port % 64);
            let at = word as usize * 8;
            Place {
                bit,
                word,
                pending: shared_info::EVTCHN_PENDING + at,
                mask: shared_info::EVTCHN_MASK + at,
            }
        }
        Width::Bits32 => {
            let (word, bit) = ((port / 32) & 31, port % 32);
            let at = word as usize * 4;
            Place {
                bit,
                word,
                pending: shared_info_compat::EVTCHN_PENDING + at,
                mask: shared_info_compat::EVTCHN_MASK + at,
            }
        }
    }
}

/// Sets a port's pending bit and tells its vCPU, unless it was set already or the port is masked.
pub(super) fn set_pending(domain: &Domain, port: u32, bound: Port) {
    if let Some(fifo) = domain.events.fifo.get() {
        return fifo.set_pending(domain, port, bound);
    }
    let width = domain.width();
    let at = place(width, port);
    let page = &domain.shared_info;
    // The bit first, then everything that makes somebody look at it: both sequentially consistent, as the
    // wake protocol asks (sched::state).
    let (was_pending, masked) = match width {
        Width::Bits64 => {
            let bit = 1u64 << at.bit;
            let was = page.u64(at.pending).fetch_or(bit, Ordering::SeqCst) & bit != 0;
            (was, page.u64(at.mask).load(Ordering::SeqCst) & bit != 0)
        }
        Width::Bits32 => {
            let bit = 1u32 << at.bit;
            let was = page.u32(at.pending).fetch_or(bit, Ordering::SeqCst) & bit != 0;
            (was, page.u32(at.mask).load(Ordering::SeqCst) & bit != 0)
        }
    };
    if was_pending {
        return;
    }
    if !masked && let Some(vcpu) = domain.vcpu(u32::from(bound.vcpu)) {
        select(domain, vcpu, at.word);
    }
    tell_pollers(domain, port);
}

/// Sets the selector bit of a word and announces the upcall.
///
/// While we do so the vCPU may register another place for its `vcpu_info`: what it announces there came perhaps
/// before our bit, so we look again, and once is enough since it registers once.
fn select(domain: &Domain, vcpu: &Vcpu, word: u32) {
    let Some(info) = vcpu.info(domain) else { return };
    select_at(domain, vcpu, info, word);
    if let Some(now) = vcpu.info(domain)
        && !core::ptr::eq(now.frame, info.frame)
    {
        select_at(domain, vcpu, now, word);
    }
}

fn select_at(domain: &Domain, vcpu: &Vcpu, info: Info<'_>, word: u32) {
    match domain.width() {
        Width::Bits64 => {
            info.frame.u64(info.offset + vcpu_info::PENDING_SEL_64).fetch_or(1 << word, Ordering::SeqCst);
        }
        Width::Bits32 => {
            info.frame.u32(info.offset + vcpu_info::PENDING_SEL_32).fetch_or(1 << word, Ordering::SeqCst);
        }
    }
    raise_upcall(vcpu, info);
}

/// Announces the upcall alone, with the same care.
pub(super) fn mark_upcall(domain: &Domain, vcpu: &Vcpu) {
    let Some(info) = vcpu.info(domain) else { return };
    raise_upcall(vcpu, info);
    if let Some(now) = vcpu.info(domain)
        && !core::ptr::eq(now.frame, info.frame)
    {
        raise_upcall(vcpu, now);
    }
}

fn raise_upcall(vcpu: &Vcpu, info: Info<'_>) {
    if info.upcall_pending().swap(1, Ordering::SeqCst) != 0 {
        return;
    }
    vcpu.upcall_vector.fetch_or(UPCALL_DUE, Ordering::SeqCst);
    sched::wake(vcpu);
}

/// Lets vCPUs go on that wait for this port in `SCHEDOP_poll`.
pub(super) fn tell_pollers(domain: &Domain, port: u32) {
    for vcpu in domain.vcpus() {
        let waits = vcpu.poll.load(Ordering::SeqCst);
        if (waits == port && port != NOT_POLLING) || waits == POLLING_ANY {
            // Lost against the vCPU's own end of waiting: then it needs no telling.
            if vcpu.poll.compare_exchange(waits, POLL_DONE, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                sched::wake(vcpu);
            }
        }
    }
}

/// Is this port's pending bit set?
pub(crate) fn is_pending(domain: &Domain, port: u32) -> bool {
    match domain.events.fifo.get() {
        Some(fifo) => fifo.is_pending(port),
        None => is_pending_2l(domain, port),
    }
}

/// [`is_pending`] with the 2-level interface.
pub(super) fn is_pending_2l(domain: &Domain, port: u32) -> bool {
    let width = domain.width();
    let at = place(width, port);
    match width {
        Width::Bits64 => domain.shared_info.u64(at.pending).load(Ordering::SeqCst) & (1 << at.bit) != 0,
        Width::Bits32 => domain.shared_info.u32(at.pending).load(Ordering::SeqCst) & (1 << at.bit) != 0,
    }
}

/// `EVTCHNOP_unmask`: clears the mask bit and delivers what came meanwhile.
///
/// # Errors
/// `EINVAL`: no such port.
pub fn unmask(domain: &Domain, port: u32) -> Result<(), Errno> {
    let bound = domain.events.port(port);
    if !bound.is_open() || port >= super::port_limit(domain) {
        return Err(Errno::EINVAL);
    }
    if let Some(fifo) = domain.events.fifo.get() {
        fifo.unmask(domain, port, bound);
        return Ok(());
    }
    let width = domain.width();
    let at = place(width, port);
    let was_masked = match width {
        Width::Bits64 => {
            let bit = 1u64 << at.bit;
            domain.shared_info.u64(at.mask).fetch_and(!bit, Ordering::SeqCst) & bit != 0
        }
        Width::Bits32 => {
            let bit = 1u32 << at.bit;
            domain.shared_info.u32(at.mask).fetch_and(!bit, Ordering::SeqCst) & bit != 0
        }
    };
    if was_masked
        && is_pending(domain, port)
        && let Some(vcpu) = domain.vcpu(u32::from(bound.vcpu))
    {
        select(domain, vcpu, at.word);
    }
    Ok(())
}

/// Takes the pending bit back, when a port is closed: the number may be used anew.
pub(super) fn clear_pending(domain: &Domain, port: u32) {
    if let Some(fifo) = domain.events.fifo.get() {
        return fifo.clear_pending(port);
    }
    let width = domain.width();
    let at = place(width, port);
    match width {
        Width::Bits64 => domain.shared_info.u64(at.pending).fetch_and(!(1 << at.bit), Ordering::SeqCst),
        Width::Bits32 => {
            u64::from(domain.shared_info.u32(at.pending).fetch_and(!(1 << at.bit), Ordering::SeqCst))
        }
    };
}

/// The vector to inject now, if an upcall is due: the vCPU's own (once for each time `evtchn_upcall_pending`
/// was raised), or the domain's callback vector (as long as it is raised, like a level).
#[must_use]
#[inline]
pub fn upcall_wanted(domain: &Domain, vcpu: &Vcpu) -> Option<u8> {
    let word = vcpu.upcall_vector.load(Ordering::SeqCst);
    let [vector, ..] = word.to_le_bytes();
    if vector != 0 {
        return (word & UPCALL_DUE != 0).then_some(vector);
    }
    let via = domain.params.get(params::CALLBACK_IRQ)?;
    if via >> params::CALLBACK_TYPE_SHIFT != params::CALLBACK_TYPE_VECTOR {
        return None;
    }
    let [vector, ..] = via.to_le_bytes();
    let info = vcpu.info(domain)?;
    (vector >= 0x10 && info.upcall_pending().load(Ordering::SeqCst) != 0).then_some(vector)
}

/// The vector of [`upcall_wanted`] has been injected.
pub fn upcall_delivered(vcpu: &Vcpu) {
    vcpu.upcall_vector.fetch_and(!UPCALL_DUE, Ordering::SeqCst);
}

/// Marks every word as selected and the upcall as due: after a `vcpu_info` has moved.
pub(crate) fn announce_all(domain: &Domain, vcpu: &Vcpu) {
    for word in 0..port_words(domain.width()) {
        select(domain, vcpu, word);
    }
}

/// Words of pending bits.
const fn port_words(width: Width) -> u32 {
    match width {
        Width::Bits64 => 64,
        Width::Bits32 => 32,
    }
}

/// `HVMOP_set_evtchn_upcall_vector`: what is pending already is announced through it.
pub fn set_upcall_vector(domain: &Domain, vcpu: &Vcpu, vector: u8) {
    let pending = vcpu.info(domain).is_some_and(|info| info.upcall_pending().load(Ordering::SeqCst) != 0);
    let due = if pending { UPCALL_DUE } else { 0 };
    vcpu.upcall_vector.store(u32::from(vector) | due, Ordering::SeqCst);
    if pending {
        sched::wake(vcpu);
    }
}
