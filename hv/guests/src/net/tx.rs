//! The backend's half of the transmit ring: what the frontend sends.
//!
//! Per round, at most [`BUDGET`] packets: one copy batch brings the first 128 bytes of each packet (of an
//! 18-slot packet the whole first slot) into local buffers, one map batch shows everything else. Mappings
//! stay until the ring is empty or the window is full, and go in one batch of up to 256 then; only then is
//! the frontend answered. Every slot not yet answered holds one place of the window, so the ring's size
//! bounds them all.

use hv::abi::grant_table::{Copy, MapGrantRef, UnmapGrantRef};
use hv::abi::io::netif::{
    EXTRA_FLAG_MORE, ExtraGso, NR_SLOTS_MIN, RING_SLOTS, RSP_NULL, RSP_OKAY, TXF_EXTRA_INFO, TXF_MORE_DATA,
    TxRequest, TxResponse,
};

use super::frames::Checker;
use super::rx::Rx;
use super::tally::Tally;
use crate::cut::{COPY_LEN, PAGE};
use crate::ring::Back;
use crate::rt::grants::{self, Side};
use crate::rt::{memory, wide};

/// Packets per round (NAPI's budget).
const BUDGET: usize = 64;
/// Room for a packet's copied bytes; a first slot may be that long at most to be copied whole.
const HEADER_ROOM: usize = 256;
const SLOTS: usize = RING_SLOTS as usize;
const PACKET_SLOTS: usize = NR_SLOTS_MIN as usize;

/// One packet of a round.
#[derive(Clone, Copy, Debug, Default)]
struct Packet {
    /// Bytes in all.
    length: usize,
    /// Of which the first so many are copied to `header`.
    copied: usize,
    header: u64,
    /// Its slots, in `Round::slots`.
    first: usize,
    slots: usize,
    gso: Option<ExtraGso>,
}

/// One slot of a packet, without what has been copied of it.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    id: u16,
    gref: u32,
    offset: u16,
    length: u16,
}

/// The packets of a round; every array is bounded by the ring or the budget.
struct Round {
    packets: [Packet; BUDGET],
    packet_count: usize,
    slots: [Slot; SLOTS],
    slot_count: usize,
    copies: [Copy; BUDGET * 2],
    copy_count: usize,
}

/// The transmit side of one frontend.
#[derive(Debug)]
pub struct Tx {
    domid: u16,
    ring: Back<TxRequest, TxResponse>,
    headers: u64,
    window: u64,
    /// Places of the window that hold nothing.
    free: [u8; SLOTS],
    free_count: usize,
    /// Mappings to be undone, with the slots to be answered then.
    unmaps: [UnmapGrantRef; SLOTS],
    unmap_slots: [(u16, u8); SLOTS],
    unmap_count: usize,
    /// What it cost.
    pub tally: Tally,
}

impl Tx {
    /// Attaches to the ring in the page at `ring`.
    #[must_use]
    pub fn new(domid: u16, ring: u64) -> Self {
        Self {
            domid,
            // SAFETY: the page was mapped for this and stays until the device is closed, after us.
            ring: unsafe { Back::new(memory::pointer(ring)) },
            headers: memory::pages(wide((BUDGET * HEADER_ROOM).div_ceil(PAGE))),
            window: memory::hole(wide(SLOTS)),
            free: core::array::from_fn(|index| u8::try_from(index).expect("256 places")),
            free_count: SLOTS,
            unmaps: [UnmapGrantRef::default(); SLOTS],
            unmap_slots: [(0, 0); SLOTS],
            unmap_count: 0,
            tally: Tally::default(),
        }
    }

    /// Takes what is in the ring, maps and checks it; whether there was anything to do. `true` in `told`:
    /// the frontend wants an event.
    pub fn work(&mut self, checker: &mut Checker, told: &mut bool) -> bool {
        let round = self.gather(None);
        if round.packet_count == 0 {
            return self.unmap_all(told);
        }
        self.tally.start();
        self.copy_headers(&round);
        let mut maps = [MapGrantRef::default(); SLOTS];
        let mut places = [0_u8; SLOTS];
        let mut count = 0;
        for slot in round.slots[..round.slot_count].iter().filter(|slot| slot.length > 0) {
            self.free_count -= 1;
            places[count] = self.free[self.free_count];
            let at = self.window + u64::from(places[count]) * memory::PAGE;
            maps[count] = grants::map_request(self.domid, slot.gref, at, true);
            count += 1;
        }
        if count > 0 {
            self.tally.map.time(count, || grants::map(&mut maps[..count]));
        }
        if let Some(bad) = maps[..count].iter().find(|map| map.status != 0) {
            crate::fail!("tx: mapping reference {} ends with status {}", bad.gref, bad.status);
        }
        let mut mapped = maps[..count].iter().zip(&places);
        for packet in &round.packets[..round.packet_count] {
            checker.bytes_at(packet.header, packet.copied);
            for slot in &round.slots[packet.first..packet.first + packet.slots] {
                if slot.length == 0 {
                    self.ring.put(TxResponse { id: slot.id, status: RSP_OKAY });
                    continue;
                }
                let (map, place) = mapped.next().expect("one map for each slot with bytes left");
                checker.bytes_at(map.host_addr + u64::from(slot.offset), usize::from(slot.length));
                self.unmaps[self.unmap_count] = grants::unmap_request(map);
                self.unmap_slots[self.unmap_count] = (slot.id, *place);
                self.unmap_count += 1;
            }
            checker.end();
            self.tally.packets(1, wide(packet.length));
        }
        *told |= self.ring.push();
        self.tally.end();
        true
    }

    /// Takes what is in the ring, as far as `to` has room, and copies it on without looking at it.
    pub fn forward(&mut self, to: &mut Rx, told: &mut bool) -> bool {
        let round = self.gather(Some(to));
        if round.packet_count == 0 {
            return false;
        }
        self.tally.start();
        self.copy_headers(&round);
        for packet in &round.packets[..round.packet_count] {
            to.begin(packet.length, packet.gso);
            to.put(Side::Own(packet.header), packet.copied);
            for slot in &round.slots[packet.first..packet.first + packet.slots] {
                let source = Side::Granted { dom: self.domid, gref: slot.gref, offset: slot.offset };
                to.put(source, usize::from(slot.length));
            }
            to.end();
            self.tally.packets(1, wide(packet.length));
        }
        to.flush();
        for slot in &round.slots[..round.slot_count] {
            self.ring.put(TxResponse { id: slot.id, status: RSP_OKAY });
        }
        *told |= self.ring.push();
        true
    }

    /// Nothing to do: asks for an event; whether there is something after all.
    pub fn idle(&mut self) -> bool {
        self.ring.wait_for(1)
    }

    /// Takes packets from the ring: whole ones, within the budget and the window, and, if they go on, as
    /// far as the other ring has room.
    fn gather(&mut self, to: Option<&Rx>) -> Round {
        let mut round = Round {
            packets: [Packet::default(); BUDGET],
            packet_count: 0,
            slots: [Slot::default(); SLOTS],
            slot_count: 0,
            copies: [Copy::default(); BUDGET * 2],
            copy_count: 0,
        };
        let Ok(mut ready) = self.ring.ready() else { crate::fail!("tx: the ring's index overruns it") };
        let mut room = to.map(Rx::room);
        while ready > 0
            && round.packet_count < BUDGET
            && round.copy_count + PACKET_SLOTS <= BUDGET * 2
            && round.slot_count + PACKET_SLOTS <= self.free_count
        {
            let first = self.ring.peek(0);
            if let Some(room) = &mut room {
                let needed = Rx::slots(usize::from(first.size), first.flags & TXF_EXTRA_INFO != 0);
                let Some(left) = room.checked_sub(needed) else { break };
                *room = left;
            }
            self.take_packet(&mut round, &mut ready);
        }
        round
    }

    /// Takes one packet: requests, extra info, and the copies of its first bytes.
    fn take_packet(&mut self, round: &mut Round, ready: &mut u32) {
        let first = self.ring.take();
        let mut left = *ready - 1;
        let mut more_slots = || {
            left = left.checked_sub(1).unwrap_or_else(|| crate::fail!("tx: a packet ends in mid-ring"));
        };
        let mut gso = None;
        let mut extra = first.flags & TXF_EXTRA_INFO != 0;
        while extra {
            more_slots();
            let info: ExtraGso = self.ring.take_other();
            extra = info.flags & EXTRA_FLAG_MORE != 0;
            gso = Some(info);
            self.ring.put(TxResponse { id: 0, status: RSP_NULL });
        }
        let start = round.slot_count;
        let mut request = first;
        let mut rest = 0;
        loop {
            let count = round.slot_count - start;
            if count == PACKET_SLOTS {
                crate::fail!("tx: a packet of more than {PACKET_SLOTS} slots");
            }
            if usize::from(request.offset) + usize::from(request.size) > PAGE && count > 0 {
                crate::fail!("tx: a slot crosses its page's end");
            }
            let TxRequest { gref, offset, flags, id, size } = request;
            round.slots[round.slot_count] = Slot { id, gref, offset, length: size };
            round.slot_count += 1;
            rest += if count > 0 { usize::from(size) } else { 0 };
            if flags & TXF_MORE_DATA == 0 {
                break;
            }
            more_slots();
            request = self.ring.take();
        }
        *ready = left;
        // The first slot's size is the packet's; its own is what the others leave.
        let length = usize::from(first.size);
        let own = length.checked_sub(rest).filter(|&own| own > 0 && usize::from(first.offset) + own <= PAGE);
        let Some(own) = own else { crate::fail!("tx: slots of {rest} bytes in a packet of {length}") };
        let slots = &mut round.slots[start..round.slot_count];
        slots[0].length = u16::try_from(own).expect("not more than the packet's");

        let whole_first = slots.len() >= PACKET_SLOTS;
        let wanted = if whole_first { own.min(HEADER_ROOM) } else { length.min(COPY_LEN) };
        let header = self.headers + wide(round.packet_count * HEADER_ROOM);
        let mut copied = 0;
        for slot in slots.iter_mut() {
            let part = u16::try_from(wanted - copied).expect("a short header").min(slot.length);
            if part == 0 {
                break;
            }
            let source = Side::Granted { dom: self.domid, gref: slot.gref, offset: slot.offset };
            let dest = Side::Own(header + wide(copied));
            round.copies[round.copy_count] = grants::copy_request(source, dest, part);
            round.copy_count += 1;
            slot.offset += part;
            slot.length -= part;
            copied += usize::from(part);
        }
        round.packets[round.packet_count] =
            Packet { length, copied, header, first: start, slots: round.slot_count - start, gso };
        round.packet_count += 1;
    }

    fn copy_headers(&mut self, round: &Round) {
        let mut copies = round.copies;
        let copies = &mut copies[..round.copy_count];
        self.tally.copy.time(copies.len(), || grants::copy(copies));
        if let Some(bad) = copies.iter().find(|copy| copy.status != 0) {
            crate::fail!("tx: copying from reference {} ends with status {}", bad.source.u, bad.status);
        }
    }

    /// Undoes every mapping in one batch and answers its slots.
    pub fn unmap_all(&mut self, told: &mut bool) -> bool {
        if self.unmap_count == 0 {
            return false;
        }
        let unmaps = &mut self.unmaps[..self.unmap_count];
        self.tally.unmap.time(unmaps.len(), || grants::unmap(unmaps));
        if let Some(bad) = unmaps.iter().find(|unmap| unmap.status != 0) {
            crate::fail!("tx: unmapping handle {} ends with status {}", bad.handle, bad.status);
        }
        for &(id, place) in &self.unmap_slots[..self.unmap_count] {
            self.ring.put(TxResponse { id, status: RSP_OKAY });
            self.free[self.free_count] = place;
            self.free_count += 1;
        }
        self.unmap_count = 0;
        *told |= self.ring.push();
        self.tally.end();
        true
    }
}
