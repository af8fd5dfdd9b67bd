//! Building a domain from its modules: memory, kernel, start info, vCPUs.
//!
//! The result is complete but not running: it is in no table, so nobody else knows of it, and a failure
//! anywhere gives back everything. It is made in bounded steps ([`Building::step`]): at boot one after the other,
//! later, when a domain is built again, between the turns of those that run ([`restart`](super::restart)).
//! Memory is taken in 2 MiB pieces as long as there are any.
//! The kernel's segments go where they say; behind the last one come the data module (page-aligned), and
//! then one run of pages with the start info, the module list, the memory map and the command line.
#![forbid(unsafe_code)]

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::{fmt, sync::atomic::Ordering};

use crossbeam_epoch::Guard;
use gnttab_fast::types::{DomId, Gfn, Mfn, PAGE_SHIFT, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::{
    Domain, acpi,
    bzimage::{self, BadBzImage},
    config::Config,
    image::{BadImage, Image},
    layout,
    restart::Description,
    special,
    vcpu::Vcpu,
};
use crate::abi::hvm::params;
use crate::abi::hvm::start_info::{MAGIC, MemmapEntry, ModlistEntry, SIF_PRIVILEGED, StartInfo};
use crate::dev::console_ring::ConsoleRing;
use crate::event::ops;
use crate::hypercall::grant_table::GrantTable;
use crate::mm::{
    direct::usize_of,
    frames::{self, Owner},
    guest::{GuestSpace, Paging},
    p2m::{ORDER_2M, P2m, P2mKind},
    shared::SharedFrame,
    tlb::DomainTlb,
};
use crate::sched::slots;
use crate::vt::{self, PvhEntry};

/// Why a domain cannot be built; printed as one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// The kernel's file.
    Image(BadImage),
    /// The kernel's file, a bzImage.
    BzImage(BadBzImage),
    /// A segment is not inside the domain's RAM.
    Outside {
        /// Where it begins.
        at: u64,
        /// The domain's memory.
        memory: u64,
    },
    /// Kernel, data and start info together do not fit.
    TooSmall {
        /// What they take.
        needed: u64,
        /// The domain's memory.
        memory: u64,
    },
    /// Not enough free memory in the machine.
    NoMemory {
        /// The domain's memory.
        wanted: u64,
        /// What is free, in bytes.
        free: u64,
    },
    /// All vCPU slots of the machine are taken.
    NoSlot,
    /// None of the pCPUs it may run on is there.
    NoCpu,
    /// Every number is some domain's.
    NoNumber,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Image(bad) => bad.fmt(f),
            Self::BzImage(bad) => bad.fmt(f),
            Self::Outside { at, memory } => {
                write!(f, "its segment at {at:#x} is outside its {} KiB of RAM: raise mem=", memory >> 10)
            }
            Self::TooSmall { needed, memory } => write!(
                f,
                "kernel, data and start info reach to {} KiB, but it has only {} KiB: raise mem=",
                needed >> 10,
                memory >> 10
            ),
            Self::NoMemory { wanted, free } => {
                write!(f, "it wants {} KiB and only {} KiB are free: lower mem=", wanted >> 10, free >> 10)
            }
            Self::NoSlot => write!(f, "the machine runs at most {} vCPUs", crate::sched::set::MAX_SLOTS),
            Self::NoNumber => f.write_str("every number is some domain's"),
            Self::NoCpu => f.write_str("none of the pCPUs in its cpus= is online"),
        }
    }
}

impl From<BadImage> for BuildError {
    fn from(bad: BadImage) -> Self {
        Self::Image(bad)
    }
}

impl From<BadBzImage> for BuildError {
    fn from(bad: BadBzImage) -> Self {
        Self::BzImage(bad)
    }
}

/// The file that goes with a domain, and the string it came with.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// The file.
    pub bytes: &'a [u8],
    /// Its module string.
    pub string: &'a str,
}

/// Builds a domain; `online` is the number of pCPUs.
///
/// # Errors
/// Why it cannot be built; nothing is kept.
pub fn build(
    id: DomId,
    config: &Config<'_>,
    kernel: &[u8],
    data: Option<Data<'_>>,
    online: u32,
    guard: &Guard,
) -> Result<Arc<Domain>, BuildError> {
    let unpacked = bzimage::unpack(kernel)?;
    let image = Image::parse(unpacked.as_deref().unwrap_or(kernel))?;
    Building::begin(id, config, &image, data, online)?.all(guard).map(Arc::new)
}

/// Bytes of one step: of RAM taken, in small pieces where there are no large ones, and of files copied.
const STEP: u64 = (PAGE_SIZE as u64) << ORDER_2M;

/// What is done next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// RAM from this guest-physical address on.
    Ram(u64),
    /// ACPI tables' and special pages.
    Pages,
    /// Of the kernel's segments, and behind them the data, this one from this byte on.
    Files(usize, usize),
    /// Start info and tables.
    Info,
    Done,
}

/// A domain in the making. Whoever holds one ends it by [`Building::finish`] or [`Building::give_up`]: a domain
/// that is merely dropped loses its frames.
#[derive(Debug)]
pub struct Building<'a> {
    domain: Domain,
    config: &'a Config<'a>,
    image: &'a Image<'a>,
    data: Option<Data<'a>>,
    plan: Plan,
    stage: Stage,
}

impl<'a> Building<'a> {
    /// Takes what does not depend on the domain's size; `online` is the number of pCPUs.
    ///
    /// # Errors
    /// Why it cannot be built; nothing is kept.
    pub fn begin(
        id: DomId,
        config: &'a Config<'a>,
        image: &'a Image<'a>,
        data: Option<Data<'a>>,
        online: u32,
    ) -> Result<Self, BuildError> {
        let low_end = config.memory.min(layout::LOW_END);
        if let Some(outside) = image.segments.iter().find(|segment| segment.end > low_end) {
            return Err(BuildError::Outside { at: outside.start, memory: config.memory });
        }
        let plan = Plan::new(image, config, data)?;
        let cpus = config.cpus.below(online);
        if cpus.is_empty() {
            return Err(BuildError::NoCpu);
        }
        // Before the first frame is taken: afterwards there may be none, which tells nobody what to ask for.
        let free = frames::stats().free << PAGE_SHIFT;
        let no_memory = || BuildError::NoMemory { wanted: config.memory, free };
        if config.memory > free + (frames::stats().retired << PAGE_SHIFT) {
            return Err(no_memory());
        }
        let p2m = P2m::new().ok_or_else(no_memory)?;
        let root = p2m.root();
        let shared_info = SharedFrame::alloc(id).ok_or_else(no_memory)?;
        let console_ring = ConsoleRing::new(id).ok_or_else(no_memory)?;
        let grants = GrantTable::new(id, &config.grants).map_err(|_| no_memory())?;
        let mut vcpus = Vec::new();
        for number in 0..config.vcpus {
            let give_back = |vcpus: &[Vcpu]| vcpus.iter().for_each(|vcpu| slots::give_back(vcpu.slot));
            let Some(arch) = vt::Vcpu::new(root) else {
                give_back(&vcpus);
                return Err(no_memory());
            };
            let Some(slot) = slots::take(id, number) else {
                give_back(&vcpus);
                return Err(BuildError::NoSlot);
            };
            vcpus.push(Vcpu::new(id, number, slot, cpus, arch));
        }
        let domain = Domain::new(super::Parts {
            id,
            control: config.control,
            store: config.store,
            name: config.name,
            loglvl: config.loglvl,
            p2m,
            tlb: DomainTlb::new(id),
            grants,
            shared_info,
            console_ring,
            grant_limits: config.grants,
            memory: config.memory,
            acpi_pages: acpi::pages(config.vcpus),
            kept_pages: config.kept_pages(),
            width: image.width,
            vcpus: Box::from(vcpus),
        });
        Ok(Self { domain, config, image, data, plan, stage: Stage::Ram(0) })
    }

    /// Whether a step that found no memory may be tried again.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        matches!(self.stage, Stage::Ram(_))
    }

    /// One bounded step; true when the domain is complete. `None`: no memory.
    pub fn step(&mut self, guard: &Guard) -> Option<bool> {
        self.stage = match self.stage {
            Stage::Ram(at) => {
                fill_some(&self.domain, self.config.memory, at)?.map_or(Stage::Pages, Stage::Ram)
            }
            Stage::Pages => {
                fill_pages(&self.domain)?;
                Stage::Files(0, 0)
            }
            Stage::Files(file, from) => self.copy_some(file, from, guard)?,
            Stage::Info => {
                write_info(&self.domain, &self.plan, self.config, self.data, guard)?;
                if let Some(first) = self.domain.vcpus().first() {
                    let entry = PvhEntry { entry: self.image.entry, start_info: self.plan.start_info };
                    first.arch.lock().start_pvh(entry);
                    first.set_up(true);
                }
                Stage::Done
            }
            Stage::Done => Stage::Done,
        };
        Some(matches!(self.stage, Stage::Done))
    }

    /// All steps.
    ///
    /// # Errors
    /// No memory; nothing is kept.
    pub fn all(mut self, guard: &Guard) -> Result<Domain, BuildError> {
        loop {
            match self.step(guard) {
                Some(true) => return Ok(self.finish()),
                Some(false) => {}
                None => {
                    let why = self.no_memory();
                    self.give_up();
                    return Err(why);
                }
            }
        }
    }

    /// The domain, which the last step has completed.
    #[must_use]
    pub fn finish(self) -> Domain {
        self.domain
    }

    /// The domain will know what it was built from.
    pub(super) fn remember(&mut self, what: &'static Description) {
        self.domain.description = Some(what);
    }

    /// That there is no memory, in numbers.
    #[must_use]
    pub fn no_memory(&self) -> BuildError {
        BuildError::NoMemory { wanted: self.config.memory, free: frames::stats().free << PAGE_SHIFT }
    }

    /// Gives back what was taken.
    pub fn give_up(self) {
        super::lifecycle::abandon(self.domain);
    }

    /// Copies a step's worth of a file into the domain's memory, which is zeroed; what is next.
    fn copy_some(&self, file: usize, from: usize, guard: &Guard) -> Option<Stage> {
        let (start, bytes) = match (self.image.segments.get(file), self.data) {
            (Some(segment), _) => (segment.start, segment.bytes),
            (None, Some(data)) if file == self.image.segments.len() => (self.plan.data, data.bytes),
            (None, _) => return Some(Stage::Info),
        };
        let rest = bytes.get(from..).unwrap_or(&[]);
        let count = rest.len().min(usize_of(STEP));
        // Paging off: linear addresses are guest-physical ones.
        let space = GuestSpace::new(&self.domain.p2m, Paging::default(), guard);
        space.write(start + from as u64, &rest[..count]).ok()?;
        Some(if count == rest.len() { Stage::Files(file + 1, 0) } else { Stage::Files(file, from + count) })
    }
}

/// Gives a domain a step's worth of its RAM from an address on; where to go on, if there is more. The outer
/// `None`: no memory, though some of the step may be done, which doing it again leaves as it is.
#[expect(clippy::option_option, reason = "no memory, or what is next, which may be nothing")]
fn fill_some(domain: &Domain, memory: u64, from: u64) -> Option<Option<u64>> {
    let there = |at: u64| domain.p2m.ram(Gfn(at >> PAGE_SHIFT)).is_some();
    let mut left = STEP;
    for (start, end) in layout::ram(memory) {
        let mut at = start.max(from);
        while at < end {
            if left == 0 {
                return Some(Some(at));
            }
            // A large leaf has to be aligned; when no large piece is left, small ones fill the place.
            let large = (at.is_multiple_of(STEP) && end - at >= STEP && left == STEP && !there(at))
                .then(|| frames::alloc(ORDER_2M, Owner::Domain(domain.id)))
                .flatten();
            let (mfn, order) = match large {
                Some(mfn) => (mfn, ORDER_2M),
                None if there(at) => {
                    at += PAGE_SIZE as u64;
                    continue;
                }
                None => (frames::alloc(0, Owner::Domain(domain.id))?, 0),
            };
            if domain.p2m.set(Gfn(at >> PAGE_SHIFT), mfn, order, P2mKind::RamRw).is_err() {
                (0..1 << order).for_each(|page| frames::put_ref(Mfn(mfn.0 + page)));
                return None;
            }
            domain.pages.fetch_add(1 << order, Ordering::Relaxed);
            at += (PAGE_SIZE as u64) << order;
            left -= (PAGE_SIZE as u64) << order;
        }
    }
    Some(None)
}

/// The pages of its ACPI tables and its special pages. `None` when the machine has not enough.
fn fill_pages(domain: &Domain) -> Option<()> {
    for page in 0..domain.acpi_pages {
        let mfn = frames::alloc(0, Owner::Domain(domain.id))?;
        if domain.p2m.set(Gfn((layout::ACPI >> PAGE_SHIFT) + page), mfn, 0, P2mKind::RamRw).is_err() {
            frames::put_ref(mfn);
            return None;
        }
        domain.pages.fetch_add(1, Ordering::Relaxed);
    }
    special::fill(domain)?;
    show_kept(domain)?;
    connect_console(domain)
}

/// Shows a domain the memory that was there before it and will be after it.
fn show_kept(domain: &Domain) -> Option<()> {
    let kept = domain.description.map_or(&[][..], Description::kept);
    for (page, frame) in (0..).zip(kept) {
        if !frames::get_ref(frame.mfn(), domain.id) {
            return None;
        }
        if domain.p2m.set(Gfn((layout::KEPT >> PAGE_SHIFT) + page), frame.mfn(), 0, P2mKind::Shared).is_err()
        {
            frames::put_ref(frame.mfn());
            return None;
        }
    }
    Some(())
}

/// Shows a domain its console ring, and gives it the port that goes with it.
fn connect_console(domain: &Domain) -> Option<()> {
    let (gfn, mfn) = (Gfn(layout::CONSOLE >> PAGE_SHIFT), domain.console_ring.mfn());
    // The p2m's entry holds a reference of its own.
    if !frames::get_ref(mfn, domain.id) {
        return None;
    }
    if domain.p2m.set(gfn, mfn, 0, P2mKind::Shared).is_err() {
        frames::put_ref(mfn);
        return None;
    }
    let port = ops::alloc_console(domain).ok()?;
    domain.params.set(params::CONSOLE_PFN, gfn.0);
    domain.params.set(params::CONSOLE_EVTCHN, u64::from(port));
    Some(())
}

/// Where things go behind the kernel.
#[derive(Clone, Copy, Debug)]
struct Plan {
    data: u64,
    start_info: u32,
    modlist: u64,
    memmap: u64,
    cmdline: u64,
    data_string: u64,
}

impl Plan {
    fn new(image: &Image<'_>, config: &Config<'_>, data: Option<Data<'_>>) -> Result<Self, BuildError> {
        let page = PAGE_SIZE as u64;
        let len = |bytes: usize| bytes as u64;
        let too_small = |needed| BuildError::TooSmall { needed, memory: config.memory };
        let data_at = image.end().next_multiple_of(page);
        // Files are far smaller than 2^63 bytes, since they lie in RAM.
        let start_info = (data_at + data.map_or(0, |data| len(data.bytes.len()))).next_multiple_of(page);
        let modlist = start_info + len(size_of::<StartInfo>());
        let memmap = modlist + len(size_of::<ModlistEntry>());
        let cmdline =
            memmap + len(layout::map(config.memory, 0, config.kept_pages()).len() * size_of::<MemmapEntry>());
        let data_string = cmdline + len(config.cmdline.len()) + 1;
        let end = data_string + data.map_or(0, |data| len(data.string.len()) + 1);
        if end > config.memory.min(layout::LOW_END) {
            return Err(too_small(end));
        }
        let start_info = u32::try_from(start_info).map_err(|_| too_small(end))?;
        Ok(Self { data: data_at, start_info, modlist, memmap, cmdline, data_string })
    }
}

/// Writes start info and tables into the domain's memory.
fn write_info(
    domain: &Domain,
    plan: &Plan,
    config: &Config<'_>,
    data: Option<Data<'_>>,
    guard: &Guard,
) -> Option<()> {
    // Paging off: linear addresses are guest-physical ones.
    let space = GuestSpace::new(&domain.p2m, Paging::default(), guard);
    let put = |at: u64, bytes: &[u8]| space.write(at, bytes).ok();
    let map = layout::map(config.memory, domain.acpi_pages, domain.kept_pages);
    put(layout::ACPI, &acpi::tables(config.vcpus))?;
    let start_info = StartInfo {
        magic: MAGIC,
        version: 1,
        // The hardware is not the control domain's, so it is not Xen's "initial domain".
        flags: if domain.control { SIF_PRIVILEGED } else { 0 },
        nr_modules: u32::from(data.is_some()),
        modlist_paddr: if data.is_some() { plan.modlist } else { 0 },
        cmdline_paddr: plan.cmdline,
        rsdp_paddr: layout::ACPI,
        memmap_paddr: plan.memmap,
        memmap_entries: u32::try_from(map.len()).ok()?,
        reserved: 0,
    };
    put(u64::from(plan.start_info), start_info.as_bytes())?;
    if let Some(data) = data {
        put(plan.data_string, data.string.as_bytes())?;
        let entry = ModlistEntry {
            paddr: plan.data,
            size: data.bytes.len() as u64,
            cmdline_paddr: plan.data_string,
            reserved: 0,
        };
        put(plan.modlist, entry.as_bytes())?;
    }
    for (index, range) in map.iter().enumerate() {
        let entry =
            MemmapEntry { addr: range.start, size: range.end - range.start, kind: range.kind, reserved: 0 };
        put(plan.memmap + (index * size_of::<MemmapEntry>()) as u64, entry.as_bytes())?;
    }
    put(plan.cmdline, config.cmdline.as_bytes())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::super::{
        config::{self, Role},
        image::tests::kernel,
    };
    use super::*;
    use crate::cmdline::Options;
    use crate::epoch;
    use crate::vt::Width;

    fn config(string: &str) -> Config<'_> {
        match config::parse(string, &Options::default()) {
            Ok(Role::Domain(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    fn read<T: zerocopy::FromBytes + IntoBytes + zerocopy::Immutable>(domain: &Domain, at: u64) -> T {
        let guard = epoch::pin();
        let space = GuestSpace::new(&domain.p2m, Paging::default(), &guard);
        let mut value = T::new_zeroed();
        space.read(at, value.as_mut_bytes()).expect("mapped");
        value
    }

    fn text(domain: &Domain, at: u64) -> Vec<u8> {
        (at..).map(|at| read::<u8>(domain, at)).take_while(|&byte| byte != 0).collect()
    }

    fn build_one(
        id: u16,
        string: &str,
        kernel: &[u8],
        data: Option<Data<'_>>,
    ) -> Result<Arc<Domain>, BuildError> {
        build(DomId(id), &config(string), kernel, data, 1, &epoch::pin())
    }

    fn give_back(domain: Arc<Domain>) {
        let id = domain.id;
        crate::domain::lifecycle::abandon(Arc::into_inner(domain).expect("the only one"));
        assert_eq!(frames::owned_by(id), 0, "leaked frames");
    }

    #[test]
    fn a_domain_finds_what_it_was_given() {
        let file = kernel(Width::Bits64, 0x10_0004, &[(0x10_0000, b"code", 0x1800), (0x20_0000, b"data", 4)]);
        let data = Data { bytes: &[0xa5; 5000], string: "trace.bin data" };
        let domain = build_one(50, "k domain=a mem=6M -- x=1 y", &file, Some(data)).expect("builds");
        assert_eq!(
            frames::owned_by(DomId(50)),
            6 * 256 + 5,
            "RAM, ACPI tables, shared info, two rings, one grant frame"
        );
        assert_eq!(read::<[u8; 4]>(&domain, 0x10_0000), *b"code");
        assert_eq!(read::<u8>(&domain, 0x10_17ff), 0);
        // The kernel ends in page 0x200, data takes two pages.
        let info: StartInfo = read(&domain, 0x20_3000);
        assert_eq!((info.magic, info.version, info.nr_modules), (MAGIC, 1, 1));
        let module: ModlistEntry = read(&domain, info.modlist_paddr);
        assert_eq!((module.paddr, module.size), (0x20_1000, 5000));
        assert_eq!(read::<u8>(&domain, module.paddr + 4999), 0xa5);
        assert_eq!(text(&domain, module.cmdline_paddr), b"trace.bin data");
        assert_eq!(text(&domain, info.cmdline_paddr), b"x=1 y");
        let map: Vec<MemmapEntry> = (0..u64::from(info.memmap_entries))
            .map(|index| read(&domain, info.memmap_paddr + index * 24))
            .collect();
        assert_eq!(map.len(), 5);
        assert_eq!((map[2].addr, map[2].size, map[2].kind), (0x10_0000, 0x50_0000, 1));
        assert_eq!(domain.width(), Width::Bits64);
        give_back(domain);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_given_back() {
        let small = kernel(Width::Bits32, 0x10_0000, &[(0x10_0000, b"code", 4096)]);
        let high = kernel(Width::Bits64, 0x10_0000, &[(0x10_0000, b"code", 0x10_0001)]);
        let check = |string: &str, kernel: &[u8], data| {
            build_one(51, string, kernel, data).expect_err("must not build")
        };
        assert_eq!(
            check("k domain=a mem=2M", &high, None),
            BuildError::Outside { at: 0x10_0000, memory: 2 << 20 }
        );
        let big = std::vec![1; 1 << 20];
        let data = Data { bytes: &big, string: "" };
        assert!(matches!(check("k domain=a mem=2M", &small, Some(data)), BuildError::TooSmall { .. }));
        assert!(matches!(check("k domain=a mem=512G", &small, None), BuildError::NoMemory { .. }));
        assert_eq!(check("k domain=a cpus=1", &small, None), BuildError::NoCpu);
        assert_eq!(check("k domain=a", b"no kernel", None), BuildError::Image(BadImage::NotElf));
        assert_eq!(frames::owned_by(DomId(51)), 0, "leaked frames");
    }
}
