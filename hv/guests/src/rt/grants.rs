//! The guest's own grant table (version 1) and the batches by which it uses others'.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use hv::abi::grant_table::{
    Copy, CopyPtr, MapGrantRef, SetVersion, UnmapGrantRef, V1_PER_FRAME, copy_flags, gtf, map_flags, op,
};
use hv::abi::memory as mem;
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;

use super::events::check;
use super::memory::{gfn, hole, pointer};
use super::{clock, hypercall, size};

/// The reference under which a frontend offers its device page; the toolstack has 0 to 7.
pub const DEVICE_PAGE: u32 = 8;

static TABLE: AtomicU64 = AtomicU64::new(0);
static FRAMES: AtomicU32 = AtomicU32::new(0);

/// Asks for version 1 and makes room for references below `frames * 512`.
pub fn init(frames: u32) {
    let mut request = SetVersion { version: 1 };
    check("GNTTABOP_set_version", hypercall::op_count(op::SET_VERSION, core::slice::from_mut(&mut request)));
    let base = hole(u64::from(frames));
    for index in 0..u64::from(frames) {
        let mut request = mem::AddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space: mem::MAPSPACE_GRANT_TABLE,
            idx: index,
            gpfn: gfn(base) + index,
        };
        check("XENMEM_add_to_physmap of the grant table", {
            hypercall::op(number::MEMORY_OP, mem::op::ADD_TO_PHYSMAP, &mut request)
        });
    }
    TABLE.store(base, Ordering::Relaxed);
    FRAMES.store(frames, Ordering::Relaxed);
}

/// Where the entry of a reference stands.
fn entry(gref: u32) -> *mut u8 {
    assert!(gref < FRAMES.load(Ordering::Relaxed) * V1_PER_FRAME, "no such reference");
    pointer(TABLE.load(Ordering::Relaxed)).wrapping_add(size(u64::from(gref)) * 8)
}

fn flags(gref: u32) -> &'static AtomicU16 {
    // SAFETY: entries of the mapped table stay, aligned; both sides reach the flags by atomics.
    unsafe { &*entry(gref).cast() }
}

/// Lets `domid` use the page at `address`.
pub fn grant(gref: u32, domid: u16, address: u64, readonly: bool) {
    let frame = u32::try_from(gfn(address)).expect("version 1 holds frames below 2^32");
    let entry = entry(gref);
    // SAFETY: inside the mapped table. The entry is invalid until its flags are stored, last and released.
    unsafe {
        entry.add(2).cast::<u16>().write_volatile(domid);
        entry.add(4).cast::<u32>().write_volatile(frame);
    }
    let kind = gtf::PERMIT_ACCESS | if readonly { gtf::READONLY } else { 0 };
    flags(gref).store(kind, Ordering::Release);
}

/// Whether the other domain has the page mapped or is copying.
#[must_use]
pub fn in_use(gref: u32) -> bool {
    flags(gref).load(Ordering::Acquire) & (gtf::READING | gtf::WRITING) != 0
}

/// Takes a grant back; `false`, and nothing happens, while it is in use.
#[must_use]
pub fn revoke(gref: u32) -> bool {
    flags(gref)
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |flags| {
            (flags & (gtf::READING | gtf::WRITING) == 0).then_some(gtf::INVALID)
        })
        .is_ok()
}

/// Takes grants back at the end; those still in use at system time `deadline` are an error.
pub fn revoke_all(grefs: impl Iterator<Item = u32>, deadline: u64) {
    for gref in grefs {
        while !revoke(gref) {
            if clock::now() > deadline {
                crate::fail!("the other side is gone but reference {gref} is in use");
            }
            hypercall::yield_now();
        }
    }
}

/// A map request for `gref` of `dom`, to appear at `host_addr`.
#[must_use]
pub fn map_request(dom: u16, gref: u32, host_addr: u64, readonly: bool) -> MapGrantRef {
    let flags = map_flags::HOST_MAP | if readonly { map_flags::READONLY } else { 0 };
    MapGrantRef { host_addr, flags, gref, dom, ..Default::default() }
}

/// The request that undoes a mapping.
#[must_use]
pub fn unmap_request(map: &MapGrantRef) -> UnmapGrantRef {
    UnmapGrantRef { host_addr: map.host_addr, handle: map.handle, ..Default::default() }
}

/// One side of a copy.
#[derive(Clone, core::marker::Copy, Debug)]
pub enum Side {
    /// The caller's memory at this address.
    Own(u64),
    /// A granted page and the offset in it.
    Granted {
        /// Whose.
        dom: u16,
        /// Which.
        gref: u32,
        /// First byte.
        offset: u16,
    },
}

impl Side {
    fn pointer(self) -> CopyPtr {
        match self {
            Self::Own(address) => CopyPtr {
                u: gfn(address),
                domid: DOMID_SELF,
                offset: u16::try_from(address % 4096).expect("below a page"),
                pad: 0,
            },
            Self::Granted { dom, gref, offset } => CopyPtr { u: u64::from(gref), domid: dom, offset, pad: 0 },
        }
    }

    fn is_granted(self) -> bool {
        matches!(self, Self::Granted { .. })
    }

    /// The same side some bytes on.
    #[must_use]
    pub fn plus(self, bytes: u16) -> Self {
        match self {
            Self::Own(address) => Self::Own(address + u64::from(bytes)),
            Self::Granted { dom, gref, offset } => Self::Granted { dom, gref, offset: offset + bytes },
        }
    }
}

/// A copy request.
#[must_use]
pub fn copy_request(source: Side, dest: Side, len: u16) -> Copy {
    let flags = if source.is_granted() { copy_flags::SOURCE_GREF } else { 0 }
        | if dest.is_granted() { copy_flags::DEST_GREF } else { 0 };
    Copy { source: source.pointer(), dest: dest.pointer(), len, flags, ..Default::default() }
}

/// `GNTTABOP_map_grant_ref`; the statuses are the caller's to look at.
pub fn map(batch: &mut [MapGrantRef]) {
    check("GNTTABOP_map_grant_ref", hypercall::op_count(op::MAP_GRANT_REF, batch));
}

/// `GNTTABOP_unmap_grant_ref`.
pub fn unmap(batch: &mut [UnmapGrantRef]) {
    check("GNTTABOP_unmap_grant_ref", hypercall::op_count(op::UNMAP_GRANT_REF, batch));
}

/// `GNTTABOP_copy`.
pub fn copy(batch: &mut [Copy]) {
    check("GNTTABOP_copy", hypercall::op_count(op::COPY, batch));
}
