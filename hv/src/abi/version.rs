//! `public/version.h`.

use super::{abi_struct, layout};

/// `XENVER_*`
pub mod op {
    /// `XENVER_version`: no argument; major << 16 | minor.
    pub const VERSION: u32 = 0;
    /// `XENVER_extraversion`: 16 bytes.
    pub const EXTRAVERSION: u32 = 1;
    /// `XENVER_compile_info`
    pub const COMPILE_INFO: u32 = 2;
    /// `XENVER_capabilities`: 1024 bytes.
    pub const CAPABILITIES: u32 = 3;
    /// `XENVER_changeset`: 64 bytes.
    pub const CHANGESET: u32 = 4;
    /// `XENVER_platform_parameters`: one word of the guest's width.
    pub const PLATFORM_PARAMETERS: u32 = 5;
    /// `XENVER_get_features`
    pub const GET_FEATURES: u32 = 6;
    /// `XENVER_pagesize`: no argument.
    pub const PAGESIZE: u32 = 7;
    /// `XENVER_guest_handle`: 16 bytes.
    pub const GUEST_HANDLE: u32 = 8;
    /// `XENVER_commandline`: 1024 bytes.
    pub const COMMANDLINE: u32 = 9;
    /// `XENVER_build_id`
    pub const BUILD_ID: u32 = 10;
}

abi_struct! {
    /// `xen_compile_info`: NUL-terminated strings, both widths.
    CompileInfo {
        /// Compiler.
        compiler: [u8; 64],
        /// Who built it.
        compile_by: [u8; 16],
        /// Where.
        compile_domain: [u8; 32],
        /// When.
        compile_date: [u8; 32],
    }
}
layout!(CompileInfo, size 144, compile_by @ 64, compile_domain @ 80, compile_date @ 112);

abi_struct! {
    /// `xen_feature_info`, both widths.
    FeatureInfo {
        /// IN: which 32 bits.
        submap_idx: u32,
        /// OUT.
        submap: u32,
    }
}
layout!(FeatureInfo, size 8, submap @ 4);
