//! The options, one entry each: what a person reads in `docs/command-line.md` beside the code that
//! applies it.
#![forbid(unsafe_code)]

use super::{Com1, CopyKernel, LogLevel, MAX_CPUS, Options, Refused, Report, WhenDone, refuse};

/// One option of the command line.
pub struct OptionSpec {
    /// The word before `=`.
    pub name: &'static str,
    /// How it is written, as the documentation shows it.
    pub form: &'static str,
    /// What holds when it is absent.
    pub default: &'static str,
    /// One line: what it does.
    pub effect: &'static str,
    /// The longer explanation, Markdown.
    pub text: &'static str,
    /// Applies a value (`None`: the word stood without `=`).
    pub(super) apply: fn(&mut Options, Option<&str>, &mut Report<'_>) -> Result<(), Refused>,
}

/// Every option, in the order of the documentation.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "gnttab",
        form: "gnttab=<item>[,<item>...]",
        default: "max_ver:2,transitive",
        effect: "What domains may do with grants.",
        text: "Items, from left to right, the later one winning:\n\n\
               - `max_ver:<1|2>` (also `max-ver:`): the highest grant-table version a domain may set.\n\
               - `transitive`, `no-transitive`, `transitive=<bool>`: whether a version-2 transitive grant \
               may be copied through.\n\
               - `no-transfer`, `transfer=<bool>`: page transfer is for PV guests, which are not supported; \
               asking for it is refused.\n\n\
               A bad item is reported and the others still apply. A module string may carry a `gnttab=` of \
               its own, which can only narrow what this line allows.",
        apply: |options, value, report| {
            let list = value.ok_or(Refused("takes a list of items"))?;
            options.gnttab =
                options.gnttab.parse(list, &mut |item, why| refuse(report, "gnttab=", item, &why));
            Ok(())
        },
    },
    OptionSpec {
        name: "gnttab_max_frames",
        form: "gnttab_max_frames=<count>",
        default: "64",
        effect: "Largest grant table of a domain, in 4 KiB frames.",
        text: "From 1 to 4096. A frame holds 512 version-1 entries or 256 version-2 entries. \
               A module string may set another value for its domain.",
        apply: |options, value, _| {
            options.gnttab_max_frames = number(value, 1, 4096, "takes a count from 1 to 4096")?;
            Ok(())
        },
    },
    OptionSpec {
        name: "gnttab_max_maptrack_frames",
        form: "gnttab_max_maptrack_frames=<count>",
        default: "1024",
        effect: "Most grants a domain may have mapped at once, in frames of 256 handles.",
        text: "From 1 to 1024; the default of 1024 frames is 262,144 handles. Frames are taken as they \
               are needed. A module string may set another value for its domain.",
        apply: |options, value, _| {
            options.gnttab_max_maptrack_frames = number(value, 1, 1024, "takes a count from 1 to 1024")?;
            Ok(())
        },
    },
    OptionSpec {
        name: "loglvl",
        form: "loglvl=none|error|warning|info|debug|all",
        default: "info",
        effect: "The least important line the hypervisor still prints.",
        text: "`all` means `debug`. Panics and the guests' own output are printed at every level. A module string \
               may set another level for lines about its domain.",
        apply: |options, value, _| {
            options.loglvl = value.and_then(LogLevel::parse).ok_or(Refused(LogLevel::WORDS))?;
            Ok(())
        },
    },
    OptionSpec {
        name: "maxcpus",
        form: "maxcpus=<count>",
        default: "256",
        effect: "How many pCPUs to start, the boot CPU counted.",
        text: "From 1 to 256. CPUs beyond the count stay as the firmware left them.",
        apply: |options, value, _| {
            options.maxcpus = number(value, 1, MAX_CPUS, "takes a count from 1 to 256")?;
            Ok(())
        },
    },
    OptionSpec {
        name: "com1",
        form: "com1=<baud>[,8n1[,<port>]]",
        default: "115200,8n1,0x3f8",
        effect: "Speed and I/O port of the serial console.",
        text: "The baud rate must divide 115200. Only 8 data bits, no parity and one stop bit are \
               supported. The port is that of a 16550 in I/O space.",
        apply: |options, value, _| {
            options.com1 = com1(value.unwrap_or(""))?;
            Ok(())
        },
    },
    OptionSpec {
        name: "noreboot",
        form: "noreboot[=<bool>]",
        default: "off",
        effect: "After a panic, stop instead of restarting the machine.",
        text: "Keeps the last lines on the console. A bool is yes/no, on/off, true/false, enable/disable \
               or 1/0.",
        apply: |options, value, _| {
            options.noreboot = match value {
                None => true,
                Some(word) => boolean(word).ok_or(Refused("takes yes or no"))?,
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "copy",
        form: "copy=auto|avx2|sse2|rep",
        default: "auto",
        effect: "Which kernel copies the bytes of a grant copy.",
        text: "`auto` chooses by CPU features and a short measurement at boot, and prints the choice. A \
               kernel the CPU lacks is reported and `auto` is used.",
        apply: |options, value, _| {
            options.copy = match value {
                Some("auto") => CopyKernel::Auto,
                Some("avx2") => CopyKernel::Avx2,
                Some("sse2") => CopyKernel::Sse2,
                Some("rep") => CopyKernel::Rep,
                _ => return Err(Refused("takes auto, avx2, sse2 or rep")),
            };
            Ok(())
        },
    },
    OptionSpec {
        name: "when_done",
        form: "when_done=wait|poweroff|reboot",
        default: "wait",
        effect: "What to do once every domain has shut down.",
        text: "`poweroff` switches the machine off by ACPI S5; `cargo xtask netback` uses it. `wait` \
               leaves the hypervisor idle with its console readable.",
        apply: |options, value, _| {
            options.when_done = match value {
                Some("wait") => WhenDone::Wait,
                Some("poweroff") => WhenDone::Poweroff,
                Some("reboot") => WhenDone::Reboot,
                _ => return Err(Refused("takes wait, poweroff or reboot")),
            };
            Ok(())
        },
    },
];

/// The words for yes and no, as Xen's command line has them.
fn boolean(word: &str) -> Option<bool> {
    match word {
        "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

/// An unsigned number, decimal or `0x` hexadecimal, digits only.
fn digits(word: &str) -> Option<u32> {
    let (digits, radix) = match word.strip_prefix("0x") {
        Some(rest) => (rest, 16),
        None => (word, 10),
    };
    // `from_str_radix` would also take a sign.
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

fn number(value: Option<&str>, least: u32, most: u32, takes: &'static str) -> Result<u32, Refused> {
    value.and_then(digits).filter(|count| (least..=most).contains(count)).ok_or(Refused(takes))
}

fn com1(value: &str) -> Result<Com1, Refused> {
    let mut fields = value.split(',');
    let baud = fields
        .next()
        .and_then(digits)
        .filter(|&baud| baud != 0 && Com1::MAX_BAUD.is_multiple_of(baud) && Com1::MAX_BAUD / baud <= 0xffff)
        .ok_or(Refused("the baud rate must divide 115200"))?;
    if !matches!(fields.next(), None | Some("8n1")) {
        return Err(Refused("only 8n1 is supported after the baud rate"));
    }
    let port = match fields.next() {
        None => Com1::default().port,
        // The 16550 has eight registers.
        Some(word) => digits(word)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|&port| port != 0 && port <= 0xfff8)
            .ok_or(Refused("the port is an I/O address such as 0x3f8"))?,
    };
    match fields.next() {
        None => Ok(Com1 { baud, port }),
        Some(_) => Err(Refused("takes <baud>[,8n1[,<port>]]")),
    }
}
