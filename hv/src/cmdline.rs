//! The hypervisor's command line.
//!
//! [`OPTIONS`] is the one table: [`parse`] walks it, `docs/command-line.md` is printed from it
//! (`cargo xtask docs`) and a test keeps the two equal. An option is a word `name`, or
//! `name=value`; words are parted by blanks. When an option stands twice the later word wins, except
//! for `gnttab=`, whose items add up from left to right.
//!
//! A word that is not understood costs exactly one report line, beginning with [`BAD_OPTION`], and has no
//! other effect: the rest of the line still applies and the boot goes on. A machine that stays dark
//! because of a typing error is worse than one that runs with a default, and the line says which word
//! was dropped. The host tools look for [`BAD_OPTION`] in the console output and fail.
//!
//! The text comes from whoever controls the boot loader, so it is trusted, but it may be damaged:
//! nothing here panics or loops beyond the text's length (property test below). Parsing happens once on
//! the boot CPU and allocates nothing.
#![forbid(unsafe_code)]

use core::fmt;

use gnttab_fast::policy::Policy;

mod table;

pub use table::{OPTIONS, OptionSpec};

/// How every report of a refused word begins.
pub const BAD_OPTION: &str = "bad option";

/// The most pCPUs the hypervisor brings up.
pub const MAX_CPUS: u32 = 256;

/// What the command line asked for; [`Options::default`] is an empty line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// `gnttab=`: what domains may do with grants unless their module narrows it.
    pub gnttab: Policy,
    /// `gnttab_max_frames=`: grant-table frames a domain may have unless its module says otherwise.
    pub gnttab_max_frames: u32,
    /// `gnttab_max_maptrack_frames=`: maptrack frames (256 handles each) a domain may have.
    pub gnttab_max_maptrack_frames: u32,
    /// `loglvl=`: the least important line that is still printed.
    pub loglvl: LogLevel,
    /// `maxcpus=`: how many pCPUs to start, the boot CPU counted.
    pub maxcpus: u32,
    /// `com1=`: the console's serial port.
    pub com1: Com1,
    /// `noreboot`: stop after a panic instead of restarting the machine.
    pub noreboot: bool,
    /// `copy=`: the copy kernel of the grant path.
    pub copy: CopyKernel,
    /// `when_done=`: what to do once every domain has shut down.
    pub when_done: WhenDone,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gnttab: Policy::HOST_DEFAULT,
            gnttab_max_frames: 64,
            gnttab_max_maptrack_frames: 1024,
            loglvl: LogLevel::Info,
            maxcpus: MAX_CPUS,
            com1: Com1::default(),
            noreboot: false,
            copy: CopyKernel::Auto,
            when_done: WhenDone::Wait,
        }
    }
}

/// Console levels, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Only panics and guest output.
    None = 0,
    /// What needs a person.
    Error = 1,
    /// What works, but not as asked.
    Warning = 2,
    /// The story of the boot and of the domains.
    Info = 3,
    /// Details for those who work on the hypervisor.
    Debug = 4,
}

impl LogLevel {
    /// What is said of a word that is none of them.
    pub const WORDS: &str = "takes none, error, warning, info, debug or all";

    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "none" => Self::None,
            "error" => Self::Error,
            "warning" => Self::Warning,
            "info" => Self::Info,
            "debug" | "all" => Self::Debug,
            _ => return None,
        })
    }
}

/// The serial console: 8 data bits, no parity, one stop bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Com1 {
    /// Baud rate; a divisor of 115200.
    pub baud: u32,
    /// First I/O port of the 16550.
    pub port: u16,
}

impl Com1 {
    /// The rate of a 16550 with divisor 1.
    pub const MAX_BAUD: u32 = 115_200;
}

impl Default for Com1 {
    fn default() -> Self {
        Self { baud: Self::MAX_BAUD, port: 0x3f8 }
    }
}

/// `copy=`: which kernel copies the bytes of a grant copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKernel {
    /// By CPU features and a short measurement at boot.
    Auto,
    /// 256-bit vectors.
    Avx2,
    /// 128-bit vectors.
    Sse2,
    /// `REP MOVSB`.
    Rep,
}

/// `when_done=`: the end of the last domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDone {
    /// Idle, with the console still readable.
    Wait,
    /// Switch the machine off (ACPI S5).
    Poweroff,
    /// Restart the machine.
    Reboot,
}

/// Why a word was refused: ends the sentence "bad option 'WORD': ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// Where refused words are told; one call is one line, without the newline.
pub type Report<'a> = dyn FnMut(fmt::Arguments<'_>) + 'a;

/// Reads a command line. `text` holds options only: a loader that puts the image's name in front
/// (multiboot does) has it cut off by the boot code.
pub fn parse(text: &str, report: &mut Report<'_>) -> Options {
    let mut options = Options::default();
    for word in text.split_ascii_whitespace() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        match OPTIONS.iter().find(|spec| spec.name == name) {
            None => refuse(report, "", word, &"no such option (docs/command-line.md lists them)"),
            Some(spec) => {
                if let Err(Refused(why)) = (spec.apply)(&mut options, value, report) {
                    refuse(report, "", word, &why);
                }
            }
        }
    }
    options
}

/// One line about one word, or about one item of a word that begins with `option`; anything unprintable
/// is escaped and overlong words are cut.
fn refuse(report: &mut Report<'_>, option: &str, word: &str, why: &dyn fmt::Display) {
    /// Enough to recognise a word by, short enough for one console line.
    const SHOWN: usize = 60;
    let mut end = word.len().min(SHOWN);
    while !word.is_char_boundary(end) {
        end -= 1;
    }
    let dots = if end < word.len() { "..." } else { "" };
    report(format_args!("{BAD_OPTION} '{option}{}{dots}': {why}", word[..end].escape_debug()));
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn run(text: &str) -> (Options, Vec<String>) {
        let mut lines = Vec::new();
        let options = parse(text, &mut |line| lines.push(line.to_string()));
        (options, lines)
    }

    fn good(text: &str) -> Options {
        let (options, lines) = run(text);
        assert_eq!(lines, Vec::<String>::new(), "{text}");
        options
    }

    #[test]
    fn an_empty_line_is_the_default() {
        assert_eq!(good(""), Options::default());
        assert_eq!(good(" \t \n"), Options::default());
    }

    #[test]
    fn every_option_is_understood() {
        let options = good(
            "gnttab_max_frames=32 gnttab_max_maptrack_frames=0x10 loglvl=debug maxcpus=2 \
             com1=57600,8n1,0x2f8 noreboot copy=sse2 when_done=poweroff",
        );
        assert_eq!(options.gnttab_max_frames, 32);
        assert_eq!(options.gnttab_max_maptrack_frames, 16);
        assert_eq!(options.loglvl, LogLevel::Debug);
        assert_eq!(options.maxcpus, 2);
        assert_eq!(options.com1, Com1 { baud: 57600, port: 0x2f8 });
        assert!(options.noreboot);
        assert_eq!(options.copy, CopyKernel::Sse2);
        assert_eq!(options.when_done, WhenDone::Poweroff);
    }

    #[test]
    fn the_later_word_wins() {
        assert_eq!(good("maxcpus=2 maxcpus=3").maxcpus, 3);
        assert!(!good("noreboot noreboot=off").noreboot);
        assert_eq!(good("com1=9600,8n1,0x2f8 com1=19200").com1, Com1 { baud: 19200, port: 0x3f8 });
    }

    #[test]
    fn a_refused_word_costs_one_line_and_nothing_else() {
        for bad in [
            "colour=blue",
            "maxcpu=2",
            "maxcpus",
            "maxcpus=",
            "maxcpus=0",
            "maxcpus=two",
            "maxcpus=-1",
            "maxcpus=99999999999999999999",
            "MAXCPUS=1",
            "loglvl=loud",
            "loglvl",
            "com1=",
            "com1=0",
            "com1=7",
            "com1=9600,7e1",
            "com1=9600,8n1,0x1ffff",
            "com1=9600,8n1,0xfff9",
            "com1=9600,8n1,0x3f8,4",
            "noreboot=maybe",
            "copy=mmx",
            "when_done=party",
            "gnttab_max_frames=0",
            "gnttab_max_frames=1000000",
            "gnttab_max_maptrack_frames=0x",
            "gnttab",
            "gnttab=",
            "gnttab=fast",
            "gnttab=max_ver:3",
            "gnttab=max-ver=2",
            "gnttab=no-transitive=1",
            "gnttab=transfer",
            "=",
            "=1",
        ] {
            let (options, lines) = run(&std::format!("{bad} loglvl=none"));
            assert_eq!(lines.len(), 1, "{bad}: {lines:?}");
            assert!(lines[0].starts_with(&std::format!("{BAD_OPTION} '{bad}': ")), "{lines:?}");
            assert_eq!(options, Options { loglvl: LogLevel::None, ..Options::default() }, "{bad}");
        }
    }

    #[test]
    fn the_items_of_gnttab_add_up_and_bad_ones_are_dropped() {
        use gnttab_fast::policy::Version;

        assert_eq!(good("gnttab=max_ver:1,no-transitive").gnttab, Policy::new(Version::V1, false));
        assert_eq!(good("gnttab=max-ver:1 gnttab=transitive=off").gnttab, Policy::new(Version::V1, false));
        assert_eq!(good("gnttab=no-transitive gnttab=transitive").gnttab, Policy::HOST_DEFAULT);
        let (options, lines) = run("gnttab=max_ver:1,colour,max_ver:7,no-transitive");
        assert_eq!(options.gnttab, Policy::new(Version::V1, false));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("bad option 'gnttab=colour': "), "{lines:?}");
        assert!(lines[1].starts_with("bad option 'gnttab=max_ver:7': "), "{lines:?}");
    }

    #[test]
    fn a_report_is_one_short_printable_line() {
        let (_, lines) = run(&std::format!("\u{1b}[2J{}", "\u{e9}".repeat(500)));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].chars().count() < 140, "{}", lines[0]);
        assert!(!lines[0].contains('\u{1b}'));
    }

    #[test]
    fn the_table_has_no_twins() {
        for (at, spec) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS[..at].iter().all(|other| other.name != spec.name), "{}", spec.name);
            assert!(spec.form.starts_with(spec.name), "{}", spec.name);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            run(&text);
        }

        #[test]
        fn no_value_panics(index in 0..OPTIONS.len(), value in "[-a-z0-9_,:=x/ ]*") {
            let (_, lines) = run(&std::format!("{}={value}", OPTIONS[index].name));
            for line in lines {
                prop_assert!(line.starts_with(BAD_OPTION), "{}", line);
            }
        }
    }
}
