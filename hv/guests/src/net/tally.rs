//! What a direction cost, and the line that tells it.

use crate::options::Profile;
use crate::rt::cpu::tsc;
use crate::rt::{clock, wide};

/// One kind of grant operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Elements.
    pub elements: u64,
    /// Hypercalls.
    pub calls: u64,
    /// Cycles inside them.
    pub cycles: u64,
}

impl Count {
    /// Runs `batch`, which makes one hypercall of `elements` elements.
    pub fn time(&mut self, elements: usize, batch: impl FnOnce()) {
        let start = tsc();
        batch();
        self.cycles += tsc() - start;
        self.calls += 1;
        self.elements += wide(elements);
    }
}

/// The sums of a direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets the receiver found right.
    pub verified: u64,
    /// `GNTTABOP_copy`
    pub copy: Count,
    /// `GNTTABOP_map_grant_ref`
    pub map: Count,
    /// `GNTTABOP_unmap_grant_ref`
    pub unmap: Count,
    /// Events sent.
    pub events: u64,
    first: u64,
    last: u64,
}

impl Tally {
    /// Counts packets.
    pub fn packets(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }

    /// Marks the start, at the first call.
    pub fn start(&mut self) {
        if self.first == 0 {
            self.first = tsc();
        }
    }

    /// Marks the end, so far.
    pub fn end(&mut self) {
        self.last = tsc();
    }

    /// Takes in what another part of the same work cost; its packets are the same ones.
    pub fn join(&mut self, part: &Self) {
        for (sum, part) in
            [(&mut self.copy, part.copy), (&mut self.map, part.map), (&mut self.unmap, part.unmap)]
        {
            sum.elements += part.elements;
            sum.calls += part.calls;
            sum.cycles += part.cycles;
        }
        self.events += part.events;
        self.first = self.first.min(part.first);
        self.last = self.last.max(part.last);
    }

    /// Prints the result.
    pub fn report(&self, role: &str, profile: Profile, direction: &str) {
        let cycles = self.last.saturating_sub(self.first);
        let ok = self.verified == self.packets;
        crate::say!(
            "@result {{\"role\":\"{role}\",\"profile\":\"{}\",\"direction\":\"{direction}\",\
             \"packets\":{},\"bytes\":{},\"verified\":{},\
             \"copies\":{},\"maps\":{},\"unmaps\":{},\
             \"copy_calls\":{},\"map_calls\":{},\"unmap_calls\":{},\
             \"copy_cycles\":{},\"map_cycles\":{},\"unmap_cycles\":{},\
             \"copy_ns\":{},\"map_ns\":{},\"unmap_ns\":{},\
             \"events\":{},\"cycles\":{cycles},\"ns\":{},\"ok\":{ok}}}",
            profile.name(),
            self.packets,
            self.bytes,
            self.verified,
            self.copy.elements,
            self.map.elements,
            self.unmap.elements,
            self.copy.calls,
            self.map.calls,
            self.unmap.calls,
            self.copy.cycles,
            self.map.cycles,
            self.unmap.cycles,
            clock::to_ns(self.copy.cycles),
            clock::to_ns(self.map.cycles),
            clock::to_ns(self.unmap.cycles),
            self.events,
            clock::to_ns(cycles),
        );
        if !ok {
            crate::fail!("{direction}: {} of {} packets verified", self.verified, self.packets);
        }
    }
}
