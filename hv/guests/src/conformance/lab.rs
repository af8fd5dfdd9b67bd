//! What cases work with: hypercalls in the chosen width, the table, a pool of pages, windows to map into.
//!
//! All grants are to ourselves. On Xen a page that its own domain maps by a grant leaves its place (mapping
//! moves the one entry of the machine-to-physical table), so cases reach a mapped page through its window
//! only, and [`Lab::tidy`] puts memory back where some is missing. One vCPU, no interrupts: nothing races.
#![forbid(unsafe_code)]

use hv::abi::grant_table::{self as gnttab, UnmapGrantRef, gtf, op};
use hv::abi::memory as mem;
use hv::abi::xen::DOMID_SELF;
use hv::abi::xen::hypercall as number;

use super::bytes;
use super::request::{Request, Width, low};
use super::show::UNSET;
use crate::rt::hypercall::raw;
use crate::rt::memory::{PAGE, gfn, hole, pages};
use crate::rt::{hypercall, wide};

mod entries;
mod requests;

/// Pages of the pool.
pub const POOL: u64 = 12;
/// Shared frames that are mapped.
pub const FRAMES: u64 = 4;
/// Pages for arguments; behind them is nothing.
const ARGS: u64 = 8;
/// Windows to map into.
const WINDOWS: u64 = 320;
/// A domain that does not exist.
pub const NOBODY: u16 = 1234;
/// The first reference that cases use.
pub const GREF: u32 = 40;

/// See the module.
pub struct Lab {
    /// In which ABI.
    pub width: Width,
    /// Our own number.
    pub own: u16,
    /// The version of the table that is in force.
    pub version: u32,
    args: u64,
    table: u64,
    status: u64,
    pool: u64,
    scratch: u64,
    windows: u64,
    free: u64,
    /// Whether the table is mapped.
    mapped: bool,
    /// Mappings that a case has made: address and handle.
    live: [Option<(u64, u32)>; 256],
}

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// A page of the pool, by its frame number.
    Page(u64, u16),
    /// A reference of our own.
    Ref(u32, u16),
}

impl Lab {
    /// Maps the table and makes the hole behind the arguments.
    pub fn new(width: Width, own: u16) -> Self {
        let args = pages(ARGS + 1);
        let lab = Self {
            width,
            own,
            version: 1,
            args,
            table: hole(FRAMES),
            status: hole(FRAMES),
            pool: pages(POOL),
            scratch: pages(1),
            windows: hole(WINDOWS),
            free: hole(64),
            mapped: false,
            live: [None; 256],
        };
        let gone = lab.release(args + ARGS * PAGE);
        if gone != 1 {
            crate::fail!("a page cannot be given back: {gone}");
        }
        lab.restore();
        lab
    }

    /// Maps the shared frames, wherever a case has left them; the table grows as it must.
    pub fn map_table(&mut self) {
        self.mapped = true;
        for index in 0..FRAMES {
            let result = self.place(index, self.table + index * PAGE);
            if result != 0 {
                crate::fail!("shared frame {index} cannot be mapped: {result}");
            }
        }
    }

    // --- hypercalls -------------------------------------------------------------------------------------

    /// A hypercall.
    pub fn call(&self, nr: u32, arguments: [u64; 3]) -> i64 {
        match self.width {
            Width::W64 => raw::call(nr, arguments),
            Width::W32 => i64::from(raw::call_compat(nr, arguments.map(low))),
        }
    }

    /// `grant_table_op` with an address of the caller's choice.
    pub fn grant_op(&self, cmd: u32, address: u64, count: u32) -> i64 {
        self.call(number::GRANT_TABLE_OP, [u64::from(cmd), address, u64::from(count)])
    }

    /// `grant_table_op` on a batch.
    pub fn op<T: Request>(&self, cmd: u32, batch: &mut [T]) -> i64 {
        self.op_at(cmd, batch, self.args, batch.len())
    }

    /// [`op`](Self::op) on one element.
    pub fn one<T: Request>(&self, cmd: u32, mut request: T) -> (i64, T) {
        let result = self.op(cmd, core::slice::from_mut(&mut request));
        (result, request)
    }

    /// The batch ends in nothing: only its first `good` elements are memory.
    pub fn op_over_the_edge<T: Request>(&self, cmd: u32, batch: &mut [T], good: usize) -> i64 {
        let at = self.void() - wide(good) * T::size(self.width);
        self.op_at(cmd, batch, at, good)
    }

    fn op_at<T: Request>(&self, cmd: u32, batch: &mut [T], at: u64, good: usize) -> i64 {
        assert!(at + wide(good) * T::size(self.width) <= self.void(), "too long a batch");
        let size = T::size(self.width);
        for (index, request) in batch.iter().enumerate().take(good) {
            request.put(self.width, at + wide(index) * size);
        }
        let count = u32::try_from(batch.len()).expect("a short batch");
        let result = self.grant_op(cmd, at, count);
        for (index, request) in batch.iter_mut().enumerate().take(good) {
            *request = T::get(self.width, at + wide(index) * size);
        }
        result
    }

    /// `memory_op`.
    pub fn memory<T: Request>(&self, cmd: u32, request: T) -> (i64, T) {
        request.put(self.width, self.args);
        let result = self.call(number::MEMORY_OP, [u64::from(cmd), self.args, 0]);
        (result, T::get(self.width, self.args))
    }

    // --- places -----------------------------------------------------------------------------------------

    /// An address with no memory behind it; what lies before it is memory.
    #[must_use]
    pub fn void(&self) -> u64 {
        self.args + ARGS * PAGE
    }

    /// Room for lists, apart from the requests themselves.
    #[must_use]
    pub fn list(&self) -> u64 {
        self.args + (ARGS - 2) * PAGE
    }

    /// A page of the pool.
    #[must_use]
    pub fn page(&self, index: u64) -> u64 {
        assert!(index < POOL, "no such page");
        self.pool + index * PAGE
    }

    /// A place without memory to map a grant at.
    #[must_use]
    pub fn window(&self, index: u64) -> u64 {
        assert!(index < WINDOWS, "no such window");
        self.windows + index * PAGE
    }

    /// A place without memory for other things.
    #[must_use]
    pub fn spot(&self, index: u64) -> u64 {
        self.free + index * PAGE
    }

    /// Where a shared frame is mapped.
    #[must_use]
    pub fn shared(&self, index: u64) -> u64 {
        self.table + index * PAGE
    }

    /// Where a status frame is mapped.
    #[must_use]
    pub fn status_frame(&self, index: u64) -> u64 {
        self.status + index * PAGE
    }

    /// `XENMEM_add_to_physmap` of grant-table frame `index`.
    pub fn place(&self, index: u64, address: u64) -> i64 {
        let request = mem::AddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space: mem::MAPSPACE_GRANT_TABLE,
            idx: index,
            gpfn: gfn(address),
        };
        self.memory(mem::op::ADD_TO_PHYSMAP, request).0
    }

    /// `XENMEM_remove_from_physmap`.
    pub fn remove(&self, address: u64) -> i64 {
        let request = mem::RemoveFromPhysmap { domid: DOMID_SELF, pad: [0; 3], gpfn: gfn(address) };
        self.memory(mem::op::REMOVE_FROM_PHYSMAP, request).0
    }

    /// Gives a page back.
    pub fn release(&self, address: u64) -> i64 {
        self.reservation(mem::op::DECREASE_RESERVATION, address)
    }

    /// Takes a page.
    pub fn populate(&self, address: u64) -> i64 {
        self.reservation(mem::op::POPULATE_PHYSMAP, address)
    }

    fn reservation(&self, cmd: u32, address: u64) -> i64 {
        match self.width {
            Width::W64 => bytes::put(self.list(), &gfn(address)),
            Width::W32 => bytes::put(self.list(), &low(gfn(address))),
        }
        let request = mem::Reservation {
            extent_start: self.list(),
            nr_extents: 1,
            extent_order: 0,
            mem_flags: 0,
            domid: DOMID_SELF,
            pad: [0; 3],
        };
        self.memory(cmd, request).0
    }

    // --- between cases ----------------------------------------------------------------------------------

    /// Undoes what a case has left; what cannot be undone, or must not be there, is told.
    pub fn tidy(&mut self) -> Result<(), &'static str> {
        let mut result = Ok(());
        for slot in 0..self.live.len() {
            if let Some((host_addr, handle)) = self.live[slot].take() {
                let request = UnmapGrantRef { host_addr, dev_bus_addr: 0, handle, status: UNSET, pad: 0 };
                if self.one(op::UNMAP_GRANT_REF, request).1.status != 0 {
                    result = Err("a mapping cannot be undone");
                }
            }
        }
        if self.mapped {
            self.map_table();
            self.map_status();
            result = result.and(self.wipe());
        }
        self.restore();
        result
    }

    /// Empties the entries; those of the toolstack are left alone.
    fn wipe(&self) -> Result<(), &'static str> {
        let mut result = Ok(());
        for gref in 2..self.entries() {
            if self.in_use(gref) & (gtf::READING | gtf::WRITING) != 0 {
                result = Err("an entry is still in use");
            }
            let words = if self.version == 1 { 2 } else { 4 };
            if (0..words).any(|word| self.entry_word(gref, word * 4) != 0) {
                self.grant(gref, 0, 0, 0);
            }
        }
        result
    }

    /// The pool as it was: memory at every page, each byte as [`pattern`] says.
    fn restore(&self) {
        for page in 0..POOL {
            let mut probe = self.copy_request(Side::Page(page, 0), Side::Page(page, 0), 1);
            probe.dest.u = gfn(self.scratch);
            if self.copy_as(probe) != 0 {
                let populated = self.populate(self.page(page));
                if populated != 1 {
                    crate::fail!("page {page} of the pool cannot be populated: {populated}");
                }
            }
            for word in 0..PAGE / 8 {
                bytes::put_long(self.page(page) + word * 8, pattern(page * PAGE / 8 + word));
            }
        }
    }
}

/// What stands in the pool before each case, by 64-bit words.
const fn pattern(word: u64) -> u64 {
    (word + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Our own number: by CPUID, or the first domain whose table we may ask the size of. Only a privileged domain
/// may ask others', and it runs alone.
pub fn find_own() -> u16 {
    let told = hypercall::domid();
    if told != DOMID_SELF {
        return told;
    }
    let found = (0..64).find(|&dom| {
        let mut request = [gnttab::QuerySize { dom, status: UNSET, ..Default::default() }];
        hypercall::op_count(op::QUERY_SIZE, &mut request) == 0 && request[0].status == 0
    });
    found.unwrap_or_else(|| crate::fail!("own domain number: not told by CPUID, not found below 64"))
}
