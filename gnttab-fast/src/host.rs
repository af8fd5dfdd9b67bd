//! What the grant table needs of the world, and no more.
//!
//! A [`Host`] is made for one hypercall: it knows the caller and holds its epoch guard. References to
//! domains live no longer than it, and everything translated under it (a frame found in a p2m, a domain
//! found by number) stays what it was until it is gone: frames and domains that leave are reused only after
//! a grace period. That is why a copy takes no reference to anything.
//!
//! Static dispatch only: nothing here is used as `dyn`.

use crate::cells::Cells;
use crate::pages::SharedSource;
use crate::table::Table;
use crate::types::{DomId, Gfn, Gref, Mfn};
use copy_engine::Segment;
use maptrack::PageSource;

/// Where a domain's table gets its pages.
pub trait Frames {
    /// Pages nobody but the hypervisor sees.
    type Own: PageSource + Clone;
    /// Frames the guest maps.
    type Shared: SharedSource;
}

/// A frame of a domain's own ordinary memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ram {
    /// The machine frame.
    pub mfn: Mfn,
    /// The domain may write it.
    pub writable: bool,
    /// The 512 aligned guest frames around it are all such memory, with the same access, and their machine
    /// frames are as contiguous and as aligned: one translation serves them all.
    pub large: bool,
}

/// A mapping cannot be made or taken down as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The guest's memory cannot be read or written there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

/// What a domain can run out of without asking for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RanOut {
    /// Handles for what it maps (`gnttab_max_maptrack_frames`).
    Handles,
    /// Pins of one kind on this entry of its table: 128, as in Xen.
    Pins(Gref),
}

/// A domain, as far as grants are concerned.
pub trait Domain {
    /// Where its table's pages come from.
    type Frames: Frames;

    /// Its number, never [`DomId::SELF`].
    fn id(&self) -> DomId;

    /// Whether it is on its way out: no new grants are taken from it.
    fn is_dying(&self) -> bool;

    /// Its table.
    fn grants(&self) -> &Table<Self::Frames>;

    /// The frame at `gfn`, if it is ordinary memory that belongs to this domain: no grant mapping, no
    /// frame of another domain, no grant-table or shared-info frame, no device memory.
    fn ram(&self, gfn: Gfn) -> Option<Ram>;

    /// Whether the frame belongs to this domain and is not on its way to be freed.
    fn owns(&self, mfn: Mfn) -> bool;

    /// Takes a reference to a frame, if [`owns`](Self::owns) holds.
    fn get_frame(&self, mfn: Mfn) -> bool;

    /// Drops a reference to a frame of this domain. The last one frees it, after a grace period.
    fn put_frame(&self, mfn: Mfn);

    /// Puts a granted frame into this domain's p2m. What is there is treated as if the guest had removed it
    /// itself; a grant mapping is not replaced.
    ///
    /// # Errors
    /// [`Refused`] if there is a grant mapping already, no memory for a table, or no such address.
    fn map_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused>;

    /// Takes the mapping of a granted frame out of the p2m if it is there, of this frame and with this
    /// access. Reachable by the domain's CPUs until [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Refused`] if anything else is there.
    fn unmap_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused>;

    /// Returns when no CPU can reach what was unmapped before.
    fn flush(&self);

    /// Takes a frame of its own grant table out of this domain's physical map, if it is at `gfn`, and returns
    /// when no CPU reaches it there.
    fn remove_table_frame(&self, gfn: Gfn, mfn: Mfn);
}

/// Bytes to copy, one segment after the other: each side of a segment lies in one frame that was translated
/// or pinned under the host's epoch guard. Only this crate makes one, which is what makes
/// [`Host::copy`] safe to call and its `unsafe` justified.
#[derive(Debug)]
pub struct Batch<'a, S> {
    segments: &'a [S],
    bytes: usize,
}

impl<'a, S: AsRef<Segment>> Batch<'a, S> {
    /// `bytes` is what the segments' lengths add up to.
    pub(crate) const fn new(segments: &'a [S], bytes: usize) -> Self {
        Self { segments, bytes }
    }

    /// Bytes in all.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// For [`copy_engine::Session::copy_batch`].
    #[must_use]
    pub const fn segments(&self) -> &'a [S] {
        self.segments
    }
}

/// The domains there are, under an epoch guard.
pub trait Domains {
    /// A domain.
    type Domain: Domain;

    /// A domain by its number, dying ones included. `None` for [`DomId::SELF`] and all other reserved numbers.
    fn domain(&self, id: DomId) -> Option<&Self::Domain>;
}

/// Where the domains of a host get pages that only the hypervisor sees.
pub(crate) type OwnPages<H> = <<<H as Domains>::Domain as Domain>::Frames as Frames>::Own;

/// One hypercall's view of the machine.
pub trait Host: Domains {
    /// The domain that called. While `GNTTABOP_set_version` runs, the host lets nobody else put frames of its
    /// table into its physical map.
    fn caller(&self) -> &Self::Domain;

    /// Whether the caller may manage another domain's table.
    fn controls(&self, other: &Self::Domain) -> bool;

    /// Number of this CPU, below the count given to [`Table::new`].
    fn cpu(&self) -> u32;

    /// Whether something more urgent waits. Never before some work was done.
    fn should_yield(&self) -> bool;

    /// Where a frame of a guest's memory is in the hypervisor's address space.
    fn frame(&self, mfn: Mfn) -> *mut u8;

    /// Copies the segments in their order. Frames may be written by guests meanwhile; source and
    /// destination may overlap.
    fn copy<S: AsRef<Segment>>(&self, batch: Batch<'_, S>);

    /// A domain has run out of something: for people to be told. Called each time, and only where an element
    /// has failed; who wants to be told once keeps that in mind.
    #[cold]
    fn ran_out(&self, _: &Self::Domain, _: RanOut) {}

    /// The caller did what no guest does: end it. The hypercall still returns to the host.
    fn crash_caller(&self, why: &'static str);
}

/// Memory of the calling vCPU by linear address, in its present paging mode and width. Walks of its page
/// tables may be kept for the length of the hypercall.
pub trait GuestMemory {
    /// The structures from `address` on that lie aligned in one page which the guest itself could write, at
    /// most `most`: perhaps none, where [`read`](Self::read) may still find one.
    ///
    /// # Errors
    /// [`Fault`], if there is nothing at `address`.
    fn in_place<T: Cells>(&mut self, address: u64, most: usize) -> Result<&[T], Fault>;

    /// Reads all of `out`, each byte once.
    ///
    /// # Errors
    /// [`Fault`]; then `out` is undefined.
    fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), Fault>;

    /// Writes all of `bytes`. Refused where the guest itself could not write (XSA-98).
    ///
    /// # Errors
    /// [`Fault`]; a part may have been written.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault>;
}
