//! `control`: what the control domain may do to another domain's grant table, and what nobody else may.
//!
//! As domain 0 it inspects and maps the table of the domain that `peer=` names, which is a `faulty mode=granter`:
//! that one leaves when a byte appears in its granted page, with frames of its table still mapped here.
//! `mode=die` ends this domain first. As any other domain it checks that all of this is refused.
#![no_std]
#![no_main]

use hv::abi::grant_table::{self as gnttab, copy_flags, gtf, op};
use hv::abi::memory as mem;
use hv::abi::sched;
use hv::abi::sysctl::{DEBUG_KEYS, INTERFACE_VERSION, Sysctl};
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;
use tollgate_guests::options::Options;
use tollgate_guests::rt::grants::{self, DEVICE_PAGE, Side};
use tollgate_guests::rt::memory::{PAGE, gfn, hole, pages, pointer};
use tollgate_guests::rt::{boot, clock, hypercall, wide};
use tollgate_guests::{fail, guest, say};

guest!(main);

const EPERM: i64 = -1;
const ENOENT: i64 = -2;
const ESRCH: i64 = -3;
const E2BIG: i64 = -7;
const EACCES: i64 = -13;
const EINVAL: i64 = -22;
const ENOSYS: i64 = -38;
const EOPNOTSUPP: i64 = -95;
const BAD_DOMAIN: i16 = -2;
const PERMISSION_DENIED: i16 = -8;
/// Nobody has this number.
const NOBODY: u16 = 60;

fn main() {
    let options = Options::parse(boot::cmdline()).unwrap_or_else(|bad| fail!("{bad}"));
    let peer = options.peer.unwrap_or_else(|| fail!("command line: peer= is missing"));
    if hypercall::domid() == 0 {
        control(peer, &options);
    } else {
        refused(peer);
    }
    say!("@result {{\"role\":\"control\",\"ok\":true}}");
}

/// Ends the guest unless `got == wanted`.
fn expect<T: PartialEq + core::fmt::Debug>(what: &str, got: T, wanted: T) {
    if got != wanted {
        fail!("{what}: {got:?} instead of {wanted:?}");
    }
}

fn acquire(mut request: mem::AcquireResource) -> i64 {
    hypercall::op(number::MEMORY_OP, mem::op::ACQUIRE_RESOURCE, &mut request)
}

/// A request for frames of the table of `domid` to appear at `gfns`.
fn shared(domid: u16, gfns: &[u64]) -> mem::AcquireResource {
    mem::AcquireResource {
        domid,
        kind: mem::RESOURCE_GRANT_TABLE,
        id: mem::RESOURCE_GRANT_TABLE_SHARED,
        nr_frames: u32::try_from(gfns.len()).unwrap_or(0),
        pad: 0,
        frame: 0,
        frame_list: wide(gfns.as_ptr().addr()),
    }
}

fn query_size(dom: u16) -> gnttab::QuerySize {
    let mut query = [gnttab::QuerySize { dom, ..Default::default() }];
    expect("GNTTABOP_query_size", hypercall::op_count(op::QUERY_SIZE, &mut query), 0);
    query[0]
}

fn setup_table(dom: u16, list: &mut [u64]) -> i16 {
    let mut setup = [gnttab::SetupTable {
        dom,
        nr_frames: u32::try_from(list.len()).unwrap_or(0),
        frame_list: wide(list.as_mut_ptr().addr()),
        ..Default::default()
    }];
    expect("GNTTABOP_setup_table", hypercall::op_count(op::SETUP_TABLE, &mut setup), 0);
    setup[0].status
}

fn get_version(dom: u16) -> (i64, u32) {
    let mut version = [gnttab::GetVersion { dom, ..Default::default() }];
    let result = hypercall::op_count(op::GET_VERSION, &mut version);
    (result, version[0].version)
}

fn add(domid: u16, idx: u64, gpfn: u64) -> i64 {
    let mut request = mem::AddToPhysmap { domid, size: 0, space: mem::MAPSPACE_GRANT_TABLE, idx, gpfn };
    hypercall::op(number::MEMORY_OP, mem::op::ADD_TO_PHYSMAP, &mut request)
}

fn remove(domid: u16, gpfn: u64) -> i64 {
    let mut request = mem::RemoveFromPhysmap { domid, pad: [0; 3], gpfn };
    hypercall::op(number::MEMORY_OP, mem::op::REMOVE_FROM_PHYSMAP, &mut request)
}

fn reservation(mut domid: u16) -> i64 {
    hypercall::op(number::MEMORY_OP, mem::op::CURRENT_RESERVATION, &mut domid)
}

/// `XEN_SYSCTL_debug_keys`, or another sysctl.
fn sysctl(cmd: u32, interface_version: u32, keys: &[u8], nr_keys: u32) -> i64 {
    let mut request = Sysctl { cmd, interface_version, u: [0; 16] };
    request.u[0] = wide(keys.as_ptr().addr());
    request.u[1] = nr_keys.into();
    let address = wide((&raw mut request).addr());
    // SAFETY: the structure is read during the call, the keys too.
    unsafe { hypercall::call(number::SYSCTL, [address, 0, 0, 0, 0]) }
}

/// The domain without power.
fn refused(peer: u16) {
    let gfns = [gfn(hole(1))];
    expect("acquire_resource", acquire(shared(peer, &gfns)), EACCES);
    expect("query_size", query_size(peer).status, PERMISSION_DENIED);
    expect("query_size of nobody", query_size(NOBODY).status, BAD_DOMAIN);
    expect("setup_table", setup_table(peer, &mut [0]), PERMISSION_DENIED);
    expect("get_version", get_version(peer).0, EPERM);
    expect("get_version of nobody", get_version(NOBODY).0, ESRCH);
    expect("current_reservation", reservation(peer), EPERM);
    expect("current_reservation of nobody", reservation(NOBODY), ESRCH);
    expect("add_to_physmap", add(peer, 0, gfns[0]), EPERM);
    expect("add_to_physmap of nobody", add(NOBODY, 0, gfns[0]), ESRCH);
    expect("remove_from_physmap", remove(peer, 1), EPERM);
    let mut frame = gfns[0];
    let mut request = mem::Reservation {
        extent_start: wide((&raw mut frame).addr()),
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: peer,
        pad: [0; 3],
    };
    let done = hypercall::op(number::MEMORY_OP, mem::op::POPULATE_PHYSMAP, &mut request);
    expect("frames populated for another domain", done, 0);
    expect("sysctl of another release", sysctl(DEBUG_KEYS, 1, b"g", 1), EACCES);
    expect("sysctl", sysctl(DEBUG_KEYS, INTERFACE_VERSION, b"g", 1), EPERM);
    say!("control: all refused to an ordinary domain");
}

fn control(peer: u16, options: &Options<'_>) {
    let limit = inspect(peer);
    bad_requests(peer, limit);
    let windows = hole(4);
    let at = |index: u64| gfn(windows) + index;
    expect("acquire two frames", acquire(shared(peer, &[at(0), at(1)])), 0);
    expect("acquire them again at the same place", acquire(shared(peer, &[at(0), at(1)])), 0);
    let list = [u32::try_from(at(2)).unwrap_or(0)];
    let mut compat = mem::compat::AcquireResource {
        domid: peer,
        kind: mem::RESOURCE_GRANT_TABLE,
        id: mem::RESOURCE_GRANT_TABLE_SHARED,
        nr_frames: 1,
        pad: 0,
        frame_low: 0,
        frame_high: 0,
        frame_list: hypercall::low(list.as_ptr()),
    };
    let result = hypercall::op_compat(number::MEMORY_OP, mem::op::ACQUIRE_RESOURCE, &mut compat);
    expect("acquire in the 32-bit ABI", i64::from(result), 0);
    let entry = offered(windows);
    expect("the peer's entry at the other place", offered(windows + 2 * PAGE), entry);
    let [flags, domid, ..] = entry;
    expect("the peer's offer", (flags & gtf::TYPE_MASK, domid), (gtf::PERMIT_ACCESS, 0));

    // Neither a grant mapping nor another frame is taken away from where it stands.
    let mut maps = [grants::map_request(peer, DEVICE_PAGE, windows + 3 * PAGE, true)];
    grants::map(&mut maps);
    expect("a map's status", maps[0].status, 0);
    expect("acquire over a grant mapping", acquire(shared(peer, &[at(3)])), EPERM);
    let mut unmaps = [grants::unmap_request(&maps[0])];
    grants::unmap(&mut unmaps);
    expect("an unmap's status", unmaps[0].status, 0);
    expect("acquire over another frame", acquire(shared(peer, &[at(1)])), EPERM);

    expect("sysctl of another release", sysctl(DEBUG_KEYS, INTERFACE_VERSION + 1, b"g", 1), EACCES);
    expect("a sysctl that is not there", sysctl(1, INTERFACE_VERSION, b"g", 1), ENOSYS);
    expect("too many keys", sysctl(DEBUG_KEYS, INTERFACE_VERSION, b"g", 100), E2BIG);
    expect("debug keys", sysctl(DEBUG_KEYS, INTERFACE_VERSION, b"hg", 2), 0);

    // The peer leaves when it sees a byte.
    let source = pages(1);
    // SAFETY: our own page.
    unsafe { pointer(source).write_volatile(1) };
    let target = Side::Granted { dom: peer, gref: DEVICE_PAGE, offset: 0 };
    let mut copies = [grants::copy_request(Side::Own(source), target, 1)];
    expect("a copy by grant", copies[0].flags, copy_flags::DEST_GREF);
    grants::copy(&mut copies);
    expect("a copy's status", copies[0].status, 0);
    if options.mode == "die" {
        say!("control: goes with the frames mapped");
        hypercall::shutdown(sched::SHUTDOWN_CRASH);
    }
    let nothing = gfn(windows) + 100;
    wait("the peer lives on", || remove(peer, nothing) == ESRCH);
    expect("a mapped entry of a dying domain", offered(windows), entry);
    expect("query_size of a dying domain", query_size(peer).status, 0);
    expect("acquire from a dying domain", acquire(shared(peer, &[at(3)])), ESRCH);
    expect("debug keys", sysctl(DEBUG_KEYS, INTERFACE_VERSION, b"g", 1), 0);
    say!("control: lets go");
    for index in 0..3 {
        expect("remove_from_physmap", remove(DOMID_SELF, at(index)), 0);
        expect("remove_from_physmap again", remove(DOMID_SELF, at(index)), ENOENT);
    }
    wait("the peer's number stays", || query_size(peer).status == BAD_DOMAIN);
    expect("acquire from a dead domain", acquire(shared(peer, &[at(3)])), ESRCH);
}

/// What can be asked and set without mapping anything. Returns the limit of the peer's table.
fn inspect(peer: u16) -> u32 {
    // The peer may not have begun yet.
    wait("the peer's table has no place", || {
        let mut list = [u64::MAX];
        setup_table(peer, &mut list) == 0 && list[0] != u64::MAX
    });
    let size = query_size(peer);
    expect("query_size", (size.status, size.nr_frames), (0, 1));
    expect("get_version", get_version(peer), (0, 1));
    let mut list = [0; 2];
    expect("setup_table", setup_table(peer, &mut list), 0);
    expect("a frame that stands nowhere", list[1], u64::MAX);
    expect("frames now", query_size(peer).nr_frames, 2);
    let place = gfn(hole(1)) + 5000;
    expect("add_to_physmap", add(peer, 1, place), 0);
    expect("setup_table", setup_table(peer, &mut list), 0);
    expect("where the frame is", list[1], place);
    expect("remove_from_physmap", remove(peer, place), 0);
    expect("remove_from_physmap again", remove(peer, place), ENOENT);
    if reservation(peer) <= 0 {
        fail!("current_reservation: {}", reservation(peer));
    }
    let mut query = mem::AcquireResource { nr_frames: 0, frame_list: 0, ..shared(peer, &[]) };
    let result = hypercall::op(number::MEMORY_OP, mem::op::ACQUIRE_RESOURCE, &mut query);
    expect("the size of the resource", (result, query.nr_frames), (0, size.max_nr_frames));
    let status = mem::AcquireResource { id: mem::RESOURCE_GRANT_TABLE_STATUS, ..query };
    let mut query = mem::AcquireResource { nr_frames: 0, ..status };
    let result = hypercall::op(number::MEMORY_OP, mem::op::ACQUIRE_RESOURCE, &mut query);
    expect("the size of the other one", (result, query.nr_frames), (0, size.max_nr_frames.div_ceil(8)));
    size.max_nr_frames
}

fn bad_requests(peer: u16, limit: u32) {
    let gfns = [gfn(hole(1))];
    let good = shared(peer, &gfns);
    for (what, request, error) in [
        ("pad", mem::AcquireResource { pad: 1, ..good }, EINVAL),
        ("ourselves", mem::AcquireResource { domid: 0, ..good }, EPERM),
        ("DOMID_SELF", mem::AcquireResource { domid: DOMID_SELF, ..good }, ESRCH),
        ("nobody", mem::AcquireResource { domid: NOBODY, ..good }, ESRCH),
        ("an I/O server", mem::AcquireResource { kind: 0, ..good }, EOPNOTSUPP),
        ("a trace buffer", mem::AcquireResource { kind: 2, ..good }, EINVAL),
        ("no such kind", mem::AcquireResource { kind: 3, ..good }, EOPNOTSUPP),
        ("no such id", mem::AcquireResource { id: 2, ..good }, EINVAL),
        ("status of version 1", mem::AcquireResource { id: 1, ..good }, EINVAL),
        ("beyond the limit", mem::AcquireResource { frame: limit.into(), ..good }, EINVAL),
        ("beyond 32 bits", mem::AcquireResource { frame: 1 << 32, ..good }, EINVAL),
        ("over 32 bits", mem::AcquireResource { frame: 0xffff_ffff, ..good }, EINVAL),
        ("over 64 bits", mem::AcquireResource { frame: u64::MAX, ..good }, EINVAL),
        ("no frames", mem::AcquireResource { nr_frames: 0, ..good }, EINVAL),
        ("too many frames", mem::AcquireResource { nr_frames: 1 << 26, ..good }, EINVAL),
        ("frames but no list", mem::AcquireResource { frame_list: 0, ..good }, EINVAL),
    ] {
        expect(what, acquire(request), error);
    }
}

/// The words of the entry the peer offers, in the frame mapped at `window`.
fn offered(window: u64) -> [u16; 4] {
    let at = pointer(window + u64::from(DEVICE_PAGE) * 8).cast::<[u16; 4]>();
    // SAFETY: a frame of the peer's table stands there.
    unsafe { at.read_volatile() }
}

/// Looks again and again, for up to 20 seconds.
fn wait(otherwise: &str, mut done: impl FnMut() -> bool) {
    let deadline = clock::now() + 20_000_000_000;
    while !done() {
        if clock::now() > deadline {
            fail!("{otherwise}");
        }
        hypercall::yield_now();
    }
}
