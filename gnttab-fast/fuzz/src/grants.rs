//! `grant_table_op` with any arguments, in both widths, from three domains; their guests write any entries. After
//! each operation the books are audited: pins against handles, page references against mappings, status words
//! against pins. In the end all domains die, and everything must be back.
//!
//! [`quiet`] is one thread, so each step can be audited. [`hostile`] has a thread that rewrites the shared frames
//! all the time, and argument memory that changes at each read; it is audited when the thread has ended.

use gnttab_fast::abi::{RESERVED_ENTRIES, gtf};
use gnttab_fast::testing::{Flat, Kind, Machine, MachineBuilder};
use gnttab_fast::{
    Cells, Domain, Fault, Gfn, Gref, GuestMemory, Limits, Mfn, Scan, Version, Width, teardown_step,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use zerocopy::IntoBytes;

const DOMAINS: u16 = 3;
const GFNS: u64 = 32;
const ARGS: u64 = 0x7fff_0000;
/// An input is cut after so many steps.
const STEPS: usize = 48;

fn machine() -> Machine {
    let limits = Limits { frames: 3, maptrack_frames: 1 };
    MachineBuilder { limits, spare: 64, ..MachineBuilder::default() }.build(DOMAINS)
}

/// Bytes taken from the front; zeroes when there are no more.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn domain(&mut self) -> u16 {
        u16::from(self.byte()) % DOMAINS + 1
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Argument memory that is another at each look.
struct Changing {
    flat: Flat,
    state: u64,
}

impl Changing {
    /// Changes a bit, or not.
    fn change(&mut self) {
        self.state = next(self.state);
        if let (true, Ok(len)) = (self.state.is_multiple_of(3), u64::try_from(self.flat.bytes().len())) {
            let at = usize::try_from((self.state >> 8) % len.max(1)).unwrap_or(0);
            if let Some(byte) = self.flat.bytes_mut().get_mut(at) {
                *byte ^= 1 << (self.state >> 40 & 7);
            }
        }
    }
}

impl GuestMemory for Changing {
    /// One time in four nothing can be used in place, though it could.
    fn in_place<T: Cells>(&mut self, address: u64, most: usize) -> Result<&[T], Fault> {
        self.change();
        let most = if self.state >> 20 & 3 == 0 { 0 } else { most };
        self.flat.in_place(address, most)
    }

    fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault> {
        self.flat.read(address, out)?;
        self.change();
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.flat.write(address, bytes)
    }
}

/// xorshift64.
fn next(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    state
}

/// One step. `seed` makes the argument memory a changing one.
fn step(m: &Machine, input: &mut Input<'_>, seed: Option<u64>) {
    let kind = input.byte();
    let d = input.domain();
    match kind % 8 {
        0 => write_word(m, d, input.word(), plausible(input)),
        1 => {
            let (at, header) = (input.word(), plausible(input));
            write_word(m, d, at.wrapping_mul(2), header);
            write_word(m, d, at.wrapping_mul(2) | 1, input.word() % 40);
        }
        2 => {
            // A handle that lives, unmapped where it is mapped, or elsewhere.
            let mut live = Vec::new();
            m.domain(d).grants().maptrack().walk(0, u32::MAX, |handle, info| live.push((handle, info.gfn)));
            let pick = usize::from(input.byte());
            if let Some(&(handle, gfn)) = live.get(pick % live.len().max(1)) {
                let gfn = if input.byte().is_multiple_of(8) { gfn ^ 1 } else { gfn };
                let args = [gfn << 12, 0, handle.raw().into()];
                call(m, d, Width::Bits64, 1, args.as_bytes().to_vec(), 1, input.byte(), seed);
            }
        }
        3 => {
            let version = u32::from(input.byte()) % 3;
            call(m, d, Width::Bits64, 8, version.as_bytes().to_vec(), 1, 0, seed);
        }
        _ => {
            let width = if kind & 0x80 == 0 { Width::Bits64 } else { Width::Bits32 };
            let cmd = match input.byte() {
                wild @ 0xf0.. => u32::from(wild) << (input.byte() % 24),
                cmd => u32::from(cmd) % 14,
            };
            let flags = input.byte();
            let count = match input.byte() {
                0xff => u32::from(input.byte()) << 24,
                count => u32::from(count) % 9,
            };
            let len = usize::from(input.byte());
            call(m, d, width, cmd, input.take(len).to_vec(), count, flags, seed);
        }
    }
}

/// The first word of an entry: any, or one that is likely to grant something.
fn plausible(input: &mut Input<'_>) -> u64 {
    let word = input.word();
    if input.byte().is_multiple_of(4) {
        return word;
    }
    let flags = word & u64::from(gtf::TYPE_MASK | gtf::READONLY | gtf::SUB_PAGE);
    let (domid, middle, frame) = ((word >> 16) % 4, (word >> 32) % 4, (word >> 48) % 40);
    flags | domid << 16 | if word >> 63 == 0 { frame << 32 } else { middle << 32 }
}

/// Writes a word of a shared frame that exists, as its guest.
fn write_word(m: &Machine, d: u16, at: u64, value: u64) {
    let table = m.domain(d).grants();
    // Mostly the first references.
    let at = if at.is_multiple_of(4) { at >> 2 } else { (at >> 2) % 24 };
    let word = usize::try_from(at % 512).unwrap_or(0);
    let frame = u32::try_from((at >> 9) % u64::from(table.frames())).unwrap_or(0);
    if let Ok(mfn) = table.shared_frame(frame) {
        m.ram().store(mfn, word, value);
    }
}

#[expect(clippy::too_many_arguments, reason = "they are a hypercall's")]
fn call(
    m: &Machine,
    d: u16,
    width: Width,
    cmd: u32,
    args: Vec<u8>,
    count: u32,
    flags: u8,
    seed: Option<u64>,
) {
    let mut host = m.host(d, 0);
    (host.yields, host.controls) = (flags & 1 != 0, flags & 2 != 0);
    let mut flat = Flat::new(ARGS, args);
    if flags & 4 != 0 {
        flat.protect(usize::from(flags >> 3));
    }
    match seed {
        None => host.call(&mut flat, width, cmd, ARGS, count),
        Some(seed) => host.call(&mut Changing { flat, state: seed | 1 }, width, cmd, ARGS, count),
    };
}

/// Handles that live: whose, and what they record.
fn audit(m: &Machine) {
    let mut pins = BTreeMap::<(u16, u32), (u32, u32)>::new();
    let mut mapped = BTreeMap::<Mfn, u32>::new();
    for d in m.domains() {
        let mut live = 0;
        d.grants().maptrack().walk(0, u32::MAX, |_, info| {
            live += 1;
            let (kind, mfn) = d.at(Gfn(info.gfn));
            assert_eq!(kind, if info.readonly { Kind::GrantRo } else { Kind::GrantRw }, "not where it says");
            *mapped.entry(mfn).or_default() += 1;
            let of = pins.entry((info.domid, info.gref)).or_default();
            *(if info.readonly { &mut of.0 } else { &mut of.1 }) += 1;
        });
        assert_eq!(d.grants().maptrack().in_use(), live);
    }
    for d in m.domains() {
        let table = d.grants();
        for gref in 0..table.entries() {
            let now = table.pins(Gref(gref)).unwrap_or_default();
            let want = pins.get(&(d.id().0, gref)).copied().unwrap_or_default();
            let have = (u32::from(now.host_read), u32::from(now.host_write));
            assert_eq!(have, want, "{:?} gref {gref}: pins, handles", d.id());
            if table.version() == Version::V2 {
                let reading = if have == (0, 0) { 0 } else { gtf::READING };
                let writing = if have.1 == 0 { 0 } else { gtf::WRITING };
                let status = d.status(Gref(gref));
                // What a guest has itself put into a reserved entry of version 1 goes with it into version 2.
                let ours = if gref < RESERVED_ENTRIES { status & (reading | writing) } else { status };
                assert_eq!(ours, reading | writing, "{:?} gref {gref}", d.id());
            }
        }
        for gfn in 0..GFNS {
            if let (Kind::Ram, mfn) = d.at(Gfn(gfn)) {
                let want = 1 + mapped.get(&mfn).copied().unwrap_or_default();
                assert_eq!(m.ram().refs(mfn), want, "{mfn:?}");
            }
        }
    }
}

/// All domains die, one after the other.
fn end(m: &Machine) {
    for d in m.domains() {
        d.die();
        let host = m.host(d.id().0, 0);
        let mut from = 0;
        while let Some(next) = teardown_step(&host, d, 0, from, 100) {
            from = next;
        }
    }
    for d in m.domains() {
        assert_eq!(d.grants().maptrack().in_use(), 0);
        assert_eq!(d.grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
        for gfn in 0..GFNS {
            if let (Kind::Ram, mfn) = d.at(Gfn(gfn)) {
                assert_eq!(m.ram().refs(mfn), 1, "{mfn:?}");
            }
        }
    }
}

/// One thread, audited after each step.
pub(crate) fn quiet(data: &[u8]) {
    let m = machine();
    let mut input = Input(data);
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        step(&m, &mut input, None);
        audit(&m);
    }
    end(&m);
}

/// The shared frames and the arguments change all the time.
pub(crate) fn hostile(data: &[u8]) {
    let m = machine();
    let mut input = Input(data);
    let mut seed = input.word() | 1;
    let (stop, first) = (AtomicBool::new(false), next(seed));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = first;
            while !stop.load(Ordering::Relaxed) {
                state = next(state);
                let mut bytes = Vec::from(state.to_le_bytes());
                bytes.push(1);
                let d = u16::try_from(state >> 60).unwrap_or(0) % DOMAINS + 1;
                write_word(&m, d, state >> 7, plausible(&mut Input(&bytes)));
            }
        });
        for _ in 0..STEPS {
            if input.0.is_empty() {
                break;
            }
            seed = next(seed);
            step(&m, &mut input, Some(seed));
        }
        stop.store(true, Ordering::Relaxed);
    });
    audit(&m);
    end(&m);
}
