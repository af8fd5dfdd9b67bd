//! The hypercall: `HYPERVISOR_grant_table_op(cmd, args, count)` in both widths.

use crate::abi::{self, compat, op};
use crate::args::Args;
use crate::cells::{CompatCopyCells, CopyCells};
use crate::host::{Fault, GuestMemory, Host};
use crate::status::Errno;
use crate::{copy, manage, map, unmap};

/// The caller's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 64-bit structures.
    Bits64,
    /// 32-bit structures.
    Bits32,
}

/// How a hypercall ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Returns 0.
    Done,
    /// Returns the negative of this.
    Failed(Errno),
    /// To be issued again with the argument pointer moved by `bytes` and the count less by `elements`.
    Again {
        /// Bytes of the array that are done.
        bytes: u64,
        /// Elements that are done, fewer than the count.
        elements: u32,
    },
}

/// How far an operation on an array came.
pub(crate) enum Progress {
    /// To the end.
    Done,
    /// These many elements are done, the next is not begun.
    Yield(u32),
}

fn array<T>(result: Result<Progress, Fault>) -> Outcome {
    match result {
        Ok(Progress::Done) => Outcome::Done,
        Ok(Progress::Yield(elements)) => {
            Outcome::Again { bytes: u64::from(elements) * size_of::<T>() as u64, elements }
        }
        Err(Fault) => Outcome::Failed(Errno::Fault),
    }
}

fn single(result: Result<(), Fault>) -> Outcome {
    errno(result.map_err(|Fault| Errno::Fault))
}

fn errno(result: Result<(), Errno>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(errno) => Outcome::Failed(errno),
    }
}

/// Carries out the hypercall for the caller `host` stands for.
///
/// `cmd` and `count` are the low halves of their registers, `args` the address in the caller's width.
/// Operations of the ABI that end in [`Errno::NoSystem`]: `dump_table`, which Xen dropped, and `cache_flush`,
/// which x86 never had. `transfer` is for PV guests and ends in [`Errno::NotSupported`].
pub fn grant_table_op<H: Host, M: GuestMemory>(
    host: &H,
    memory: &mut M,
    width: Width,
    cmd: u32,
    args: u64,
    count: u32,
) -> Outcome {
    // The count is an int, and only cache_flush has continuations in its command word.
    if count > i32::MAX.cast_unsigned() || (cmd & !op::MASK != 0 && cmd & op::MASK != op::CACHE_FLUSH) {
        return Outcome::Failed(Errno::Invalid);
    }
    // What is called most, and for the least, does not wait for the table of all.
    if cmd == op::COPY && width == Width::Bits64 {
        return array::<abi::Copy>(copy::copy::<_, _, CopyCells>(host, &mut Args::new(memory, args), count));
    }
    match (cmd & op::MASK, width) {
        (op::COPY, _) => array::<compat::Copy>(copy::copy::<_, _, CompatCopyCells>(
            host,
            &mut Args::new(memory, args),
            count,
        )),
        (op::MAP_GRANT_REF, _) => {
            array::<abi::MapGrantRef>(map::map(host, &mut Args::new(memory, args), count))
        }
        (op::UNMAP_GRANT_REF, _) => array::<abi::UnmapGrantRef>(unmap::unmap::<_, _, false>(
            host,
            &mut Args::new(memory, args),
            count,
        )),
        (op::UNMAP_AND_REPLACE, _) => array::<abi::UnmapAndReplace>(unmap::unmap::<_, _, true>(
            host,
            &mut Args::new(memory, args),
            count,
        )),
        (op::SWAP_GRANT_REF, _) => {
            array::<abi::SwapGrantRef>(manage::swap(host, &mut Args::new(memory, args), count))
        }
        (op::SETUP_TABLE | op::QUERY_SIZE | op::GET_STATUS_FRAMES, _) if count != 1 => {
            Outcome::Failed(Errno::Invalid)
        }
        (op::SETUP_TABLE, Width::Bits64) => {
            single(manage::setup_table::<_, _, abi::SetupTable>(host, &mut Args::new(memory, args)))
        }
        (op::SETUP_TABLE, Width::Bits32) => {
            single(manage::setup_table::<_, _, compat::SetupTable>(host, &mut Args::new(memory, args)))
        }
        (op::QUERY_SIZE, _) => single(manage::query_size(host, &mut Args::new(memory, args))),
        (op::GET_STATUS_FRAMES, Width::Bits64) => single(manage::get_status_frames::<
            _,
            _,
            abi::GetStatusFrames,
        >(host, &mut Args::new(memory, args))),
        (op::GET_STATUS_FRAMES, Width::Bits32) => single(manage::get_status_frames::<
            _,
            _,
            compat::GetStatusFrames,
        >(host, &mut Args::new(memory, args))),
        // These two ignore the count.
        (op::SET_VERSION, _) => errno(manage::set_version(host, &mut Args::new(memory, args))),
        (op::GET_VERSION, _) => errno(manage::get_version(host, &mut Args::new(memory, args))),
        (op::TRANSFER, _) => Outcome::Failed(Errno::NotSupported),
        _ => Outcome::Failed(Errno::NoSystem),
    }
}
