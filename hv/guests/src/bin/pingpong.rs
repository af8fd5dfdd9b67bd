//! `pingpong`: two domains send each other events, one at a time, and sleep in between in each way there is.
//!
//! Domain 2n-1 offers a port to domain 2n, which binds to the first one it is offered. Then an event goes back and forth
//! `rounds=` times (default 3000); the way of waiting changes with each round: `SCHEDOP_poll` for
//! one port, for two, HLT. Nothing else ever wakes either of them, so one wake-up that is lost hangs the pair for
//! good, which is what the test looks for.
#![no_std]
#![no_main]

use hv::abi::event_channel::{self as evtchn, stat};
use hv::abi::sched;
use hv::abi::xen::hypercall as number;
use tollgate_guests::rt::{boot, clock, events, hypercall, traps};
use tollgate_guests::{fail, guest, say};

guest!(main);

/// A domain's first port of its own is one of these: those of its console and store come before.
const PORTS: core::ops::RangeInclusive<u32> = 1..=8;

fn main() {
    let own = hypercall::leaf(4).ecx;
    let (offers, peer) = if own % 2 == 1 { (true, own + 1) } else { (false, own - 1) };
    let Ok(peer) = u16::try_from(peer) else { fail!("domain {own} has no peer") };
    let rounds = boot::cmdline()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("rounds="))
        .map_or(Some(3000), |count| count.parse().ok());
    let Some(rounds) = rounds else { fail!("rounds= takes a count") };

    let port = if offers { events::alloc_unbound(peer) } else { bind(peer) };
    if offers {
        while events::status(port) != stat::INTERDOMAIN {
            hypercall::yield_now();
        }
    }
    if !offers {
        // Binding makes our port pending: that is no event of the peer's, who waits for ours.
        events::take(port);
    }
    events::unmask(port);
    let other = events::bind_ipi();
    let start = clock::now();
    for round in 0..rounds {
        if !offers {
            events::send(port);
        }
        wait(port, other, round);
        if offers {
            events::send(port);
        }
    }
    let ns = (clock::now() - start) / u64::from(rounds.max(1));
    say!("@result {{\"role\":\"pingpong\",\"rounds\":{rounds},\"round_trip_ns\":{ns}}}");
}

/// Binds to the port the peer offers, as soon as there is one.
fn bind(peer: u16) -> u32 {
    let deadline = clock::now() + 20_000_000_000;
    loop {
        for remote_port in PORTS {
            let mut request =
                evtchn::BindInterdomain { remote_dom: peer, pad: 0, remote_port, local_port: 0 };
            if hypercall::op(number::EVENT_CHANNEL_OP, evtchn::op::BIND_INTERDOMAIN, &mut request) == 0 {
                return request.local_port;
            }
        }
        if clock::now() > deadline {
            fail!("domain {peer} offers no port");
        }
        hypercall::yield_now();
    }
}

/// Waits for the peer's event. `SCHEDOP_block` is not among the ways: with the upcall vector on, an event between
/// the last look and the hypercall goes to the handler, and the block then waits for the next one.
fn wait(port: u32, other: u32, round: u32) {
    if round % 3 == 2 {
        while events::take_all() == 0 {
            traps::sleep();
        }
        return;
    }
    let ports = [port, other];
    while !events::is_pending(port) {
        // Without a deadline.
        let mut request = sched::Poll {
            ports: tollgate_guests::rt::wide(ports.as_ptr().addr()),
            nr_ports: 1 + round % 3,
            pad: 0,
            timeout: 0,
        };
        events::check("SCHEDOP_poll", hypercall::op(number::SCHED_OP, sched::op::POLL, &mut request));
    }
    // Not `take_all`: the sender may not have come to the selector yet, which tells that where to look.
    events::take(port);
}
