//! The two places where root mode takes interrupts.
//!
//! Everywhere else interrupts are off. The handlers acknowledge and count; the caller looks afterwards at
//! what it was waiting for.

/// Takes what is pending: `sti; nop; cli`.
pub fn window() {
    #[cfg(feature = "bare-metal")]
    // SAFETY: the handlers keep every register, run on stacks of their own and touch atomics and the local
    // APIC only. The NOP ends STI's shadow. Not `nomem`: what other CPUs sent is looked at afterwards.
    unsafe {
        core::arch::asm!("sti", "nop", "cli");
    }
    #[cfg(not(feature = "bare-metal"))]
    core::hint::spin_loop();
}

/// Sleeps until an interrupt and takes it: `sti; hlt; cli`. An interrupt that arrived before is taken at
/// once: STI's shadow covers HLT, so there is no gap to lose a wake-up in.
pub fn idle() {
    #[cfg(feature = "bare-metal")]
    // SAFETY: as in `window`.
    unsafe {
        core::arch::asm!("sti", "hlt", "cli");
    }
    #[cfg(not(feature = "bare-metal"))]
    core::hint::spin_loop();
}
