//! Stand-ins for the machine, where the hypervisor's logic is built and tested on a host.
#![forbid(unsafe_code)]

pub mod apic {
    //! No local APIC: there is one CPU, and its timer never fires.

    /// Nothing is in service.
    pub fn eoi() {}

    /// There is no other CPU.
    pub fn send_ipi(cpu: u32, vector: u8) {
        let _ = (cpu, vector);
    }

    /// The timer never fires.
    pub fn arm_oneshot(deadline_tsc: Option<u64>) {
        let _ = deadline_tsc;
    }
}

pub mod power {
    //! A host is neither switched off nor restarted: the test fails instead.

    /// Ends the test.
    pub fn off() -> ! {
        panic!("the machine is switched off")
    }

    /// Ends the test.
    pub fn reboot() -> ! {
        panic!("the machine restarts")
    }

    /// Ends the test.
    pub fn stop() -> ! {
        panic!("the CPU stops")
    }
}
