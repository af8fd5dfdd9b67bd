//! The end of domains: shutdown, crash, and taking everything back.
//!
//! `Running -> Shutdown -> Dying -> Dead`. A domain shuts down by its own word, by halting for ever, or by a
//! crash; then each of its vCPUs leaves the guest at its next exit (they are kicked) and goes down. When the
//! last one is down the domain is dying and the **reaper** takes it apart in bounded steps, from the
//! scheduler's loop of whichever pCPU has a moment, one pCPU at a time:
//!
//! 1. close its event channels: the other ends become unbound;
//! 2. end its grants: what it had mapped is unmapped, and what others have mapped of it is waited for;
//! 3. empty its p2m, giving back its frames (after 2 nobody translates in it: no vCPU, and its grant
//!    table refuses since a grace period);
//! 4. take it out of the table of domains, and wait until the last reference is gone;
//! 5. count what it still owns: frames that are left are leaked, and the summary says so.
//!
//! Then it may be built again, in steps of the same loop ([`restart`](super::restart)).
//! When the last domain is dead, `when_done=` says what becomes of the machine.
#![forbid(unsafe_code)]

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use gnttab_fast::types::{DomId, Mfn};
use spin::Mutex;

use super::{
    Domain, Life, Vcpu,
    counters::Summary,
    restart::{self, Description},
    table,
};
use crate::abi::sched::{
    SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_SOFT_RESET, SHUTDOWN_SUSPEND,
    SHUTDOWN_WATCHDOG,
};
use crate::abi::xen::VIRQ_DOM_EXC;
use crate::arch::x86::{power, time};
use crate::cmdline::WhenDone;
use crate::dev::{console, input};
use crate::hypercall::grant_table;
use crate::mm::{
    frames,
    p2m::{P2mEntry, P2mKind},
};
use crate::sched::{self, slots, state::Status};
use crate::vt;
use crate::{epoch, error, event, info, warn};

/// Ports, and p2m leaves, of one step.
const STEP: u32 = 512;

/// Domains that run or are not dead yet.
static LIVING: AtomicU32 = AtomicU32::new(0);
/// The store's domain; none: out of range.
static STORE: AtomicU32 = AtomicU32::new(u32::MAX);
/// One bit for each dying domain.
static DYING: AtomicU64 = AtomicU64::new(0);
/// A pCPU is reaping.
static REAPING: AtomicBool = AtomicBool::new(false);
/// What is left of a domain that is out of the table.
static GONE: Mutex<Option<Gone>> = Mutex::new(None);
static WHEN_DONE: AtomicU8 = AtomicU8::new(0);

const _: () = assert!(table::MAX_DOMAINS <= 64, "DYING has a bit for each domain");

/// How far a domain's teardown has come. The last field of a domain, so that its drop is the end of all of it.
#[derive(Debug, Default)]
pub(super) struct Reap {
    /// The step, 1 to 4; 0: not begun.
    step: AtomicU8,
    /// Nothing of the domain is left. That its last reference is gone does not say so: another pCPU may be in
    /// the middle of dropping it.
    dropped: Arc<AtomicBool>,
}

impl Drop for Reap {
    fn drop(&mut self) {
        // Release: who sees it sees the frames given back.
        self.dropped.store(true, Ordering::Release);
    }
}

/// A domain of which only references are left.
#[derive(Debug)]
struct Gone {
    dropped: Arc<AtomicBool>,
    summary: Summary,
    again: Option<&'static Description>,
    /// It had the console's input.
    input: bool,
}

/// What a step of the reaper found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reaped {
    More,
    /// Nothing is left of it.
    Dead {
        /// It will be built again.
        again: bool,
    },
}

/// What becomes of the machine after the last domain.
pub(super) fn set_when_done(what: WhenDone) {
    WHEN_DONE.store(what as u8, Ordering::Relaxed);
}

/// A domain is about to run: it has to die before the machine is done, unless it is the store, which serves
/// the others and ends with the machine.
pub(super) fn born(domain: &Domain) {
    if domain.store {
        STORE.store(u32::from(domain.id.0), Ordering::SeqCst);
    } else {
        LIVING.fetch_add(1, Ordering::SeqCst);
    }
}

/// The store's domain, if there is one.
pub(super) fn store() -> Option<DomId> {
    u16::try_from(STORE.load(Ordering::SeqCst)).ok().map(DomId)
}

/// Whether something is left of a domain that had this number.
pub(super) fn is_dying(id: DomId) -> bool {
    DYING.load(Ordering::SeqCst) >> id.0 & 1 != 0
}

/// Tells those who follow the lives of domains (`VIRQ_DOM_EXC`).
fn announce() {
    let guard = epoch::pin();
    for listener in table::all(&guard).filter(|domain| domain.store || domain.control) {
        event::raise_virq(listener, 0, VIRQ_DOM_EXC);
    }
}

/// Gives back what a domain got that was never finished. Nobody else has seen it.
pub(super) fn abandon(domain: Domain) {
    while !domain.p2m.release_step(u32::MAX, drop_leaf) {}
    domain.vcpus.iter().for_each(|vcpu| slots::give_back(vcpu.slot));
}

/// Ends a running domain with a `SHUTDOWN_*` reason. Its vCPUs go down when they leave the guest next.
pub fn shutdown(domain: &Domain, reason: u32) {
    if !end(domain, reason) {
        return;
    }
    let why = match reason {
        SHUTDOWN_POWEROFF => "powered off",
        SHUTDOWN_REBOOT => "asked for a restart",
        SHUTDOWN_SUSPEND => "asked to be suspended, which is not built",
        SHUTDOWN_CRASH => "says it has crashed",
        SHUTDOWN_WATCHDOG => "was ended by its watchdog",
        SHUTDOWN_SOFT_RESET => "asked for a soft reset, which is not built",
        _ => "shut down for a reason unknown",
    };
    if reason == SHUTDOWN_POWEROFF {
        info!(of domain; "d{} {}: {why}", domain.id.0, domain.name);
    } else {
        warn!(of domain; "d{} {}: {why}", domain.id.0, domain.name);
    }
}

/// Ends a running domain as its operator asks, like a machine's reset button: it is built again where it would be if
/// it had asked for that itself.
pub fn reset(domain: &Domain) {
    if end(domain, SHUTDOWN_REBOOT) {
        warn!(of domain; "d{} {}: ended by the console", domain.id.0, domain.name);
    }
}

/// Ends a domain that did what no guest does, with the registers of the vCPU that did it.
pub fn crash(domain: &Domain, vcpu: &Vcpu, arch: &vt::Vcpu, why: fmt::Arguments<'_>) {
    if !end(domain, SHUTDOWN_CRASH) {
        return;
    }
    error!(of domain; "d{} {}: crashed: vCPU {}: {why}", domain.id.0, domain.name, vcpu.id);
    let mut lines = Lines { domain, line: arrayvec::ArrayString::new() };
    // Lines never fails.
    let _ = arch.dump(&mut lines);
    lines.flush();
}

/// Ends a domain for what it did inside a hypercall, where its registers tell nothing.
pub fn crash_in_call(domain: &Domain, why: &str) {
    if end(domain, SHUTDOWN_CRASH) {
        error!(of domain; "d{} {}: crashed: {why}", domain.id.0, domain.name);
    }
}

/// Prints what is written to it line by line.
struct Lines<'a> {
    domain: &'a Domain,
    line: arrayvec::ArrayString<120>,
}

impl Lines<'_> {
    fn flush(&mut self) {
        if !self.line.is_empty() {
            error!(of self.domain; "d{}: {}", self.domain.id.0, self.line);
            self.line.clear();
        }
    }
}

impl fmt::Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c == '\n' || self.line.try_push(c).is_err() {
                self.flush();
            }
        }
        Ok(())
    }
}

/// The step from running; true for the one who made it.
fn end(domain: &Domain, reason: u32) -> bool {
    let (running, shutdown) = (Life::Running as u8, Life::Shutdown as u8);
    domain.shutdown_code.fetch_max(reason, Ordering::SeqCst);
    if domain.life.compare_exchange(running, shutdown, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return false;
    }
    domain.shutdown_code.store(reason, Ordering::SeqCst);
    for vcpu in domain.vcpus() {
        sched::stop_vcpu(vcpu);
    }
    // The last vCPU to go down looks; if all were down already nobody would.
    went_down(domain);
    announce();
    true
}

/// A vCPU of a domain that does not run any more is down: the last one hands the domain to the reaper.
pub(crate) fn went_down(domain: &Domain) {
    if domain.vcpus().iter().any(|vcpu| vcpu.run.status() != Status::Down) {
        return;
    }
    let (shutdown, dying) = (Life::Shutdown as u8, Life::Dying as u8);
    if domain.life.compare_exchange(shutdown, dying, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        DYING.fetch_or(1 << domain.id.0, Ordering::SeqCst);
        announce();
    }
}

/// Whether the reaper has anything to do.
#[must_use]
pub(crate) fn pending() -> bool {
    DYING.load(Ordering::SeqCst) != 0 || restart::pending()
}

/// One bounded step of reaping, or of building again what was reaped, if there is anything to do and nobody else does
/// it; true when there is more.
pub(crate) fn work() -> bool {
    if !pending() {
        return false;
    }
    if REAPING.swap(true, Ordering::Acquire) {
        // Another pCPU is at it, and goes on until nothing is left.
        return false;
    }
    let dying = DYING.load(Ordering::SeqCst);
    let mut id = 0;
    while id < table::MAX_DOMAINS {
        if dying >> id & 1 != 0
            && let Ok(number) = u16::try_from(id)
            && let Reaped::Dead { again } = reap(DomId(number))
        {
            DYING.fetch_and(!(1 << id), Ordering::SeqCst);
            announce();
            if !again && u32::from(number) != STORE.load(Ordering::SeqCst) {
                died();
            }
        }
        id += 1;
    }
    if restart::pending() {
        match restart::step() {
            restart::Step::On => {}
            restart::Step::Started => announce(),
            restart::Step::GivenUp => died(),
        }
    }
    REAPING.store(false, Ordering::Release);
    pending()
}

/// One step for one domain.
fn reap(id: DomId) -> Reaped {
    let guard = epoch::pin();
    let Some(domain) = table::arc(id, &guard).cloned() else {
        drop(guard);
        return bury(id);
    };
    let next = match domain.reap.step.load(Ordering::Relaxed) {
        0 => event::close_some(&domain, STEP, &guard).then_some(1),
        1 => grant_table::release_step(&domain).then_some(2),
        2 => domain.p2m.release_step(STEP, drop_leaf).then_some(3),
        _ => {
            let mut gone = GONE.lock();
            if gone.is_none() {
                domain.vcpus().iter().for_each(|vcpu| slots::give_back(vcpu.slot));
                console::guest_flush(&domain.console, domain.who());
                let input = input::gone(&domain);
                let code = domain.shutdown_code.load(Ordering::SeqCst);
                let ran = time::now_ns().saturating_sub(domain.started.load(Ordering::Relaxed));
                let summary = Summary::of(&domain, code, ran);
                let dropped = Arc::clone(&domain.reap.dropped);
                *gone = Some(Gone { dropped, summary, again: domain.description, input });
                domain.life.store(Life::Dead as u8, Ordering::SeqCst);
                table::remove(id, &guard);
            }
            None
        }
    };
    if let Some(next) = next {
        domain.reap.step.store(next, Ordering::Relaxed);
    }
    Reaped::More
}

/// The domain is out of the table: waits until its last reference has dropped it, then counts.
fn bury(id: DomId) -> Reaped {
    let mut gone = GONE.lock();
    let Some(last) = &*gone else { return Reaped::Dead { again: false } };
    if last.summary.id != id {
        return Reaped::More;
    }
    if !last.dropped.load(Ordering::Acquire) {
        epoch::collect_some();
        return Reaped::More;
    }
    // Its frames went to their grace period with the last reference; owners are counted at once.
    let kept = last.again.map_or(0, |what| what.kept().len());
    last.summary.print(frames::owned_by(id).abs_diff(u32::try_from(kept).unwrap_or(0)));
    let (code, ran_ns) = (last.summary.code, last.summary.ran_ns);
    let again = last.again.is_some_and(|what| restart::consider(what, code, ran_ns, last.input));
    *gone = None;
    Reaped::Dead { again }
}

/// Gives back the frames of a leaf of a dead domain's p2m. Leaves of its own memory and of the frames it shares
/// with the hypervisor hold a reference each; a grant mapping's is its handle's.
fn drop_leaf(leaf: P2mEntry, order: u8) {
    match leaf.kind {
        P2mKind::GrantRw | P2mKind::GrantRo => {}
        P2mKind::Foreign => grant_table::foreign_removed(leaf.mfn),
        P2mKind::RamRw | P2mKind::RamRo | P2mKind::Shared => {
            for page in 0..1u64 << order {
                frames::put_ref(Mfn(leaf.mfn.0 + page));
            }
        }
    }
}

/// A domain is dead; after the last one the machine is done.
fn died() {
    if LIVING.fetch_sub(1, Ordering::SeqCst) != 1 {
        return;
    }
    let stats = frames::stats();
    let what = WHEN_DONE.load(Ordering::Relaxed);
    info!(
        "every domain has ended; {} of {} frames are free or being freed",
        stats.free + stats.retired,
        stats.total
    );
    if what == WhenDone::Poweroff as u8 {
        info!("when_done=poweroff: switching off");
        power::off();
    } else if what == WhenDone::Reboot as u8 {
        info!("when_done=reboot: restarting");
        power::reboot();
    }
}
