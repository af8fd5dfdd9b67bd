//! `cargo xtask`: every job of the house behind one command.
//!
//! Each verb is one file. Output meant for people goes to standard error while work goes on and to
//! standard output when it is the answer; `--json FILE` writes the answer for programs. The exit code
//! tells the kind of failure (`failure.rs`).
#![forbid(unsafe_code)]

mod accel;
mod audit;
mod bench;
mod boot_tests;
mod capture;
mod conformance;
mod counter;
mod docs;
mod failure;
mod fuzz;
mod gate;
mod image;
mod linux;
mod mutate;
mod netback;
mod places;
mod process;
mod profile;
mod progress;
mod qemu;
mod run;
mod setup;
mod shell;
mod symbols;
mod test;
mod versus_xen;
mod xen;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, boot, test and measure Tollgate.
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = failure::EXIT_CODES)]
struct Cli {
    /// Never install a missing tool; say what is missing and why, and stop
    #[arg(long, global = true)]
    no_install: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Install the tools the other verbs call
    Setup(setup::SetupArgs),
    /// Build the hypervisor and the guests
    Image(image::ImageArgs),
    /// Disassemble the image and refuse what must not be in it
    Audit(audit::AuditArgs),
    /// Write the pages of docs/ that come from tables
    Docs(docs::DocsArgs),
    /// The main job: two guests exchange real traffic, every byte verified
    Netback(netback::NetbackArgs),
    /// Boot Debian's own kernels, unmodified, to userspace
    Linux(linux::LinuxArgs),
    /// Boot domains of your own and show the console
    Run(run::RunArgs),
    /// The same guest on Tollgate and on Debian's Xen, case by case
    Conformance(conformance::ConformanceArgs),
    /// Time our grant tables against Xen's algorithm, in turns, every answer verified
    Bench(bench::BenchArgs),
    /// Refuse instruction counts that have grown
    Gate(gate::GateArgs),
    /// Where the instructions of a hypercall go, by function
    Profile(profile::ProfileArgs),
    /// Take guards out of the code, one by one, and see the tests of the advisories fail
    Mutate(mutate::MutateArgs),
    /// Measure, and write tables, plots and a page to results/
    Report(bench::ReportArgs),
    /// The same guests and the same work on Tollgate and on Debian's Xen, in turns
    VersusXen(versus_xen::VersusXenArgs),
    /// Fuzz the hypercalls, the command lines and the kernel loader
    Fuzz(fuzz::FuzzArgs),
    /// What CI runs: fmt, clippy, host tests, loom, image, audit, boots
    Test(test::TestArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.verb {
        Verb::Setup(args) => setup::setup(args, cli.no_install),
        Verb::Image(args) => image::image(args),
        Verb::Audit(args) => audit::audit(args, cli.no_install),
        Verb::Docs(args) => docs::docs(args),
        Verb::Netback(args) => netback::netback(args, cli.no_install),
        Verb::Linux(args) => linux::linux(args, cli.no_install),
        Verb::Run(args) => run::run(args, cli.no_install),
        Verb::Conformance(args) => conformance::conformance(args, cli.no_install),
        Verb::Bench(args) => bench::bench(args),
        Verb::Gate(args) => gate::gate(args, cli.no_install),
        Verb::Profile(args) => profile::profile(args, cli.no_install),
        Verb::Mutate(args) => mutate::mutate(args).map(|_| ()),
        Verb::Report(args) => bench::report(args),
        Verb::VersusXen(args) => versus_xen::versus_xen(args, cli.no_install),
        Verb::Fuzz(args) => fuzz::fuzz(args),
        Verb::Test(args) => test::test(args, cli.no_install),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            failure::code_of(&error)
        }
    }
}
