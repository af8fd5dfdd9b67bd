//! A mock machine that is watched: before each thing the grant table asks of the world a hook is called. It may
//! look, change what another CPU could change at that moment, or have the request refused.

use crate::common::{ARGS, bytes_of, read_all};
use copy_engine::Segment;
use gnttab_fast::abi::{EntryV2FullPage, EntryV2SubPage, EntryV2Transitive, SetVersion, gtf, op};
use gnttab_fast::testing::{Flat, Machine, MockDomain, MockFrames, MockHost};
use gnttab_fast::{
    Batch, DomId, Domain, Domains, Gfn, Gref, Host, Mfn, Outcome, Ram, Refused, Scan, Table, Width,
    grant_table_op,
};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What is asked, of which domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// A look into a physical map.
    Ram(u16),
    /// Who a frame belongs to.
    Owns(u16),
    /// A reference to be taken.
    Get(u16, Mfn),
    /// A reference to be dropped.
    Put(u16, Mfn),
    /// A mapping to be made.
    Map(u16, Gfn),
    /// A mapping to be taken out.
    Unmap(u16, Gfn),
    /// A TLB flush.
    Flush(u16),
    /// A frame of the table to be taken out.
    RemoveTableFrame(u16, Gfn),
    /// The bytes of a batch.
    Copy,
    /// Whether to yield: yes, if allowed.
    Yield,
}

/// False refuses what can be refused.
pub type Hook<'m> = dyn Fn(At) -> bool + 'm;

pub struct Watched<'m> {
    inner: &'m MockDomain,
    hook: &'m Hook<'m>,
}

impl Watched<'_> {
    fn number(&self) -> u16 {
        self.inner.id().0
    }
}

impl Domain for Watched<'_> {
    type Frames = MockFrames;

    fn id(&self) -> DomId {
        self.inner.id()
    }

    fn is_dying(&self) -> bool {
        self.inner.is_dying()
    }

    fn grants(&self) -> &Table<MockFrames> {
        self.inner.grants()
    }

    fn ram(&self, gfn: Gfn) -> Option<Ram> {
        (self.hook)(At::Ram(self.number())).then(|| self.inner.ram(gfn)).flatten()
    }

    fn owns(&self, mfn: Mfn) -> bool {
        (self.hook)(At::Owns(self.number())) && self.inner.owns(mfn)
    }

    fn get_frame(&self, mfn: Mfn) -> bool {
        (self.hook)(At::Get(self.number(), mfn)) && self.inner.get_frame(mfn)
    }

    fn put_frame(&self, mfn: Mfn) {
        (self.hook)(At::Put(self.number(), mfn));
        self.inner.put_frame(mfn);
    }

    fn map_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        if !(self.hook)(At::Map(self.number(), gfn)) {
            return Err(Refused);
        }
        self.inner.map_frame(gfn, mfn, writable)
    }

    fn unmap_frame(&self, gfn: Gfn, mfn: Mfn, writable: bool) -> Result<(), Refused> {
        if !(self.hook)(At::Unmap(self.number(), gfn)) {
            return Err(Refused);
        }
        self.inner.unmap_frame(gfn, mfn, writable)
    }

    fn flush(&self) {
        (self.hook)(At::Flush(self.number()));
        self.inner.flush();
    }

    fn remove_table_frame(&self, gfn: Gfn, mfn: Mfn) {
        (self.hook)(At::RemoveTableFrame(self.number(), gfn));
        self.inner.remove_table_frame(gfn, mfn);
    }
}

/// One hypercall's view of a machine that is watched.
pub struct WatchedHost<'m> {
    inner: MockHost<'m>,
    domains: Vec<Watched<'m>>,
    caller: u16,
    hook: &'m Hook<'m>,
}

impl<'m> WatchedHost<'m> {
    pub fn new(machine: &'m Machine, caller: u16, hook: &'m Hook<'m>) -> Self {
        let domains = machine.domains().iter().map(|inner| Watched { inner, hook }).collect();
        Self { inner: machine.host(caller, 0), domains, caller, hook }
    }

    /// One hypercall, issued again for as long as it yields; its outcome and its arguments.
    pub fn call<T: IntoBytes + FromBytes + Immutable>(
        &self,
        width: Width,
        cmd: u32,
        args: &[T],
    ) -> (Outcome, Vec<T>) {
        let mut memory = Flat::new(ARGS, bytes_of(args));
        let (mut at, mut count) = (ARGS, u32::try_from(args.len()).unwrap());
        loop {
            match grant_table_op(self, &mut memory, width, cmd, at, count) {
                Outcome::Again { bytes, elements } => {
                    assert!(elements > 0 && elements < count, "a yield without progress");
                    assert_eq!(bytes, u64::from(elements) * size_of::<T>() as u64);
                    at += bytes;
                    count -= elements;
                }
                outcome => return (outcome, read_all(memory.bytes())),
            }
        }
    }
}

impl<'m> Domains for WatchedHost<'m> {
    type Domain = Watched<'m>;

    fn domain(&self, id: DomId) -> Option<&Watched<'m>> {
        self.domains.get(usize::from(id.0).checked_sub(1)?)
    }
}

impl Host for WatchedHost<'_> {
    fn caller(&self) -> &Self::Domain {
        &self.domains[usize::from(self.caller) - 1]
    }

    fn controls(&self, _: &Self::Domain) -> bool {
        false
    }

    fn cpu(&self) -> u32 {
        0
    }

    fn should_yield(&self) -> bool {
        (self.hook)(At::Yield)
    }

    fn frame(&self, mfn: Mfn) -> *mut u8 {
        self.inner.frame(mfn)
    }

    fn copy<S: AsRef<Segment>>(&self, batch: Batch<'_, S>) {
        (self.hook)(At::Copy);
        self.inner.copy(batch);
    }

    fn crash_caller(&self, why: &'static str) {
        self.inner.crash_caller(why);
    }
}

/// Runs `f` on another thread, and fails if it does not end soon.
pub fn ends(f: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        f();
        let _ = done.send(());
    });
    match ended.recv_timeout(Duration::from_secs(30)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => thread.join().unwrap(),
    }
}

/// `GNTTABOP_set_version`.
pub fn set_version(m: &Machine, d: u16, version: u32) -> Outcome {
    crate::common::call_on(&m.host(d, 0), Width::Bits64, op::SET_VERSION, &[SetVersion { version }]).0
}

/// Writes a version-2 entry, as its guest.
pub fn put<T: IntoBytes + Immutable>(m: &Machine, d: u16, gref: u32, entry: &T) {
    m.domain(d).write_entry_v2(Gref(gref), entry);
}

pub fn full_page(flags: u16, domid: u16, frame: u64) -> EntryV2FullPage {
    EntryV2FullPage { flags: gtf::PERMIT_ACCESS | flags, domid, pad0: 0, frame }
}

pub fn sub_page(domid: u16, frame: u64, page_off: u16, length: u16) -> EntryV2SubPage {
    EntryV2SubPage { flags: gtf::PERMIT_ACCESS | gtf::SUB_PAGE, domid, page_off, length, frame }
}

pub fn transitive(domid: u16, trans_domid: u16, gref: u32) -> EntryV2Transitive {
    EntryV2Transitive { flags: gtf::TRANSITIVE, domid, trans_domid, pad0: 0, gref, pad1: 0 }
}

/// Readers and writers that pin an entry.
pub fn pins(m: &Machine, d: u16, gref: u32) -> (u8, u8) {
    let pins = m.domain(d).grants().pins(Gref(gref)).unwrap();
    (pins.host_read, pins.host_write)
}

/// Nothing is pinned, mapped or marked in any of the domains.
pub fn assert_quiet(m: &Machine) {
    for d in m.domains() {
        assert_eq!(d.grants().find_pinned(Gref(0), u32::MAX), Scan::Clear, "{:?}", d.id());
        assert_eq!(d.grants().maptrack().in_use(), 0, "{:?}", d.id());
    }
}
