//! How a frame is cut: which class it is of, where its headers end, and which pieces of which pages it
//! makes. Linux's netfront and netback cut the same way; section numbers are of no standard, the rules are
//! what their sources do.
#![forbid(unsafe_code)]

/// Bytes of a frame that are copied rather than mapped (netback's `XEN_NETBACK_TX_COPY_LEN`).
pub const COPY_LEN: usize = 128;
/// The largest frame that is not an aggregate of several segments.
pub const MTU_FRAME: usize = 1514;
/// Payload of one segment of an aggregate: a 1500-byte packet without 40 bytes of headers and 12 of options.
pub const SEGMENT: usize = 1448;
/// A page.
pub const PAGE: usize = 4096;
/// No header is longer: Ethernet, VLAN, IPv4 and TCP with all options.
pub const LONGEST_HEADERS: usize = 14 + 4 + 60 + 60;

/// Classes of frames; each profile uses one or all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// At most [`COPY_LEN`]: copied whole.
    Small,
    /// Up to [`MTU_FRAME`].
    Mtu,
    /// More: an aggregate (TSO or GRO).
    Large,
}

/// The class of a frame of `length` bytes.
#[must_use]
pub fn class(length: usize) -> Class {
    if length <= COPY_LEN {
        Class::Small
    } else if length <= MTU_FRAME {
        Class::Mtu
    } else {
        Class::Large
    }
}

/// Segmentation offload as an extra-info slot says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gso {
    /// `XEN_NETIF_GSO_TYPE_TCPV4`
    TcpV4,
    /// `XEN_NETIF_GSO_TYPE_TCPV6`
    TcpV6,
}

/// What the sending stack knows of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Bytes up to the payload.
    pub length: usize,
    /// Set for TCP.
    pub tcp: Option<Gso>,
}

/// Finds the end of the headers of an Ethernet frame; what is not understood counts as payload.
#[must_use]
pub fn headers(frame: &[u8]) -> Headers {
    let byte = |at: usize| frame.get(at).copied().map_or(0, usize::from);
    let mut at = 12;
    if (byte(at), byte(at + 1)) == (0x81, 0x00) {
        at += 4;
    }
    let kind = (byte(at), byte(at + 1));
    let ip = at + 2;
    let (protocol, transport, tcp) = match kind {
        (0x08, 0x00) => (byte(ip + 9), ip + 4 * (byte(ip) & 15), Gso::TcpV4),
        (0x86, 0xdd) => (byte(ip + 6), ip + 40, Gso::TcpV6),
        _ => (0, ip, Gso::TcpV4),
    };
    let (length, tcp) = match protocol {
        6 => (transport + 4 * (byte(transport + 12) >> 4), Some(tcp)),
        17 => (transport + 8, None),
        _ => (transport, None),
    };
    Headers { length: length.clamp(1, LONGEST_HEADERS).min(frame.len()), tcp }
}

/// A run of bytes inside one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First byte.
    pub at: usize,
    /// Bytes; never over the page's end.
    pub length: usize,
}

/// The pieces of `length` bytes at `at`, one for each page.
pub fn pages(at: usize, length: usize) -> impl Iterator<Item = Piece> + Clone {
    let mut at = at;
    let mut left = length;
    core::iter::from_fn(move || {
        let piece = Piece { at, length: left.min(PAGE - at % PAGE) };
        at += piece.length;
        left -= piece.length;
        (piece.length > 0).then_some(piece)
    })
}

/// The transmit slots of a frame at `at`: an aggregate's headers stand in a slot of their own, as a stack
/// that segments builds them; the rest, and any other frame, in one slot for each page it touches.
pub fn tx_slots(at: usize, frame: &[u8]) -> impl Iterator<Item = Piece> + Clone {
    let head = if class(frame.len()) == Class::Large { headers(frame).length } else { 0 };
    pages(at, head).chain(pages(at + head, frame.len() - head))
}

/// Lengths of the buffers in which a network card and the stack behind it hold a received frame: all of a
/// small one together; otherwise the headers (256 bytes are pulled from an MTU frame), then a buffer for
/// each segment.
pub fn rx_buffers(frame: &[u8]) -> impl Iterator<Item = usize> + Clone {
    let head = match class(frame.len()) {
        Class::Small => frame.len(),
        Class::Mtu => frame.len().min(256),
        Class::Large => headers(frame).length,
    };
    let mut left = frame.len() - head;
    core::iter::once(head).chain(core::iter::from_fn(move || {
        let length = left.min(SEGMENT);
        left -= length;
        (length > 0).then_some(length)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn tcp4(length: usize) -> Vec<u8> {
        let mut frame = alloc::vec![0; length];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = 6;
        frame[14 + 20 + 12] = 0x80;
        frame
    }

    #[test]
    fn headers_end_where_the_payload_starts() {
        assert_eq!(headers(&tcp4(200)), Headers { length: 66, tcp: Some(Gso::TcpV4) });
        let mut udp = tcp4(100);
        udp[23] = 17;
        assert_eq!(headers(&udp), Headers { length: 42, tcp: None });
        let mut vlan = alloc::vec![0; 12];
        vlan.extend([0x81, 0, 0, 1]);
        vlan.extend(&tcp4(200)[12..]);
        assert_eq!(headers(&vlan), Headers { length: 70, tcp: Some(Gso::TcpV4) });
        let mut v6 = alloc::vec![0; 200];
        v6[12] = 0x86;
        v6[13] = 0xdd;
        v6[20] = 6;
        v6[14 + 40 + 12] = 0x50;
        assert_eq!(headers(&v6), Headers { length: 74, tcp: Some(Gso::TcpV6) });
        assert_eq!(headers(&[0; 3]).length, 3);
        assert_eq!(headers(&[0xff; 60]).tcp, None);
    }

    #[test]
    fn slots_cover_the_frame_and_stay_in_their_pages() {
        for length in [1, 64, 128, 129, 1514, 1515, 4096, 9000, 65_226, 65_535] {
            for at in [0, 1, 100, 4095, 4096 * 3 + 4000] {
                let frame = tcp4(length.max(60));
                let slots: Vec<Piece> = tx_slots(at, &frame).collect();
                assert_eq!(slots.iter().map(|slot| slot.length).sum::<usize>(), frame.len());
                let mut next = at;
                for slot in &slots {
                    assert_eq!(slot.at, next);
                    assert!(slot.length > 0 && slot.at / PAGE == (slot.at + slot.length - 1) / PAGE);
                    next += slot.length;
                }
                // `XEN_NETIF_NR_SLOTS_MIN`: what every backend takes.
                assert!(slots.len() <= 18);
            }
        }
    }

    #[test]
    fn an_aggregate_has_its_headers_apart() {
        let slots: Vec<Piece> = tx_slots(4096, &tcp4(65_226)).collect();
        assert_eq!(slots[0], Piece { at: 4096, length: 66 });
        assert_eq!(slots[1], Piece { at: 4162, length: 4030 });
        assert_eq!(slots.len(), 17);
        assert_eq!(tx_slots(4096, &tcp4(1514)).count(), 1);
    }

    #[test]
    fn buffers_are_as_a_card_makes_them() {
        let lengths = |length| rx_buffers(&tcp4(length)).collect::<Vec<_>>();
        assert_eq!(lengths(66), [66]);
        assert_eq!(lengths(1514), [256, 1258]);
        let large = lengths(65_226);
        assert_eq!((large[0], large[1], large.len()), (66, 1448, 46));
        assert_eq!(large.iter().sum::<usize>(), 65_226);
    }
}
