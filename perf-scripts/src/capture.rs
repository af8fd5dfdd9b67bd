//! Reads captures (pcap and pcapng) and refuses, in one line, what cannot be sent through a network ring:
//! a file that is cut off, holds nothing, is not Ethernet, or has frames beyond what a ring slot's 16-bit
//! size can say.

use std::fs;
use std::path::Path;

use anyhow::Result;
use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::{Block, PcapNgParser};
use pcap_file::{DataLink, PcapError};

use crate::failure::{Exit, stop};

/// The largest frame a netif transmit request can describe (`size` is 16 bits, public/io/netif.h).
pub const LARGEST_FRAME: usize = 65_535;
/// An Ethernet header.
const SMALLEST_FRAME: usize = 14;
/// A capture larger than this would not fit beside the guests.
const LARGEST_FILE: u64 = 256 << 20;

/// The frames of the capture at `path`, all whole.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let refuse = |why: String| stop(Exit::BadInput, format!("{}: {why}", path.display()));
    let size = fs::metadata(path).map_err(|error| refuse(format!("cannot read it: {error}")))?.len();
    if size > LARGEST_FILE {
        return Err(refuse(format!("a capture may have {} MiB; cut it with editcap", LARGEST_FILE >> 20)));
    }
    let file = fs::read(path).map_err(|error| refuse(format!("cannot read it: {error}")))?;
    frames(&file).map_err(refuse)
}

/// The frames in the bytes of a capture file, or what is wrong with it.
fn frames(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let frames = match file.first_chunk() {
        None if file.is_empty() => return Err("the file is empty".to_owned()),
        None => return Err("the capture is truncated".to_owned()),
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => frames_of_pcapng(file)?,
        Some(
            [0xa1, 0xb2, 0xc3, 0xd4]
            | [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x4d, 0x3c, 0xb2, 0xa1],
        ) => frames_of_pcap(file)?,
        Some(_) => return Err("no capture: neither pcap nor pcapng".to_owned()),
    };
    if frames.is_empty() {
        return Err("the capture holds no frames".to_owned());
    }
    Ok(frames)
}

fn frames_of_pcap(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let (mut rest, parser) = PcapParser::new(file).map_err(|error| damaged(error, 0))?;
    check_link(parser.header().datalink)?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let number = frames.len() + 1;
        // Raw: the checked kind takes a frame longer than the snap length for a damaged file.
        let (after, packet) = parser.next_raw_packet(rest).map_err(|error| damaged(error, number))?;
        frames.push(frame(&packet.data, packet.orig_len, number)?);
        rest = after;
    }
    Ok(frames)
}

fn frames_of_pcapng(file: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let (mut rest, mut parser) = PcapNgParser::new(file).map_err(|error| damaged(error, 0))?;
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let number = frames.len() + 1;
        let (after, block) = parser.next_block(rest).map_err(|error| damaged(error, number))?;
        match block {
            Block::InterfaceDescription(interface) => check_link(interface.linktype)?,
            Block::EnhancedPacket(packet) => {
                frames.push(frame(&packet.data, packet.original_len, number)?);
            }
            Block::SimplePacket(packet) => frames.push(frame(&packet.data, packet.original_len, number)?),
            _ => {}
        }
        rest = after;
    }
    Ok(frames)
}

fn damaged(error: PcapError, number: usize) -> String {
    match error {
        PcapError::IncompleteBuffer => format!("the capture is truncated in or before frame {number}"),
        other => format!("the capture is damaged at frame {number}: {other}"),
    }
}

fn check_link(link: DataLink) -> Result<(), String> {
    if link == DataLink::ETHERNET {
        return Ok(());
    }
    Err(format!("the capture is not Ethernet but link type {link:?}; record on an Ethernet interface"))
}

fn frame(data: &[u8], wire_length: u32, number: usize) -> Result<Vec<u8>, String> {
    let wire_length = usize::try_from(wire_length).unwrap_or(usize::MAX);
    if wire_length > LARGEST_FRAME || data.len() > LARGEST_FRAME {
        let length = wire_length.max(data.len());
        return Err(format!("frame {number} has {length} bytes; a ring takes at most {LARGEST_FRAME}"));
    }
    if data.len() < wire_length {
        return Err(format!(
            "frame {number} was cut to {} of {wire_length} bytes; record with tcpdump -s 0",
            data.len()
        ));
    }
    if data.len() < SMALLEST_FRAME {
        return Err(format!("frame {number} has {} bytes, no Ethernet header", data.len()));
    }
    Ok(data.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcap(link: u32, frames: &[(usize, u32)]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(0xa1b2_c3d4_u32.to_le_bytes());
        file.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.extend(262_144_u32.to_le_bytes());
        file.extend(link.to_le_bytes());
        for &(length, wire_length) in frames {
            file.extend([0; 8]);
            file.extend(u32::try_from(length).unwrap().to_le_bytes());
            file.extend(wire_length.to_le_bytes());
            file.extend(std::iter::repeat_n(0x5a, length));
        }
        file
    }

    fn pcapng(link: u16, length: u32) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(0x0a0d_0d0a_u32.to_le_bytes());
        file.extend(28_u32.to_le_bytes());
        file.extend(0x1a2b_3c4d_u32.to_le_bytes());
        file.extend([1, 0, 0, 0]);
        file.extend([0xff; 8]);
        file.extend(28_u32.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        file.extend(20_u32.to_le_bytes());
        file.extend(link.to_le_bytes());
        file.extend([0; 6]);
        file.extend(20_u32.to_le_bytes());
        let padded = length.div_ceil(4) * 4;
        file.extend(6_u32.to_le_bytes());
        file.extend((32 + padded).to_le_bytes());
        file.extend([0; 12]);
        file.extend(length.to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(std::iter::repeat_n(0x5a, usize::try_from(padded).unwrap()));
        file.extend((32 + padded).to_le_bytes());
        file
    }

    #[test]
    fn whole_captures_are_read() {
        let lengths = |file: &[u8]| frames(file).unwrap().iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&pcap(1, &[(60, 60), (1514, 1514), (65_535, 65_535)])), [60, 1514, 65_535]);
        assert_eq!(lengths(&pcapng(1, 61)), [61]);
    }

    #[test]
    fn bad_captures_are_refused_by_name() {
        let why = |file: &[u8]| frames(file).unwrap_err();
        assert_eq!(why(b""), "the file is empty");
        assert_eq!(why(b"\xd4"), "the capture is truncated");
        assert_eq!(why(b"GIF89a, not a capture"), "no capture: neither pcap nor pcapng");
        assert_eq!(why(&pcap(1, &[])), "the capture holds no frames");
        assert!(why(&pcap(113, &[(60, 60)])).starts_with("the capture is not Ethernet"));
        assert!(why(&pcapng(113, 60)).starts_with("the capture is not Ethernet"));
        assert!(why(&pcap(1, &[(65_536, 65_536)])).starts_with("frame 1 has 65536 bytes"));
        assert!(why(&pcap(1, &[(60, 60), (96, 1514)])).starts_with("frame 2 was cut to 96 of 1514"));
        assert!(why(&pcap(1, &[(13, 13)])).starts_with("frame 1 has 13 bytes, no Ethernet"));
        for file in [pcap(1, &[(60, 60), (60, 60)]), pcapng(1, 60)] {
            for cut in 5..file.len() {
                let refused = frames(&file[..cut]).map(|frames| frames.len());
                // A cut between two frames cannot be seen in a pcap.
                assert!(
                    matches!(&refused, Err(why) if why.contains("truncated") || why.contains("no frames"))
                        || refused == Ok(1),
                    "{cut}: {refused:?}"
                );
            }
        }
    }

    #[test]
    fn damaged_captures_do_not_bring_the_reader_down() {
        let whole = pcapng(1, 60);
        for at in 0..whole.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut file = whole.clone();
                file[at] = byte;
                let _ = frames(&file);
            }
        }
    }
}
