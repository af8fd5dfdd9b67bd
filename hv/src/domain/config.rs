//! The string of a boot module: which domain it is, and how large.
//!
//! ```text
//! <file> domain=NAME [control] [store] [input] [restart=WHEN] [loglvl=LEVEL] [mem=64M] [vcpus=1] [cpus=0-1,3]
//!        [gnttab=ITEMS] [gnttab_max_frames=N] [gnttab_max_maptrack_frames=N] [data=FILE] [-- the guest's command line]
//! <file> data
//! ```
//!
//! Words are parted by blanks. Unlike the hypervisor's own options, a word that is not understood ends the
//! boot with one line: a domain with another size or policy than was asked for is worse than none. The text
//! is the boot loader's; nothing here panics or loops beyond its length. [`WORDS`] is what the operator's guide
//! prints.
#![forbid(unsafe_code)]

use core::fmt;

use arrayvec::ArrayString;
use gnttab_fast::policy::{BadItem, Policy};

use super::{GrantLimits, MAX_VCPUS, NAME_MAX, layout};
use crate::abi::sched::{SHUTDOWN_CRASH, SHUTDOWN_REBOOT, SHUTDOWN_WATCHDOG};
use crate::cmdline::{LogLevel, MAX_CPUS, Options};
use crate::sched::cpuset::CpuSet;

/// The smallest domain: room for a kernel at 1 MiB.
pub const MIN_MEMORY: u64 = 2 << 20;
/// The largest: what the memory map of a guest can show below 1 TiB.
pub const MAX_MEMORY: u64 = 1 << 40;

/// A word of a module string, for the operator's guide.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// How it is written.
    pub form: &'static str,
    /// What it does.
    pub effect: &'static str,
}

/// Every word.
pub const WORDS: &[Word] = &[
    Word { form: "domain=NAME", effect: "Name of the domain; its console lines begin `(d1 NAME)`" },
    Word { form: "control", effect: "This is the control domain, see below; one module at most may say so" },
    Word {
        form: "store",
        effect: "This domain serves XenStore to the others ([linux.md](linux.md)); one module at most may say so",
    },
    Word {
        form: "input",
        effect: "What is typed on the console goes to this domain from the start, see below; one module at most \
                 may say so",
    },
    Word {
        form: "restart=never\\|reboot\\|always",
        effect: "Whether the domain is built again after its end, see below; `never` unless it is said",
    },
    Word {
        form: "loglvl=LEVEL",
        effect: "The least important line about the domain that the hypervisor prints, instead of its own `loglvl=`; \
                 with `none` what the domain itself prints is shown only while it has the input",
    },
    Word { form: "mem=", effect: "Memory, with `K`, `M` or `G`" },
    Word { form: "vcpus=", effect: "Number of virtual CPUs" },
    Word { form: "cpus=", effect: "pCPUs its vCPUs may run on" },
    Word {
        form: "gnttab=",
        effect: "Grant policy of the domain; it can only narrow what the hypervisor's own `gnttab=` allows",
    },
    Word {
        form: "gnttab_max_frames=`, `gnttab_max_maptrack_frames=",
        effect: "Limits of this domain instead of the hypervisor's",
    },
    Word {
        form: "data=FILE",
        effect: "Hands the data module of that file name to the domain as its first PVH module",
    },
    Word { form: "-- ...", effect: "The rest is the guest's own command line" },
];

/// When a domain is built again after its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restart {
    /// Its end is the end.
    #[default]
    Never,
    /// When it asked for a restart, or the console did for it.
    Reboot,
    /// Also when it has crashed.
    Always,
}

impl Restart {
    /// Whether it is, behind an end with this `SHUTDOWN_*` code.
    #[must_use]
    pub const fn after(self, code: u32) -> bool {
        match self {
            Self::Never => false,
            Self::Reboot => code == SHUTDOWN_REBOOT,
            Self::Always => matches!(code, SHUTDOWN_REBOOT | SHUTDOWN_CRASH | SHUTDOWN_WATCHDOG),
        }
    }
}

/// What a module is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role<'a> {
    /// A domain's kernel.
    Domain(Config<'a>),
    /// A file for the domain that names it.
    Data,
}

/// A domain to be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config<'a> {
    /// Its name.
    pub name: ArrayString<NAME_MAX>,
    /// It is the control domain: number 0, with power over the others.
    pub control: bool,
    /// It is the store's domain, which every other one has a ring to.
    pub store: bool,
    /// What is typed on the console goes to it from the start.
    pub input: bool,
    /// When it is built again.
    pub restart: Restart,
    /// The least important line about it that is printed.
    pub loglvl: LogLevel,
    /// Bytes of RAM, a multiple of 4 KiB.
    pub memory: u64,
    /// How many vCPUs.
    pub vcpus: u32,
    /// Where they may run.
    pub cpus: CpuSet,
    /// What its grants are limited to.
    pub grants: GrantLimits,
    /// The file name of its data module.
    pub data: Option<&'a str>,
    /// Its command line.
    pub cmdline: &'a str,
}

impl Config<'_> {
    /// Pages of memory that survive the domain: a store that is built again finds its state there.
    #[must_use]
    pub fn kept_pages(&self) -> u64 {
        if self.store && self.restart != Restart::Never { layout::KEPT_PAGES } else { 0 }
    }
}

/// Why a module string is refused; printed as one line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadModule<'a> {
    /// The word, or the item of `gnttab=`, that is wrong; empty when one is missing.
    pub word: &'a str,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// In words.
    Text(&'static str),
    /// An item of `gnttab=`.
    Grant(BadItem),
}

impl fmt::Display for BadModule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough to recognise a word by.
        const SHOWN: usize = 60;
        let mut end = self.word.len().min(SHOWN);
        while !self.word.is_char_boundary(end) {
            end -= 1;
        }
        if end != 0 {
            write!(f, "'{}': ", self.word[..end].escape_debug())?;
        }
        match self.why {
            Why::Text(text) => f.write_str(text),
            Why::Grant(bad) => bad.fmt(f),
        }
    }
}

/// The last part of a file name.
#[must_use]
pub fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The file name a module string begins with.
#[must_use]
pub fn file_name(string: &str) -> &str {
    basename(string.split_ascii_whitespace().next().unwrap_or(""))
}

/// Reads a module string.
///
/// # Errors
/// The first word that is wrong.
pub fn parse<'a>(string: &'a str, options: &Options) -> Result<Role<'a>, BadModule<'a>> {
    let (head, cmdline) = split_cmdline(string);
    let mut words = head.split_ascii_whitespace();
    let missing = |text| BadModule { word: "", why: Why::Text(text) };
    words.next().ok_or(missing("the module string is empty; it begins with the file name"))?;
    let mut config = Config {
        name: ArrayString::new(),
        control: false,
        store: false,
        input: false,
        restart: Restart::Never,
        loglvl: options.loglvl,
        memory: 64 << 20,
        vcpus: 1,
        cpus: CpuSet::ALL,
        grants: GrantLimits {
            policy: options.gnttab,
            max_frames: options.gnttab_max_frames,
            max_maptrack_frames: options.gnttab_max_maptrack_frames,
        },
        data: None,
        cmdline,
    };
    let mut is_data = false;
    let mut last = "";
    for word in words {
        let bad = |text| BadModule { word, why: Why::Text(text) };
        last = word;
        match word.split_once('=') {
            None if word == "data" => is_data = true,
            None if word == "control" => config.control = true,
            None if word == "store" => config.store = true,
            None if word == "input" => config.input = true,
            Some(("domain", value)) => {
                config.name = name(value).ok_or(bad("a name is 1 to 31 letters, digits, '-', '_' or '.'"))?;
            }
            Some(("restart", value)) => {
                config.restart = restart(value).ok_or(bad("takes never, reboot or always"))?;
            }
            Some(("loglvl", value)) => config.loglvl = LogLevel::parse(value).ok_or(bad(LogLevel::WORDS))?,
            Some(("mem", value)) => {
                config.memory =
                    memory(value).ok_or(bad("takes a size from 2M to 1024G such as 64M or 1G"))?;
            }
            Some(("vcpus", value)) => {
                config.vcpus = number(value, 1, MAX_VCPUS).ok_or(bad("takes a count from 1 to 128"))?;
            }
            Some(("cpus", value)) => {
                config.cpus = cpus(value).ok_or(bad("takes a list of pCPUs such as 0-1,3"))?;
            }
            Some(("gnttab", value)) => config.grants.policy = grants(config.grants.policy, value)?,
            Some(("gnttab_max_frames", value)) => {
                config.grants.max_frames =
                    number(value, 1, 4096).ok_or(bad("takes a count from 1 to 4096"))?;
            }
            Some(("gnttab_max_maptrack_frames", value)) => {
                config.grants.max_maptrack_frames =
                    number(value, 1, 1024).ok_or(bad("takes a count from 1 to 1024"))?;
            }
            Some(("data", value)) if !value.is_empty() => config.data = Some(basename(value)),
            _ => {
                return Err(bad(
                    "no such word in a module string; known: domain= control store input restart= loglvl= mem= vcpus= \
                     cpus= gnttab= gnttab_max_frames= gnttab_max_maptrack_frames= data= data --",
                ));
            }
        }
    }
    match (is_data, config.name.is_empty()) {
        (true, true) if !config.control && !config.store && !config.input => Ok(Role::Data),
        (true, _) => Err(BadModule { word: last, why: Why::Text("a module is a domain or data, not both") }),
        (false, false) if config.restart != Restart::Never && config.control => {
            Err(missing("the control domain cannot be built again: take restart= out"))
        }
        (false, false) => Ok(Role::Domain(config)),
        (false, true) => Err(missing("neither 'domain=NAME' nor 'data' stands in the module string")),
    }
}

/// Parts the words from the guest's command line behind the first ` -- `.
fn split_cmdline(string: &str) -> (&str, &str) {
    let mut rest = string;
    let mut at = 0;
    while let Some(found) = rest.find("--") {
        let start = at + found;
        let end = start + 2;
        let blank_before = start == 0 || string[..start].ends_with(|c: char| c.is_ascii_whitespace());
        let blank_behind =
            end == string.len() || string[end..].starts_with(|c: char| c.is_ascii_whitespace());
        if blank_before && blank_behind {
            return (&string[..start], string[end..].trim_ascii());
        }
        at = end;
        rest = &string[end..];
    }
    (string, "")
}

fn name(value: &str) -> Option<ArrayString<NAME_MAX>> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.is_empty() || !value.chars().all(good) {
        return None;
    }
    ArrayString::from(value).ok()
}

fn restart(value: &str) -> Option<Restart> {
    match value {
        "never" => Some(Restart::Never),
        "reboot" => Some(Restart::Reboot),
        "always" => Some(Restart::Always),
        _ => None,
    }
}

/// Decimal digits only: `from_str_radix` would take a sign.
fn digits(value: &str) -> Option<u64> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    value.parse().ok()
}

fn number(value: &str, least: u32, most: u32) -> Option<u32> {
    let number = u32::try_from(digits(value)?).ok()?;
    (least..=most).contains(&number).then_some(number)
}

fn memory(value: &str) -> Option<u64> {
    let (count, shift) = match value.as_bytes().last()? {
        b'K' | b'k' => (&value[..value.len() - 1], 10),
        b'M' | b'm' => (&value[..value.len() - 1], 20),
        b'G' | b'g' => (&value[..value.len() - 1], 30),
        _ => return None,
    };
    let bytes = digits(count)?.checked_mul(1 << shift)?;
    (bytes.is_multiple_of(4096) && (MIN_MEMORY..=MAX_MEMORY).contains(&bytes)).then_some(bytes)
}

fn cpus(value: &str) -> Option<CpuSet> {
    let mut set = CpuSet::EMPTY;
    for item in value.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (number(first, 0, MAX_CPUS - 1)?, number(last, 0, MAX_CPUS - 1)?);
        if first > last {
            return None;
        }
        for cpu in first..=last {
            set.insert(cpu);
        }
    }
    Some(set)
}

fn grants(host: Policy, value: &str) -> Result<Policy, BadModule<'_>> {
    let mut first = None;
    // Items are parts of `value`, but the callback's lifetime does not say so: find the item again.
    let policy = host.tighten(value, &mut |item, why| {
        first.get_or_insert((value.split(',').position(|own| own == item), why));
    });
    match first {
        None => Ok(policy),
        Some((place, why)) => {
            let word = place.and_then(|place| value.split(',').nth(place)).unwrap_or(value);
            Err(BadModule { word, why: Why::Grant(why) })
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::format;
    use std::string::ToString;

    use crate::abi::sched::SHUTDOWN_POWEROFF;
    use gnttab_fast::policy::Version;
    use proptest::prelude::*;

    use super::*;

    fn domain(string: &str) -> Config<'_> {
        match parse(string, &Options::default()) {
            Ok(Role::Domain(config)) => config,
            other => panic!("{string}: {other:?}"),
        }
    }

    #[test]
    fn a_name_is_enough() {
        let config = domain("/boot/netback domain=back");
        assert_eq!(&*config.name, "back");
        assert_eq!((config.memory, config.vcpus), (64 << 20, 1));
        assert_eq!((config.cpus, config.data, config.cmdline), (CpuSet::ALL, None, ""));
        assert!(!config.control);
        assert_eq!(config.grants.policy, Policy::HOST_DEFAULT);
    }

    #[test]
    fn every_word_is_understood() {
        let config = domain(
            "k domain=d.1 control input restart=never loglvl=all mem=1G vcpus=4 cpus=0-1,3 gnttab=max_ver:1,no-transitive gnttab_max_frames=8 \
             gnttab_max_maptrack_frames=9 data=/x/trace.bin --  a=1 -- b ",
        );
        assert_eq!((config.memory, config.vcpus, config.control), (1 << 30, 4, true));
        assert!(config.input);
        assert_eq!(config.loglvl, LogLevel::Debug);
        assert!(config.cpus.contains(3) && !config.cpus.contains(2));
        assert_eq!(config.grants.policy, Policy::new(Version::V1, false));
        assert_eq!((config.grants.max_frames, config.grants.max_maptrack_frames), (8, 9));
        assert_eq!(config.data, Some("trace.bin"));
        assert_eq!(config.cmdline, "a=1 -- b");
    }

    #[test]
    fn who_is_built_again() {
        let when = |word: &str| domain(&format!("k domain=a {word}")).restart;
        assert_eq!(when(""), Restart::Never);
        let table = [
            ("restart=never", [false; 4]),
            ("restart=reboot", [false, true, false, false]),
            ("restart=always", [false, true, true, true]),
        ];
        for (word, wanted) in table {
            let codes = [SHUTDOWN_POWEROFF, SHUTDOWN_REBOOT, SHUTDOWN_CRASH, SHUTDOWN_WATCHDOG];
            assert_eq!(codes.map(|code| when(word).after(code)), wanted, "{word}");
        }
        assert!(parse("k domain=a control restart=reboot", &Options::default()).is_err());
    }

    #[test]
    fn a_store_that_is_built_again_keeps_memory() {
        let kept = |words: &str| domain(&format!("k domain=a {words}")).kept_pages();
        assert_eq!(kept("store restart=reboot"), layout::KEPT_PAGES);
        assert_eq!([kept("store"), kept("restart=always")], [0, 0]);
    }

    #[test]
    fn every_word_of_the_table_is_known_and_named() {
        let bad = parse("k domain=a colour=blue", &Options::default()).expect_err("no such word").to_string();
        for word in WORDS.iter().flat_map(|word| word.form.split("`, `")) {
            let end = word.find('=').map_or(word.len(), |at| at + 1);
            let start = word[..end].split(' ').next().unwrap_or("");
            assert!(bad.contains(&format!(" {start} ")) || bad.ends_with(start), "{word}");
        }
    }

    #[test]
    fn data_modules() {
        assert_eq!(parse("/x/trace.bin data", &Options::default()), Ok(Role::Data));
        assert_eq!(file_name("/x/trace.bin data"), "trace.bin");
    }

    #[test]
    fn two_dashes_inside_a_word_are_no_end() {
        assert_eq!(split_cmdline("a b--c --d -- e"), ("a b--c --d ", "e"));
        assert_eq!(split_cmdline("a --"), ("a ", ""));
        assert_eq!(split_cmdline("--"), ("", ""));
    }

    #[test]
    fn a_wrong_word_is_named() {
        for (words, named) in [
            ("domain=", "'domain='"),
            ("domain=a/b", "'domain=a/b'"),
            ("domain=12345678901234567890123456789012", "'domain=1"),
            ("domain=a mem=64", "'mem=64'"),
            ("domain=a mem=M", "'mem=M'"),
            ("domain=a mem=1M", "'mem=1M'"),
            ("domain=a mem=2049K", "'mem=2049K'"),
            ("domain=a mem=99999999999999999999G", "'mem=9"),
            ("domain=a mem=+4M", "'mem=+4M'"),
            ("domain=a vcpus=0", "'vcpus=0'"),
            ("domain=a vcpus=129", "'vcpus=129'"),
            ("domain=a cpus=", "'cpus='"),
            ("domain=a cpus=1-0", "'cpus=1-0'"),
            ("domain=a cpus=0-999999999", "'cpus=0-999999999'"),
            ("domain=a gnttab=max_ver:1,colour", "'colour'"),
            ("domain=a gnttab_max_frames=0", "'gnttab_max_frames=0'"),
            ("domain=a restart=", "'restart='"),
            ("domain=a restart=often", "'restart=often'"),
            ("domain=a loglvl=loud", "'loglvl=loud'"),
            ("domain=a data=", "'data='"),
            ("domain=a data", "'data'"),
            ("control data", "'data'"),
            ("domain=a control=1", "'control=1'"),
            ("domain=a memory=64M", "'memory=64M'"),
        ] {
            let string = format!("k {words}");
            let bad = parse(&string, &Options::default()).expect_err(words).to_string();
            assert!(bad.starts_with(named), "{words}: {bad}");
        }
        for string in ["", "k", "k --", "k -- domain=a"] {
            assert_eq!(parse(string, &Options::default()).expect_err(string).word, "", "{string}");
        }
    }

    #[test]
    fn a_domain_cannot_widen_the_host_policy() {
        let options = Options { gnttab: Policy::new(Version::V1, false), ..Options::default() };
        let bad = parse("k domain=a gnttab=transitive", &options).expect_err("wider");
        assert_eq!(bad, BadModule { word: "transitive", why: Why::Grant(BadItem::NotAllowed) });
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            if let Err(bad) = parse(&text, &Options::default()) {
                prop_assert!(!bad.to_string().contains('\n'));
            }
        }

        #[test]
        fn no_value_panics(
            word in "domain|mem|vcpus|cpus|gnttab|gnttab_max_frames|data|--",
            value in "[-a-zA-Z0-9_,:=/ .]*",
        ) {
            let _ = parse(&format!("k domain=a {word}={value}"), &Options::default());
        }
    }
}
