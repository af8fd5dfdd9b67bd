//! The Xen guest ABI, one file per public header, at the level of Xen 4.17.
//!
//! Structures keep the headers' names and layouts; what the two widths lay out differently has its
//! 32-bit twin in a `compat` module beside it. Sizes and offsets are asserted here, at compile time, with the
//! numbers a C compiler gives for both ABIs. Everything is plain bytes (`zerocopy`): values cross to and
//! from guest memory as copies, once; memory that a guest shares with us while we run (`shared_info`,
//! `vcpu_info`) is reached by the offsets below, through atomics.
#![forbid(unsafe_code)]

pub mod capabilities;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod hvm;
pub mod io;
pub mod memory;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod xen;

/// `public/grant_table.h`: the grant-table crate owns it.
pub use gnttab_fast::abi as grant_table;

/// Asserts the size of a structure and the offsets of some of its fields at compile time.
macro_rules! layout {
    ($t:ty, size $size:expr $(, $field:ident @ $off:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$t>() == $size);
            $(assert!(core::mem::offset_of!($t, $field) == $off);)*
        };
    };
}
pub(crate) use layout;

/// A structure of the ABI: `repr(C)`, plain bytes, every field public; `zerocopy::FromZeros` makes a zeroed one.
macro_rules! abi_struct {
    ($(#[$m:meta])* $name:ident { $($(#[$fm:meta])* $f:ident : $t:ty),* $(,)? }) => {
        $(#[$m])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$fm])* pub $f: $t),* }
    };
}
pub(crate) use abi_struct;
