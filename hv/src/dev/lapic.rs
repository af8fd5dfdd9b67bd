//! The virtual local APIC of a vCPU.
//!
//! A vCPU starts with its APIC in x2APIC mode: every register is an MSR, and no instruction has to be decoded. (Xen
//! starts PVH vCPUs in xAPIC mode; kernels take the mode they find, as they do behind a BIOS that has switched it
//! on.) A guest may leave it for xAPIC mode by way of off, as on a CPU ([`Mode`]); then the registers are a page at
//! [`BASE`] ([`xapic`]), where nothing is mapped, so that each access is an exit whose instruction is decoded
//! ([`crate::vt::mmio`]). Intel SDM vol. 3, 11.12; AMD APM vol. 2, 16.11.
//!
//! **Who touches what.** Request bits (IRR) are set by any CPU; everything else by the pCPU that runs the
//! vCPU. A sender sets its bit, sequentially consistent, and then wakes the vCPU (`sched::state`).
//!
//! The class of the task priority is the CPU's CR8, which a guest lowers without an exit: what waited for that is
//! delivered at the next exit.
//!
//! Event-channel upcalls do not pass through here: their vector goes straight into the vCPU
//! (`event::upcall_wanted`), and the end of interrupt a kernel sends after one finds nothing in service.
//! No device has an interrupt line, so LINT0, LINT1, the thermal and the performance entries are
//! registers without an effect.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use maptrack::index_nospec;

use crate::arch::x86::time;

pub mod xapic;

/// Where a local APIC has its registers in xAPIC mode; told in the MADT and in `IA32_APIC_BASE`.
pub const BASE: u32 = 0xfee0_0000;
/// The MSRs of the x2APIC.
pub const MSRS: core::ops::RangeInclusive<u32> = 0x800..=0x8ff;

/// The MSR that says where the registers are, and which mode they are in.
pub const BASE_MSR: u32 = 0x1b;

/// Whether an MSR is the local APIC's.
#[must_use]
#[inline]
pub fn is_msr(msr: u32) -> bool {
    msr == BASE_MSR || MSRS.contains(&msr)
}

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Not at all.
    Off = 0,
    /// As a page of memory.
    XApic = 2,
    /// As MSRs.
    X2Apic = 3,
}

/// Bits 10 and 11 of [`BASE_MSR`] are the mode, 11 the higher one of the two; bit 8 tells the boot CPU.
const MODE_SHIFT: u32 = 10;
const BOOT_CPU: u64 = 1 << 8;

/// The APIC id of a vCPU: twice its number, as Xen has it.
#[must_use]
pub const fn id_of(vcpu: u32) -> u32 {
    vcpu * 2
}

/// Version 0x14, six entries in the vector table.
const VERSION: u64 = 5 << 16 | 0x14;
/// Spurious vector register: switched on.
const SVR_ENABLED: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const TIMER_PERIODIC: u32 = 1 << 17;
/// What may be set in the entries 0x832 to 0x837: timer, thermal, performance, LINT0, LINT1, error.
const LVT_VALID: [u32; 6] = [0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];
/// The timer counts at 100 MHz, as Xen's.
const TIMER_NS: u64 = 10;
/// ESR: a vector below 16 was received.
const ESR_RECEIVED_VECTOR: u32 = 1 << 6;
/// The timer is not running.
pub const NO_TIMER: u64 = u64::MAX;
/// The shortest period: a guest cannot keep its pCPU busy with expiries.
const LEAST_PERIOD_NS: u64 = 100_000;

/// What the guest shall see instead of a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// An interrupt command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// What.
    pub kind: Kind,
    /// To whom.
    pub to: Target,
}

/// What an interrupt command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Raises a vector.
    Fixed(u8),
    /// Resets a vCPU, which then waits for [`Kind::Startup`].
    Init,
    /// Starts a vCPU that waits, in real mode at page number.
    Startup(u8),
    /// Does nothing: an INIT level de-assert.
    Nothing,
    /// SMI, NMI and the reserved kinds: not there.
    Other(u8),
}

/// To whom an interrupt command goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// One APIC id.
    Id(u32),
    /// A cluster and a set in it.
    Logical(u32),
    /// What a vCPU in xAPIC mode has chosen as its logical identifier.
    Logical8(u8),
    /// The sender.
    Own,
    /// Everybody.
    All,
    /// Everybody but the sender.
    Others,
}

/// The logical id follows from the id: cluster above, place in it below.
const fn logical_id(vcpu: u32) -> u32 {
    let id = id_of(vcpu);
    (id >> 4) << 16 | 1 << (id & 15)
}

impl Command {
    /// From the interrupt command register.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of the word")]
    pub const fn from_icr(icr: u64) -> Self {
        let vector = icr as u8;
        let kind = match (icr >> 8) & 7 {
            // Lowest priority to one of several: to each, as many CPUs do for want of a choice.
            0 | 1 => Kind::Fixed(vector),
            5 if icr & (1 << 14) == 0 && icr & (1 << 15) != 0 => Kind::Nothing,
            5 => Kind::Init,
            6 => Kind::Startup(vector),
            other => Kind::Other(other as u8),
        };
        let dest = (icr >> 32) as u32;
        let to = match (icr >> 18) & 3 {
            1 => Target::Own,
            2 => Target::All,
            3 => Target::Others,
            _ if dest == u32::MAX => Target::All,
            _ if icr & (1 << 11) != 0 => Target::Logical(dest),
            _ => Target::Id(dest),
        };
        Self { kind, to }
    }
}

/// One vCPU's local APIC.
#[derive(Debug)]
pub struct Lapic {
    requested: [AtomicU32; 8],
    /// Which words of `requested` have a bit set, or had: the look before each entry is one load.
    summary: AtomicU32,
    in_service: [AtomicU32; 8],
    /// Without the class when the CPU keeps it ([`Lapic::read`] and [`Lapic::write`] are told).
    task_priority: AtomicU32,
    spurious: AtomicU32,
    errors: AtomicU32,
    errors_shown: AtomicU32,
    command: AtomicU64,
    mode: AtomicU8,
    /// In xAPIC mode: the logical identifier and what it means, both the guest's.
    logical_id: AtomicU32,
    destination_format: AtomicU32,
    local: [AtomicU32; 6],
    timer_start: AtomicU32,
    timer_divide: AtomicU32,
    /// When the timer fires next, in ns; [`NO_TIMER`].
    pub(crate) timer_ns: AtomicU64,
}

impl Default for Lapic {
    fn default() -> Self {
        Self {
            requested: [const { AtomicU32::new(0) }; 8],
            summary: AtomicU32::new(0),
            in_service: [const { AtomicU32::new(0) }; 8],
            task_priority: AtomicU32::new(0),
            spurious: AtomicU32::new(0xff),
            errors: AtomicU32::new(0),
            errors_shown: AtomicU32::new(0),
            command: AtomicU64::new(0),
            mode: AtomicU8::new(Mode::X2Apic as u8),
            logical_id: AtomicU32::new(0),
            destination_format: AtomicU32::new(u32::MAX),
            local: [const { AtomicU32::new(LVT_MASKED) }; 6],
            timer_start: AtomicU32::new(0),
            timer_divide: AtomicU32::new(0),
            timer_ns: AtomicU64::new(NO_TIMER),
        }
    }
}

impl Lapic {
    /// How its registers are reached.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Relaxed) {
            0 => Mode::Off,
            2 => Mode::XApic,
            _ => Mode::X2Apic,
        }
    }

    /// Changes the mode; false when a CPU would not: from x2APIC mode there is no way but off, from off none but
    /// xAPIC mode. What goes off forgets its state.
    #[must_use]
    pub fn set_mode(&self, to: Mode) -> bool {
        match (self.mode(), to) {
            (Mode::X2Apic, Mode::XApic) | (Mode::Off, Mode::X2Apic) => return false,
            (from, Mode::Off) if from != Mode::Off => self.reset(),
            _ => {}
        }
        self.mode.store(to as u8, Ordering::Relaxed);
        true
    }

    /// Is something that `sender` sent to `to` meant for this one, which is `vcpu`'s?
    #[must_use]
    pub fn is_meant(&self, to: Target, vcpu: u32, sender: u32) -> bool {
        match to {
            Target::Id(id) => id == id_of(vcpu),
            Target::Logical(dest) => {
                let own = logical_id(vcpu);
                dest >> 16 == own >> 16 && dest & own & 0xffff != 0
            }
            Target::Logical8(dest) => self.is_logical(dest),
            Target::Own => vcpu == sender,
            Target::All => true,
            Target::Others => vcpu != sender,
        }
    }

    /// RDMSR of [`BASE_MSR`].
    #[must_use]
    pub fn base(&self, vcpu: u32) -> u64 {
        let boot = if vcpu == 0 { BOOT_CPU } else { 0 };
        u64::from(BASE) | u64::from(self.mode() as u8) << MODE_SHIFT | boot
    }

    /// WRMSR of [`BASE_MSR`]. The page cannot be moved.
    ///
    /// # Errors
    /// Another place, a reserved bit, or a mode that cannot follow the present one: #GP.
    pub fn set_base(&self, value: u64) -> Result<(), Refused> {
        let mode = match value >> MODE_SHIFT & 3 {
            0 => Mode::Off,
            2 => Mode::XApic,
            3 => Mode::X2Apic,
            _ => return Err(Refused),
        };
        let rest = value & !BOOT_CPU & !(3 << MODE_SHIFT);
        if rest == u64::from(BASE) && self.set_mode(mode) { Ok(()) } else { Err(Refused) }
    }

    /// The state after INIT, which leaves the mode as it is.
    pub fn reset(&self) {
        let fresh = Self::default();
        let words = |to: &[AtomicU32], from: &[AtomicU32]| {
            for (to, from) in to.iter().zip(from) {
                to.store(from.load(Ordering::Relaxed), Ordering::SeqCst);
            }
        };
        words(&self.requested, &fresh.requested);
        words(&self.in_service, &fresh.in_service);
        words(&self.local, &fresh.local);
        self.task_priority.store(0, Ordering::SeqCst);
        self.spurious.store(0xff, Ordering::SeqCst);
        self.command.store(0, Ordering::SeqCst);
        self.logical_id.store(0, Ordering::SeqCst);
        self.destination_format.store(u32::MAX, Ordering::SeqCst);
        self.timer_start.store(0, Ordering::SeqCst);
        self.timer_divide.store(0, Ordering::SeqCst);
        self.timer_ns.store(NO_TIMER, Ordering::SeqCst);
    }

    /// Requests an interrupt; true when the vCPU has to be told. From any CPU.
    #[must_use]
    pub fn request(&self, vector: u8) -> bool {
        if self.spurious.load(Ordering::Relaxed) & SVR_ENABLED == 0 {
            return false;
        }
        if vector < 16 {
            self.errors.fetch_or(ESR_RECEIVED_VECTOR, Ordering::Relaxed);
            return false;
        }
        let (word, bit) = place(vector);
        let fresh = self.requested[word].fetch_or(bit, Ordering::SeqCst) & bit == 0;
        self.summary.fetch_or(1 << word, Ordering::SeqCst);
        fresh
    }

    /// The vector to deliver now, if its class is above what is in service and the task priority.
    #[must_use]
    #[inline]
    pub fn wanted(&self, cr8: u8) -> Option<u8> {
        if self.summary.load(Ordering::SeqCst) == 0 {
            return None;
        }
        self.wanted_slow(cr8)
    }

    fn wanted_slow(&self, cr8: u8) -> Option<u8> {
        let vector = highest(&self.requested)?;
        (vector >> 4 > self.priority(cr8) >> 4).then_some(vector)
    }

    /// The vector of [`Lapic::wanted`] has been delivered.
    pub fn delivered(&self, vector: u8) {
        let (word, bit) = place(vector);
        if self.requested[word].fetch_and(!bit, Ordering::SeqCst) == bit {
            // The last of its word. Who sets a bit of it meanwhile sets the summary behind that.
            self.summary.fetch_and(!(1 << word), Ordering::SeqCst);
            if self.requested[word].load(Ordering::SeqCst) != 0 {
                self.summary.fetch_or(1 << word, Ordering::SeqCst);
            }
        }
        self.in_service[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Processor priority: the task's or that of the interrupt in service, whichever is of the higher class.
    fn priority(&self, cr8: u8) -> u8 {
        let [task, ..] = self.task_priority(cr8).to_le_bytes();
        let service = highest(&self.in_service).unwrap_or(0);
        if task >> 4 >= service >> 4 { task } else { service & 0xf0 }
    }

    /// The class is the CPU's CR8, which the guest may have written; what it wrote here keeps the rest.
    fn task_priority(&self, cr8: u8) -> u32 {
        let stored = self.task_priority.load(Ordering::Relaxed);
        if stored >> 4 == u32::from(cr8) { stored } else { u32::from(cr8) << 4 }
    }

    /// RDMSR of a register of `vcpu`, whose CR8 it is.
    ///
    /// # Errors
    /// There is none, or it is for writing only: #GP.
    pub fn read(&self, vcpu: u32, msr: u32, cr8: u8) -> Result<u64, Refused> {
        let word = |words: &[AtomicU32; 8]| {
            let index = usize::try_from(msr & 7).unwrap_or(0);
            u64::from(words[index_nospec(index, words.len())].load(Ordering::Relaxed))
        };
        Ok(match msr {
            0x802 => id_of(vcpu).into(),
            0x803 => VERSION,
            0x808 => self.task_priority(cr8).into(),
            0x80a => self.priority(cr8).into(),
            0x80d => logical_id(vcpu).into(),
            0x80f => self.spurious.load(Ordering::Relaxed).into(),
            0x810..=0x817 => word(&self.in_service),
            // Every interrupt here is an edge.
            0x818..=0x81f => 0,
            0x820..=0x827 => word(&self.requested),
            0x828 => self.errors_shown.load(Ordering::Relaxed).into(),
            0x830 => self.command.load(Ordering::Relaxed),
            0x832..=0x837 => self.local(msr - 0x832).load(Ordering::Relaxed).into(),
            0x838 => self.timer_start.load(Ordering::Relaxed).into(),
            0x839 => self.timer_count(),
            0x83e => self.timer_divide.load(Ordering::Relaxed).into(),
            _ => return Err(Refused),
        })
    }

    /// WRMSR, except of CR8's part of the task priority, which it returns for the caller to set.
    ///
    /// # Errors
    /// There is none, it is for reading only, or the value has reserved bits: #GP.
    pub fn write(&self, msr: u32, value: u64) -> Result<Written, Refused> {
        let low = u32::try_from(value);
        let within = |valid: u32| low.ok().filter(|value| value & !valid == 0).ok_or(Refused);
        match msr {
            0x808 => {
                let value = within(0xff)?;
                self.task_priority.store(value, Ordering::Relaxed);
                let [value, ..] = value.to_le_bytes();
                return Ok(Written::Cr8(value >> 4));
            }
            0x80b => {
                within(0)?;
                if let Some(vector) = highest(&self.in_service) {
                    let (word, bit) = place(vector);
                    self.in_service[word].fetch_and(!bit, Ordering::Relaxed);
                }
            }
            0x80f => {
                let value = within(0x1ff)?;
                self.spurious.store(value, Ordering::SeqCst);
                if value & SVR_ENABLED == 0 {
                    // Switched off, every entry of the table is masked.
                    self.local.iter().for_each(|entry| {
                        entry.fetch_or(LVT_MASKED, Ordering::Relaxed);
                    });
                }
            }
            0x828 => {
                within(0)?;
                let errors = self.errors.swap(0, Ordering::Relaxed);
                self.errors_shown.store(errors, Ordering::Relaxed);
            }
            0x830 => {
                if value & 0xfff3_2000 != 0 {
                    return Err(Refused);
                }
                self.command.store(value, Ordering::Relaxed);
                return Ok(Written::Command(Command::from_icr(value)));
            }
            0x832..=0x837 => self.write_local(msr - 0x832, low.map_err(|_| Refused)?)?,
            0x838 => {
                self.timer_start.store(low.map_err(|_| Refused)?, Ordering::Relaxed);
                self.start_timer();
                return Ok(Written::Timer);
            }
            0x83e => {
                let value = within(0xb)?;
                self.timer_divide.store(value, Ordering::Relaxed);
                self.start_timer();
                return Ok(Written::Timer);
            }
            0x83f => {
                let [vector, ..] = within(0xff)?.to_le_bytes();
                return Ok(Written::Command(Command { kind: Kind::Fixed(vector), to: Target::Own }));
            }
            _ => return Err(Refused),
        }
        Ok(Written::Done)
    }

    fn local(&self, entry: u32) -> &AtomicU32 {
        let index = usize::try_from(entry).unwrap_or(0).min(self.local.len() - 1);
        &self.local[index_nospec(index, self.local.len())]
    }

    fn write_local(&self, entry: u32, value: u32) -> Result<(), Refused> {
        let index = usize::try_from(entry).unwrap_or(0).min(LVT_VALID.len() - 1);
        if value & !(LVT_VALID[index_nospec(index, LVT_VALID.len())] | 1 << 12) != 0 {
            return Err(Refused);
        }
        let off = self.spurious.load(Ordering::Relaxed) & SVR_ENABLED == 0;
        self.local(entry).store(value & !(1 << 12) | if off { LVT_MASKED } else { 0 }, Ordering::Relaxed);
        Ok(())
    }

    /// Nanoseconds of one count.
    fn timer_tick(&self) -> u64 {
        let divide = self.timer_divide.load(Ordering::Relaxed);
        let code = divide & 3 | divide >> 1 & 4;
        // 0 to 6: by 2 to 128; 7: by 1.
        TIMER_NS << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.timer_start.load(Ordering::Relaxed)) * self.timer_tick()
    }

    fn start_timer(&self) {
        let period = self.period();
        let at = if period == 0 { NO_TIMER } else { time::now_ns().saturating_add(period) };
        self.timer_ns.store(at, Ordering::SeqCst);
    }

    fn timer_count(&self) -> u64 {
        match self.timer_ns.load(Ordering::SeqCst) {
            NO_TIMER => 0,
            at => at.saturating_sub(time::now_ns()) / self.timer_tick(),
        }
    }

    /// The timer has run down at `now`: starts it again if it is periodic; true when the vCPU has to be told.
    #[must_use]
    pub fn timer_fired(&self, now: u64) -> bool {
        let entry = self.local[0].load(Ordering::Relaxed);
        if entry & TIMER_PERIODIC != 0 {
            let period = self.period().max(LEAST_PERIOD_NS);
            self.timer_ns.store(now.saturating_add(period), Ordering::SeqCst);
        }
        let [vector, ..] = entry.to_le_bytes();
        entry & LVT_MASKED == 0 && self.request(vector)
    }
}

/// What is left to do after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// Nothing.
    Done,
    /// The task priority's class is now this.
    Cr8(u8),
    /// An interrupt command is to be carried out.
    Command(Command),
    /// The timer's deadline has changed.
    Timer,
}

fn place(vector: u8) -> (usize, u32) {
    (usize::from(vector / 32), 1 << (vector % 32))
}

/// The highest vector that is set.
#[inline]
fn highest(words: &[AtomicU32; 8]) -> Option<u8> {
    (0u8..8).rev().find_map(|word| {
        let bits = words[usize::from(word)].load(Ordering::SeqCst);
        let top = 31u32.checked_sub(bits.leading_zeros())?;
        u8::try_from(top).ok().map(|top| word * 32 + top)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on() -> Lapic {
        let lapic = Lapic::default();
        assert_eq!(lapic.write(0x80f, 0x1ff), Ok(Written::Done));
        lapic
    }

    #[test]
    fn interrupts_nest_by_class() {
        let lapic = on();
        assert!(lapic.request(0x41) && !lapic.request(0x41));
        assert_eq!(lapic.wanted(0), Some(0x41));
        lapic.delivered(0x41);
        assert!(lapic.request(0x45), "same class: waits");
        assert_eq!(lapic.wanted(0), None);
        assert!(lapic.request(0x51));
        assert_eq!(lapic.wanted(0), Some(0x51));
        lapic.delivered(0x51);
        assert_eq!(lapic.read(0, 0x80a, 0), Ok(0x50));
        assert_eq!(lapic.write(0x80b, 0), Ok(Written::Done));
        assert_eq!(lapic.read(0, 0x812, 0), Ok(1 << 1), "0x41 is still in service");
        assert_eq!(lapic.write(0x80b, 0), Ok(Written::Done));
        assert_eq!(lapic.wanted(0), Some(0x45));
        assert_eq!(lapic.wanted(4), None, "CR8");
    }

    #[test]
    fn the_task_priority_is_cr8_too() {
        let lapic = on();
        assert_eq!(lapic.write(0x808, 0x53), Ok(Written::Cr8(5)));
        assert_eq!(lapic.read(0, 0x808, 5), Ok(0x53));
        assert_eq!(lapic.read(0, 0x808, 7), Ok(0x70));
    }

    #[test]
    fn switched_off_it_takes_nothing() {
        let lapic = Lapic::default();
        assert!(!lapic.request(0x80));
        assert_eq!(lapic.write(0x832, 0x20), Ok(Written::Done));
        assert_eq!(lapic.read(0, 0x832, 0), Ok(0x1_0020), "masked");
    }

    #[test]
    fn commands_are_read_from_their_bits() {
        let command = |icr| Command::from_icr(icr);
        assert_eq!(command(2 << 32 | 0xfd), Command { kind: Kind::Fixed(0xfd), to: Target::Id(2) });
        assert_eq!(command(2 << 32 | 0xc500).kind, Kind::Init);
        assert_eq!(command(2 << 32 | 0x8500).kind, Kind::Nothing);
        assert_eq!(command(2 << 32 | 0x608).kind, Kind::Startup(8));
        assert_eq!(command(0xc_0400), Command { kind: Kind::Other(4), to: Target::Others });
        assert_eq!(command(0xffff_ffff << 32 | 0x30).to, Target::All);
        let is = |to, vcpu, sender| Lapic::default().is_meant(to, vcpu, sender);
        assert!(is(Target::Logical(1 << 16 | 1 << 2), 9, 0), "APIC id 18: cluster 1, place 2");
        assert!(!is(Target::Logical(1 << 2), 9, 0));
        assert!(is(Target::Others, 1, 0) && !is(Target::Others, 0, 0));
    }

    #[test]
    fn reserved_bits_and_strange_registers_are_refused() {
        let lapic = on();
        for (msr, value) in
            [(0x80b, 1), (0x808, 0x100), (0x80f, 0x200), (0x830, 1 << 13), (0x83f, 0x100), (0x838, 1 << 32)]
        {
            assert_eq!(lapic.write(msr, value), Err(Refused), "{msr:#x}");
        }
        for msr in [0x800, 0x801, 0x80b, 0x80e, 0x82f, 0x83f, 0x8ff] {
            assert_eq!(lapic.read(0, msr, 0), Err(Refused), "{msr:#x}");
        }
    }

    #[test]
    fn the_base_tells_the_mode_and_changes_it() {
        let lapic = Lapic::default();
        assert_eq!((lapic.base(0), lapic.base(1)), (0xfee0_0d00, 0xfee0_0c00));
        for bad in [0xfee0_0800, 0xfee0_0400, 0xfee1_0c00, 0xfee0_0c01, 1 << 40 | 0xfee0_0c00] {
            assert_eq!(lapic.set_base(bad), Err(Refused), "{bad:#x}");
        }
        for good in [0xfee0_0c00, 0xfee0_0000, 0xfee0_0900, 0xfee0_0c00] {
            assert_eq!(lapic.set_base(good), Ok(()), "{good:#x}");
            assert_eq!(lapic.base(1), good & !BOOT_CPU);
        }
    }

    #[test]
    fn the_timer_divides() {
        let lapic = on();
        for (code, by) in [(0b1011, 1), (0, 2), (1, 4), (0b11, 16), (0b1000, 32), (0b1010, 128)] {
            assert_eq!(lapic.write(0x83e, code), Ok(Written::Timer));
            assert_eq!(lapic.timer_tick(), TIMER_NS * by, "{code:#b}");
        }
        assert_eq!(lapic.write(0x832, 0x2_0040), Ok(Written::Done));
        assert_eq!(lapic.write(0x838, 1000), Ok(Written::Timer));
        assert!(lapic.timer_fired(5));
        assert_eq!(lapic.wanted(0), Some(0x40));
        assert_ne!(lapic.timer_ns.load(Ordering::Relaxed), NO_TIMER, "periodic");
    }
}
