//! Event channels of the 2-level kind, the shared page they live in, and the two ways of sleeping.
//!
//! Ports start masked. A guest either unmasks its ports and sleeps by HLT, being woken by the upcall
//! vector ([`wait_upcall`]), or leaves them masked and sleeps by SCHEDOP_poll ([`poll`]).

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hv::abi::event_channel::{self as evtchn, op};
use hv::abi::hvm::{hvm_op, params};
use hv::abi::xen::hypercall as number;
use hv::abi::xen::{DOMID_SELF, VcpuTimeInfo, shared_info, vcpu_info};
use hv::abi::{memory as mem, sched};

use super::hypercall;
use super::memory::{gfn, hole, pointer};
use super::{size, traps};

static SHARED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    safe static guest_vcpu_info: AtomicU64;
    safe static guest_upcalls: AtomicU64;
}

/// A word of the shared page.
fn word(offset: usize) -> &'static AtomicU64 {
    let base = pointer(SHARED.load(Ordering::Relaxed));
    // SAFETY: the page was mapped by `init` and stays; everyone reaches its words by atomics.
    unsafe { &*base.wrapping_add(offset).cast() }
}

fn upcall_pending() -> &'static AtomicU8 {
    let base = pointer(SHARED.load(Ordering::Relaxed));
    // SAFETY: as above.
    unsafe { &*base.wrapping_add(shared_info::VCPU_INFO + vcpu_info::UPCALL_PENDING).cast() }
}

/// vCPU 0's clock.
pub(super) fn time_info() -> *const VcpuTimeInfo {
    let base = pointer(SHARED.load(Ordering::Relaxed));
    base.wrapping_add(shared_info::VCPU_INFO + vcpu_info::TIME).cast_const().cast()
}

/// Maps the shared page where there is no RAM, masks every port and asks for the upcall vector.
pub(super) fn init() {
    let page = hole(1);
    let mut request = mem::AddToPhysmap {
        domid: DOMID_SELF,
        size: 0,
        space: mem::MAPSPACE_SHARED_INFO,
        idx: 0,
        gpfn: gfn(page),
    };
    check("XENMEM_add_to_physmap of the shared page", {
        hypercall::op(number::MEMORY_OP, mem::op::ADD_TO_PHYSMAP, &mut request)
    });
    SHARED.store(page, Ordering::Relaxed);
    guest_vcpu_info.store(page, Ordering::Relaxed);
    for index in 0..64 {
        word(shared_info::EVTCHN_MASK + 8 * index).store(u64::MAX, Ordering::Relaxed);
    }
    come_by(traps::UPCALL);
}

/// Has events come by this vector from now on.
pub fn come_by(vector: u8) {
    let value = params::CALLBACK_TYPE_VECTOR << params::CALLBACK_TYPE_SHIFT | u64::from(vector);
    let mut request = hvm_op::Param { domid: DOMID_SELF, pad: 0, index: params::CALLBACK_IRQ, value };
    check("HVMOP_set_param of the callback", {
        hypercall::op(number::HVM_OP, hvm_op::op::SET_PARAM, &mut request)
    });
}

/// Ends the guest when a hypercall that must work did not.
pub fn check(what: &str, result: i64) {
    if result < 0 {
        crate::fail!("{what}: error {}", -result);
    }
}

fn channel_op<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable>(
    what: &str,
    cmd: u32,
    argument: &mut T,
) {
    check(what, hypercall::op(number::EVENT_CHANNEL_OP, cmd, argument));
}

/// A port that domain `remote_dom` may bind to.
#[must_use]
pub fn alloc_unbound(remote_dom: u16) -> u32 {
    let mut request = evtchn::AllocUnbound { dom: DOMID_SELF, remote_dom, port: 0 };
    channel_op("EVTCHNOP_alloc_unbound", op::ALLOC_UNBOUND, &mut request);
    request.port
}

/// Binds to another domain's port.
#[must_use]
pub fn bind_interdomain(remote_dom: u16, remote_port: u32) -> u32 {
    let mut request = evtchn::BindInterdomain { remote_dom, pad: 0, remote_port, local_port: 0 };
    channel_op("EVTCHNOP_bind_interdomain", op::BIND_INTERDOMAIN, &mut request);
    request.local_port
}

/// A port for a virtual interrupt of vCPU 0.
#[must_use]
pub fn bind_virq(virq: u32) -> u32 {
    let mut request = evtchn::BindVirq { virq, vcpu: 0, port: 0 };
    channel_op("EVTCHNOP_bind_virq", op::BIND_VIRQ, &mut request);
    request.port
}

/// A port for messages to vCPU 0.
#[must_use]
pub fn bind_ipi() -> u32 {
    let mut request = evtchn::BindIpi { vcpu: 0, port: 0 };
    channel_op("EVTCHNOP_bind_ipi", op::BIND_IPI, &mut request);
    request.port
}

/// Tells the other end.
pub fn send(port: u32) {
    channel_op("EVTCHNOP_send", op::SEND, &mut evtchn::Port { port });
}

/// Gives a port back.
pub fn close(port: u32) {
    channel_op("EVTCHNOP_close", op::CLOSE, &mut evtchn::Port { port });
}

/// `EVTCHNSTAT_*` of a port of ours.
#[must_use]
pub fn status(port: u32) -> u32 {
    let mut request = evtchn::Status { dom: DOMID_SELF, pad0: 0, port, status: 0, vcpu: 0, u: [0; 2] };
    channel_op("EVTCHNOP_status", op::STATUS, &mut request);
    request.status
}

/// Lets a port's events reach the upcall vector.
pub fn unmask(port: u32) {
    channel_op("EVTCHNOP_unmask", op::UNMASK, &mut evtchn::Port { port });
}

/// Takes a port's pending bit.
pub fn take(port: u32) -> bool {
    let bit = 1_u64 << (port % 64);
    let pending = word(shared_info::EVTCHN_PENDING + 8 * size(u64::from(port / 64)));
    pending.fetch_and(!bit, Ordering::AcqRel) & bit != 0
}

/// Whether a port has an event; leaves it there.
#[must_use]
pub fn is_pending(port: u32) -> bool {
    let pending = word(shared_info::EVTCHN_PENDING + 8 * size(u64::from(port / 64)));
    pending.load(Ordering::Acquire) >> (port % 64) & 1 != 0
}

/// Takes everything that is pending and unmasked; how many.
pub fn take_all() -> u32 {
    upcall_pending().store(0, Ordering::SeqCst);
    let select = word(shared_info::VCPU_INFO + vcpu_info::PENDING_SEL_64).swap(0, Ordering::SeqCst);
    let mut taken = 0;
    for index in (0..64).filter(|index| select >> index & 1 != 0) {
        let mask = word(shared_info::EVTCHN_MASK + 8 * index).load(Ordering::Relaxed);
        let pending = word(shared_info::EVTCHN_PENDING + 8 * index).fetch_and(mask, Ordering::AcqRel);
        taken += (pending & !mask).count_ones();
    }
    taken
}

/// Upcalls so far.
#[must_use]
pub fn upcalls() -> u64 {
    guest_upcalls.load(Ordering::Relaxed)
}

/// Sleeps until an unmasked port has an event; takes it.
pub fn wait_upcall() {
    if take_all() == 0 {
        traps::sleep();
        take_all();
    }
}

/// Sleeps until one of the (masked) ports has an event or system time `deadline` is reached; takes events.
pub fn poll(ports: &[u32], deadline: u64) {
    let mut request = sched::Poll {
        ports: super::wide(ports.as_ptr().addr()),
        nr_ports: u32::try_from(ports.len()).expect("few ports"),
        pad: 0,
        timeout: deadline,
    };
    check("SCHEDOP_poll", hypercall::op(number::SCHED_OP, sched::op::POLL, &mut request));
    ports.iter().for_each(|&port| {
        take(port);
    });
}
