//! The interrupt vectors of root mode.

/// Gets a pCPU out of guest mode or idle: work waits, or a TLB flush. Its handler only acknowledges.
pub const VEC_KICK: u8 = 0xf0;
/// The local APIC timer. Its handler only acknowledges: the scheduler looks at deadlines.
pub const VEC_TIMER: u8 = 0xf1;
/// Spurious interrupts of the local APIC.
pub const VEC_SPURIOUS: u8 = 0xff;
