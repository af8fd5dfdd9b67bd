//! Names for addresses of the image, from the table in its `.symbols` section.
#![forbid(unsafe_code)]

use core::fmt;

/// The image's functions by address, as `cargo xtask image` writes them: a count, that many pairs of
/// address (from the image's base, ascending) and offset of the name, and the names, NUL-terminated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbols<'t> {
    table: &'t [u8],
    base: u64,
}

impl Symbols<'_> {
    /// The running image's.
    #[cfg(feature = "bare-metal")]
    pub(super) fn of_image() -> Self {
        use crate::boot::entry;
        Self { table: entry::symbols(), base: entry::Image::get().start }
    }

    /// An address for people.
    pub(super) fn place(&self, address: u64) -> Place<'_> {
        Place { address, name: self.find(address) }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.table.get(at..at.checked_add(4)?)?;
        bytes.try_into().ok().map(u32::from_le_bytes)
    }

    /// The function an address lies in, and how far.
    fn find(&self, address: u64) -> Option<(&str, u64)> {
        let offset = u32::try_from(address.checked_sub(self.base)?).ok()?;
        let count = usize::try_from(self.word(0)?).ok()?;
        let start_of = |index: usize| self.word(4 + index * 8);
        // The last function that does not begin behind the address.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if start_of(middle)? <= offset { low = middle + 1 } else { high = middle }
        }
        let index = low.checked_sub(1)?;
        let name = usize::try_from(self.word(8 + index * 8)?).ok()?;
        let rest = self.table.get(name..)?;
        let name = rest.split(|&byte| byte == 0).next().unwrap_or(rest);
        Some((core::str::from_utf8(name).ok()?, u64::from(offset - start_of(index)?)))
    }
}

/// An address and its function.
pub(super) struct Place<'t> {
    address: u64,
    name: Option<(&'t str, u64)>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.address)?;
        self.name.map_or(Ok(()), |(name, offset)| write!(f, " {name}+{offset:#x}"))
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec::Vec};

    use super::*;

    #[test]
    fn names_are_found_by_address() {
        let mut table: Vec<u8> = Vec::new();
        for word in [2u32, 0x10, 20, 0x40, 26] {
            table.extend(word.to_le_bytes());
        }
        table.extend(b"first\0second::<T>\0");
        let symbols = Symbols { table: &table, base: 0x1000 };
        assert_eq!(symbols.place(0x1000).to_string(), "0x0000000000001000");
        assert_eq!(symbols.place(0x1013).to_string(), "0x0000000000001013 first+0x3");
        assert_eq!(symbols.find(0x103f), Some(("first", 0x2f)));
        assert_eq!(symbols.find(0x1040), Some(("second::<T>", 0)));
        for cut in 0..table.len() {
            let _ = Symbols { table: &table[..cut], base: 0x1000 }.find(0x1050);
        }
        assert_eq!(Symbols { table: &[0; 64], base: 0x1000 }.find(0x1040), None);
    }
}
