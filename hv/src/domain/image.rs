//! A guest kernel: an ELF file with the PVH entry note.
//!
//! The note (`XEN_ELFNOTE_PHYS32_ENTRY`, public/elfnote.h) holds the physical address the kernel is entered
//! at in 32-bit protected mode. Segments go to their physical addresses. The file is the boot loader's, but
//! it may be anything: everything is checked here, against the file and against each other, and the builder
//! checks what is left against the domain's memory.
#![forbid(unsafe_code)]

use core::fmt;

use arrayvec::ArrayVec;
use elf::{
    ElfBytes,
    abi::{EM_386, EM_X86_64, PT_LOAD, PT_NOTE},
    endian::LittleEndian,
    file::Class,
    note::{Note, NoteIterator},
};

use crate::abi::elfnote;
use crate::vt::Width;

/// The most segments that are loaded.
const MAX_SEGMENTS: usize = 16;
/// PVH is entered in 32-bit mode: all of the kernel lies below 4 GiB.
const END_OF_32_BIT: u64 = 1 << 32;

/// Bytes to be put into a domain's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment<'a> {
    /// Guest-physical address.
    pub start: u64,
    /// First address behind it; what `bytes` does not reach is zero.
    pub end: u64,
    /// What the file holds of it.
    pub bytes: &'a [u8],
}

/// A kernel that can be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image<'a> {
    /// The class of the file: how the kernel lays out what it shares with the hypervisor.
    pub width: Width,
    /// Where it is entered.
    pub entry: u32,
    /// Its segments, by address, apart from each other.
    pub segments: ArrayVec<Segment<'a>, MAX_SEGMENTS>,
}

/// Why a file is no kernel for a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadImage {
    /// It does not begin like an ELF file of a known class.
    NotElf,
    /// It is an ELF file, for another machine.
    Machine,
    /// Its headers or segments reach behind its end.
    Truncated,
    /// It has no PVH entry note.
    NoEntry,
    /// The entry is in none of its segments.
    EntryOutside,
    /// Nothing in it is to be loaded.
    NoSegments,
    /// More segments than fit.
    TooManySegments,
    /// A segment ends before it begins, or behind 4 GiB.
    Segment(u64),
    /// Two segments want the same memory.
    Overlap(u64),
}

impl fmt::Display for BadImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => {
                f.write_str("not an ELF file; a domain's kernel is an ELF file with a PVH entry note")
            }
            Self::Machine => f.write_str("an ELF file, but not for x86-64 or i386"),
            Self::Truncated => f.write_str("truncated: its headers or segments reach behind its end"),
            Self::NoEntry => {
                f.write_str("no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY): the kernel is not built for PVH")
            }
            Self::EntryOutside => f.write_str("its PVH entry is in none of its segments"),
            Self::NoSegments => f.write_str("it has no segment to load"),
            Self::TooManySegments => write!(f, "it has more than {MAX_SEGMENTS} segments"),
            Self::Segment(at) => {
                write!(f, "its segment at {at:#x} is malformed or does not end below 4 GiB")
            }
            Self::Overlap(at) => write!(f, "two of its segments overlap at {at:#x}"),
        }
    }
}

impl<'a> Image<'a> {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(file: &'a [u8]) -> Result<Self, BadImage> {
        let [0x7f, b'E', b'L', b'F', 1 | 2, 1, ..] = file else { return Err(BadImage::NotElf) };
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| BadImage::Truncated)?;
        let width = match (elf.ehdr.class, elf.ehdr.e_machine) {
            (Class::ELF64, EM_X86_64) => Width::Bits64,
            (Class::ELF32, EM_386) => Width::Bits32,
            _ => return Err(BadImage::Machine),
        };
        let headers = elf.segments().ok_or(BadImage::NoSegments)?;
        let mut segments = ArrayVec::<Segment<'a>, MAX_SEGMENTS>::new();
        let mut entry = None;
        for header in headers.iter() {
            if header.p_type == PT_NOTE && entry.is_none() {
                let data = elf.segment_data(&header).map_err(|_| BadImage::Truncated)?;
                // Xen's notes are 4-aligned whatever the segment header says.
                entry = NoteIterator::new(LittleEndian, elf.ehdr.class, 4, data).find_map(pvh_entry);
            }
            if header.p_type != PT_LOAD || header.p_memsz == 0 {
                continue;
            }
            let bytes = elf.segment_data(&header).map_err(|_| BadImage::Truncated)?;
            let start = header.p_paddr;
            let end = start
                .checked_add(header.p_memsz)
                .filter(|&end| end <= END_OF_32_BIT && header.p_filesz <= header.p_memsz)
                .ok_or(BadImage::Segment(start))?;
            segments.try_push(Segment { start, end, bytes }).map_err(|_| BadImage::TooManySegments)?;
        }
        segments.sort_unstable_by_key(|segment| segment.start);
        if segments.is_empty() {
            return Err(BadImage::NoSegments);
        }
        for pair in segments.windows(2) {
            if pair[0].end > pair[1].start {
                return Err(BadImage::Overlap(pair[1].start));
            }
        }
        let entry = entry.ok_or(BadImage::NoEntry)?;
        if !segments.iter().any(|segment| (segment.start..segment.end).contains(&u64::from(entry))) {
            return Err(BadImage::EntryOutside);
        }
        Ok(Self { width, entry, segments })
    }

    /// First address behind the last segment.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.end)
    }
}

/// The entry, when this note tells it: a word of 4 or 8 bytes.
fn pvh_entry(note: Note<'_>) -> Option<u32> {
    let Note::Unknown(note) = note else { return None };
    if note.name != elfnote::NAME || note.n_type != u64::from(elfnote::PHYS32_ENTRY) {
        return None;
    }
    match *note.desc {
        [a, b, c, d] | [a, b, c, d, 0, 0, 0, 0] => Some(u32::from_le_bytes([a, b, c, d])),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// A 64-bit or 32-bit kernel with one note and these segments (address, bytes, size in memory).
    pub fn kernel(width: Width, entry: u32, segments: &[(u32, &[u8], u32)]) -> Vec<u8> {
        let wide = width == Width::Bits64;
        let (header, program) = if wide { (64u32, 56u32) } else { (52, 32) };
        let count = u32::try_from(segments.len()).expect("few") + 1;
        let note_at = header + program * count;
        let mut note = Vec::new();
        for word in [4, 4, elfnote::PHYS32_ENTRY] {
            note.extend_from_slice(&u32::to_le_bytes(word));
        }
        note.extend_from_slice(elfnote::NAME);
        note.extend_from_slice(&entry.to_le_bytes());
        let mut file = Vec::from([0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1]);
        file.resize(16, 0);
        let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
        let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
        let long = |file: &mut Vec<u8>, value: u32| {
            file.extend_from_slice(&value.to_le_bytes());
            if wide {
                file.extend_from_slice(&[0; 4]);
            }
        };
        half(&mut file, 2);
        half(&mut file, if wide { EM_X86_64 } else { EM_386 });
        word(&mut file, 1);
        long(&mut file, entry);
        long(&mut file, header);
        long(&mut file, 0);
        word(&mut file, 0);
        for value in [header, program, count, 0, 0, 0] {
            half(&mut file, u16::try_from(value).expect("small"));
        }
        let mut offset = note_at + u32::try_from(note.len()).expect("small");
        let mut phdr = |kind: u32, offset: u32, at: u32, filesz: u32, memsz: u32| {
            word(&mut file, kind);
            if wide {
                word(&mut file, 7);
            }
            for value in [offset, at, at, filesz, memsz] {
                long(&mut file, value);
            }
            if !wide {
                word(&mut file, 7);
            }
            long(&mut file, 8);
        };
        phdr(PT_NOTE, note_at, 0, 20, 20);
        for &(at, bytes, size) in segments {
            let len = u32::try_from(bytes.len()).expect("small");
            phdr(PT_LOAD, offset, at, len, size);
            offset += len;
        }
        file.extend_from_slice(&note);
        for (_, bytes, _) in segments {
            file.extend_from_slice(bytes);
        }
        file
    }

    #[test]
    fn a_kernel_of_either_width() {
        for width in [Width::Bits64, Width::Bits32] {
            let file = kernel(width, 0x10_0004, &[(0x20_0000, b"data", 0x5000), (0x10_0000, b"code", 4096)]);
            let image = Image::parse(&file).expect("good");
            assert_eq!((image.width, image.entry, image.end()), (width, 0x10_0004, 0x20_5000));
            assert_eq!(image.segments[0], Segment { start: 0x10_0000, end: 0x10_1000, bytes: b"code" });
            assert_eq!(image.segments[1].bytes, b"data");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let check = |entry, segments: &[(u32, &[u8], u32)]| {
            Image::parse(&kernel(Width::Bits64, entry, segments)).expect_err("bad")
        };
        assert_eq!(check(0, &[]), BadImage::NoSegments);
        assert_eq!(check(0x1000, &[(0x2000, b"x", 1)]), BadImage::EntryOutside);
        assert_eq!(check(0x1000, &[(0x1000, b"xx", 0x1001), (0x2000, b"", 1)]), BadImage::Overlap(0x2000));
        assert_eq!(check(0x1000, &[(0x1000, b"xx", 1)]), BadImage::Segment(0x1000));
        assert_eq!(check(0x1000, &[(0xffff_f000, b"xx", 0x1001)]), BadImage::Segment(0xffff_f000));
        let many: Vec<(u32, &[u8], u32)> = (0..17).map(|at| (at * 0x1000, &b""[..], 1)).collect();
        assert_eq!(check(0, &many), BadImage::TooManySegments);
        assert_eq!(Image::parse(b"#!/bin/sh\n"), Err(BadImage::NotElf));
        assert_eq!(Image::parse(b""), Err(BadImage::NotElf));
    }

    #[test]
    fn other_machines_and_other_notes() {
        let mut file = kernel(Width::Bits64, 0x1000, &[(0x1000, b"x", 1)]);
        let note = 64 + 2 * 56;
        file[note + 8] = 1;
        assert_eq!(Image::parse(&file), Err(BadImage::NoEntry));
        file[18] = 0xb7;
        assert_eq!(Image::parse(&file), Err(BadImage::Machine));
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = kernel(Width::Bits64, 0x1000, &[(0x1000, b"code", 8), (0x2000, b"data", 8)]);
        for len in 0..file.len() {
            assert!(Image::parse(&file[..len]).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_file_panics(damage in proptest::collection::vec((0usize..300, any::<u8>()), 0..12), cut in 0usize..300) {
            let mut file = kernel(Width::Bits64, 0x1000, &[(0x1000, b"code", 8), (0x2000, b"data", 8)]);
            for (at, byte) in damage {
                if let Some(place) = file.get_mut(at) {
                    *place = byte;
                }
            }
            let file = &file[..cut.min(file.len())];
            if let Ok(image) = Image::parse(file) {
                for segment in &image.segments {
                    prop_assert!(segment.bytes.len() as u64 <= segment.end - segment.start);
                }
            }
        }
    }
}
