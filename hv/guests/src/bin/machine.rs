//! `machine`: tests of what a vCPU has beside its memory: timers, its local APIC, its share of a pCPU, and the
//! reasons a domain ends for. `mode=`
//!
//! - `tick`: the periodic timer;
//! - `xapic`: the local APIC as a page of memory, and instructions it does not take;
//! - `two-interrupts`: an event and an interrupt of the local APIC at once, again and again;
//! - `reboot`, `suspend`, `watchdog`, `soft-reset`: shuts down for that reason;
//! - `worker`: computes, and tells which share of the time it wanted to run it ran; below two fifths is a failure;
//! - `flood-console`, `flood-events`: keeps the hypervisor busy for ever, with output or with events to the domain
//!   `peer=`, a worker.
#![no_std]
#![no_main]

use core::arch::asm;

use hv::abi::event_channel::{self as evtchn, op as channel};
use hv::abi::sched;
use hv::abi::vcpu::{RunstateInfo, SetPeriodicTimer, op};
use hv::abi::xen::{VIRQ_TIMER, hypercall as number};
use tollgate_guests::options::Options;
use tollgate_guests::rt::cpu::{tsc, wrmsr};
use tollgate_guests::rt::terminal::Terminal;
use tollgate_guests::rt::{boot, clock, events, hypercall, traps, wide};
use tollgate_guests::{fail, guest, say};

guest!(main);

fn main() {
    let options = Options::parse(boot::cmdline()).unwrap_or_else(|bad| fail!("{bad}"));
    match options.mode {
        "tick" => tick(),
        "xapic" => xapic(),
        "two-interrupts" => two_interrupts(),
        "reboot" => hypercall::shutdown(sched::SHUTDOWN_REBOOT),
        "suspend" => hypercall::shutdown(sched::SHUTDOWN_SUSPEND),
        "watchdog" => hypercall::shutdown(sched::SHUTDOWN_WATCHDOG),
        "soft-reset" => hypercall::shutdown(sched::SHUTDOWN_SOFT_RESET),
        "worker" => worker(options.peer),
        "flood-console" => flood_console(),
        "flood-events" => flood_events(options.peer.unwrap_or(0)),
        other => fail!("command line: no mode `{other}`"),
    }
    say!("@result {{\"role\":\"machine\",\"mode\":\"{}\",\"ok\":true}}", options.mode);
}

/// A timer operation on a vCPU, by the address of its argument.
fn vcpu_op<T>(cmd: u32, vcpu: u64, argument: &mut T) -> i64 {
    let address = wide((&raw mut *argument).addr());
    // SAFETY: the structure is borrowed for the call, and any bytes are a value of the types used here.
    unsafe { hypercall::call(number::VCPU_OP, [u64::from(cmd), vcpu, address, 0, 0]) }
}

fn tick() {
    const PERIOD: u64 = 10_000_000;
    const TICKS: u64 = 20;
    const EINVAL: i64 = -22;
    let port = clock::bind_timer();
    for bad in [0, 999_999, 1 << 62, u64::MAX] {
        let answer = vcpu_op(op::SET_PERIODIC_TIMER, 0, &mut SetPeriodicTimer { period_ns: bad });
        if answer != EINVAL {
            fail!("a period of {bad} ns: {answer}");
        }
    }
    let start = clock::now();
    let answer = vcpu_op(op::SET_PERIODIC_TIMER, 0, &mut SetPeriodicTimer { period_ns: PERIOD });
    events::check("VCPUOP_set_periodic_timer", answer);
    let mut ticks = 0;
    while ticks < TICKS {
        if events::take_all() == 0 {
            traps::sleep();
        } else {
            ticks += 1;
        }
    }
    // Each tick is one period behind the one before or, if we were late, several.
    let took = clock::now() - start;
    if !(TICKS * PERIOD..=100 * TICKS * PERIOD).contains(&took) {
        fail!("{TICKS} ticks of {PERIOD} ns took {took} ns");
    }
    events::check("VCPUOP_stop_periodic_timer", vcpu_op(op::STOP_PERIODIC_TIMER, 0, &mut 0_u64));
    events::take_all();
    let until = clock::now() + 3 * PERIOD;
    while clock::now() < until {
        core::hint::spin_loop();
    }
    if events::is_pending(port) {
        fail!("the timer ticks after it was stopped");
    }
    say!("machine: {TICKS} ticks of virtual interrupt {VIRQ_TIMER}");
}

const APIC: u64 = 0xfee0_0000;
const APIC_BASE: u32 = 0x1b;
const BOOT_CPU: u64 = 1 << 8;

fn apic_read(offset: u64) -> u32 {
    let value;
    // SAFETY: a device's register. A plain move, as drivers have it: a volatile read may become part of a comparison.
    unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) APIC + offset, options(nostack)) };
    value
}

fn apic_write(offset: u64, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("mov [{}], {:e}", in(reg) APIC + offset, in(reg) value, options(nostack)) };
}

fn apic_mode(bits: u64) {
    // SAFETY: nothing here needs the local APIC.
    unsafe { wrmsr(APIC_BASE, APIC | BOOT_CPU | bits) }
}

fn xapic() {
    extern "sysv64" fn straight() {
        apic_mode(2 << 10);
    }
    if traps::trap(straight) != Some(13) {
        fail!("from x2APIC mode straight to xAPIC mode");
    }
    apic_mode(0);
    apic_mode(2 << 10);
    if (apic_read(0x20), apic_read(0x30) & 0xff) != (0, 0x14) {
        fail!("identifier {:#x}, version {:#x}", apic_read(0x20), apic_read(0x30));
    }
    apic_write(0xf0, 0x1ff);
    let (before, vector) = (events::upcalls(), u32::from(traps::UPCALL));
    // To itself.
    apic_write(0x300, 1 << 18 | 1 << 14 | vector);
    traps::window();
    let service = 0x100 + u64::from(vector / 32) * 16;
    if events::upcalls() != before + 1 || apic_read(service) != 1 << (vector % 32) {
        fail!("an interrupt to itself: {} came", events::upcalls() - before);
    }
    apic_write(0xb0, 0);
    if apic_read(service) != 0 {
        fail!("the interrupt does not end");
    }
    // Registers that are none, and reserved bits.
    apic_write(0x40, u32::MAX);
    apic_write(0x350, u32::MAX);
    if (apic_read(0x40), apic_read(0x350) & 0xfff0_0000) != (0, 0) {
        fail!("what means nothing is kept");
    }
    /// An instruction on the identifier's word.
    macro_rules! refused {
        ($($code:literal),+) => {{
            $({
                extern "sysv64" fn access() {
                    // SAFETY: it is refused; if not, it changes only registers named here.
                    unsafe {
                        asm!($code, in("rdi") APIC + 0x20, inout("rsi") APIC => _, out("rax") _, inout("rcx") 1_u64 => _,
                             out("xmm0") _, options(nostack));
                    }
                }
                let vector = traps::trap(access);
                if vector != Some(6) {
                    fail!("{}: exception {vector:?}", $code);
                }
            })+
        }};
    }
    refused!(
        "xchg [rdi], eax",
        "mov rax, [rdi]",
        "mov ax, [rdi]",
        "mov al, [rdi]",
        "mov eax, [rdi + 1]",
        "lock add dword ptr [rdi], 1",
        "movups xmm0, [rdi]",
        "rep lodsd",
        "call [rdi]",
        "push [rdi]"
    );
    apic_mode(3 << 10);
    say!("machine: the local APIC takes moves of words, and nothing else");
}

/// Both come at the first chance, each once, and neither into the other's handler.
fn two_interrupts() {
    const ROUNDS: u64 = 10_000;
    // QEMU's TCG now and then looks up from its work while the handler runs, and may then deliver again what
    // EVENTINJ brought (`vt::svm`).
    events::come_by(traps::SLOW_UPCALL);
    let port = events::bind_ipi();
    events::unmask(port);
    apic_mode(0);
    apic_mode(2 << 10);
    apic_write(0xf0, 0x1ff);
    let upcalls = events::upcalls();
    for round in 1..=ROUNDS {
        events::send(port);
        apic_write(0x300, 1 << 18 | 1 << 14 | u32::from(traps::SECOND));
        traps::window();
        let came = (events::upcalls() - upcalls, traps::seconds());
        if came != (round, round) || traps::masked() != 0 {
            fail!("round {round}: {came:?} came, {} of them with interrupts off", traps::masked());
        }
        apic_write(0xb0, 0);
        events::take_all();
    }
    say!("machine: {ROUNDS} times two interrupts at once");
}

/// How long this vCPU has run, and how long it has waited for its turn, ns.
fn ran() -> [u64; 2] {
    let mut info = RunstateInfo { state: 0, pad: 0, state_entry_time: 0, time: [0; 4] };
    events::check("VCPUOP_get_runstate_info", vcpu_op(op::GET_RUNSTATE_INFO, 0, &mut info));
    let [running, runnable, ..] = info.time;
    [running, runnable]
}

fn worker(peer: Option<u16>) {
    if let Some(peer) = peer {
        // For its events; masked, as every port at first.
        let _ = events::alloc_unbound(peer);
    }
    say!("machine: works");
    let [ran_before, waited_before] = ran();
    let start = clock::now();
    let mut sum = 0_u64;
    while clock::now() < start + 100_000_000 {
        for _ in 0..1_000 {
            sum = core::hint::black_box(sum.wrapping_mul(31) ^ tsc());
        }
    }
    let [ran, waited] = ran();
    let (ran, waited) = (ran - ran_before, waited - waited_before);
    let share = ran * 100 / (ran + waited).max(1);
    if share < 40 {
        fail!("ran {share} % of the time: {ran} ns, and waited {waited} ns");
    }
    say!("machine: ran {share} % of the time, {waited} ns waited");
}

fn flood_console() {
    let terminal = Terminal::open();
    loop {
        terminal.write(b"nothing but noise, which is printed by whoever makes it\n");
    }
}

fn flood_events(peer: u16) {
    let deadline = clock::now() + 10_000_000_000;
    let port = loop {
        let bound = (1..16).find_map(|remote_port| {
            let mut request =
                evtchn::BindInterdomain { remote_dom: peer, pad: 0, remote_port, local_port: 0 };
            let answer = hypercall::op(number::EVENT_CHANNEL_OP, channel::BIND_INTERDOMAIN, &mut request);
            (answer == 0).then_some(request.local_port)
        });
        match bound {
            Some(port) => break port,
            None if clock::now() > deadline => fail!("domain {peer} has no port for us"),
            None => hypercall::yield_now(),
        }
    };
    say!("machine: floods port {port}");
    loop {
        events::send(port);
    }
}
