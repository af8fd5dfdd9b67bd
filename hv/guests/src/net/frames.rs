//! The frames of a run: which of the trace's belong to the profile, who sends which when, and whether
//! what arrives is what was sent.

use hv::arch::x86::mem_fns::memcmp;

use crate::cut::class;
use crate::options::{Amount, Options, Profile};
use crate::rt::{boot, clock, memory, size, wide};
use crate::trace::{LARGEST_FRAME, Trace};

/// Packets between two looks at the clock for `@progress`.
const PROGRESS_STEP: u64 = 256;
/// Time between two `@progress` lines, ns.
const PROGRESS_TIME: u64 = 1_000_000_000;

/// The trace in our boot module.
#[must_use]
pub fn trace() -> Trace<'static> {
    let Some(file) = boot::module() else {
        crate::fail!("trace: this domain has no module; its string needs data=FILE")
    };
    match Trace::new(file) {
        Ok(trace) if !trace.is_empty() => trace,
        Ok(_) => crate::fail!("trace: it holds no frame"),
        Err(why) => crate::fail!("trace: {why}"),
    }
}

/// The suitable frames of the trace, in order, over and over.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    trace: Trace<'static>,
    order: &'static [u32],
}

impl Frames {
    /// Those of `profile`.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let trace = trace();
        let suitable = |index: &usize| profile.takes(class(trace.frame(*index).len()));
        let count = (0..trace.len()).filter(suitable).count();
        if count == 0 {
            crate::fail!(
                "trace: none of its {} frames is of a length that profile={} sends",
                trace.len(),
                profile.name()
            );
        }
        let table = memory::pages(wide(count * size_of::<u32>()).div_ceil(memory::PAGE));
        // SAFETY: pages of our own, zeroed, long enough, handed to nobody else.
        let order = unsafe { core::slice::from_raw_parts_mut(memory::pointer(table).cast::<u32>(), count) };
        for (slot, index) in order.iter_mut().zip((0..trace.len()).filter(suitable)) {
            *slot = u32::try_from(index).expect("the trace counts in 32 bits");
        }
        Self { trace, order }
    }

    /// Frames before they repeat.
    #[must_use]
    pub fn round(&self) -> u64 {
        wide(self.order.len())
    }

    /// Packet number `number`.
    #[must_use]
    pub fn packet(&self, number: u64) -> &'static [u8] {
        self.trace.frame(size(u64::from(self.order[size(number % self.round())])))
    }
}

/// Whose turn it is among the packets to send.
#[derive(Debug)]
pub struct Sender {
    frames: Frames,
    amount: Amount,
    until: Option<u64>,
    sent: u64,
    spoiled: Option<(u64, &'static [u8])>,
}

impl Sender {
    /// Sends what `options` say.
    #[must_use]
    pub fn new(frames: Frames, options: &Options<'_>) -> Self {
        let spoiled = options.corrupt.map(|number| (number, spoil(frames.packet(number))));
        Self { frames, amount: options.amount, until: None, sent: 0, spoiled }
    }

    /// The packet that is to go next; none after the last.
    pub fn turn(&mut self) -> Option<&'static [u8]> {
        let more = match self.amount {
            Amount::Once => self.sent < self.frames.round(),
            Amount::Packets(count) => self.sent < count,
            Amount::Seconds(seconds) => {
                let now = clock::now();
                now < *self.until.get_or_insert(now + seconds * 1_000_000_000)
            }
        };
        match self.spoiled {
            _ if !more => None,
            Some((number, frame)) if number == self.sent => Some(frame),
            _ => Some(self.frames.packet(self.sent)),
        }
    }

    /// The next one has gone.
    pub fn advance(&mut self) {
        self.sent += 1;
    }

    /// Packets gone.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// A copy of the frame with one byte changed: the test hook behind `corrupt=`.
fn spoil(frame: &[u8]) -> &'static [u8] {
    let page = memory::pages(wide(LARGEST_FRAME).div_ceil(memory::PAGE));
    // SAFETY: pages of our own, zeroed, long enough, handed to nobody else.
    let copy = unsafe { core::slice::from_raw_parts_mut(memory::pointer(page), frame.len()) };
    copy.copy_from_slice(frame);
    copy[frame.len() / 2] ^= 0x10;
    copy
}

/// Holds arriving packets against the trace.
#[derive(Debug)]
pub struct Checker {
    frames: Frames,
    /// Packets found right.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    at: usize,
    told: u64,
}

impl Checker {
    /// Expects the frames in order from the first.
    #[must_use]
    pub fn new(frames: Frames) -> Self {
        Self { frames, packets: 0, bytes: 0, at: 0, told: 0 }
    }

    /// The next `length` bytes of the packet under way stand at `address`.
    pub fn bytes_at(&mut self, address: u64, length: usize) {
        let wanted = self.frames.packet(self.packets);
        let Some(wanted) = wanted.get(self.at..self.at + length) else {
            crate::fail!("packet {}: longer than the {} bytes sent", self.packets, wanted.len());
        };
        let got = memory::pointer(address);
        // SAFETY: the caller's page is mapped. Another domain may own and change it: compared through raw
        // pointers, and a difference is what we are here to find.
        if unsafe { memcmp(got, wanted.as_ptr(), length) } == 0 {
            self.at += length;
            return;
        }
        // SAFETY: as above.
        let bad = (0..length).find(|&at| unsafe { got.wrapping_add(at).read_volatile() } != wanted[at]);
        let Some(bad) = bad else { crate::fail!("packet {}: its bytes change", self.packets) };
        // SAFETY: as above.
        let byte = unsafe { got.wrapping_add(bad).read_volatile() };
        crate::fail!(
            "packet {}: byte {} is {byte:#04x} instead of {:#04x}",
            self.packets,
            self.at + bad,
            wanted[bad]
        );
    }

    /// The packet under way is complete.
    pub fn end(&mut self) {
        let wanted = self.frames.packet(self.packets).len();
        if self.at != wanted {
            crate::fail!("packet {}: {} bytes instead of {wanted}", self.packets, self.at);
        }
        self.packets += 1;
        self.bytes += wide(wanted);
        self.at = 0;
        if self.packets == 1 {
            crate::say!("@first-packet");
            self.tell(clock::now());
        } else if self.packets.is_multiple_of(PROGRESS_STEP) {
            let now = clock::now();
            if now - self.told > PROGRESS_TIME {
                self.tell(now);
            }
        }
    }

    fn tell(&mut self, now: u64) {
        crate::say!("@progress {{\"packets\":{}}}", self.packets);
        self.told = now;
    }
}
