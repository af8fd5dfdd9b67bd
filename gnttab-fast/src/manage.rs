//! The operations that set a table up and ask about it: setup_table, query_size, get_status_frames,
//! set_version, get_version, and swap_grant_ref.

use crate::abi::{self, compat};
use crate::args::Args;
use crate::host::{Domain, Fault, Frames, GuestMemory, Host};
use crate::op::Progress;
use crate::policy::Version;
use crate::status::{Errno, Status};
use crate::table::{Table, TableFrame};
use crate::types::{DomId, Gref};
use core::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

/// The domain an element names, if the caller may manage its table. `DOMID_SELF` and the caller's own number
/// are the caller.
fn managed<H: Host>(host: &H, id: u16) -> Result<&H::Domain, Status> {
    let id = DomId(id);
    if id == DomId::SELF || id == host.caller().id() {
        return Ok(host.caller());
    }
    let domain = host.domain(id).ok_or(Status::BadDomain)?;
    if host.controls(domain) { Ok(domain) } else { Err(Status::PermissionDenied) }
}

/// `struct gnttab_setup_table` of a width.
pub(crate) trait SetupArg: FromBytes + IntoBytes {
    /// Where its status is.
    const STATUS: usize;
    /// Domain, frames, address of the list.
    fn parts(&self) -> (u16, u32, u64);
    /// Bytes of a frame number in the list.
    const FRAME: usize;
}

impl SetupArg for abi::SetupTable {
    const STATUS: usize = offset_of!(Self, status);
    const FRAME: usize = 8;

    fn parts(&self) -> (u16, u32, u64) {
        (self.dom, self.nr_frames, self.frame_list)
    }
}

impl SetupArg for compat::SetupTable {
    const STATUS: usize = offset_of!(Self, status);
    const FRAME: usize = 4;

    fn parts(&self) -> (u16, u32, u64) {
        (self.dom, self.nr_frames, u64::from(self.frame_list))
    }
}

/// `GNTTABOP_setup_table`, for exactly one element.
pub(crate) fn setup_table<H: Host, M: GuestMemory, T: SetupArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
) -> Result<(), Fault> {
    let request = args.read(0)?;
    let (domain, frames, list) = request.parts();
    let result =
        managed(host, domain).and_then(|domain| fill_list::<_, M, T>(domain, frames, list, args.memory()));
    args.write_status(0, T::STATUS, result.err().unwrap_or(Status::Okay))
}

/// Grows a table and tells where its frames are in its guest's physical map: all ones where they are not
/// yet (XSA-101).
fn fill_list<D: Domain, M: GuestMemory, T: SetupArg>(
    domain: &D,
    frames: u32,
    list: u64,
    memory: &mut M,
) -> Result<(), Status> {
    let table = domain.grants();
    table.grow_to(frames).map_err(|_| Status::GeneralError)?;
    write_list((0..frames).map(|index| table.gfn_or_ones(TableFrame::Shared(index))), list, T::FRAME, memory)
}

/// Writes where frames are to an array in the caller's memory, of numbers of `width` bytes. The caller bounds
/// how many there are by a table's limit.
fn write_list<M: GuestMemory>(
    gfns: impl Iterator<Item = u64>,
    list: u64,
    width: usize,
    memory: &mut M,
) -> Result<(), Status> {
    let mut at = Some(list);
    for gfn in gfns {
        if width < 8 && gfn != u64::MAX && gfn >> 32 != 0 {
            return Err(Status::AddressTooBig);
        }
        let bytes = gfn.to_le_bytes();
        let bytes = bytes.get(..width).unwrap_or(&bytes);
        at.ok_or(Fault).and_then(|at| memory.write(at, bytes)).map_err(|_| Status::BadVirtAddr)?;
        at = at.and_then(|at| at.checked_add(width as u64));
    }
    Ok(())
}

/// `GNTTABOP_query_size`, for exactly one element.
pub(crate) fn query_size<H: Host, M: GuestMemory>(
    host: &H,
    args: &mut Args<'_, M, abi::QuerySize>,
) -> Result<(), Fault> {
    let mut query = args.read(0)?;
    query.status = match managed(host, query.dom) {
        Ok(domain) => {
            let table = domain.grants();
            query.nr_frames = table.frames();
            query.max_nr_frames = table.limits().frames;
            Status::Okay
        }
        Err(status) => status,
    }
    .abi();
    args.write(0, 0, &query)
}

/// `struct gnttab_get_status_frames` of a width.
pub(crate) trait StatusFramesArg: FromBytes + IntoBytes {
    /// Where its status is.
    const STATUS: usize;
    /// Domain, frames, address of the list.
    fn parts(&self) -> (u16, u32, u64);
}

impl StatusFramesArg for abi::GetStatusFrames {
    const STATUS: usize = offset_of!(Self, status);

    fn parts(&self) -> (u16, u32, u64) {
        (self.dom, self.nr_frames, self.frame_list)
    }
}

impl StatusFramesArg for compat::GetStatusFrames {
    const STATUS: usize = offset_of!(Self, status);

    fn parts(&self) -> (u16, u32, u64) {
        (self.dom, self.nr_frames, u64::from(self.frame_list))
    }
}

/// `GNTTABOP_get_status_frames`, for exactly one element: where they are, all ones if nowhere. No more can be
/// asked for than there are (XSA-382), and a version-1 table has none. The numbers have 64 bits in both widths.
pub(crate) fn get_status_frames<H: Host, M: GuestMemory, T: StatusFramesArg>(
    host: &H,
    args: &mut Args<'_, M, T>,
) -> Result<(), Fault> {
    let (domain, frames, list) = args.read(0)?.parts();
    let result = managed(host, domain).and_then(|domain| {
        let table = domain.grants();
        if frames > table.status_frames() {
            return Err(Status::GeneralError);
        }
        let gfns = (0..frames).map(|index| table.gfn_or_ones(TableFrame::Status(index)));
        write_list(gfns, list, size_of::<u64>(), args.memory())
    });
    args.write_status(0, T::STATUS, result.err().unwrap_or(Status::Okay))
}

/// `GNTTABOP_set_version`. The version in force is told in any case.
pub(crate) fn set_version<H: Host, M: GuestMemory>(
    host: &H,
    args: &mut Args<'_, M, abi::SetVersion>,
) -> Result<(), Errno> {
    let request = args.read(0).map_err(|Fault| Errno::Fault)?;
    let caller = host.caller();
    let table = caller.grants();
    let result = match request.version {
        1 => table.set_version(Version::V1, |gfn, mfn| caller.remove_table_frame(gfn, mfn)),
        // As before there was such an operation.
        2 if cfg!(feature = "only-v1") || table.policy().max_version() == Version::V1 => Err(Errno::NoSystem),
        2 => table.set_version(Version::V2, |gfn, mfn| caller.remove_table_frame(gfn, mfn)),
        _ => Err(Errno::Invalid),
    };
    let reply = abi::SetVersion { version: table.version().number() };
    args.write(0, 0, &reply).map_err(|Fault| Errno::Fault)?;
    result
}

/// `GNTTABOP_get_version`.
pub(crate) fn get_version<H: Host, M: GuestMemory>(
    host: &H,
    args: &mut Args<'_, M, abi::GetVersion>,
) -> Result<(), Errno> {
    let query = args.read(0).map_err(|Fault| Errno::Fault)?;
    let domain = managed(host, query.dom).map_err(|status| match status {
        Status::BadDomain => Errno::NoDomain,
        _ => Errno::NotPermitted,
    })?;
    let version = domain.grants().version().number();
    args.write(0, offset_of!(abi::GetVersion, version), &version).map_err(|Fault| Errno::Fault)
}

/// `GNTTABOP_swap_grant_ref` on `count` elements.
pub(crate) fn swap<H: Host, M: GuestMemory>(
    host: &H,
    args: &mut Args<'_, M, abi::SwapGrantRef>,
    count: u32,
) -> Result<Progress, Fault> {
    for done in 0..count {
        if done != 0 && host.should_yield() {
            return Ok(Progress::Yield(done));
        }
        let request = args.read(done)?;
        let status = swap_one(host.caller().grants(), Gref(request.ref_a), Gref(request.ref_b));
        args.write_status(done, offset_of!(abi::SwapGrantRef, status), status)?;
    }
    Ok(Progress::Done)
}

fn swap_one<F: Frames>(table: &Table<F>, a: Gref, b: Gref) -> Status {
    // Lower reference first: two swaps of the same entries cannot wait for each other.
    let (Some(low), Some(high)) = (table.entry(a.min(b)), table.entry(a.max(b))) else {
        return Status::BadGntref;
    };
    if a == b {
        return Status::Okay;
    }
    let Some(version) = low.active.lock_idle() else { return Status::Eagain };
    let status = match high.active.lock_idle() {
        None => Status::Eagain,
        Some(_) => {
            let done = exchange(table, version, a, b);
            high.active.unlock_idle(version);
            done
        }
    };
    low.active.unlock_idle(version);
    status
}

/// Exchanges the shared sides of two entries that are both busy, and so both of the table's version.
fn exchange<F: Frames>(table: &Table<F>, version: Version, a: Gref, b: Gref) -> Status {
    match version {
        Version::V1 => {
            let (Some(a), Some(b)) = (table.entry(a), table.entry(b)) else { return Status::BadGntref };
            let word = a.shared.load();
            a.shared.store(b.shared.load());
            b.shared.store(word);
        }
        Version::V2 => {
            // Version 2 has fewer entries: the references were perhaps looked up before a switch.
            let (Some(a), Some(b)) = (table.entry_v2(a), table.entry_v2(b)) else {
                return Status::BadGntref;
            };
            let (words, status) = (a.load(), a.status());
            a.set_status(b.status());
            a.store(b.load());
            b.set_status(status);
            b.store(words);
        }
    }
    Status::Okay
}
