//! Memory: the direct map, frames with owners and references, the heap, guests' nested tables.

pub mod direct;
pub mod frames;
pub mod grants;
pub mod guest;
pub mod heap;
pub mod p2m;
#[cfg(feature = "bare-metal")]
pub(crate) mod paging;
pub mod shared;
pub mod tlb;

pub use direct::{phys_to_virt, virt_to_phys};
