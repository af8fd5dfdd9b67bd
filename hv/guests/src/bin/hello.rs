//! `hello`: tries each part of the interface once, in both widths, prints what it found and powers off.
//!
//! Every answer is checked against what the public headers promise; the first that is wrong ends the guest
//! with `@fail`. `@result` tells that all is well.
#![no_std]
#![no_main]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use hv::abi::event_channel::{self as evtchn, stat};
use hv::abi::grant_table::{self as gnttab, compat as gnttab32};
use hv::abi::hvm::hvm_op;
use hv::abi::memory as mem;
use hv::abi::version;
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;
use hv::abi::{features, sched};
use tollgate_guests::rt::events::{self, check};
use tollgate_guests::rt::grants::{self, Side};
use tollgate_guests::rt::memory::{PAGE, gfn, hole, pages, pointer};
use tollgate_guests::rt::{boot, capabilities, clock, cpu, hypercall, traps};
use tollgate_guests::{fail, guest, say};

guest!(main);

fn main() {
    identity();
    memory_map();
    sleeping();
    channels();
    reservation();
    own_grants();
    capabilities();
    vector_state();
    refusals();
    say!("@result {{\"role\":\"hello\",\"ok\":true}}");
}

/// Ends the guest unless `left == right`.
fn expect<T: PartialEq + core::fmt::Debug>(what: &str, got: T, wanted: T) {
    if got != wanted {
        fail!("{what}: {got:?} instead of {wanted:?}");
    }
}

fn identity() {
    let number = hypercall::version(version::op::VERSION, &mut 0_u64);
    let number32 = hypercall::op_compat(number::XEN_VERSION, version::op::VERSION, &mut 0_u64);
    expect("the version in the 32-bit ABI", i64::from(number32), number);
    let mut extra = [0_u8; 16];
    check("XENVER_extraversion", hypercall::version(version::op::EXTRAVERSION, &mut extra));
    let end = extra.iter().position(|&byte| byte == 0).unwrap_or(extra.len());
    let extra = core::str::from_utf8(&extra[..end]).unwrap_or("?");
    let mut info = version::FeatureInfo { submap_idx: 0, submap: 0 };
    check("XENVER_get_features", hypercall::version(version::op::GET_FEATURES, &mut info));
    let mut info32 = version::FeatureInfo { submap_idx: 0, submap: 0 };
    let result = hypercall::op_compat(number::XEN_VERSION, version::op::GET_FEATURES, &mut info32);
    check("XENVER_get_features in the 32-bit ABI", i64::from(result));
    expect("features in the 32-bit ABI", info32.submap, info.submap);
    for needed in [features::AUTO_TRANSLATED_PHYSMAP, features::HVM_CALLBACK_VECTOR] {
        if info.submap >> needed & 1 == 0 {
            fail!("feature {needed} is missing from {:#x}", info.submap);
        }
    }
    let leaf = hypercall::leaf(4);
    say!(
        "version {}.{}{extra}, features {:#x}, domain {}, command line `{}`",
        number >> 16,
        number & 0xffff,
        info.submap,
        if leaf.eax & 1 << 4 == 0 { -1 } else { i64::from(leaf.ecx) },
        boot::cmdline()
    );
}

fn memory_map() {
    for entry in boot::memory_map() {
        say!("memory {:#011x} {:>8} KiB kind {}", entry.addr, entry.size >> 10, entry.kind);
    }
    let mut entries = [mem::E820Entry::default(); 16];
    let address = tollgate_guests::rt::wide(entries.as_mut_ptr().addr());
    let mut request = mem::MemoryMap { nr_entries: 16, pad: 0, buffer: address };
    check("XENMEM_memory_map", hypercall::op(number::MEMORY_OP, mem::op::MEMORY_MAP, &mut request));
    let mut entries32 = [mem::E820Entry::default(); 16];
    let mut request32 =
        mem::compat::MemoryMap { nr_entries: 16, buffer: hypercall::low(entries32.as_mut_ptr()) };
    let result = hypercall::op_compat(number::MEMORY_OP, mem::op::MEMORY_MAP, &mut request32);
    check("XENMEM_memory_map in the 32-bit ABI", i64::from(result));
    expect("entries in the 32-bit ABI", request32.nr_entries, request.nr_entries);
    let total = |entries: &[mem::E820Entry; 16]| {
        entries.iter().filter(|entry| entry.kind == 1).map(|entry| entry.size).sum::<u64>()
    };
    expect("RAM in the 32-bit ABI", total(&entries32), total(&entries));
    say!("{} KiB of RAM, {} modules", total(&entries) >> 10, boot::modules().count());
}

/// Timer, SCHEDOP_block, SCHEDOP_poll, HLT.
fn sleeping() {
    let port = clock::bind_timer();
    let before = clock::now();
    clock::set_timer(5_000_000);
    // With interrupts on, so that the event ends the block whenever it comes.
    traps::window();
    while events::take_all() == 0 {
        block();
    }
    if clock::now() - before < 5_000_000 {
        fail!("SCHEDOP_block came back before its timer");
    }
    clock::set_timer(1_000_000);
    let upcalls = events::upcalls();
    traps::sleep();
    expect("events after HLT", events::take_all(), 1);
    if events::upcalls() == upcalls {
        fail!("HLT ended without an upcall");
    }
    let deadline = clock::now() + 1_000_000;
    let idle = events::bind_ipi();
    events::poll(&[idle], deadline);
    if clock::now() < deadline {
        fail!("SCHEDOP_poll came back before its deadline");
    }
    events::close(idle);
    events::close(port);
    say!("slept {} us by timer, HLT and poll", (clock::now() - before) / 1000);
}

/// SCHEDOP_block with interrupts on.
fn block() {
    // SAFETY: the handlers keep every register; the call takes no address.
    unsafe {
        asm!("sti", options(nostack));
        hypercall::call(number::SCHED_OP, [u64::from(sched::op::BLOCK), 0, 0, 0, 0]);
        asm!("cli", options(nostack));
    }
}

/// An event to ourselves in each width, and the life of a port.
fn channels() {
    let port = events::alloc_unbound(DOMID_SELF);
    expect("a new port", events::status(port), stat::UNBOUND);
    let other = events::bind_interdomain(DOMID_SELF, port);
    expect("a bound port", events::status(port), stat::INTERDOMAIN);
    events::send(other);
    expect("the event of a send", events::take(port), true);
    let mut request = evtchn::Port { port };
    let result = hypercall::op_compat(number::EVENT_CHANNEL_OP, evtchn::op::SEND, &mut request);
    check("EVTCHNOP_send in the 32-bit ABI", i64::from(result));
    expect("the event of a 32-bit send", events::take(other), true);
    events::close(other);
    expect("the port of a closed peer", events::status(port), stat::UNBOUND);
    events::close(port);
    expect("a closed port", events::status(port), stat::CLOSED);
}

/// Gives a page back and takes another for it.
fn reservation() {
    let page = pages(1);
    let mut frame = gfn(page);
    let mut request = mem::Reservation {
        extent_start: tollgate_guests::rt::wide((&raw mut frame).addr()),
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: DOMID_SELF,
        pad: [0; 3],
    };
    let gone = hypercall::op(number::MEMORY_OP, mem::op::DECREASE_RESERVATION, &mut request);
    expect("XENMEM_decrease_reservation", gone, 1);
    let mut frame32 = u32::try_from(gfn(page)).unwrap_or(0);
    let mut request32 = mem::compat::Reservation {
        extent_start: hypercall::low(&raw mut frame32),
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: DOMID_SELF,
        pad: 0,
    };
    let back = hypercall::op_compat(number::MEMORY_OP, mem::op::POPULATE_PHYSMAP, &mut request32);
    expect("XENMEM_populate_physmap in the 32-bit ABI", back, 1);
    // SAFETY: the page is ours and mapped again.
    let word = unsafe {
        pointer(page).cast::<u64>().write_volatile(7);
        pointer(page).cast::<u64>().read_volatile()
    };
    expect("a populated page", word, 7);
}

/// Grants to ourselves: map, use, unmap, and copy in both widths.
fn own_grants() {
    const GREF: u32 = 600;
    grants::init(2);
    let own = hypercall::domid();
    let page = pages(1);
    // SAFETY: our own page.
    unsafe { pointer(page).write_bytes(0x5a, 4096) };
    grants::grant(GREF, own, page, false);
    let window = hole(1);
    let mut maps = [grants::map_request(own, GREF, window, false)];
    grants::map(&mut maps);
    expect("a map's status", maps[0].status, 0);
    expect("a mapped grant is in use", grants::in_use(GREF), true);
    expect("a grant in use can be taken back", grants::revoke(GREF), false);
    // SAFETY: the window shows our own page.
    let seen = unsafe {
        pointer(window + 100).write_volatile(0xa5);
        pointer(window + 101).read_volatile()
    };
    expect("the mapping's bytes", seen, 0x5a);
    // What was written through the window is seen by a copy. Not through `page`: where a domain maps its
    // own page, Xen takes it away from its old place.
    let target = pages(1);
    let source = Side::Granted { dom: own, gref: GREF, offset: 96 };
    let mut batch = [grants::copy_request(source, Side::Own(target + 8), 16)];
    grants::copy(&mut batch);
    expect("a copy's status", batch[0].status, 0);
    let mut batch = [grants::unmap_request(&maps[0])];
    grants::unmap(&mut batch);
    expect("an unmap's status", batch[0].status, 0);
    expect("an unmapped grant is in use", grants::in_use(GREF), false);
    expect("the grant can be taken back", grants::revoke(GREF), true);

    let page = pages(1);
    grants::grant(GREF, own, page, false);
    let mut batch32 = [gnttab32::Copy {
        source: gnttab32::CopyPtr {
            u: u32::try_from(gfn(target)).unwrap_or(0),
            domid: DOMID_SELF,
            offset: 8,
        },
        dest: gnttab32::CopyPtr { u: GREF, domid: own, offset: 4080 },
        len: 16,
        flags: gnttab::copy_flags::DEST_GREF,
        ..Default::default()
    }];
    let result = hypercall::op_count_compat(gnttab::op::COPY, &mut batch32);
    check("GNTTABOP_copy in the 32-bit ABI", i64::from(result));
    expect("a 32-bit copy's status", batch32[0].status, 0);
    // SAFETY: our own pages.
    let seen =
        unsafe { [target + 12, page + 4084, page + 4085, page + 4079].map(|at| pointer(at).read_volatile()) };
    expect("copied bytes", seen, [0xa5, 0xa5, 0x5a, 0]);

    let mut size = [gnttab::QuerySize { dom: DOMID_SELF, ..Default::default() }];
    check("GNTTABOP_query_size", hypercall::op_count(gnttab::op::QUERY_SIZE, &mut size));
    let mut frames32 = [0_u32; 4];
    let mut setup32 = [gnttab32::SetupTable {
        dom: DOMID_SELF,
        nr_frames: 4,
        frame_list: hypercall::low(frames32.as_mut_ptr()),
        ..Default::default()
    }];
    let result = hypercall::op_count_compat(gnttab::op::SETUP_TABLE, &mut setup32);
    check("GNTTABOP_setup_table in the 32-bit ABI", i64::from(result));
    say!(
        "grants: {} of {} frames, setup_table status {}, copy and map to ourselves work",
        size[0].nr_frames,
        size[0].max_nr_frames,
        setup32[0].status
    );
}

/// What CPUID tells of our grants, held against what the hypercalls say and what we did.
fn capabilities() {
    let Some(told) = capabilities::ask() else {
        say!("capabilities: not told");
        return;
    };
    let mut size = [gnttab::QuerySize { dom: DOMID_SELF, ..Default::default() }];
    check("GNTTABOP_query_size", hypercall::op_count(gnttab::op::QUERY_SIZE, &mut size));
    expect("frames by CPUID", told.frames, [size[0].nr_frames, size[0].max_nr_frames]);
    let mut version = [gnttab::GetVersion { dom: DOMID_SELF, ..Default::default() }];
    check("GNTTABOP_get_version", hypercall::op_count(gnttab::op::GET_VERSION, &mut version));
    expect("the version by CPUID", told.version, version[0].version);
    expect("references by CPUID", told.references, told.frames[0] * gnttab::V1_PER_FRAME);
    expect("status frames of version 1", told.status_frames, 0);
    expect("handles in use", told.handles[0], 0);
    // A mapping more is a handle, a map and an unmap more.
    let (own, page) = (hypercall::domid(), pages(1));
    grants::grant(700, own, page, true);
    let mut maps = [grants::map_request(own, 700, hole(1), true)];
    grants::map(&mut maps);
    let during = capabilities::ask().map(|told| told.handles[0]);
    let mut unmaps = [grants::unmap_request(&maps[0])];
    grants::unmap(&mut unmaps);
    expect("statuses", [maps[0].status, unmaps[0].status], [0, 0]);
    expect("handles while a grant is mapped", during, Some(1));
    let [maps, unmaps, copies, bytes] = told.done;
    let after = capabilities::ask().map(|told| (told.handles[0], told.done));
    expect("what is counted", after, Some((0, [maps + 1, unmaps + 1, copies, bytes])));
    say!(
        "capabilities: grant table version {} of at most {}, transitive {}, {} of {} frames, {} of {} handles",
        told.version,
        told.max_version,
        told.transitive,
        told.frames[0],
        told.frames[1],
        told.handles[0],
        told.handles[1],
    );
}

/// Hypercalls leave the vector registers alone, upper halves included.
fn vector_state() {
    if !cpu::has_avx() {
        say!("no AVX: vector state not tried");
        return;
    }
    let pattern: [u8; 32] = core::array::from_fn(|index| u8::try_from(index).unwrap_or(0) ^ 0xc3);
    let mut after = [[0_u8; 32]; 2];
    // SAFETY: AVX is on. The loop stands in one block, so that no compiled code touches the registers
    // between loading and storing them; the hypercall is `xen_version`, without an argument.
    unsafe {
        asm!(
            "vmovups ymm0, [{pattern}]",
            "vmovups ymm15, [{pattern}]",
            "2:",
            "xor edi, edi",
            "xor esi, esi",
            "call {entry}",
            "dec {count:e}",
            "jnz 2b",
            "vmovups [{after}], ymm0",
            "vmovups [{after} + 32], ymm15",
            "vzeroupper",
            pattern = in(reg) &raw const pattern,
            after = in(reg) &raw mut after,
            entry = in(reg) hypercall::entry(number::XEN_VERSION),
            count = inout(reg) 1000 => _,
            out("rax") _, out("rdi") _, out("rsi") _, out("rdx") _, out("rcx") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("xmm0") _, out("xmm15") _,
        );
    }
    expect("vector registers across hypercalls", after, [pattern; 2]);
}

/// What must be refused, and by what.
fn refusals() {
    const EFAULT: i64 = -14;
    const EINVAL: i64 = -22;
    const ENOSYS: i64 = -38;
    // SAFETY: none of these may do anything.
    unsafe {
        let call = |nr, arguments| hypercall::call(nr, arguments);
        expect("hypercall 63", call(63, [0; 5]), ENOSYS);
        let unmapped = boot::MAPPED + 4096;
        let features = u64::from(version::op::GET_FEATURES);
        expect("an unmapped argument", call(number::XEN_VERSION, [features, unmapped, 0, 0, 0]), EFAULT);
        expect("an operation of grants", call(number::GRANT_TABLE_OP, [99, 0, 0, 0, 0]), ENOSYS);
        let copy = u64::from(gnttab::op::COPY);
        expect("a negative count", call(number::GRANT_TABLE_OP, [copy, 0, 1 << 31, 0, 0]), EINVAL);
        expect("an unmapped batch", call(number::GRANT_TABLE_OP, [copy, unmapped, 1, 0, 0]), EFAULT);
    }
    let mut request = evtchn::Port { port: 4000 };
    let result = hypercall::op(number::EVENT_CHANNEL_OP, evtchn::op::SEND, &mut request);
    expect("a send to no port", result, EINVAL);
    let mut request = hvm_op::Param { domid: DOMID_SELF, pad: 0, index: 1000, value: 0 };
    let result = hypercall::op(number::HVM_OP, hvm_op::op::GET_PARAM, &mut request);
    expect("a parameter that does not exist", result, EINVAL);
    let mut batch = [grants::map_request(hypercall::domid(), u32::MAX, hole(1), true)];
    grants::map(&mut batch);
    expect("a reference outside the table", batch[0].status, -3);
    let mut batch = [gnttab::UnmapGrantRef { host_addr: PAGE, handle: 77, ..Default::default() }];
    grants::unmap(&mut batch);
    expect("a handle that is not live", batch[0].status, -4);

    static HITS: AtomicU32 = AtomicU32::new(0);
    extern "sysv64" fn undefined() {
        HITS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the exception is caught by `trap`.
        unsafe { asm!("ud2") }
    }
    expect("an undefined instruction", traps::trap(undefined), Some(6));
    expect("calls of the probe", HITS.load(Ordering::Relaxed), 1);
    say!("what must be refused is refused");
}
