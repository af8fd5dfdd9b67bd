//! Domains: what they are made of, their life, their building from boot modules, and the table that finds
//! them.
//!
//! A [`Domain`] is shared by every pCPU. What the guest's hypercalls read all the time is immutable or
//! atomic; the few slow paths (ports, memory reservations, death) have a lock of their own in the room that
//! needs it, and none is taken on the grant or event-send paths. Domains are found through [`table`] under
//! an epoch guard; whoever runs or tears down a domain holds an `Arc` of it.
#![deny(unsafe_code)]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayString;
use gnttab_fast::policy::Policy;
use gnttab_fast::types::{DomId, PAGE_SHIFT};
use spin::Mutex;

use crate::abi::hvm::params;
use crate::cmdline::LogLevel;
use crate::dev::{
    console::{Guest, GuestLine},
    console_ring::ConsoleRing,
};
use crate::event::Channels;
use crate::hypercall::grant_table::GrantTable;
use crate::mm::{p2m::P2m, shared::SharedFrame, tlb::DomainTlb};
use crate::pvclock;
use crate::vt::Width;

pub mod acpi;
pub mod builder;
pub mod bzimage;
pub mod config;
pub mod counters;
pub mod image;
pub mod launch;
pub mod layout;
pub mod lifecycle;
pub mod restart;
pub mod runstate;
pub mod special;
pub mod table;
pub mod vcpu;

pub use counters::Counters;
pub use vcpu::Vcpu;

/// The most vCPUs of one domain.
pub const MAX_VCPUS: u32 = 128;

/// The longest name of a domain, in bytes.
pub const NAME_MAX: usize = 31;

/// What a domain's grants are limited to; fixed at its creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantLimits {
    /// What it may do.
    pub policy: Policy,
    /// Frames of its grant table.
    pub max_frames: u32,
    /// Frames of its maptrack.
    pub max_maptrack_frames: u32,
}

/// Where a domain is in its life. It only moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Life {
    /// Its vCPUs may run.
    Running = 0,
    /// It said it is done, or was ended; no vCPU enters the guest any more.
    Shutdown = 1,
    /// Its resources are being taken back.
    Dying = 2,
    /// Everything is back; only the name is left.
    Dead = 3,
}

/// A virtual machine.
#[derive(Debug)]
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// It is the control domain: what Xen's access checks let dom0 do to others, it may.
    pub control: bool,
    /// Its name from the module string.
    pub name: ArrayString<NAME_MAX>,
    /// The least important line about it that is printed.
    pub loglvl: LogLevel,
    /// Guest frames to machine frames. Every present entry that is no grant mapping owns one reference to
    /// its frame.
    pub p2m: P2m,
    /// Which pCPUs may hold stale translations.
    pub tlb: DomainTlb,
    /// Its grant table and maptrack.
    pub grants: GrantTable,
    /// Its event channels.
    pub events: Channels,
    /// The page it shares with the hypervisor from creation on.
    pub shared_info: SharedFrame,
    /// The hypervisor's end of its console ring.
    pub console_ring: ConsoleRing,
    /// `HVM_PARAM_*`.
    pub params: Params,
    /// What its grants are limited to.
    pub grant_limits: GrantLimits,
    /// What happened.
    pub counters: Counters,
    /// The unfinished line of its console.
    pub console: GuestLine,
    /// It is the store's: it is told of every domain.
    pub store: bool,
    /// What it is built from again, if it may be.
    pub(crate) description: Option<&'static restart::Description>,
    /// The most frames of RAM it may have, the ACPI tables' and the store ring's among them.
    pub max_frames: u64,
    /// Bytes of RAM it was built with; [`layout`] tells where they are.
    pub ram_end: u64,
    /// Pages of ACPI tables, at [`layout::ACPI`].
    pub(crate) acpi_pages: u64,
    /// Pages that survive it, at [`layout::KEPT`].
    pub(crate) kept_pages: u64,
    /// Frames of RAM in its p2m now, the ACPI tables' and the store ring's among them.
    pub(crate) pages: AtomicU64,
    /// `VMASST_TYPE_runstate_update_flag` is on.
    pub(crate) runstate_update_flag: AtomicBool,
    /// When it was started, in ns since boot.
    started: AtomicU64,
    vcpus: Box<[Vcpu]>,
    width: AtomicU8,
    life: AtomicU8,
    /// `SHUTDOWN_*` while not running.
    shutdown_code: AtomicU32,
    /// Serialises changes of the reservation and of the p2m's shape by hypercalls: never taken by grant or
    /// event operations.
    pub(crate) memory_lock: Mutex<()>,
    /// How far its teardown has come. The last field: see there.
    reap: lifecycle::Reap,
}

/// What a domain is made of.
pub(super) struct Parts {
    pub id: DomId,
    pub control: bool,
    pub store: bool,
    pub name: ArrayString<NAME_MAX>,
    pub loglvl: LogLevel,
    pub p2m: P2m,
    pub tlb: DomainTlb,
    pub grants: GrantTable,
    pub shared_info: SharedFrame,
    pub console_ring: ConsoleRing,
    pub grant_limits: GrantLimits,
    pub memory: u64,
    pub acpi_pages: u64,
    pub kept_pages: u64,
    pub width: Width,
    pub vcpus: Box<[Vcpu]>,
}

impl Domain {
    fn new(parts: Parts) -> Self {
        let domain = Self {
            id: parts.id,
            control: parts.control,
            name: parts.name,
            loglvl: parts.loglvl,
            p2m: parts.p2m,
            tlb: parts.tlb,
            grants: parts.grants,
            events: Channels::new(u32::try_from(parts.vcpus.len()).unwrap_or(MAX_VCPUS)),
            shared_info: parts.shared_info,
            console_ring: parts.console_ring,
            params: Params::new(),
            grant_limits: parts.grant_limits,
            counters: Counters::new(),
            console: GuestLine::new(),
            store: parts.store,
            description: None,
            max_frames: (parts.memory >> PAGE_SHIFT) + parts.acpi_pages + special::PAGES,
            ram_end: parts.memory,
            acpi_pages: parts.acpi_pages,
            kept_pages: parts.kept_pages,
            pages: AtomicU64::new(0),
            runstate_update_flag: AtomicBool::new(false),
            started: AtomicU64::new(0),
            vcpus: parts.vcpus,
            width: AtomicU8::new(0),
            life: AtomicU8::new(Life::Running as u8),
            shutdown_code: AtomicU32::new(0),
            memory_lock: Mutex::new(()),
            reap: lifecycle::Reap::default(),
        };
        domain.latch_width(parts.width);
        domain
    }

    /// What its lines on the console begin with.
    #[must_use]
    pub fn who(&self) -> Guest<'_> {
        Guest { domid: self.id.0, name: &self.name, silent: self.loglvl == LogLevel::None }
    }

    /// Its vCPUs, by number.
    #[must_use]
    pub fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus
    }

    /// A vCPU by a number the guest chose. The bounds check is repeated on the index the CPU would use under
    /// speculation (Spectre v1): the mask is all ones only when the number is in range.
    #[must_use]
    #[inline]
    pub fn vcpu(&self, id: u32) -> Option<&Vcpu> {
        let index = usize::try_from(id).ok()?;
        if index < self.vcpus.len() {
            self.vcpus.get(maptrack::index_nospec(index, self.vcpus.len()))
        } else {
            None
        }
    }

    /// The layout of the structures it shares with the hypervisor. It is taken from the kernel image's class
    /// and latched again from the mode of the caller where Xen does so: when the shared page is mapped and
    /// when the callback is set.
    #[must_use]
    #[inline]
    pub fn width(&self) -> Width {
        if self.width.load(Ordering::Relaxed) == 32 { Width::Bits32 } else { Width::Bits64 }
    }

    /// Latches the layout of the shared structures; the wall clock moves with it.
    pub fn latch_width(&self, width: Width) {
        let word = match width {
            Width::Bits32 => 32,
            Width::Bits64 => 64,
        };
        if self.width.swap(word, Ordering::SeqCst) != word {
            pvclock::publish_wallclock(self);
        }
    }

    /// Where it is in its life.
    #[must_use]
    #[inline]
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::SeqCst) {
            0 => Life::Running,
            1 => Life::Shutdown,
            2 => Life::Dying,
            _ => Life::Dead,
        }
    }

    /// Where it is in its life, and the `SHUTDOWN_*` code if it does not run any more.
    #[must_use]
    pub fn life_and_code(&self) -> (Life, u32) {
        let life = self.life();
        (life, self.shutdown_code.load(Ordering::SeqCst))
    }

    /// Whether it is on its way out: nothing new may be tied to it.
    #[must_use]
    #[inline]
    pub fn is_dying(&self) -> bool {
        self.life() >= Life::Dying
    }
}

/// The `HVM_PARAM_*` values of a domain.
#[derive(Debug)]
pub struct Params([AtomicU64; params::NR_PARAMS as usize]);

impl Params {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; params::NR_PARAMS as usize])
    }

    /// The value of a parameter; `None` when there is none of that number.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<u64> {
        Some(self.slot(index)?.load(Ordering::SeqCst))
    }

    /// Sets a parameter; false when there is none of that number.
    pub fn set(&self, index: u32, value: u64) -> bool {
        self.slot(index).map(|slot| slot.store(value, Ordering::SeqCst)).is_some()
    }

    /// The guest chooses the number: masked against speculation behind the check (Spectre v1).
    fn slot(&self, index: u32) -> Option<&AtomicU64> {
        let index = usize::try_from(index).ok().filter(|&index| index < self.0.len())?;
        self.0.get(maptrack::index_nospec(index, self.0.len()))
    }
}

impl Default for Params {
    fn default() -> Self {
        Self::new()
    }
}
