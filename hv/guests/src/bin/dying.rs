//! `dying`: pairs of domains of which one ends in the middle of the other's, or its own, grant operations.
//!
//! `role=granter` offers pages to `peer=`; `role=mapper` maps, copies and unmaps them in batches, over and over,
//! with half of them mapped all the time. The one with `dies=` (`crash`, `poweroff` or `triple`, for a triple
//! fault) ends after `after=` rounds: a granter while the mapper goes on, a mapper, which needs two vCPUs, by its
//! second one while the first is somewhere in a batch. The other one must get nothing but refusals, keep what it
//! has mapped until it lets go, find its own pages free again, and print `@result`.
//!
//! With a third domain the grants are transitive: `role=passer` passes those of `of=`, a granter, on to `peer=`, a
//! `role=copier`; any of the three may be the one that dies.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use hv::abi::grant_table::{
    Copy, EntryV2FullPage, EntryV2Transitive, MapGrantRef, SetVersion, UnmapGrantRef, gtf, op,
};
use hv::abi::memory as mem;
use hv::abi::sched::{self, SHUTDOWN_CRASH, SHUTDOWN_POWEROFF};
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;
use tollgate_guests::rt::events::check;
use tollgate_guests::rt::grants::{self, Side};
use tollgate_guests::rt::memory::{PAGE, gfn, hole, pages, pointer};
use tollgate_guests::rt::{boot, clock, hypercall, size, smp, wide};
use tollgate_guests::{fail, guest, say};

guest!(main);

/// The first reference, the pages offered, and those of them that stay mapped.
const FIRST: u32 = 8;
const PAGES: usize = 32;
const KEPT: usize = 16;
/// Behind them, a passer's own page.
const COUNTER: u32 = FIRST + 32;
/// Where in a page its granter's own bytes begin; those before are written by the mapper.
const OWN: u64 = 64;
/// What a dying or dead granter's pages may give: general_error, bad_domain, bad_gntref.
const REFUSALS: [i16; 3] = [-1, -2, -3];
const BAD_DOMAIN: i16 = -2;
const PATIENCE: u64 = 20_000_000_000;

/// Rounds the mapper has made, and after how many its second vCPU ends it, in which way.
static ROUNDS: AtomicU32 = AtomicU32::new(0);
static LIMIT: AtomicU32 = AtomicU32::new(0);
static WAY: AtomicU32 = AtomicU32::new(0);

/// How a domain ends; `None` for the one that lives on.
type Way = Option<&'static str>;

const WAYS: [&str; 3] = ["crash", "poweroff", "triple"];

fn main() {
    let word = |name: &str| {
        boot::cmdline().split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let number = |name: &str| {
        word(name).and_then(|value| value.parse().ok()).unwrap_or_else(|| fail!("command line: {name}="))
    };
    let peer = u16::try_from(number("peer")).unwrap_or_else(|_| fail!("command line: peer="));
    let of = |domid| u16::try_from(domid).unwrap_or_else(|_| fail!("command line: of="));
    let dies: Way = word("dies").map(|way| {
        WAYS.into_iter().find(|&known| known == way).unwrap_or_else(|| fail!("command line: dies="))
    });
    match word("role") {
        Some("granter") => granter(peer, dies, number("after")),
        Some("mapper") => mapper(peer, dies, number("after")),
        Some("passer") => passer(peer, of(number("of")), dies, number("after")),
        Some("copier") => copier(peer, dies, number("after")),
        _ => fail!("command line: role="),
    }
    say!("@result {{\"role\":\"dying\",\"ok\":true}}");
}

/// Ends the domain. Uses nothing of the runtime but the hypercall page.
fn die(way: usize) -> ! {
    let reason = match WAYS.get(way) {
        Some(&"crash") => SHUTDOWN_CRASH,
        Some(&"poweroff") => SHUTDOWN_POWEROFF,
        _ => {
            let empty = [0_u64; 2];
            // SAFETY: an exception without a table to take it from; nothing runs after it.
            unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const empty, options(noreturn)) }
        }
    };
    let argument = [reason];
    // SAFETY: the argument is a `struct sched_shutdown`.
    unsafe {
        hypercall::call(
            number::SCHED_OP,
            [u64::from(sched::op::SHUTDOWN), wide(argument.as_ptr().addr()), 0, 0, 0],
        );
    }
    loop {
        core::hint::spin_loop();
    }
}

fn way_of(way: &str) -> usize {
    WAYS.iter().position(|known| *known == way).unwrap_or(0)
}

/// The byte a page is filled with.
fn mark(page: usize) -> u8 {
    u8::try_from(page % 256).unwrap_or(0) ^ 0x5a
}

fn granter(peer: u16, dies: Way, after: u32) {
    grants::init(1);
    let base = pages(wide(PAGES));
    let address = |page: usize| base + wide(page) * PAGE;
    for (gref, page) in (FIRST..).zip(0..PAGES) {
        // SAFETY: our own page.
        unsafe { pointer(address(page) + OWN).write_bytes(mark(page), size(PAGE - OWN)) };
        grants::grant(gref, peer, address(page), false);
    }
    let deadline = clock::now() + PATIENCE;
    let rounds = || {
        // SAFETY: our own page, where the peer counts.
        unsafe { pointer(base).cast::<u32>().read_volatile() }
    };
    while rounds() < after {
        if clock::now() > deadline {
            fail!("the mapper has made {} rounds only", rounds());
        }
        hypercall::yield_now();
    }
    if let Some(way) = dies {
        die(way_of(way));
    }
    // The mapper ends about now: all it has goes back, however it was mapped.
    grants::revoke_all((FIRST..).take(PAGES), clock::now() + PATIENCE);
    for page in 0..PAGES {
        // SAFETY: our own page.
        let seen = unsafe { pointer(address(page) + PAGE - 1).read_volatile() };
        if seen != mark(page) {
            fail!("page {page} ends with {seen:#x} instead of {:#x}", mark(page));
        }
    }
    say!("dying: every page is free again after {} rounds", rounds());
}

/// Passes the granter's references on under the same numbers, and offers a page of its own behind them, where
/// the copier counts too.
fn passer(peer: u16, of: u16, dies: Way, after: u32) {
    let (table, page) = (hole(1), pages(1));
    let mut version = [SetVersion { version: 2 }];
    check("GNTTABOP_set_version", hypercall::op_count(op::SET_VERSION, &mut version));
    let space = mem::MAPSPACE_GRANT_TABLE;
    let mut request = mem::AddToPhysmap { domid: DOMID_SELF, size: 0, space, idx: 0, gpfn: gfn(table) };
    check(
        "XENMEM_add_to_physmap of the grant table",
        hypercall::op(number::MEMORY_OP, mem::op::ADD_TO_PHYSMAP, &mut request),
    );
    let entry = |gref: u32| pointer(table + u64::from(gref) * 16);
    for gref in (FIRST..).take(PAGES) {
        let passed = EntryV2Transitive { domid: peer, trans_domid: of, gref, ..Default::default() };
        // SAFETY: inside the frame of our table that stands there; the flags are stored last.
        unsafe {
            entry(gref).cast::<EntryV2Transitive>().write_volatile(passed);
            entry(gref).cast::<u16>().write_volatile(gtf::TRANSITIVE);
        }
    }
    let own = EntryV2FullPage { domid: peer, frame: gfn(page), ..Default::default() };
    // SAFETY: as above.
    unsafe {
        entry(COUNTER).cast::<EntryV2FullPage>().write_volatile(own);
        entry(COUNTER).cast::<u16>().write_volatile(gtf::PERMIT_ACCESS);
    }
    let deadline = clock::now() + PATIENCE;
    // SAFETY: our own page.
    while unsafe { pointer(page).cast::<u32>().read_volatile() } < after {
        if gone(peer) {
            break;
        }
        if clock::now() > deadline {
            fail!("the copier does not come so far");
        }
        hypercall::yield_now();
    }
    if let Some(way) = dies {
        die(way_of(way));
    }
    while !gone(peer) {
        if clock::now() > deadline {
            fail!("the copier does not end");
        }
        hypercall::yield_now();
    }
}

/// Whether there is no domain of that number any more.
fn gone(domid: u16) -> bool {
    let mut map = [grants::map_request(domid, u32::MAX, PAGE, true)];
    grants::map(&mut map);
    map[0].status == BAD_DOMAIN
}

/// Copies by the references passed on, in batches, until it is refused.
fn copier(peer: u16, dies: Way, after: u32) {
    let buffer = pages(1);
    wait_for_grants(peer, buffer);
    start_end(dies, after);
    let deadline = clock::now() + PATIENCE;
    let mut refused = false;
    while !refused {
        if clock::now() > deadline {
            fail!("nobody has died after {} rounds", ROUNDS.load(Ordering::Relaxed));
        }
        let round = ROUNDS.fetch_add(1, Ordering::Relaxed) + 1;
        // SAFETY: our own page.
        unsafe { pointer(buffer).cast::<u32>().write_volatile(round) };
        let mut copies: [Copy; PAGES + 1] = core::array::from_fn(|page| copy_of(peer, buffer, page));
        let counter = Side::Granted { dom: peer, gref: COUNTER, offset: 0 };
        copies[PAGES] = grants::copy_request(Side::Own(buffer), counter, 4);
        grants::copy(&mut copies);
        refused = refusals(copies.iter().map(|copy| copy.status), round);
    }
    say!("dying: refused in round {}", ROUNDS.load(Ordering::Relaxed));
}

/// One element of a round: the count, then bytes in and out by turns.
fn copy_of(peer: u16, buffer: u64, page: usize) -> Copy {
    let side = |offset| Side::Granted { dom: peer, gref: FIRST + u32::try_from(page).unwrap_or(0), offset };
    match page {
        0 => grants::copy_request(Side::Own(buffer), side(0), 4),
        _ if page.is_multiple_of(2) => grants::copy_request(Side::Own(buffer + 8), side(8), 48),
        _ => grants::copy_request(side(0), Side::Own(buffer + 2048), 1024),
    }
}

/// Whether some of these statuses are refusals; all others must be good.
fn refusals(statuses: impl Iterator<Item = i16>, round: u32) -> bool {
    let mut refused = false;
    for status in statuses {
        if REFUSALS.contains(&status) {
            refused = true;
        } else if status != 0 {
            fail!("a status of {status} in round {round}");
        }
    }
    refused
}

/// Gives the second vCPU its task, if this domain is to die.
fn start_end(dies: Way, after: u32) {
    if let Some(way) = dies {
        LIMIT.store(after, Ordering::Relaxed);
        WAY.store(u32::try_from(way_of(way)).unwrap_or(0), Ordering::Relaxed);
        smp::start(end_in_the_middle);
    }
}

/// What the second vCPU of a dying mapper or copier does.
extern "sysv64" fn end_in_the_middle() -> ! {
    while ROUNDS.load(Ordering::Relaxed) < LIMIT.load(Ordering::Relaxed) {
        core::hint::spin_loop();
    }
    die(size(WAY.load(Ordering::Relaxed).into()))
}

fn mapper(peer: u16, dies: Way, after: u32) {
    let windows = hole(wide(PAGES));
    let window = |page: usize| windows + wide(page) * PAGE;
    let buffer = pages(1);
    let gref = |page: usize| FIRST + u32::try_from(page).unwrap_or(0);
    let request = |page: usize| grants::map_request(peer, gref(page), window(page), page % 2 == 1);
    wait_for_grants(peer, buffer);
    start_end(dies, after);
    let mut kept: [MapGrantRef; KEPT] = core::array::from_fn(request);
    grants::map(&mut kept);
    if let Some(bad) = kept.iter().find(|map| map.status != 0) {
        fail!("the first maps: status {}", bad.status);
    }
    let deadline = clock::now() + PATIENCE;
    let mut refused = false;
    while !refused {
        if clock::now() > deadline {
            fail!("nobody has died after {} rounds", ROUNDS.load(Ordering::Relaxed));
        }
        let mut maps: [MapGrantRef; PAGES - KEPT] = core::array::from_fn(|page| request(KEPT + page));
        grants::map(&mut maps);
        let round = ROUNDS.fetch_add(1, Ordering::Relaxed) + 1;
        // SAFETY: our own page.
        unsafe { pointer(buffer).cast::<u32>().write_volatile(round) };
        let mut copies: [Copy; PAGES] = core::array::from_fn(|page| copy_of(peer, buffer, page));
        grants::copy(&mut copies);
        let mapped = |map: &&MapGrantRef| map.status == 0;
        let mut unmaps: [UnmapGrantRef; PAGES - KEPT] = Default::default();
        let mut count = 0;
        for (unmap, map) in unmaps.iter_mut().zip(maps.iter().filter(mapped)) {
            *unmap = grants::unmap_request(map);
            count += 1;
        }
        grants::unmap(&mut unmaps[..count]);
        let statuses = maps.iter().map(|map| map.status).chain(copies.iter().map(|copy| copy.status));
        refused = refusals(statuses, round);
        if let Some(bad) = unmaps[..count].iter().find(|unmap| unmap.status != 0) {
            fail!("an unmap's status of {} in round {round}", bad.status);
        }
    }
    // What is mapped stays the granter's, and what it was, until we let go.
    for page in 0..KEPT {
        // SAFETY: a mapping of the peer's page.
        let seen = unsafe { pointer(window(page) + PAGE - 1).read_volatile() };
        if seen != mark(page) {
            fail!("mapped page {page} ends with {seen:#x} instead of {:#x}", mark(page));
        }
    }
    let mut unmaps: [UnmapGrantRef; KEPT] = core::array::from_fn(|page| grants::unmap_request(&kept[page]));
    grants::unmap(&mut unmaps);
    if let Some(bad) = unmaps.iter().find(|unmap| unmap.status != 0) {
        fail!("the last unmaps: status {}", bad.status);
    }
    let deadline = clock::now() + PATIENCE;
    loop {
        let mut again = [request(0)];
        grants::map(&mut again);
        if again[0].status == BAD_DOMAIN {
            break;
        }
        if again[0].status == 0 || clock::now() > deadline {
            fail!("a map after the granter's end: status {}", again[0].status);
        }
        hypercall::yield_now();
    }
    say!("dying: the granter went in round {}", ROUNDS.load(Ordering::Relaxed));
}

/// Until the granter has made its first and its last entry.
fn wait_for_grants(peer: u16, buffer: u64) {
    let deadline = clock::now() + PATIENCE;
    let last = FIRST + u32::try_from(PAGES - 1).unwrap_or(0);
    for gref in [FIRST, last] {
        loop {
            let from = Side::Granted { dom: peer, gref, offset: 0 };
            let mut copies = [grants::copy_request(from, Side::Own(buffer), 8)];
            grants::copy(&mut copies);
            if copies[0].status == 0 {
                break;
            }
            if clock::now() > deadline {
                fail!("no grants: status {}", copies[0].status);
            }
            hypercall::yield_now();
        }
    }
}
