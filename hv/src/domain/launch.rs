//! From boot modules to running domains. Whatever is wrong ends the boot with one line: a machine that runs
//! half of what was asked for is worse than one that says what to mend.
#![forbid(unsafe_code)]

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use gnttab_fast::types::DomId;

use super::{
    Domain,
    builder::{self, Building, Data},
    config::{self, Config, Restart, Role},
    lifecycle,
    restart::{self, Description},
    special, table,
};
use crate::arch::x86::{percpu, time};
use crate::boot::{self, Module};
use crate::cmdline::Options;
use crate::dev::input;
use crate::{epoch, info, pvclock, sched};

/// What the only module is when the loader gives it no string, as QEMU's and Xen's PVH loaders do: a kernel
/// with every default.
const ALONE: &str = "kernel domain=guest";

/// The number of the control domain, of which there is one at most.
const CONTROL: DomId = DomId(0);

/// Builds every domain the modules describe, then starts them. Domain numbers are given in module order
/// from 1; 0 is the control domain's.
pub fn launch(modules: &[Module], options: &Options) {
    lifecycle::set_when_done(options.when_done);
    let mut next = 1u16;
    let mut control = false;
    let mut store = false;
    let mut input = None;
    for (index, module) in modules.iter().enumerate() {
        let alone = modules.len() == 1 && module.string.trim().is_empty();
        match config::parse(if alone { ALONE } else { module.string }, options) {
            Ok(Role::Data) => {}
            Ok(Role::Domain(config)) => {
                let id = if config.control { CONTROL } else { DomId(next) };
                if config.control && control {
                    boot::fail(format_args!(
                        "domain '{}': there is a control domain already; take 'control' out of one module string",
                        config.name
                    ));
                }
                if config.store && store {
                    boot::fail(format_args!(
                        "domain '{}': there is a store already; take 'store' out of one module string",
                        config.name
                    ));
                }
                if config.input && input.replace(id).is_some() {
                    boot::fail(format_args!(
                        "domain '{}': the console's input goes to another one already; take 'input' out of one module \
                         string",
                        config.name
                    ));
                }
                store |= config.store;
                build(id, module, &config, modules, options);
                control |= config.control;
                next += u16::from(!config.control);
            }
            Err(bad) => boot::fail(format_args!(
                "module {} ('{}'): {bad}",
                index + 1,
                config::file_name(module.string).escape_debug()
            )),
        }
    }
    if next == 1 && !control {
        boot::fail(format_args!(
            "no domain to run: give a boot module with the string '<file> domain=NAME mem=64M -- arguments'"
        ));
    }
    let guard = epoch::pin();
    let store = table::all(&guard).find(|domain| domain.store).map(|domain| domain.id);
    for domain in table::all(&guard) {
        if special::connect(domain, store).is_none() {
            boot::fail(format_args!("domain '{}': no memory for its rings", domain.name));
        }
    }
    if let Some(domain) = input.and_then(|id| table::get(id, &guard)) {
        input::focus_on(domain);
    }
    restart::set_next(next);
    table::all(&guard).for_each(|domain| start(domain));
}

/// Lets a domain run that is in the table.
pub(super) fn start(domain: &Domain) {
    domain.started.store(time::now_ns(), Ordering::Relaxed);
    pvclock::publish_all(domain);
    if let Some(first) = domain.vcpus().first() {
        sched::start_vcpu(first);
    }
}

fn build(id: DomId, module: &Module, config: &Config<'static>, modules: &[Module], options: &Options) {
    let name = &config.name;
    if usize::from(id.0) >= table::MAX_DOMAINS {
        boot::fail(format_args!("more than {} domains", table::MAX_DOMAINS - 1));
    }
    let guard = epoch::pin();
    if table::all(&guard).any(|other| other.name == *name) {
        boot::fail(format_args!("two domains are called '{name}'"));
    }
    let data = config.data.map(|wanted| match find_data(wanted, modules, options) {
        Some(found) => Data { bytes: found.bytes(), string: found.string },
        None => {
            boot::fail(format_args!("domain '{name}': no data module is called '{}'", wanted.escape_debug()))
        }
    });
    let built = if config.restart == Restart::Never {
        builder::build(id, config, module.bytes(), data, percpu::cpus_online(), &guard)
    } else {
        Description::read(config.clone(), module, data)
            .and_then(|description| description.begin(id))
            .and_then(|building: Building<'_>| building.all(&guard))
            .map(Arc::new)
    };
    let domain = match built {
        Ok(domain) => domain,
        Err(why) => boot::fail(format_args!(
            "domain '{name}' ('{}'): {why}",
            config::file_name(module.string).escape_debug()
        )),
    };
    info!(
        of domain; "d{} {name}: {} MiB, {} vCPUs, gnttab={}, {}-bit kernel '{}'",
        id.0,
        config.memory >> 20,
        config.vcpus,
        config.grants.policy,
        if domain.width() == crate::vt::Width::Bits64 { 64 } else { 32 },
        config::file_name(module.string).escape_debug()
    );
    lifecycle::born(&domain);
    assert!(table::insert(Arc::clone(&domain), &guard), "the number is free and in range");
}

fn find_data<'a>(wanted: &str, modules: &'a [Module], options: &Options) -> Option<&'a Module> {
    modules.iter().find(|module| {
        config::file_name(module.string) == wanted && config::parse(module.string, options) == Ok(Role::Data)
    })
}
