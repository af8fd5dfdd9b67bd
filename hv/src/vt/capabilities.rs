//! What a guest may ask of its grant table, by CPUID: `docs/capabilities.md` is the specification.
//!
//! The leaves are a block of their own, behind Xen's: guests look for hypervisors at multiples of 0x100 from
//! 4000_0000h on (public/arch-x86/cpuid.h), and Xen's block stays as Xen has it, so that no leaf Xen adds
//! later can mean something else here. A guest that does not know the signature passes over the block.
//!
//! Everything is worked out when it is asked for; no operation counts for it.
#![forbid(unsafe_code)]

use gnttab_fast::Usage;

use super::cpuid::{Leaf, XEN_BASE};
use crate::abi::capabilities::{SIGNATURE, VERSION, grants, leaf};

/// The first leaf of the block.
pub const BASE: u32 = XEN_BASE + 0x100;
/// The last leaf number that belongs to the block.
pub const END: u32 = BASE + 0xff;

/// The last leaf and the last subleaf there are.
const LAST: (u32, u32) = (leaf::GRANTS, grants::COPIES);

/// The grants of the domain that asks, at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grants {
    /// Its table.
    pub usage: Usage,
    /// Elements of map operations so far.
    pub maps: u64,
    /// Elements of unmap operations.
    pub unmaps: u64,
    /// Elements of copies.
    pub copies: u64,
    /// Bytes copied.
    pub copy_bytes: u64,
}

/// The leaf at an offset from [`BASE`]. `grants` is asked only if the leaf tells of them.
pub fn answer(offset: u32, sub: u32, grants: impl FnOnce() -> Grants) -> Leaf {
    match offset {
        leaf::SIGNATURE => {
            let [b, c, d] = words(SIGNATURE);
            [BASE + LAST.0, b, c, d]
        }
        leaf::VERSION => [VERSION, 0, 0, 0],
        leaf::GRANTS if sub <= LAST.1 => of_grants(sub, &grants()),
        _ => [0; 4],
    }
}

fn of_grants(sub: u32, told: &Grants) -> Leaf {
    let Grants { usage, maps, unmaps, copies, copy_bytes } = *told;
    match sub {
        grants::POLICY => {
            // Transfer is for PV guests, of which there are none: its bit stays clear.
            let allowed = if usage.transitive { grants::TRANSITIVE } else { 0 };
            [LAST.1, allowed, usage.max_version.number(), usage.version.number()]
        }
        grants::TABLE => [usage.frames, usage.max_frames, usage.status_frames, usage.references],
        grants::HANDLES => [usage.handles, usage.max_handles, usage.handle_room, 0],
        grants::MAPS => pair(maps, unmaps),
        _ => pair(copies, copy_bytes),
    }
}

/// Two 64-bit numbers: EBX:EAX and EDX:ECX.
fn pair(first: u64, second: u64) -> Leaf {
    let halves = |number: u64| {
        let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
        [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
    };
    let ([a, b], [c, d]) = (halves(first), halves(second));
    [a, b, c, d]
}

fn words(bytes: &[u8; 12]) -> [u32; 3] {
    core::array::from_fn(|at| {
        let [a, b, c, d] = core::array::from_fn(|byte| bytes[4 * at + byte]);
        u32::from_le_bytes([a, b, c, d])
    })
}

#[cfg(test)]
mod tests {
    use gnttab_fast::Version;

    use super::*;

    const GRANTS: Grants = Grants {
        usage: Usage {
            version: Version::V1,
            max_version: Version::V2,
            transitive: true,
            frames: 3,
            max_frames: 64,
            status_frames: 7,
            references: 1536,
            handles: 5,
            max_handles: 262_144,
            handle_room: 256,
        },
        maps: 0x1_0000_0002,
        unmaps: 3,
        copies: 4,
        copy_bytes: 0x5_0000_0006,
    };

    #[test]
    fn a_guest_finds_the_block_by_its_signature() {
        let [last, b, c, d] = answer(0, 0, || unreachable!("the signature asks nobody"));
        assert_eq!(BASE, 0x4000_0100);
        assert_eq!(last, BASE + 2);
        assert_eq!([b, c, d].map(u32::to_le_bytes).concat(), SIGNATURE);
        assert_eq!(answer(1, 9, || unreachable!("nor does the version")), [0x1_0000, 0, 0, 0]);
    }

    #[test]
    fn each_number_stands_where_the_specification_says() {
        let leaf = |sub| answer(leaf::GRANTS, sub, || GRANTS);
        assert_eq!(leaf(0), [4, 1, 2, 1]);
        assert_eq!(leaf(1), [3, 64, 7, 1536]);
        assert_eq!(leaf(2), [5, 262_144, 256, 0]);
        assert_eq!(leaf(3), [2, 1, 3, 0]);
        assert_eq!(leaf(4), [4, 0, 6, 5]);
        let narrow = Usage { transitive: false, max_version: Version::V1, ..GRANTS.usage };
        assert_eq!(answer(leaf::GRANTS, 0, || Grants { usage: narrow, ..GRANTS }), [4, 0, 1, 1]);
    }

    #[test]
    fn beyond_the_last_leaf_and_subleaf_all_is_zero() {
        for (offset, sub) in [(leaf::GRANTS, 5), (leaf::GRANTS, u32::MAX), (3, 0), (0xff, 0)] {
            assert_eq!(answer(offset, sub, || unreachable!("nobody is asked")), [0; 4], "{offset} {sub}");
        }
    }
}
