//! The two places where root mode takes interrupts.

/// Takes what is pending: `sti; nop; cli`.
pub fn window() {
    todo!()
}

/// Sleeps until an interrupt and takes it: `sti; hlt; cli`.
pub fn idle() {
    todo!()
}
