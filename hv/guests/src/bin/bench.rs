//! `bench`: what each hypercall costs, in cycles of the time-stamp counter. Under QEMU's
//! `-icount shift=0,sleep=off` a cycle is one instruction, of guest and hypervisor together.
//!
//! With `peer=N` the pages used are domain N's, which runs `bench serve peer=M`; without, they are granted
//! to ourselves. Every copy and mapping is checked once before it is measured. Rows are `@result` lines:
//! With `op=NAME`, `batch=`, `bytes=` or `width=` only such rows are measured, and what is counted runs between two
//! calls of [`bench_mark`], for who traces it (`cargo xtask profile`).
//! `cycles` is the least of the repetitions, `mean` their mean, both without the cost of reading the counter.
#![no_std]
#![no_main]

use hv::abi::event_channel::{self as evtchn, op as evtchn_op};
use hv::abi::grant_table::{self as gnttab, Copy, MapGrantRef, UnmapGrantRef, compat};
use hv::abi::version;
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;
use tollgate_guests::net::device::{Attached, DATA, Device};
use tollgate_guests::options::{Only, Options};
use tollgate_guests::rt::clock::{self, Watchdog};
use tollgate_guests::rt::cpu::tsc;
use tollgate_guests::rt::grants::{self, Side};
use tollgate_guests::rt::memory::{PAGE, hole, pages, pointer};
use tollgate_guests::rt::{boot, events, hypercall, wide};
use tollgate_guests::{fail, guest, say};

guest!(main);

/// Pages in use; the longest batch.
const MOST: usize = 64;
const BATCHES: [usize; 4] = [1, 8, 32, 64];
const LENGTHS: [u16; 3] = [64, 1500, 4096];
const REPEATS: u64 = 16;
/// Repetitions before those that count: they warm caches and, in an emulator, its translations.
const WARM: u64 = 2;
/// How long a tracer may take to begin, ns.
const TRACER_NS: u64 = 2_000_000;
/// How long a server may take to let go, ns.
const LETTING_GO: u64 = 5_000_000_000;

fn main() {
    let options = Options::parse(boot::cmdline()).unwrap_or_else(|bad| fail!("{bad}"));
    grants::init(1);
    match options.peer {
        Some(peer) if options.serve => serve(peer, options.stall),
        Some(peer) => {
            let attached = Attached::new(peer, options.stall);
            Bench::new(peer, options.only).run();
            attached.close();
        }
        None => {
            let own = hypercall::domid();
            grant_pages(own);
            Bench { to_itself: true, ..Bench::new(own, options.only) }.run();
        }
    }
}

fn gref(index: usize) -> u32 {
    DATA + u32::try_from(index).expect("few pages")
}

/// Pages full of their own numbers, granted writable.
fn grant_pages(to: u16) {
    let pool = pages(wide(MOST));
    for index in 0..MOST {
        let page = pool + wide(index) * PAGE;
        // SAFETY: a page of our own, not yet granted.
        unsafe { pointer(page).write_bytes(pattern(index), 4096) };
        grants::grant(gref(index), to, page, false);
    }
}

fn pattern(index: usize) -> u8 {
    u8::try_from(index).expect("few pages") | 0x80
}

/// Grants pages and waits until the peer is done with them.
fn serve(peer: u16, patience: u64) {
    let (device, _, port) = Device::offer(peer, 1);
    grant_pages(peer);
    events::unmask(port);
    device.publish();
    let mut watchdog = Watchdog::with_timer(patience);
    while !device.back_done() {
        if watchdog.is_late() {
            fail!("domain {peer} does not end");
        }
        events::wait_upcall();
    }
    grants::revoke_all((0..MOST).map(gref), clock::now() + LETTING_GO);
}

/// A row's name.
#[derive(Clone, core::marker::Copy)]
struct Row {
    op: &'static str,
    width: u32,
    batch: usize,
    bytes: u16,
}

/// The repetitions of a row.
#[derive(Default)]
struct Samples {
    least: Option<u64>,
    sum: u64,
}

impl Samples {
    fn take(&mut self, repeat: u64, cycles: u64) {
        if repeat >= WARM {
            self.least = Some(self.least.map_or(cycles, |least| least.min(cycles)));
            self.sum += cycles;
        }
    }

    fn tell(&self, row: Row) {
        say!(
            "@result {{\"role\":\"bench\",\"op\":\"{}\",\"width\":{},\"batch\":{},\"bytes\":{},\
             \"cycles\":{},\"mean\":{}}}",
            row.op,
            row.width,
            row.batch,
            row.bytes,
            self.least.unwrap_or(0),
            self.sum / REPEATS
        );
    }
}

/// Where a trace begins and ends.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn bench_mark() {
    // SAFETY: nothing; it keeps the function and its calls.
    unsafe { core::arch::asm!("nop", options(nostack, preserves_flags)) };
}

struct Bench<'a> {
    /// The rows that are wanted.
    only: Only<'a>,
    /// Whose pages.
    peer: u16,
    /// Ours.
    to_itself: bool,
    own: u64,
    window: u64,
    /// Cycles of reading the counter twice.
    overhead: u64,
}

impl<'a> Bench<'a> {
    fn new(peer: u16, only: Only<'a>) -> Self {
        let overhead = (0..REPEATS).map(|_| {
            let start = tsc();
            tsc() - start
        });
        let overhead = overhead.min().unwrap_or(0);
        Self { only, peer, to_itself: false, own: pages(wide(MOST)), window: hole(wide(MOST)), overhead }
    }

    /// Cycles of `call`; `traced`: between marks.
    fn time(&self, traced: bool, call: impl FnOnce()) -> u64 {
        if traced {
            bench_mark();
        }
        let start = tsc();
        call();
        let cycles = tsc() - start;
        if traced {
            bench_mark();
        }
        cycles.saturating_sub(self.overhead)
    }

    /// Measures `call`; `before` runs before each repetition, uncounted.
    fn row(&self, row: Row, mut before: impl FnMut(), mut call: impl FnMut()) {
        if !self.wants(row) {
            return;
        }
        let mut samples = Samples::default();
        for repeat in 0..WARM + REPEATS {
            before();
            samples.take(repeat, self.time(true, &mut call));
        }
        samples.tell(row);
    }

    fn wants(&self, row: Row) -> bool {
        self.only.takes(row.op, row.batch, row.bytes, row.width)
    }

    fn run(&self) {
        if !self.only.is_all() {
            say!("@trace");
            // Whoever traces needs a moment to begin.
            let end = clock::now() + TRACER_NS;
            while clock::now() < end {
                core::hint::spin_loop();
            }
        }
        self.small_calls();
        self.copies();
        self.compat_copies();
        self.mappings();
        say!("@result {{\"role\":\"bench\",\"ok\":true}}");
    }

    fn small_calls(&self) {
        let row = |op, width| Row { op, width, batch: 0, bytes: 0 };
        self.row(
            row("xen_version", 64),
            || {},
            || {
                // SAFETY: takes no address.
                unsafe {
                    hypercall::call(number::XEN_VERSION, [u64::from(version::op::VERSION), 0, 0, 0, 0])
                };
            },
        );
        self.row(
            row("xen_version", 32),
            || {},
            || {
                // SAFETY: takes no address.
                unsafe { hypercall::call_compat(number::XEN_VERSION, [version::op::VERSION, 0, 0, 0, 0]) };
            },
        );
        self.row(row("grant_table_op of nothing", 64), || {}, || grants::copy(&mut []));
        let mut size = [gnttab::QuerySize { dom: DOMID_SELF, ..Default::default() }];
        self.row(
            row("query_size", 64),
            || {},
            || {
                hypercall::op_count(gnttab::op::QUERY_SIZE, &mut size);
            },
        );
        let port = events::alloc_unbound(DOMID_SELF);
        let other = events::bind_interdomain(DOMID_SELF, port);
        events::send(other);
        self.row(row("event send, pending already", 64), || {}, || events::send(other));
        let cleared = || {
            events::take(port);
            events::take_all();
        };
        self.row(row("event send, new", 64), cleared, || events::send(other));
        let mut request = evtchn::Port { port: other };
        self.row(row("event send, new", 32), cleared, || {
            hypercall::op_compat(number::EVENT_CHANNEL_OP, evtchn_op::SEND, &mut request);
        });
        events::close(other);
        events::close(port);
    }

    fn own(&self, index: usize) -> u64 {
        self.own + wide(index) * PAGE
    }

    fn granted(&self, index: usize) -> Side {
        Side::Granted { dom: self.peer, gref: gref(index), offset: 0 }
    }

    fn copies(&self) {
        type Sides<'a> = (&'static str, &'a dyn Fn(usize) -> (Side, Side));
        let kinds: [Sides<'_>; 4] = [
            ("copy gref->own", &|index| (self.granted(index), Side::Own(self.own(index)))),
            ("copy own->gref", &|index| (Side::Own(self.own(index)), self.granted(index))),
            ("copy gref->gref", &|index| (self.granted(index), self.granted((index + 1) % MOST))),
            ("copy gref->own, one pair", &|_| (self.granted(0), Side::Own(self.own(0)))),
        ];
        for (op, sides) in kinds {
            for batch in BATCHES {
                for bytes in LENGTHS {
                    let mut copies: [Copy; MOST] = core::array::from_fn(|index| {
                        let (source, dest) = sides(index);
                        grants::copy_request(source, dest, bytes)
                    });
                    let copies = &mut copies[..batch];
                    self.row(Row { op, width: 64, batch, bytes }, || {}, || grants::copy(copies));
                    if let Some(bad) = copies.iter().find(|copy| copy.status != 0) {
                        fail!("{op}: status {}", bad.status);
                    }
                }
            }
            if op == "copy gref->own" && self.only.is_all() {
                self.check_own(MOST);
            }
        }
    }

    /// The peer's pages have come.
    fn check_own(&self, count: usize) {
        for index in 0..count {
            // SAFETY: a page of our own.
            let bytes = [0, 2047, 4095].map(|at| unsafe { pointer(self.own(index) + at).read_volatile() });
            if bytes != [pattern(index); 3] {
                fail!("copy gref->own: page {index} holds {bytes:?}");
            }
        }
    }

    fn compat_copies(&self) {
        for batch in BATCHES {
            let mut copies: [compat::Copy; MOST] = core::array::from_fn(|index| {
                let frame = u32::try_from(self.own(index) / PAGE).expect("below 4 GiB");
                compat::Copy {
                    source: compat::CopyPtr { u: gref(index), domid: self.peer, offset: 0 },
                    dest: compat::CopyPtr { u: frame, domid: DOMID_SELF, offset: 0 },
                    len: 64,
                    flags: gnttab::copy_flags::SOURCE_GREF,
                    ..Default::default()
                }
            });
            let copies = &mut copies[..batch];
            self.row(
                Row { op: "copy gref->own", width: 32, batch, bytes: 64 },
                || {},
                || {
                    hypercall::op_count_compat(gnttab::op::COPY, copies);
                },
            );
            if let Some(bad) = copies.iter().find(|copy| copy.status != 0) {
                fail!("copy in the 32-bit ABI: status {}", bad.status);
            }
        }
    }

    /// On Xen a page that is mapped by who granted it moves to the mapping's address and is gone with it, so
    /// a grant to ourselves can be mapped once (docs/conformance.md).
    fn grant_fresh_pages(&self, count: usize) {
        let pool = pages(wide(count));
        for index in 0..count {
            let page = pool + wide(index) * PAGE;
            // SAFETY: a page of our own, not yet granted.
            unsafe { pointer(page).write_bytes(pattern(index), 4096) };
            if !grants::revoke(gref(index)) {
                fail!("reference {} is in use before it is mapped", gref(index));
            }
            grants::grant(gref(index), self.peer, page, false);
        }
    }

    fn mappings(&self) {
        for batch in BATCHES {
            for readonly in [false, true] {
                let kind = if readonly { ["map r/o", "unmap r/o"] } else { ["map r/w", "unmap r/w"] };
                let rows = kind.map(|op| Row { op, width: 64, batch, bytes: 0 });
                if !rows.into_iter().any(|row| self.wants(row)) {
                    continue;
                }
                let mut maps = [MapGrantRef::default(); MOST];
                let mut unmaps = [UnmapGrantRef::default(); MOST];
                let mut samples = [Samples::default(), Samples::default()];
                for repeat in 0..WARM + REPEATS {
                    if self.to_itself {
                        self.grant_fresh_pages(batch);
                    }
                    for (index, map) in maps[..batch].iter_mut().enumerate() {
                        let at = self.window + wide(index) * PAGE;
                        *map = grants::map_request(self.peer, gref(index), at, readonly);
                    }
                    let cycles = self.time(self.wants(rows[0]), || grants::map(&mut maps[..batch]));
                    samples[0].take(repeat, cycles);
                    if let Some(bad) = maps[..batch].iter().find(|map| map.status != 0) {
                        fail!("{}: status {}", kind[0], bad.status);
                    }
                    let last = self.window + wide(batch - 1) * PAGE;
                    // SAFETY: just mapped.
                    if repeat == 0 && unsafe { pointer(last).read_volatile() } & 0x80 == 0 {
                        fail!("{}: the page does not show", kind[0]);
                    }
                    for (map, unmap) in maps[..batch].iter().zip(&mut unmaps) {
                        *unmap = grants::unmap_request(map);
                    }
                    let cycles = self.time(self.wants(rows[1]), || grants::unmap(&mut unmaps[..batch]));
                    samples[1].take(repeat, cycles);
                    if let Some(bad) = unmaps[..batch].iter().find(|unmap| unmap.status != 0) {
                        fail!("{}: status {}", kind[1], bad.status);
                    }
                }
                for (row, samples) in rows.into_iter().zip(samples) {
                    samples.tell(row);
                }
            }
        }
    }
}
