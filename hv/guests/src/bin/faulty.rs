//! `faulty`: a guest that misbehaves as `mode=` says, for tests of what the hypervisor does about it.
//!
//! Modes after which the guest must be gone: `triple`, `crash`, `unmapped`, `spin` (never gone, only
//! stopped), `exit` (leaves at once, in peace). Modes after which it must live on and print `@result`:
//! `arguments`, `readonly`, `user`, `exhaust` (in a domain of two grant frames and one of handles). Modes that leave others with its pages, or take theirs along: `frontend-dies`,
//! `backend-dies` (the other one is a netfront or another `faulty`). `granter` offers a page to the domain `peer=`
//! names, the control domain if none, and leaves in peace when a byte appears in it.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use hv::abi::version;
use hv::abi::xen::hypercall as number;
use hv::abi::{event_channel::stat, grant_table as gnttab, sched, vcpu};
use tollgate_guests::net::device::{Attached, Device};
use tollgate_guests::options::Options;
use tollgate_guests::rt::memory::{hole, pages, pointer};
use tollgate_guests::rt::{boot, clock, events, grants, hypercall, traps};
use tollgate_guests::{fail, guest, say};

guest!(main);

fn main() {
    let options = Options::parse(boot::cmdline()).unwrap_or_else(|bad| fail!("{bad}"));
    say!("faulty: {}", options.mode);
    match options.mode {
        "triple" => triple_fault(),
        "spin" => spin(),
        "exit" => return,
        "crash" => hypercall::shutdown(sched::SHUTDOWN_CRASH),
        "unmapped" => unmapped(),
        "readonly" => readonly(),
        "arguments" => arguments(),
        "user" => user(),
        "exhaust" => exhaust(),
        "frontend-dies" => frontend_dies(options.backend),
        "backend-dies" => backend_dies(&options),
        "granter" => granter(options.peer.unwrap_or(0)),
        other => fail!("command line: no mode `{other}`"),
    }
    say!("@result {{\"role\":\"faulty\",\"mode\":\"{}\",\"ok\":true}}", options.mode);
}

/// An exception without a table to take it from.
fn triple_fault() -> ! {
    let empty = [0_u64; 2];
    // SAFETY: nothing runs after it.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const empty, options(noreturn)) }
}

/// Interrupts off, for ever.
fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// A guest address without memory.
fn unmapped() {
    // SAFETY: nothing is there; the hypervisor does not let us go on.
    let value = unsafe { pointer(hole(1)).cast::<u64>().read_volatile() };
    fail!("a page that is not there reads {value:#x}");
}

/// A write through a read-only grant mapping: an exception, and nothing is written.
fn readonly() {
    const GREF: u32 = 100;
    static WINDOW: AtomicU64 = AtomicU64::new(0);
    extern "sysv64" fn write() {
        // SAFETY: a mapping of our own page.
        unsafe { pointer(WINDOW.load(Ordering::Relaxed)).write_volatile(1) };
    }
    let own = hypercall::domid();
    grants::init(1);
    grants::grant(GREF, own, pages(1), true);
    WINDOW.store(hole(1), Ordering::Relaxed);
    let mut batch = [grants::map_request(own, GREF, WINDOW.load(Ordering::Relaxed), true)];
    grants::map(&mut batch);
    if batch[0].status != 0 {
        fail!("map: status {}", batch[0].status);
    }
    let vector = traps::trap(write);
    // SAFETY: as above.
    let value = unsafe { pointer(WINDOW.load(Ordering::Relaxed)).read_volatile() };
    if (vector, value) != (Some(13), 0) {
        fail!("a write to a read-only mapping: exception {vector:?}, the byte is {value}");
    }
}

/// Every hypercall with arguments that make no sense; all must come back. Those that would end or stop the
/// guest, or print its memory, are left out.
fn arguments() {
    // Without memory, not mapped, not canonical, over the end of the address space, over that of the mapped.
    let addresses = [hole(1) + 8, 1 << 40, 1 << 63, u64::MAX - 7, boot::MAPPED - 4];
    let numbers = [0, 1, 2, 3, 5, 17, 64, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
    let mut calls = 0_u64;
    for nr in 0..64 {
        for command in 0..40_u64 {
            let ends = nr == number::SCHED_OP
                && matches!(u32::try_from(command), Ok(sched::op::BLOCK..=sched::op::POLL))
                || nr == number::VCPU_OP && command == u64::from(vcpu::op::DOWN)
                || nr == number::CONSOLE_IO
                // The page has an undefined instruction there: no HVM guest has this call.
                || nr == number::IRET;
            if ends {
                continue;
            }
            for address in addresses {
                for other in numbers {
                    // SAFETY: the addresses name no memory of ours.
                    unsafe {
                        hypercall::call(nr, [command, address, other, address, other]);
                    }
                    calls += 1;
                }
            }
        }
    }
    say!("faulty: {calls} hypercalls came back");
}

/// Runs out of grant frames, of pins on one reference, and of handles: refusals, and all is well afterwards.
fn exhaust() {
    const GENERAL_ERROR: i16 = -1;
    const NO_SPACE: i16 = -13;
    const PINS: usize = 128;
    let own = hypercall::domid();
    grants::init(2);
    let mut maps = [gnttab::MapGrantRef::default(); 2 * PINS];
    let window = hole(2 * PINS as u64 + 1);
    let spare = window + 2 * PINS as u64 * 4096;
    for (half, gref) in maps.chunks_mut(PINS).zip([100, 101]) {
        grants::grant(gref, own, pages(1), true);
        for (map, at) in
            half.iter_mut().zip((window + u64::from(gref - 100) * PINS as u64 * 4096..).step_by(4096))
        {
            *map = grants::map_request(own, gref, at, true);
        }
        grants::map(half);
        if let Some(bad) = half.iter().find(|map| map.status != 0) {
            fail!("map: status {}", bad.status);
        }
        if gref == 100 {
            let mut more = [grants::map_request(own, gref, spare, true); 2];
            grants::map(&mut more);
            if more.iter().any(|map| map.status != GENERAL_ERROR) {
                fail!("one pin too many: status {}", more[0].status);
            }
        }
    }
    grants::grant(102, own, pages(1), true);
    let mut more = [grants::map_request(own, 102, spare, true); 2];
    grants::map(&mut more);
    if more.iter().any(|map| map.status != NO_SPACE) {
        fail!("one handle too many: status {}", more[0].status);
    }
    let mut unmaps: [gnttab::UnmapGrantRef; 2 * PINS] =
        core::array::from_fn(|at| grants::unmap_request(&maps[at]));
    grants::unmap(&mut unmaps);
    if let Some(bad) = unmaps.iter().find(|unmap| unmap.status != 0) {
        fail!("unmap: status {}", bad.status);
    }
    let mut again = [grants::map_request(own, 102, spare, true)];
    grants::map(&mut again);
    if again[0].status != 0 {
        fail!("a map with handles free again: status {}", again[0].status);
    }
}

/// Hypercalls from ring 3 are refused.
fn user() {
    static RESULT: AtomicI64 = AtomicI64::new(i64::MAX);
    extern "sysv64" fn in_ring_3() -> ! {
        // SAFETY: the page's code may be called; if it faults, `trap` sees to it.
        let result =
            unsafe { hypercall::call(number::XEN_VERSION, [u64::from(version::op::VERSION), 0, 0, 0, 0]) };
        RESULT.store(result, Ordering::Relaxed);
        // SAFETY: an exception, to come back to ring 0.
        unsafe { asm!("ud2", options(noreturn)) }
    }
    extern "sysv64" fn leave() {
        traps::enter_user(in_ring_3);
    }
    let vector = traps::trap(leave);
    match (vector, RESULT.load(Ordering::Relaxed)) {
        (Some(6 | 13), i64::MAX) => say!("faulty: ring 3 gets an exception"),
        (Some(6), -1) => say!("faulty: ring 3 gets EPERM"),
        (vector, result) => fail!("a hypercall from ring 3 gave {result:#x}, exception {vector:?}"),
    }
}

/// Grants pages, waits until they are mapped, and goes without taking them back.
fn frontend_dies(backend: u16) -> ! {
    grants::init(1);
    let (device, _, port) = Device::offer(backend, 2);
    device.publish();
    let deadline = clock::now() + 20_000_000_000;
    // The backend binds our port when it has mapped the rings.
    while events::status(port) != stat::INTERDOMAIN {
        if clock::now() > deadline {
            fail!("nobody maps the rings");
        }
        events::poll(&[port], clock::now() + 1_000_000);
    }
    hypercall::shutdown(sched::SHUTDOWN_CRASH)
}

/// Offers a page and leaves when somebody has written to it, without taking it back.
fn granter(peer: u16) {
    let page = pages(1);
    grants::init(1);
    grants::grant(grants::DEVICE_PAGE, peer, page, false);
    let deadline = clock::now() + 20_000_000_000;
    // SAFETY: our own page.
    while unsafe { pointer(page).read_volatile() } == 0 {
        if clock::now() > deadline {
            fail!("nobody writes to the page");
        }
        hypercall::yield_now();
    }
}

/// Maps a frontend's pages and goes without unmapping them, with a copy from one of them as the last deed.
fn backend_dies(options: &Options<'_>) -> ! {
    let front = Attached::new(options.frontends[0], options.stall);
    let source = grants::Side::Granted { dom: front.domid, gref: grants::DEVICE_PAGE, offset: 0 };
    let mut copies: [gnttab::Copy; 1] = [grants::copy_request(source, grants::Side::Own(pages(1)), 64)];
    grants::copy(&mut copies);
    if copies[0].status != 0 {
        fail!("copy: status {}", copies[0].status);
    }
    hypercall::shutdown(sched::SHUTDOWN_CRASH)
}
