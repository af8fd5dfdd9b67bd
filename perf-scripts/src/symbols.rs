//! The symbol table the hypervisor's panic handler reads: written into the room its linker script keeps
//! in `.symbols`, in place, so that addresses and the rest of the file stay what the linker made them.
//!
//! Layout, little-endian: `u32` count; count pairs of `u32` address (from the image's base, ascending)
//! and `u32` offset of the name (from the section's start); then the names, demangled, NUL-terminated.
//! A count of 0, which is what the linker leaves, means that there is no table.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use elf::ElfBytes;
use elf::abi::{SHT_NOBITS, STT_FUNC, STT_NOTYPE};
use elf::endian::LittleEndian;

/// The section the linker script reserves.
const SECTION: &str = ".symbols";
/// The linker's symbol for the address the table counts from.
const BASE: &str = "__image_start";
/// A longer name is cut: generic instances can fill pages.
const LONGEST_NAME: usize = 160;

/// Fills the symbol section of an ELF file held in `file`; returns how many symbols it holds now.
pub fn embed(file: &mut [u8]) -> Result<usize> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("the image is no ELF file")?;
    let section = elf
        .section_header_by_name(SECTION)
        .context("cannot read the image's sections")?
        .with_context(|| format!("the image has no {SECTION} section; hv/linker.ld must keep it"))?;
    ensure!(section.sh_type != SHT_NOBITS, "{SECTION} has no room in the file; hv/linker.ld must fill it");
    let symbols = Symbols::of(&elf)?;
    let table = symbols.encode()?;
    let start = usize::try_from(section.sh_offset)?;
    let room = usize::try_from(section.sh_size)?;
    ensure!(
        table.len() <= room,
        "{SECTION} has {room} bytes, the table needs {}; make it larger in hv/linker.ld",
        table.len()
    );
    let place = file.get_mut(start..start + room).context("the section lies outside the file")?;
    place.fill(0);
    place[..table.len()].copy_from_slice(&table);
    Ok(symbols.functions.len())
}

/// The address of the symbol `name` in the ELF file in `file`.
pub fn address(file: &[u8], name: &str) -> Result<u64> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("no ELF file")?;
    let (symbols, strings) =
        elf.symbol_table().context("cannot read the symbols")?.context("there is no symbol table")?;
    let found = symbols.iter().find(|symbol| {
        usize::try_from(symbol.st_name).is_ok_and(|at| strings.get(at).is_ok_and(|other| other == name))
    });
    found.map(|symbol| symbol.st_value).with_context(|| format!("there is no symbol {name}"))
}

/// The image's functions by address, each with one demangled name.
pub struct Symbols {
    base: u64,
    functions: BTreeMap<u64, String>,
}

impl Symbols {
    /// From the ELF file in `file`.
    pub fn read(file: &[u8]) -> Result<Self> {
        Self::of(&ElfBytes::minimal_parse(file).context("the image is no ELF file")?)
    }

    fn of(elf: &ElfBytes<'_, LittleEndian>) -> Result<Self> {
        let (symbols, strings) = elf
            .symbol_table()
            .context("cannot read the image's symbols")?
            .context("the image has no symbol table; it must not be stripped")?;
        let mut base = None;
        let mut functions = BTreeMap::new();
        for symbol in symbols.iter() {
            let name = strings.get(usize::try_from(symbol.st_name)?).unwrap_or("");
            if name == BASE {
                base = Some(symbol.st_value);
            }
            // Assembly labels without a type count too, when they lie in code.
            let kind = symbol.st_symtype();
            let code = kind == STT_FUNC || (kind == STT_NOTYPE && in_code(elf, symbol.st_shndx));
            if code && !name.is_empty() && !name.starts_with(".L") && !symbol.is_undefined() {
                let mut shown = format!("{:#}", rustc_demangle::demangle(name));
                if shown.len() > LONGEST_NAME {
                    let end = (0..=LONGEST_NAME).rev().find(|&at| shown.is_char_boundary(at)).unwrap_or(0);
                    shown.truncate(end);
                }
                functions.entry(symbol.st_value).or_insert(shown);
            }
        }
        let base =
            base.with_context(|| format!("the image has no symbol {BASE}; hv/linker.ld must define it"))?;
        Ok(Self { base, functions })
    }

    /// The function `address` lies in, if it is an address of the image.
    pub fn name(&self, address: u64) -> Option<String> {
        let (start, name) = self.functions.range(self.base..=address.max(self.base)).next_back()?;
        (address >= *start).then(|| format!("{name}+{:#x}", address - start))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        // Code linked at its physical address (the entry, the trampoline) lies below the base.
        let in_image: Vec<(u32, &String)> = self
            .functions
            .iter()
            .filter_map(|(&address, name)| Some((u32::try_from(address.checked_sub(self.base)?).ok()?, name)))
            .collect();
        let mut table = Vec::new();
        table.extend(u32::try_from(in_image.len())?.to_le_bytes());
        let mut name_at = 4 + 8 * in_image.len();
        for (address, name) in &in_image {
            table.extend(address.to_le_bytes());
            table.extend(u32::try_from(name_at)?.to_le_bytes());
            name_at += name.len() + 1;
        }
        for (_, name) in &in_image {
            table.extend(name.bytes());
            table.push(0);
        }
        Ok(table)
    }
}

fn in_code(elf: &ElfBytes<'_, LittleEndian>, index: u16) -> bool {
    elf.section_headers()
        .and_then(|headers| headers.get(usize::from(index)).ok())
        .is_some_and(|header| header.sh_flags & u64::from(elf::abi::SHF_EXECINSTR) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_the_contract_says() {
        let functions = BTreeMap::from([
            (0x0f_u64, "below".to_owned()),
            (0x1010, "first".to_owned()),
            (0x1020, "second".to_owned()),
        ]);
        let symbols = Symbols { base: 0x1000, functions };
        let table = symbols.encode().unwrap();
        let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(12)), (2, 0x10, 0x20));
        let name = |at: u32| {
            let rest = &table[usize::try_from(at).unwrap()..];
            std::str::from_utf8(&rest[..rest.iter().position(|&byte| byte == 0).unwrap()]).unwrap()
        };
        assert_eq!((name(word(8)), name(word(16))), ("first", "second"));
        assert_eq!(symbols.name(0x101c).as_deref(), Some("first+0xc"));
        assert_eq!(symbols.name(0xf0), None, "an address below the image is a guest's");
    }

    #[test]
    fn something_else_is_no_image() {
        assert!(embed(&mut b"#!/bin/sh\n".repeat(20)).is_err());
    }
}
