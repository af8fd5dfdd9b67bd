//! Where a thread runs and whether it was left alone: what timing with threads needs of the system.

use anyhow::{Result, ensure};
use std::mem::{MaybeUninit, size_of};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The processors this thread may run on, as they were.
pub struct Placement(libc::cpu_set_t);

impl Placement {
    /// What is allowed now.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn now() -> Result<Self> {
        let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
        // SAFETY: the call writes at most the size given; any bytes are a set.
        let done = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
        ensure!(done == 0, "sched_getaffinity: {}", std::io::Error::last_os_error());
        // SAFETY: zeroed, then written; all bit patterns are valid.
        Ok(Self(unsafe { set.assume_init() }))
    }

    /// The first two processors of the set, if it has two.
    #[must_use]
    pub fn two(&self) -> Option<[usize; 2]> {
        // SAFETY: the numbers are below the size of the set.
        let mut all = (0..1024).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &self.0) });
        Some([all.next()?, all.next()?])
    }

    /// Puts this thread on one processor.
    pub fn pin(cpu: usize) {
        // SAFETY: a set is plain numbers, for which zero is a value.
        let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: `cpu` came from a set of the same size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        Self(set).apply();
    }

    /// Puts this thread back where it was allowed. A failure costs precision only.
    pub fn apply(&self) {
        // SAFETY: the call reads the size given.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) };
    }
}

/// Starts this program again with its memory always at the same addresses, if that is not so: where words lie
/// in their cache lines decides what the simulator finds. Where it is not allowed, a line says so.
pub fn fix_addresses() {
    const ASK: libc::c_ulong = 0xffff_ffff;
    const FIXED: libc::c_int = libc::ADDR_NO_RANDOMIZE;
    // SAFETY: the call only reads a word of this process.
    let now = unsafe { libc::personality(ASK) };
    if now & FIXED != 0 {
        return;
    }
    // SAFETY: the call only changes a word of this process, for programs it starts.
    let changed =
        now >= 0 && unsafe { libc::personality(libc::c_ulong::from((now | FIXED).cast_unsigned())) } >= 0;
    if changed && let Ok(program) = std::env::current_exe() {
        let _ = Command::new(program).args(std::env::args_os().skip(1)).exec();
    }
    eprintln!("addresses differ from run to run here, and so a little does the simulator's answer");
}

/// How often this thread lost its processor, or gave it up, since it began.
#[must_use]
pub fn switches() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call writes one such record; zeroed bytes are one as well, should it fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    usage.ru_nivcsw + usage.ru_nvcsw
}
