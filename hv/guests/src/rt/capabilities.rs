//! What the hypervisor tells of grants by CPUID, where it does (`docs/capabilities.md`).

use hv::abi::capabilities::{SIGNATURE, VERSION, grants, leaf};

use super::cpu::cpuid;

/// The answers about our own grant table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The highest version `GNTTABOP_set_version` gives.
    pub max_version: u32,
    /// The version in force.
    pub version: u32,
    /// We may take part in transitive grants.
    pub transitive: bool,
    /// Shared frames: now, and at most.
    pub frames: [u32; 2],
    /// Status frames now.
    pub status_frames: u32,
    /// References the shared frames hold.
    pub references: u32,
    /// Handles: in use, and at most.
    pub handles: [u32; 2],
    /// Elements of maps, of unmaps, of copies, and bytes copied, so far.
    pub done: [u64; 4],
}

/// Asks. `None` on a hypervisor without the block, or with a later major version of it.
#[must_use]
pub fn ask() -> Option<Capabilities> {
    let base = (0x4000_0000..0x4001_0000).step_by(0x100).find(|&base| {
        let id = cpuid(base, 0);
        id.eax >= base + leaf::GRANTS
            && [id.ebx, id.ecx, id.edx].map(u32::to_le_bytes).as_flattened() == SIGNATURE
    })?;
    if cpuid(base + leaf::VERSION, 0).eax >> 16 != VERSION >> 16 {
        return None;
    }
    let told = |sub| cpuid(base + leaf::GRANTS, sub);
    let (policy, table, handles) = (told(grants::POLICY), told(grants::TABLE), told(grants::HANDLES));
    let (maps, copies) = (told(grants::MAPS), told(grants::COPIES));
    let long = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Some(Capabilities {
        max_version: policy.ecx,
        version: policy.edx,
        transitive: policy.ebx & grants::TRANSITIVE != 0,
        frames: [table.eax, table.ebx],
        status_frames: table.ecx,
        references: table.edx,
        handles: [handles.eax, handles.ebx],
        done: [
            long(maps.eax, maps.ebx),
            long(maps.ecx, maps.edx),
            long(copies.eax, copies.ebx),
            long(copies.ecx, copies.edx),
        ],
    })
}
