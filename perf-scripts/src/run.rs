//! `run`: boots the domains named on the command line and shows the console.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::failure::{Exit, stop};
use crate::image::{self, Artefacts, ImageArgs};
use crate::qemu::{self, Accel, Ending, Machine, Module, Next};
use crate::{accel, setup, shell};

/// What `run` may be asked.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Boot modules, each one word for the shell: "FILE domain=NAME [mem=64M] ... -- guest command line"; FILE is a
    /// path or the name of one of our guests
    #[arg(value_name = "MODULE")]
    modules: Vec<String>,
    /// The hypervisor's command line (docs/command-line.md)
    #[arg(long, value_name = "STRING", default_value = "when_done=poweroff")]
    cmdline: String,
    /// How QEMU emulates the CPU
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    accel: Accel,
    /// Number of pCPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory of the machine, MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    mem: u32,
    /// Count instructions instead of time: one pCPU, TCG; RDTSC then counts guest instructions
    #[arg(long, conflicts_with = "cpus")]
    icount: bool,
    /// Lend the terminal to the machine, with the input of this domain
    #[arg(long, value_name = "DOMAIN")]
    shell: Option<String>,
    /// End the run after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
}

/// The verb itself.
pub fn run(args: &RunArgs, no_install: bool) -> Result<()> {
    setup::need(&[setup::QEMU], no_install)?;
    let made = image::build(&ImageArgs::default())?;
    let mut machine = Machine::new(&made.image);
    machine.cmdline.clone_from(&args.cmdline);
    machine.modules = args.modules.iter().map(|words| module(words, &made)).collect::<Result<_>>()?;
    machine.accel = if args.icount { Accel::Tcg } else { accel::choose(args.accel, &made)? };
    machine.icount = args.icount;
    machine.cpus = if args.icount { 1 } else { args.cpus };
    machine.mem_mib = args.mem;
    machine.limit = Duration::from_secs(args.limit);
    if let Some(domain) = &args.shell {
        give_input(&mut machine.modules, domain)?;
        return shell::lend(&machine, domain);
    }
    let boot = qemu::boot(&machine, |line| {
        match line.domain {
            Some(domain) => println!("({domain}) {}", line.text),
            None => println!("{}", line.text),
        }
        Next::More
    })?;
    match boot.ending {
        Ending::Off | Ending::Stopped => Ok(()),
        Ending::NoRun(why) => Err(stop(Exit::Failed, format!("QEMU did not run: {why}"))),
        Ending::Silent => Err(stop(Exit::Timeout, "the image printed nothing")),
        Ending::Late(place) => {
            Err(stop(Exit::Timeout, format!("still running after {} s{place}", args.limit)))
        }
    }
}

/// A module from its words; the file may be named as one of our guests.
fn module(words: &str, made: &Artefacts) -> Result<Module> {
    let (file, string) = words.trim().split_once(' ').unwrap_or((words.trim(), ""));
    if Path::new(file).is_file() {
        return Ok(Module::new(file, string));
    }
    let guest = made
        .guest(file)
        .map_err(|_| stop(Exit::BadInput, format!("module {file}: neither a file nor one of our guests")))?;
    Ok(Module::new(guest, string))
}

/// Gives a domain the console's input from the start.
fn give_input(modules: &mut [Module], domain: &str) -> Result<()> {
    let word = format!("domain={domain}");
    for module in modules {
        let head = module.string.split(" -- ").next().unwrap_or("");
        if head.split_whitespace().any(|own| own == word) {
            module.string.insert_str(0, "input ");
            return Ok(());
        }
    }
    Err(stop(Exit::BadInput, format!("--shell {domain}: no module says domain={domain}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_files_or_guests() {
        let made = Artefacts { image: "/t/tollgate".into(), guests: vec!["/t/hello".into()], symbols: 0 };
        let module = |words| module(words, &made).map(|module| (module.path, module.string));
        assert_eq!(module("hello domain=x -- y").unwrap(), ("/t/hello".into(), "domain=x -- y".to_owned()));
        assert_eq!(
            module("/dev/null").err().unwrap().to_string(),
            "module /dev/null: neither a file nor one of our guests"
        );
        assert_eq!(module("/etc/passwd data").unwrap(), ("/etc/passwd".into(), "data".to_owned()));
    }
    #[test]
    fn the_input_is_given_by_name() {
        let mut modules =
            [Module::new("/t/a", "domain=ab -- domain=a"), Module::new("/t/a", "mem=1M domain=a")];
        give_input(&mut modules, "a").unwrap();
        assert_eq!(modules[0].string, "domain=ab -- domain=a");
        assert_eq!(modules[1].string, "input mem=1M domain=a");
        assert!(give_input(&mut modules, "b").is_err());
    }
}
