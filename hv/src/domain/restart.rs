//! Domains that are built again after their end: `restart=` in a module's string.
//!
//! A domain's modules stay where the loader put them, and what such a domain is built from is read once, at
//! boot: its string, its kernel unpacked, its data ([`Description`]). At its end, when nothing of it is left,
//! the reaper hands the description to [`consider`]; whether it is built again depends on how it ended, and on how
//! long it ran: one that ends [`EARLY_MOST`] times in a row within [`EARLY_NS`] of its start is given up.
//!
//! As with Xen's toolstacks the new domain has a new number. Numbers go round: one is used again after all others
//! have been, and only when nothing of its last domain is left. Nobody can mistake one for the other in the
//! hypervisor; what a peer remembers of a number it has to forget as on Xen, by the store's `@releaseDomain`.
//!
//! The store is another matter: its number stands in every ring and port that leads to it, and its clients do not
//! expect it to forget. So it has the same number again, which no other domain gets meanwhile, and some of
//! its memory survives ([`Description::kept`]): what is in there is its own affair (`guests/store`). The ports
//! that led to the dead one are unbound, for the same number, and the grants of the rings are still there.
//!
//! Building takes long, so it is done as dying is: in bounded steps ([`step`]) by whichever pCPU has a moment, one
//! at a time (the reaper's turn is held), while the other domains run. The frames of the dead one go through a
//! grace period first; a step that finds no memory waits for them, but not for ever.
#![forbid(unsafe_code)]

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crossbeam_epoch::Guard;
use gnttab_fast::types::{DomId, PAGE_SHIFT};
use spin::{Mutex, Once};

use super::{
    Domain,
    builder::{BuildError, Building, Data},
    bzimage,
    config::{self, Config},
    image::Image,
    launch, layout, lifecycle, special, table,
};
use crate::arch::x86::{percpu, time};
use crate::boot::Module;
use crate::dev::input;
use crate::mm::{frames, shared::SharedFrame};
use crate::{epoch, error, warn};

/// A domain that runs shorter than this ended early.
const EARLY_NS: u64 = 10_000_000_000;
/// So many early ends in a row are enough.
const EARLY_MOST: u32 = 5;
/// How long a step without memory is tried again.
const WAIT_NS: u64 = 10_000_000_000;

/// What a domain is built from each time.
#[derive(Debug)]
pub struct Description {
    config: Config<'static>,
    /// The kernel's name, for the operator.
    file: &'static str,
    image: Image<'static>,
    data: Option<Data<'static>>,
    /// Memory that survives each of its domains.
    kept: Once<Box<[SharedFrame]>>,
    /// Early ends in a row.
    early: AtomicU32,
}

/// A domain to be built.
#[derive(Debug)]
struct Wanted {
    what: &'static Description,
    /// The console's input is to go to it.
    input: bool,
}

/// One that is being built.
#[derive(Debug)]
struct Work {
    wanted: Wanted,
    building: Building<'static>,
    /// When a step first found no memory.
    starved: Option<u64>,
}

/// Those to be built, behind the one in `WORK`.
static QUEUE: Mutex<VecDeque<Wanted>> = Mutex::new(VecDeque::new());
static WORK: Mutex<Option<Work>> = Mutex::new(None);
/// How many there are in both.
static WAITING: AtomicU32 = AtomicU32::new(0);
/// The number that is tried first.
static NEXT: AtomicU16 = AtomicU16::new(1);

/// Kernels unpacked for good: the file and what was in it. Modules that hold the same file share one.
static UNPACKED: Mutex<Vec<(&'static [u8], &'static [u8])>> = Mutex::new(Vec::new());

impl Description {
    /// Reads a domain's modules, for good.
    ///
    /// # Errors
    /// The kernel's file is wrong.
    pub(super) fn read(
        config: Config<'static>,
        module: &Module,
        data: Option<Data<'static>>,
    ) -> Result<&'static Self, BuildError> {
        Ok(Box::leak(Box::new(Self {
            config,
            file: config::file_name(module.string),
            image: Image::parse(unpacked(module.bytes())?)?,
            data,
            kept: Once::new(),
            early: AtomicU32::new(0),
        })))
    }

    /// Begins a domain of this description.
    ///
    /// # Errors
    /// Why it cannot be built.
    pub(super) fn begin(&'static self, id: DomId) -> Result<Building<'static>, BuildError> {
        self.kept.try_call_once(|| {
            let frames = (0..self.config.kept_pages()).map(|_| SharedFrame::alloc(id));
            let free = frames::stats().free << PAGE_SHIFT;
            let wanted = layout::KEPT_PAGES << PAGE_SHIFT;
            frames.collect::<Option<Box<[_]>>>().ok_or(BuildError::NoMemory { wanted, free })
        })?;
        let mut building = Building::begin(id, &self.config, &self.image, self.data, percpu::cpus_online())?;
        building.remember(self);
        Ok(building)
    }

    /// The memory that survives, from the first domain on; its frames are of the domain's number.
    pub(super) fn kept(&self) -> &[SharedFrame] {
        self.kept.get().map_or(&[], |frames| frames)
    }
}

/// The kernel in a file, unpacked once.
fn unpacked(file: &'static [u8]) -> Result<&'static [u8], BuildError> {
    let mut all = UNPACKED.lock();
    if let Some((_, kernel)) = all.iter().find(|(other, _)| *other == file) {
        return Ok(kernel);
    }
    let kernel = match bzimage::unpack(file)? {
        Some(kernel) => &*kernel.leak(),
        None => file,
    };
    all.push((file, kernel));
    Ok(kernel)
}

/// The boot gave the numbers below this one.
pub(super) fn set_next(number: u16) {
    NEXT.store(number, Ordering::Relaxed);
}

/// Whether there is anything to build.
#[must_use]
pub(super) fn pending() -> bool {
    WAITING.load(Ordering::SeqCst) != 0
}

/// A domain has ended, with this code and after so long; true when it will be built again.
pub(super) fn consider(what: &'static Description, code: u32, ran_ns: u64, input: bool) -> bool {
    if !what.config.restart.after(code) {
        return false;
    }
    let early = if ran_ns < EARLY_NS { what.early.load(Ordering::Relaxed) + 1 } else { 0 };
    what.early.store(early, Ordering::Relaxed);
    if early >= EARLY_MOST {
        error!(
            "{}: ended {early} times in a row within {} s of its start; it is not started again",
            what.config.name,
            EARLY_NS / 1_000_000_000
        );
        return false;
    }
    QUEUE.lock().push_back(Wanted { what, input: input || what.config.input });
    WAITING.fetch_add(1, Ordering::SeqCst);
    true
}

/// What became of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// There was nothing to do, or there is more.
    On,
    /// A domain was built, and runs.
    Started,
    /// A domain cannot be built, and never will be.
    GivenUp,
}

/// One bounded step. Called by whoever holds the reaper's turn.
pub(super) fn step() -> Step {
    let guard = epoch::pin();
    let mut slot = WORK.lock();
    let Some(mut work) = slot.take() else {
        let Some(wanted) = QUEUE.lock().pop_front() else { return Step::On };
        let own = lifecycle::store().filter(|_| wanted.what.config.store);
        let begun =
            own.or_else(|| number(&guard)).ok_or(BuildError::NoNumber).and_then(|id| wanted.what.begin(id));
        return match begun {
            Ok(building) => {
                *slot = Some(Work { wanted, building, starved: None });
                Step::On
            }
            Err(why) => give_up(wanted.what, &why),
        };
    };
    match work.building.step(&guard) {
        Some(false) => work.starved = None,
        Some(true) => {
            let Work { wanted, building, .. } = work;
            return start(&wanted, building.finish(), &guard);
        }
        None => {
            let now = time::now_ns();
            let since = *work.starved.get_or_insert(now);
            if !work.building.can_wait() || now.saturating_sub(since) > WAIT_NS {
                let Work { wanted, building, .. } = work;
                let why = building.no_memory();
                building.give_up();
                return give_up(wanted.what, &why);
            }
            epoch::collect_some();
        }
    }
    *slot = Some(work);
    Step::On
}

/// A number that no domain has, as far from its last use as can be.
fn number(guard: &Guard) -> Option<DomId> {
    let last = u16::try_from(table::MAX_DOMAINS).ok()? - 1;
    let first = NEXT.load(Ordering::Relaxed);
    let round = (first..=last).chain(1..first.min(last + 1));
    let free =
        |id| table::get(id, guard).is_none() && !lifecycle::is_dying(id) && lifecycle::store() != Some(id);
    let id = round.map(DomId).find(|&id| free(id))?;
    NEXT.store(id.0 + 1, Ordering::Relaxed);
    Some(id)
}

fn give_up(what: &Description, why: &BuildError) -> Step {
    WAITING.fetch_sub(1, Ordering::SeqCst);
    error!("{}: it cannot be built again: {why}", what.config.name);
    // The machine does not wait for the store's end.
    if what.config.store { Step::On } else { Step::GivenUp }
}

/// Lets a complete domain run.
fn start(wanted: &Wanted, domain: Domain, guard: &Guard) -> Step {
    let what = wanted.what;
    if special::connect(&domain, lifecycle::store()).is_none() {
        lifecycle::abandon(domain);
        return give_up(
            what,
            &BuildError::NoMemory { wanted: what.config.memory, free: frames::stats().free << PAGE_SHIFT },
        );
    }
    WAITING.fetch_sub(1, Ordering::SeqCst);
    let domain = Arc::new(domain);
    warn!(of domain; "d{} {}: built again from '{}'", domain.id.0, domain.name, what.file.escape_debug());
    assert!(table::insert(Arc::clone(&domain), guard), "the number is free and in range");
    if wanted.input {
        input::focus_on(&domain);
    }
    launch::start(&domain);
    Step::Started
}
