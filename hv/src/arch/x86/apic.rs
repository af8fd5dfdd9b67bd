//! The local APIC, by MMIO (xAPIC) or MSR (x2APIC).

/// Ends the interrupt in service.
pub fn eoi() {
    todo!()
}

/// Sends `vector` to the pCPU of that number (not its APIC id); nothing happens when there is none.
pub fn send_ipi(cpu: u32, vector: u8) {
    let _ = (cpu, vector);
    todo!()
}

/// Arms this pCPU's timer for a TSC value (at once when it is past), or stops it.
pub fn arm_oneshot(deadline_tsc: Option<u64>) {
    let _ = deadline_tsc;
    todo!()
}
