//! Linux's bzImage: the ELF kernel inside, unpacked.
//!
//! A bzImage is a boot sector, set-up code and a decompressor around the compressed `vmlinux`, and only that one
//! has the PVH entry note. From protocol 2.08 on the header says where the payload lies
//! (Documentation/arch/x86/boot.rst: `payload_offset`, `payload_length`), and its last four bytes say how long
//! it is unpacked. The formats Debian and others use are understood: XZ, zstd, gzip and LZ4's legacy
//! frames; each is undone by a crate of the ecosystem, into one buffer that is given back once the domain is
//! built. A file may be anything: every number is checked against the file, and no format may write
//! beyond the length that was told.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;

use lzma_rust2::{Read, XzReader};
use ruzstd::decoding::FrameDecoder;

/// The longest kernel that is unpacked.
const MAX_UNPACKED: usize = 512 << 20;
/// The most memory an XZ payload's dictionary may ask for, in KiB: Linux's build uses 32 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b, 8];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x02, 0x21, 0x4c, 0x18];

/// Why a bzImage cannot be unpacked; printed as one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadBzImage {
    /// Its protocol is older than 2.08.
    Old(u16),
    /// The payload reaches behind the end of the file.
    Truncated,
    /// The payload begins like no format we know.
    Format([u8; 4]),
    /// The unpacked length is none we take.
    Length(u32),
    /// No memory for the unpacked kernel.
    NoMemory(usize),
    /// The data is damaged.
    Damaged(&'static str),
}

impl fmt::Display for BadBzImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Old(version) => {
                write!(
                    f,
                    "a bzImage of boot protocol {}.{:02}, but 2.08 is needed",
                    version >> 8,
                    version & 0xff
                )
            }
            Self::Truncated => f.write_str("a truncated bzImage: its payload reaches behind its end"),
            Self::Format([a, b, c, d]) => write!(
                f,
                "a bzImage whose payload ({a:02x} {b:02x} {c:02x} {d:02x}) is none of XZ, zstd, gzip and LZ4"
            ),
            Self::Length(length) => write!(f, "a damaged bzImage: unpacked it would have {length} bytes"),
            Self::NoMemory(length) => {
                write!(f, "no memory to unpack the bzImage: {} KiB in one piece", length.div_ceil(1024))
            }
            Self::Damaged(format) => write!(f, "a damaged bzImage: its {format} payload does not unpack"),
        }
    }
}

/// The kernel inside a bzImage; `None` when the file is no bzImage at all.
///
/// # Errors
/// Why it cannot be unpacked.
pub fn unpack(file: &[u8]) -> Result<Option<Vec<u8>>, BadBzImage> {
    if file.get(0x1fe..0x200) != Some(&[0x55, 0xaa]) || file.get(0x202..0x206) != Some(b"HdrS") {
        return Ok(None);
    }
    let (payload, length) = payload(file)?;
    let wanted = usize::try_from(length)
        .ok()
        .filter(|&wanted| (1..=MAX_UNPACKED).contains(&wanted))
        .ok_or(BadBzImage::Length(length))?;
    let mut kernel = Vec::new();
    kernel.try_reserve_exact(wanted).map_err(|_| BadBzImage::NoMemory(wanted))?;
    kernel.resize(wanted, 0);
    let (format, done) = if payload.starts_with(GZIP) {
        ("gzip", gzip(payload, &mut kernel))
    } else if payload.starts_with(XZ) {
        ("XZ", xz(payload, &mut kernel))
    } else if payload.starts_with(ZSTD) {
        ("zstd", zstd(payload, &mut kernel))
    } else if payload.starts_with(LZ4) {
        ("LZ4", lz4(&payload[LZ4.len()..], &mut kernel))
    } else {
        let mut first = [0; 4];
        first.iter_mut().zip(payload).for_each(|(to, from)| *to = *from);
        return Err(BadBzImage::Format(first));
    };
    done.ok_or(BadBzImage::Damaged(format)).map(|()| Some(kernel))
}

/// The payload without the length behind it, and that length.
fn payload(file: &[u8]) -> Result<(&[u8], u32), BadBzImage> {
    let word = |at: usize| -> Result<u32, BadBzImage> {
        let bytes = file.get(at..at + 4).ok_or(BadBzImage::Truncated)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| BadBzImage::Truncated)?))
    };
    let version = u16::try_from(word(0x206)? & 0xffff).unwrap_or(0);
    if version < 0x208 {
        return Err(BadBzImage::Old(version));
    }
    // 0 sectors of set-up code stand for 4, from the time of floppies.
    let sectors = match file.get(0x1f1) {
        Some(0) => 4,
        Some(&sectors) => usize::from(sectors),
        None => return Err(BadBzImage::Truncated),
    };
    let size = |at: usize| usize::try_from(word(at)?).map_err(|_| BadBzImage::Truncated);
    let start = ((sectors + 1) * 512).checked_add(size(0x248)?).ok_or(BadBzImage::Truncated)?;
    let end = start.checked_add(size(0x24c)?).ok_or(BadBzImage::Truncated)?;
    let payload = file.get(start..end).ok_or(BadBzImage::Truncated)?;
    let (data, length) = payload.split_last_chunk::<4>().ok_or(BadBzImage::Truncated)?;
    // The build appends the length; gzip has it there by itself, and needs it there.
    let data = if payload.starts_with(GZIP) { payload } else { data };
    Ok((data, u32::from_le_bytes(*length)))
}

/// A gzip member (RFC 1952). The check sum is checked; it has no other redundancy.
fn gzip(data: &[u8], out: &mut [u8]) -> Option<()> {
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    const HEADER_CRC: u8 = 1 << 1;
    let flags = *data.get(3)?;
    let mut body = data.get(10..)?;
    if flags & EXTRA != 0 {
        let length = u16::from_le_bytes(body.get(..2)?.try_into().ok()?);
        body = body.get(2 + usize::from(length)..)?;
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            let end = body.iter().position(|&byte| byte == 0)?;
            body = &body[end + 1..];
        }
    }
    if flags & HEADER_CRC != 0 {
        body = body.get(2..)?;
    }
    let (body, trailer) = body.split_last_chunk::<8>()?;
    let done = miniz_oxide::inflate::decompress_slice_iter_to_slice(out, core::iter::once(body), false, true);
    let [a, b, c, d, ..] = *trailer;
    (done == Ok(out.len()) && crc32(out) == u32::from_le_bytes([a, b, c, d])).then_some(())
}

/// CRC-32 as gzip has it, four bits at a time.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0u32; 16];
        let mut index = 0u32;
        while index < 16 {
            let mut value = index;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 != 0 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[index as usize] = value;
            index += 1;
        }
        table
    };
    let step = |crc: u32, bits: u32| TABLE[((crc ^ bits) & 15) as usize] ^ (crc >> 4);
    !bytes.iter().fold(!0, |crc, &byte| {
        let crc = step(crc, u32::from(byte));
        step(crc, u32::from(byte) >> 4)
    })
}

fn xz(data: &[u8], out: &mut [u8]) -> Option<()> {
    let mut reader = XzReader::new_mem_limit(data, false, XZ_MEMORY_KIB);
    reader.read_exact(out).ok()?;
    // The stream's end comes with its check.
    matches!(reader.read(&mut [0]), Ok(0)).then_some(())
}

fn zstd(data: &[u8], out: &mut [u8]) -> Option<()> {
    let done = FrameDecoder::new().decode_all(data, out).ok()?;
    (done == out.len()).then_some(())
}

/// LZ4's legacy frame: blocks of at most 8 MiB unpacked, each behind its packed length.
fn lz4(mut data: &[u8], mut out: &mut [u8]) -> Option<()> {
    const BLOCK: usize = 8 << 20;
    while !out.is_empty() {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let (block, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let room = out.len().min(BLOCK);
        let done = lz4_flex::block::decompress_into(block, &mut out[..room]).ok()?;
        if done != room {
            return None;
        }
        (data, out) = (rest, &mut out[done..]);
    }
    data.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{format, string::ToString};

    use lzma_rust2::Write;

    use proptest::prelude::*;

    use super::*;

    /// What is packed: repetitive and not, across an LZ4 block's end when it is `long`.
    fn sample(long: bool) -> Vec<u8> {
        let len = if long { (8 << 20) + 777 } else { 50_001 };
        (0..len).map(|index: usize| u8::try_from((index * index / 7) % 251).expect("small")).collect()
    }

    /// A bzImage around a payload that ends with its unpacked length.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut file = std::vec![0; 5 * 512 + 16];
        file[0x1f1] = 4;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).expect("short").to_le_bytes());
        file.extend_from_slice(payload);
        file
    }

    fn with_length(mut packed: Vec<u8>, data: &[u8]) -> Vec<u8> {
        packed.extend_from_slice(&u32::try_from(data.len()).expect("short").to_le_bytes());
        packed
    }

    fn lz4_payload(data: &[u8]) -> Vec<u8> {
        let mut packed = Vec::from(LZ4);
        for block in data.chunks(8 << 20) {
            let block = lz4_flex::block::compress(block);
            packed.extend_from_slice(&u32::try_from(block.len()).expect("short").to_le_bytes());
            packed.extend_from_slice(&block);
        }
        with_length(packed, data)
    }

    fn xz_payload(data: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).expect("options");
        writer.write_all(data).expect("a Vec");
        with_length(writer.finish().expect("a Vec"), data)
    }

    fn zstd_payload(data: &[u8]) -> Vec<u8> {
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        with_length(compress_to_vec(data, CompressionLevel::Fastest), data)
    }

    fn gzip_payload(data: &[u8]) -> Vec<u8> {
        let mut packed = Vec::from([0x1f, 0x8b, 8, 1 << 3, 0, 0, 0, 0, 0, 3]);
        packed.extend_from_slice(b"vmlinux\0");
        packed.extend_from_slice(&miniz_oxide::deflate::compress_to_vec(data, 6));
        packed.extend_from_slice(&crc32(data).to_le_bytes());
        with_length(packed, data)
    }

    type Pack = fn(&[u8]) -> Vec<u8>;
    const FORMATS: [(&str, Pack); 4] =
        [("XZ", xz_payload), ("zstd", zstd_payload), ("gzip", gzip_payload), ("LZ4", lz4_payload)];

    #[test]
    fn each_format_gives_the_kernel_back() {
        for (name, pack) in FORMATS {
            for long in [false, true] {
                let data = sample(long);
                let unpacked = unpack(&image(&pack(&data))).expect(name).expect("a bzImage");
                assert!(unpacked == data, "{name}");
            }
        }
    }

    #[test]
    fn a_cut_file_is_refused_wherever_it_is_cut() {
        let file = image(&lz4_payload(&sample(false)));
        for len in (0x260..file.len()).step_by(997) {
            assert_eq!(unpack(&file[..len]), Err(BadBzImage::Truncated), "{len}");
        }
        // Too short to be known for one.
        assert_eq!(unpack(&file[..0x200]), Ok(None));
        assert_eq!(unpack(b"\x7fELF"), Ok(None));
    }

    #[test]
    fn damage_in_the_payload_is_told_in_one_line() {
        for (name, pack) in FORMATS {
            let data = sample(false);
            let whole = pack(&data);
            // The packed data stops early.
            let short = with_length(whole[..whole.len() / 2].to_vec(), &data);
            assert_eq!(unpack(&image(&short)), Err(BadBzImage::Damaged(name)));
            // The length is not what comes out.
            for wrong in [data.len() - 1, data.len() + 1] {
                let mut payload = whole.clone();
                let at = payload.len() - 4;
                payload[at..].copy_from_slice(&u32::try_from(wrong).expect("short").to_le_bytes());
                let why = unpack(&image(&payload)).expect_err(name);
                assert_eq!(why, BadBzImage::Damaged(name));
                assert!(!why.to_string().contains('\n'));
            }
        }
    }

    #[test]
    fn strange_headers_are_refused() {
        let good = image(&gzip_payload(&sample(false)));
        let patched = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            unpack(&file).expect_err("refused")
        };
        assert_eq!(patched(0x206, &[7, 2]), BadBzImage::Old(0x207));
        assert_eq!(patched(0x248, &[0xff; 4]), BadBzImage::Truncated);
        assert_eq!(patched(0x24c, &[0xff; 4]), BadBzImage::Truncated);
        assert_eq!(patched(0x24c, &[3, 0, 0, 0]), BadBzImage::Truncated);
        assert_eq!(patched(5 * 512 + 16, b"BZh9"), BadBzImage::Format(*b"BZh9"));
        assert_eq!(patched(good.len() - 4, &[0xff; 4]), BadBzImage::Length(u32::MAX));
        assert_eq!(
            format!("{}", BadBzImage::Old(0x207)),
            "a bzImage of boot protocol 2.07, but 2.08 is needed"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_damage_panics(
            which in 0usize..4,
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let (_, pack) = FORMATS[which];
            let data = &sample(false)[..5000];
            let mut file = image(&pack(data));
            let start = 0x1f0;
            for (at, byte) in damage {
                let at = start + at.index(file.len() - start);
                file[at] = byte;
            }
            if let Ok(Some(kernel)) = unpack(&file) {
                prop_assert!(kernel.len() <= MAX_UNPACKED);
            }
        }
    }
}
