//! `public/io/console.h`: a guest's console ring, one page. Both widths alike.

/// Bytes of the input ring, at offset 0.
pub const IN_SIZE: usize = 1024;
/// Offset of `in_cons`.
pub const IN_CONS: usize = OUT + OUT_SIZE;
/// Offset of `in_prod`.
pub const IN_PROD: usize = IN_CONS + 4;
/// Offset of the output ring.
pub const OUT: usize = IN_SIZE;
/// Bytes of the output ring.
pub const OUT_SIZE: usize = 2048;
/// Offset of `out_cons`.
pub const OUT_CONS: usize = IN_PROD + 4;
/// Offset of `out_prod`.
pub const OUT_PROD: usize = OUT_CONS + 4;
