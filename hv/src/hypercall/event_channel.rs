//! `event_channel_op` (public/event_channel.h). Every structure has the same layout in both widths.
#![forbid(unsafe_code)]

use gnttab_fast::types::DomId;

use super::{Call, Outcome};
use crate::{
    abi::{
        errno::Errno,
        event_channel::{
            AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, ExpandArray, InitControl, Port,
            Reset, SetPriority, Status, op,
        },
        xen::DOMID_SELF,
    },
    dev::{console, input},
    event::{self, Binding, deliver, fifo, ops},
    sched,
};

/// Ports closed in one go.
const RESET_BUDGET: u32 = 64;

/// The hypercall.
pub fn op(call: &mut Call<'_>) -> Outcome {
    let [cmd, arg, ..] = call.args();
    let Ok(cmd) = u32::try_from(cmd) else { return Outcome::Done(Errno::ENOSYS.ret()) };
    // The one that counts, before all others.
    if cmd == op::SEND {
        let sent =
            call.read::<Port>(arg).and_then(|request| deliver::send(call.domain, request.port, call.guard));
        if sent == Err(Errno::EINVAL) {
            return print_console(call, arg);
        }
        return sent.map(|()| 0).into();
    }
    if cmd == op::RESET {
        return reset(call, arg);
    }
    one(call, cmd, arg).map(|()| 0).into()
}

/// A send that is for nobody else: perhaps the guest's console ring holds output, or has room for input.
#[cold]
fn print_console(call: &Call<'_>, arg: u64) -> Outcome {
    let domain = call.domain;
    let port = match call.read::<Port>(arg) {
        Ok(request) => request.port,
        Err(error) => return Outcome::Done(error.ret()),
    };
    if domain.events.port(port).binding != Binding::Console {
        return Outcome::Done(Errno::EINVAL.ret());
    }
    let print = |piece: &[u8]| console::guest_write(&domain.console, domain.who(), piece);
    let mut news = input::more_room(domain);
    let mut outcome = Outcome::Done(0);
    while domain.console_ring.output(print) != 0 {
        news = true;
        if sched::should_yield() {
            outcome = Outcome::Again;
            break;
        }
    }
    if news {
        deliver::raise_console(domain, port);
    }
    outcome
}

/// Who is meant by a `domid_t`.
fn resolve(call: &Call<'_>, domid: u16) -> DomId {
    if domid == DOMID_SELF { call.domain.id } else { DomId(domid) }
}

fn one(call: &Call<'_>, cmd: u32, arg: u64) -> Result<(), Errno> {
    let domain = call.domain;
    match cmd {
        op::UNMASK => deliver::unmask(domain, call.read::<Port>(arg)?.port),
        op::ALLOC_UNBOUND => {
            let mut request: AllocUnbound = call.read(arg)?;
            call.only_self(request.dom)?;
            request.port = ops::alloc_unbound(domain, resolve(call, request.remote_dom))?;
            give_port(call, arg, &request, request.port)
        }
        op::BIND_INTERDOMAIN => {
            let mut request: BindInterdomain = call.read(arg)?;
            let remote = resolve(call, request.remote_dom);
            request.local_port = ops::bind_interdomain(domain, &request, remote, call.vcpu.id, call.guard)?;
            give_port(call, arg, &request, request.local_port)
        }
        op::BIND_VIRQ => {
            let mut request: BindVirq = call.read(arg)?;
            request.port = ops::bind_virq(domain, request.virq, request.vcpu)?;
            give_port(call, arg, &request, request.port)
        }
        op::BIND_IPI => {
            let mut request: BindIpi = call.read(arg)?;
            request.port = ops::bind_ipi(domain, request.vcpu)?;
            give_port(call, arg, &request, request.port)
        }
        op::BIND_VCPU => {
            let request: BindVcpu = call.read(arg)?;
            ops::bind_vcpu(domain, request.port, request.vcpu)
        }
        op::STATUS => {
            let mut request: Status = call.read(arg)?;
            call.only_self(request.dom)?;
            ops::status(domain, &mut request)?;
            call.write(arg, &request)
        }
        op::CLOSE => ops::close(domain, call.read::<Port>(arg)?.port, call.guard),
        op::INIT_CONTROL => {
            let mut request: InitControl = call.read(arg)?;
            request.link_bits =
                fifo::init_control(domain, request.vcpu, request.control_gfn, request.offset)?;
            call.write(arg, &request)
        }
        op::EXPAND_ARRAY => fifo::expand_array(domain, call.read::<ExpandArray>(arg)?.array_gfn),
        op::SET_PRIORITY => {
            let request: SetPriority = call.read(arg)?;
            fifo::set_priority(domain, request.port, request.priority)
        }
        other => {
            call.refuse("event_channel_op", u64::from(other));
            Err(Errno::ENOSYS)
        }
    }
}

/// Tells the guest its new port; takes it back if the guest cannot be told.
fn give_port<T>(call: &Call<'_>, arg: u64, request: &T, port: u32) -> Result<(), Errno>
where
    T: zerocopy::IntoBytes + zerocopy::Immutable,
{
    call.write(arg, request).inspect_err(|_| {
        let _ = ops::close(call.domain, port, call.guard);
    })
}

fn reset(call: &Call<'_>, arg: u64) -> Outcome {
    let mine = call.read::<Reset>(arg).and_then(|request| call.only_self(request.dom));
    if let Err(error) = mine {
        return Outcome::Done(error.ret());
    }
    if event::is_fifo(call.domain) {
        // Xen goes back to the 2-level interface here; this is not there.
        return Outcome::Done(Errno::EOPNOTSUPP.ret());
    }
    // What is closed stays closed: a continuation simply starts over.
    if event::close_some(call.domain, RESET_BUDGET, call.guard) { Outcome::Done(0) } else { Outcome::Again }
}
