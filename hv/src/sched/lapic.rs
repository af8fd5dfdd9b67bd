//! A vCPU's accesses to its local APIC ([`crate::dev::lapic`]), and what they do to other vCPUs.
#![forbid(unsafe_code)]

use crate::{
    dev::lapic::{self, Command, Kind, Mode, Refused, Written},
    domain::{Domain, Vcpu},
    epoch, rate_limited,
    sched::{self, exit::step_over},
    vt::{self, GuestException, mmio},
};

/// RDMSR of one of its registers.
pub(super) fn read(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu, msr: u32) {
    let value = match (msr, vcpu.lapic.mode()) {
        (lapic::BASE_MSR, _) => Ok(vcpu.lapic.base(vcpu.id)),
        (_, Mode::X2Apic) => vcpu.lapic.read(vcpu.id, msr, arch.cr8()),
        (_, Mode::XApic | Mode::Off) => Err(Refused),
    };
    match value {
        Ok(value) => {
            arch.set_rax(value & 0xffff_ffff);
            arch.gprs_mut().rdx = value >> 32;
            step_over(domain, arch);
        }
        Err(Refused) => {
            rate_limited!(debug, of domain; "d{}v{}: RDMSR {msr:#x} refused", domain.id.0, vcpu.id);
            arch.inject_exception(GuestException::GeneralProtection);
        }
    }
}

/// WRMSR of one of its registers.
pub(super) fn write(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu, msr: u32, value: u64) {
    let written = match (msr, vcpu.lapic.mode()) {
        // What goes off has no timer.
        (lapic::BASE_MSR, _) => vcpu.lapic.set_base(value).map(|()| Written::Timer),
        (_, Mode::X2Apic) => vcpu.lapic.write(msr, value),
        (_, Mode::XApic | Mode::Off) => Err(Refused),
    };
    match written {
        Ok(written) => {
            step_over(domain, arch);
            finish(domain, vcpu, arch, written);
        }
        Err(Refused) => {
            rate_limited!(debug, of domain; "d{}v{}: WRMSR {msr:#x} = {value:#x} refused", domain.id.0, vcpu.id);
            arch.inject_exception(GuestException::GeneralProtection);
        }
    }
}

/// What is left to do after a write.
fn finish(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu, written: Written) {
    match written {
        Written::Done => {}
        Written::Cr8(class) => arch.set_cr8(class),
        Written::Command(command) => send(domain, vcpu, command),
        Written::Timer => sched::timers_changed(vcpu),
    }
}

/// An access to the page of its registers. The instruction is fetched and decoded; one that is no plain move of an
/// aligned 32-bit word, as every kernel's are, is none that the page takes.
pub(super) fn access(domain: &Domain, vcpu: &Vcpu, arch: &mut vt::Vcpu, gpa: u64, write: bool) {
    let offset = u32::try_from(gpa & 0xfff).unwrap_or(0);
    let bytes = arch.instruction(&domain.p2m, &epoch::pin());
    let Some(access) = mmio::decode(&bytes, arch.code_bits()).filter(|_| offset.is_multiple_of(4)) else {
        rate_limited!(
            warn,
            of domain; "d{}v{}: at {:#x}: only aligned 32-bit moves reach the local APIC's page (at {gpa:#x}): #UD",
            domain.id.0,
            vcpu.id,
            arch.rip()
        );
        arch.inject_exception(GuestException::InvalidOpcode);
        return;
    };
    match access.kind {
        mmio::Kind::Load(register) if !write => {
            let value = vcpu.lapic.read_page(vcpu.id, offset, arch.cr8());
            arch.set_register(register, value);
            arch.skip(access.length);
        }
        mmio::Kind::Store(from) if write => {
            let value = match from {
                mmio::Source::Register(register) => arch.register(register),
                mmio::Source::Value(value) => value,
            };
            arch.skip(access.length);
            let written = vcpu.lapic.write_page(offset, value);
            finish(domain, vcpu, arch, written);
        }
        // Another vCPU has changed the code since: what is there now is executed instead.
        mmio::Kind::Load(_) | mmio::Kind::Store(_) => {}
    }
}

/// Carries out an interrupt command.
fn send(domain: &Domain, sender: &Vcpu, command: Command) {
    for target in
        domain.vcpus().iter().filter(|target| target.lapic.is_meant(command.to, target.id, sender.id))
    {
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
                    of domain; "d{}v{}: interrupt command of kind {kind} is not implemented",
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
        rate_limited!(debug, of domain; "d{}v{}: startup before it is down", domain.id.0, target.id);
        return;
    };
    target.lapic.reset();
    arch.start_real(page);
    drop(arch);
    sched::start_vcpu(target);
}
