//! `public/io/console.h`: a guest's console ring, one page. Both widths alike.

/// Bytes of the input ring, at offset 0.
pub const IN_SIZE: usize = 1024;
/// Offset of the output ring.
pub const OUT: usize = IN_SIZE;
/// Bytes of the output ring.
pub const OUT_SIZE: usize = 2048;
/// Offset of `out_cons`.
pub const OUT_CONS: usize = OUT + OUT_SIZE + 8;
/// Offset of `out_prod`.
pub const OUT_PROD: usize = OUT_CONS + 4;
