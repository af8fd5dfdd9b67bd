//! The interrupt vectors of root mode.

/// Gets a pCPU out of guest mode or idle: work waits, or a TLB flush. Its handler only acknowledges.
pub const VEC_KICK: u8 = 0xf0;
/// The local APIC timer. Its handler only acknowledges: the scheduler looks at deadlines.
pub const VEC_TIMER: u8 = 0xf1;
/// The console's serial port has received something. Its handler notes it for who opened the window.
pub const VEC_CONSOLE: u8 = 0xf2;
/// Spurious interrupts of the local APIC.
pub const VEC_SPURIOUS: u8 = 0xff;
/// Where the PICs' interrupts would go, if they were not all masked: spurious ones cannot be.
#[cfg(feature = "bare-metal")]
const VEC_PIC: u8 = 0xe0;

/// Masks the two 8259 PICs, and moves their vectors away from the exceptions'.
#[cfg(feature = "bare-metal")]
pub(crate) fn silence_pic() {
    use super::port;
    const MASTER: u16 = 0x20;
    const SLAVE: u16 = 0xa0;
    for (base, vector, cascade) in [(MASTER, VEC_PIC, 4), (SLAVE, VEC_PIC + 8, 2)] {
        // SAFETY: the PICs' ports on every PC; with everything masked they raise nothing but a spurious
        // interrupt, which has a handler.
        unsafe {
            port::write8(base, 0x11);
            port::write8(base + 1, vector);
            port::write8(base + 1, cascade);
            port::write8(base + 1, 1);
            port::write8(base + 1, 0xff);
        }
    }
}
