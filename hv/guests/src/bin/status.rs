//! `status`: status frames of version 2 in physical maps, while the version changes under them (XSA-255, XSA-379,
//! XSA-486).
//!
//! `role=race`, in a domain of two vCPUs: one switches versions, the other puts status frames here and there;
//! whenever the table is of version 1 afterwards, nothing may be left anywhere. `role=granter` offers a page to
//! `peer=` in version 2, and switches back when a byte appears in it; `role=control`, as domain 0, has mapped the
//! granter's status frame by then and must be able to read it until it lets go.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hv::abi::grant_table::{
    EntryV2FullPage, GetStatusFrames, GetVersion, QuerySize, SetVersion, V2_PER_FRAME, gtf, op,
};
use hv::abi::memory as mem;
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;
use tollgate_guests::rt::grants::{self, DEVICE_PAGE, Side};
use tollgate_guests::rt::memory::{gfn, hole, pages, pointer};
use tollgate_guests::rt::{boot, clock, hypercall, size, smp, wide};
use tollgate_guests::{fail, guest, say};

guest!(main);

const ENOENT: i64 = -2;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;
const BAD_DOMAIN: i16 = -2;
const PATIENCE: u64 = 20_000_000_000;
/// Shared frames whose entries have their status in one frame.
const SHARED_PER_STATUS: u64 = 8;

fn main() {
    let word = |name: &str| {
        boot::cmdline().split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let peer = word("peer").and_then(|peer| peer.parse().ok()).unwrap_or(0);
    match word("role") {
        Some("race") => race(),
        Some("granter") => granter(peer),
        Some("control") => control(peer),
        _ => fail!("command line: role="),
    }
    say!("@result {{\"role\":\"status\",\"ok\":true}}");
}

/// Ends the guest unless `got == wanted`.
fn expect<T: PartialEq + core::fmt::Debug>(what: &str, got: T, wanted: T) {
    if got != wanted {
        fail!("{what}: {got:?} instead of {wanted:?}");
    }
}

/// `GNTTABOP_set_version`, by hand: the second vCPU uses it too.
fn set_version(version: u32) -> i64 {
    let mut request = SetVersion { version };
    let argument = wide((&raw mut request).addr());
    // SAFETY: the structure is read and written during the call.
    unsafe { hypercall::call(number::GRANT_TABLE_OP, [u64::from(op::SET_VERSION), argument, 1, 0, 0]) }
}

fn version(dom: u16) -> u32 {
    let mut version = [GetVersion { dom, ..Default::default() }];
    expect("GNTTABOP_get_version", hypercall::op_count(op::GET_VERSION, &mut version), 0);
    version[0].version
}

/// `XENMEM_add_to_physmap` of a frame of our own table.
fn add(idx: u64, gpfn: u64) -> i64 {
    let space = mem::MAPSPACE_GRANT_TABLE;
    let mut request = mem::AddToPhysmap { domid: DOMID_SELF, size: 0, space, idx, gpfn };
    hypercall::op(number::MEMORY_OP, mem::op::ADD_TO_PHYSMAP, &mut request)
}

const fn status(index: u64) -> u64 {
    mem::MAPIDX_GRANT_TABLE_STATUS | index
}

fn remove(gpfn: u64) -> i64 {
    let mut request = mem::RemoveFromPhysmap { domid: DOMID_SELF, pad: [0; 3], gpfn };
    hypercall::op(number::MEMORY_OP, mem::op::REMOVE_FROM_PHYSMAP, &mut request)
}

static STOP: AtomicBool = AtomicBool::new(false);
static SWITCHES: AtomicU32 = AtomicU32::new(0);
static STOPPED: AtomicBool = AtomicBool::new(false);

extern "sysv64" fn switch_versions() -> ! {
    while !STOP.load(Ordering::Relaxed) {
        for version in [2, 1] {
            if set_version(version) == 0 {
                SWITCHES.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    STOPPED.store(true, Ordering::Release);
    loop {
        core::hint::spin_loop();
    }
}

fn race() {
    const PLACES: u64 = 8;
    const ROUNDS: u64 = 2000;
    let base = gfn(hole(PLACES));
    one_by_one(base);
    smp::start(switch_versions);
    let mut placed = 0;
    for round in 0..ROUNDS {
        // Three frames, eight places, in an order that meets all pairs.
        match add(status(round % 3), base + round * 5 % PLACES) {
            0 => placed += 1,
            EINVAL => {}
            error => fail!("add_to_physmap: {error} in round {round}"),
        }
        if round % 7 == 0 {
            match remove(base + round % PLACES) {
                0 | ENOENT => {}
                error => fail!("remove_from_physmap: {error} in round {round}"),
            }
        }
        // On a single pCPU the other one has to have its turn.
        if round % 16 == 0 {
            hypercall::yield_now();
        }
    }
    STOP.store(true, Ordering::Relaxed);
    let deadline = clock::now() + PATIENCE;
    while !STOPPED.load(Ordering::Acquire) {
        if clock::now() > deadline {
            fail!("the second vCPU does not stop");
        }
        hypercall::yield_now();
    }
    expect("set_version", set_version(1), 0);
    for place in base..base + PLACES {
        expect("what is left of a status frame", remove(place), ENOENT);
    }
    let switches = SWITCHES.load(Ordering::Relaxed);
    if placed == 0 || switches < 10 {
        fail!("no race: {placed} frames placed, {switches} versions switched");
    }
    say!("status: {placed} frames placed during {switches} switches, none left");
}

/// What the interface promises when nothing races.
fn one_by_one(base: u64) {
    expect("the version at first", version(DOMID_SELF), 1);
    expect("a status frame of version 1", add(status(0), base), EINVAL);
    expect("set_version", set_version(2), 0);
    expect("add_to_physmap", add(status(0), base), 0);
    // A frame stands in one place.
    expect("add_to_physmap elsewhere", add(status(0), base + 1), 0);
    expect("where it was", remove(base), ENOENT);
    let mut size = [QuerySize { dom: DOMID_SELF, ..Default::default() }];
    expect("GNTTABOP_query_size", hypercall::op_count(op::QUERY_SIZE, &mut size), 0);
    let most = u64::from(size[0].max_nr_frames).div_ceil(SHARED_PER_STATUS);
    expect("a status frame beyond the limit", add(status(most), base), EINVAL);
    expect("the last status frame", add(status(most - 1), base), 0);
    expect("set_version back", set_version(1), 0);
    expect("the version", version(DOMID_SELF), 1);
    for place in [base, base + 1] {
        expect("what is left of a status frame", remove(place), ENOENT);
    }
    // Their places are the guest's own choice, so a translated guest is not told of them.
    let mut request = [GetStatusFrames { dom: DOMID_SELF, ..Default::default() }];
    expect("GNTTABOP_get_status_frames", hypercall::op_count(op::GET_STATUS_FRAMES, &mut request), ENOSYS);
}

/// Offers a page in version 2, and switches back when somebody has written to it.
fn granter(peer: u16) {
    let (page, table) = (pages(1), hole(1));
    expect("set_version", set_version(2), 0);
    expect("add_to_physmap", add(0, gfn(table)), 0);
    let entry = pointer(table + u64::from(DEVICE_PAGE) * 16).cast::<EntryV2FullPage>();
    let offer = EntryV2FullPage { flags: gtf::INVALID, domid: peer, pad0: 0, frame: gfn(page) };
    // SAFETY: inside the frame of our table that stands there; the flags are stored last.
    unsafe {
        entry.write_volatile(offer);
        entry.write_volatile(EntryV2FullPage { flags: gtf::PERMIT_ACCESS, ..offer });
    }
    let deadline = clock::now() + PATIENCE;
    // SAFETY: our own page.
    while unsafe { pointer(page).read_volatile() } == 0 {
        if clock::now() > deadline {
            fail!("nobody writes to the page");
        }
        hypercall::yield_now();
    }
    // The pins of the write may be there a little longer.
    while set_version(1) != 0 {
        if clock::now() > deadline {
            fail!("set_version: still {}", version(DOMID_SELF));
        }
        hypercall::yield_now();
    }
    say!("status: back in version 1");
}

fn control(peer: u16) {
    let (window, spare, mapping) = (hole(1), hole(1), hole(1));
    let acquire = |at: u64| {
        let list = [gfn(at)];
        let mut request = mem::AcquireResource {
            domid: peer,
            kind: mem::RESOURCE_GRANT_TABLE,
            id: mem::RESOURCE_GRANT_TABLE_STATUS,
            nr_frames: 1,
            pad: 0,
            frame: 0,
            frame_list: wide(list.as_ptr().addr()),
        };
        hypercall::op(number::MEMORY_OP, mem::op::ACQUIRE_RESOURCE, &mut request)
    };
    let deadline = clock::now() + PATIENCE;
    while acquire(window) != 0 {
        if clock::now() > deadline {
            fail!("acquire_resource: {}", acquire(window));
        }
        hypercall::yield_now();
    }
    let in_use = || {
        // SAFETY: the peer's status frame stands there.
        unsafe { pointer(window).cast::<u16>().add(size(DEVICE_PAGE.into())).read_volatile() }
    };
    expect("a status at rest", in_use(), 0);
    let mut maps = [grants::map_request(peer, DEVICE_PAGE, mapping, false)];
    while maps[0].status != 0 || maps[0].handle == 0 {
        // The offer may come later than the version.
        maps = [grants::map_request(peer, DEVICE_PAGE, mapping, false)];
        grants::map(&mut maps);
        if clock::now() > deadline {
            fail!("map: status {}", maps[0].status);
        }
    }
    expect("the status of a mapped entry", in_use(), gtf::READING | gtf::WRITING);
    let mut unmaps = [grants::unmap_request(&maps[0])];
    grants::unmap(&mut unmaps);
    expect("an unmap's status", unmaps[0].status, 0);
    expect("the status of an unmapped entry", in_use(), 0);

    let source = pages(1);
    // SAFETY: our own page.
    unsafe { pointer(source).write_volatile(1) };
    let target = Side::Granted { dom: peer, gref: DEVICE_PAGE, offset: 0 };
    let mut copies = [grants::copy_request(Side::Own(source), target, 1)];
    grants::copy(&mut copies);
    expect("a copy's status", copies[0].status, 0);
    // The peer goes back to version 1, and soon after it goes altogether; its frame stays until we let go.
    while acquire(spare) == 0 {
        if clock::now() > deadline {
            fail!("the peer does not leave version 2");
        }
        hypercall::yield_now();
    }
    for entry in 0..V2_PER_FRAME * 8 {
        // SAFETY: the frame that was the peer's.
        let word = unsafe { pointer(window).cast::<u16>().add(size(entry.into())).read_volatile() };
        expect("a word of the old status frame", word, 0);
    }
    say!("status: lets go of the old frame");
    expect("remove_from_physmap", remove(gfn(window)), 0);
    // It may have been mapped there as well, while the version was 2.
    let left = remove(gfn(spare));
    if left != 0 && left != ENOENT {
        fail!("remove_from_physmap: {left}");
    }
    loop {
        let mut again = [grants::map_request(peer, DEVICE_PAGE, mapping, false)];
        grants::map(&mut again);
        if again[0].status == BAD_DOMAIN {
            break;
        }
        if clock::now() > deadline {
            fail!("the peer's number stays: status {}", again[0].status);
        }
        hypercall::yield_now();
    }
}
