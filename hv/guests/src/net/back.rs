//! The backend: serves one frontend, or copies from one to another.
//!
//! It sleeps by SCHEDOP_poll on its masked ports, so that a wake-up costs no interrupt.

use core::sync::atomic::Ordering;

use super::device::Attached;
use super::frames::{Checker, Frames, Sender};
use super::front::extra_info;
use super::rx::Rx;
use super::tx::Tx;
use crate::options::{Options, Profile};
use crate::rt::clock::{self, NAP, Watchdog};
use crate::rt::events;

/// Packets sent before the frontend is told (NAPI's budget).
const BUDGET: usize = 64;
/// Runs the guest.
pub fn run(options: &Options<'_>) {
    if options.profile == Profile::VmVm { forward(options) } else { serve(options) }
}

/// One frontend.
fn serve(options: &Options<'_>) {
    let profile = options.profile;
    let frames = Frames::of(profile);
    let front = Attached::new(options.frontends[0], options.stall);
    let mut tx = Tx::new(front.domid, front.rings[0]);
    let mut rx = Rx::new(front.domid, front.rings[1]);
    let mut checker = Checker::new(frames);
    let mut sender = Sender::new(frames, options);
    let mut sending = profile.receives();
    let mut watchdog = Watchdog::new(options.stall);
    loop {
        let mut tell = false;
        let mut busy = profile.sends() && tx.work(&mut checker, &mut tell);
        tx.tally.events += u64::from(tell);
        let mut lacking = None;
        if sending {
            let before = sender.sent();
            lacking = send(&mut rx, &mut sender);
            busy |= sender.sent() != before;
            let told = rx.push();
            rx.tally.events += u64::from(told);
            tell |= told;
            if lacking == Some(0) {
                sending = false;
                front.device.rx_total.store(sender.sent(), Ordering::Release);
                tell = true;
            }
        }
        if tell {
            events::send(front.port);
        }
        if busy {
            watchdog.feed();
            continue;
        }
        if front.device.front_done() {
            break;
        }
        let slots = lacking.filter(|_| sending);
        if (profile.sends() && tx.idle()) || slots.is_some_and(|slots| rx.idle(slots)) {
            continue;
        }
        if watchdog.is_late() {
            crate::fail!(
                "no progress for {} s: received {}, sent {}",
                options.stall,
                checker.packets,
                sender.sent()
            );
        }
        events::poll(&[front.port], clock::now() + NAP);
    }
    if profile.sends() {
        let total = front.device.tx_total.load(Ordering::Acquire);
        tx.tally.verified = checker.packets;
        tx.tally.report("netback", profile, "tx");
        if total != checker.packets {
            crate::fail!("tx: {} packets of {total} have come", checker.packets);
        }
    }
    if profile.receives() {
        rx.tally.verified = front.device.rx_verified.load(Ordering::Acquire);
        rx.tally.report("netback", profile, "rx");
    }
    front.close();
}

/// Sends until the budget is used or the frontend's slots are; how many slots the next packet lacks then,
/// 0 after the last packet.
fn send(rx: &mut Rx, sender: &mut Sender) -> Option<u32> {
    for _ in 0..BUDGET {
        let Some(frame) = sender.turn() else { return Some(0) };
        let extra = extra_info(frame);
        let slots = Rx::slots(frame.len(), extra.is_some());
        if rx.room() < slots {
            return Some(slots);
        }
        rx.send(frame, extra);
        sender.advance();
    }
    None
}

/// From the first frontend to the second.
fn forward(options: &Options<'_>) {
    let [from, to] = options.frontends.map(|domid| Attached::new(domid, options.stall));
    let mut tx = Tx::new(from.domid, from.rings[0]);
    let mut rx = Rx::new(to.domid, to.rings[1]);
    let mut watchdog = Watchdog::new(options.stall);
    let mut announced = false;
    while !(from.device.front_done() && to.device.front_done()) {
        let mut answered = false;
        let busy = tx.forward(&mut rx, &mut answered);
        if answered {
            tx.tally.events += 1;
            events::send(from.port);
        }
        let total = from.device.tx_total.load(Ordering::Acquire);
        let last = !announced && total == tx.tally.packets;
        if last {
            announced = true;
            to.device.rx_total.store(total, Ordering::Release);
        }
        if rx.push() || last {
            rx.tally.events += 1;
            events::send(to.port);
        }
        if busy {
            watchdog.feed();
            continue;
        }
        // What waits may be for want of slots in the other ring: the largest packet's will do.
        let slots = Rx::slots(crate::trace::LARGEST_FRAME, true);
        if !announced && tx.idle() && rx.idle(slots) {
            continue;
        }
        if watchdog.is_late() {
            crate::fail!("no progress for {} s: forwarded {}", options.stall, tx.tally.packets);
        }
        events::poll(&[from.port, to.port], clock::now() + NAP);
    }
    // Headers are copied for us to read, the rest from grant to grant.
    let mut tally = rx.tally;
    tally.join(&tx.tally);
    tally.verified = to.device.rx_verified.load(Ordering::Acquire);
    tally.report("netback", options.profile, "vm-vm");
    from.close();
    to.close();
}
