//! The end of the hypervisor: registers, a backtrace, what this CPU was doing, then reboot or stop.
