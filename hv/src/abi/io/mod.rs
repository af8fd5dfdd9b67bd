//! `public/io/*.h`: the rings of split drivers. The hypervisor moves their bytes without reading them; the
//! guests under `hv/guests` speak them.

pub mod blkif;
pub mod console;
pub mod netif;
pub mod ring;
