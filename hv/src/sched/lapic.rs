//! A vCPU's accesses to its local APIC ([`crate::dev::lapic`]), and what they do to other vCPUs.
#![forbid(unsafe_code)]

use crate::{
    dev::lapic::{Command, Kind, Refused, Written},
    domain::{Domain, Vcpu},
    rate_limited,
    sched::{self, exit::step_over},
    vt::{self, GuestException},
};

/// RDMSR of one of its registers.
pub(super) fn read(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu, msr: u32) {
    match vcpu.lapic.read(vcpu.id, msr, arch.cr8()) {
        Ok(value) => {
            arch.set_rax(value & 0xffff_ffff);
            arch.gprs_mut().rdx = value >> 32;
            step_over(domain, arch);
        }
        Err(Refused) => {
            rate_limited!(debug, "d{}v{}: RDMSR {msr:#x} refused", domain.id.0, vcpu.id);
            arch.inject_exception(GuestException::GeneralProtection);
        }
    }
}

/// WRMSR of one of its registers.
pub(super) fn write(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu, msr: u32, value: u64) {
    match vcpu.lapic.write(msr, value) {
        Ok(written) => {
            step_over(domain, arch);
            match written {
                Written::Done => {}
                Written::Cr8(class) => arch.set_cr8(class),
                Written::Command(command) => send(domain, vcpu, command),
                Written::Timer => sched::timers_changed(vcpu),
            }
        }
        Err(Refused) => {
            rate_limited!(debug, "d{}v{}: WRMSR {msr:#x} = {value:#x} refused", domain.id.0, vcpu.id);
            arch.inject_exception(GuestException::GeneralProtection);
        }
    }
}

/// Carries out an interrupt command.
fn send(domain: &Domain, sender: &Vcpu, command: Command) {
    for target in domain.vcpus().iter().filter(|target| command.to.is(target.id, sender.id)) {
        match command.kind {
            Kind::Fixed(vector) => {
                if target.lapic.request(vector) {
                    sched::wake(target);
                }
            }
            Kind::Init => {
                // The others only: a vCPU that resets itself has no one to start it again.
                if !core::ptr::eq(target, sender) {
                    sched::stop_vcpu(target);
                }
            }
            Kind::Startup(page) => start(domain, target, page),
            Kind::Nothing => {}
            Kind::Other(kind) => {
                rate_limited!(
                    warn,
                    "d{}v{}: interrupt command of kind {kind} is not implemented",
                    domain.id.0,
                    sender.id
                );
            }
        }
    }
}

/// A startup IPI: starts a vCPU that is down. One that runs takes no notice, so the second of the two that
/// kernels send is for nothing.
fn start(domain: &Domain, target: &Vcpu, page: u8) {
    if target.is_up() {
        return;
    }
    // Held only while it is still on its way down: then the kernel's second one starts it.
    let Some(mut arch) = target.arch.try_lock() else {
        rate_limited!(debug, "d{}v{}: startup before it is down", domain.id.0, target.id);
        return;
    };
    target.lapic.reset();
    arch.start_real(page);
    drop(arch);
    sched::start_vcpu(target);
}
