//! `public/hvm/*.h` and `public/arch-x86/hvm/start_info.h`.

pub mod hvm_op;
pub mod hvm_vcpu;
pub mod params;
pub mod start_info;
