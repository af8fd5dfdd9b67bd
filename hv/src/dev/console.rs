//! The console: the hypervisor's log and the guests' output, line by line on the serial port.
//!
//! Log with [`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info) and
//! [`debug!`](crate::debug); what a guest can provoke goes through
//! [`rate_limited!`](crate::rate_limited). The hypervisor's lines begin with `(hv) `, a guest's with
//! `(d1 name) `, and a line is never torn by another.
//!
//! The domain that has the input ([`input`](super::input)) is shown at once, without waiting for the end of its
//! line, and may use control characters, which whoever typed there asked for. If somebody else's line comes
//! between, its own begins anew below.
//!
//! One lock guards the port. It is taken with interrupts off and never by an NMI or machine-check
//! handler, so its holder always goes on to release it; a panic, which may have struck the holder
//! itself, waits a bounded time and then writes regardless.
//!
//! On a host there is no port: lines go to the test's output, or nowhere.
#![forbid(unsafe_code)]

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use arrayvec::ArrayVec;
use spin::Mutex;

use super::input;
pub use crate::cmdline::LogLevel;
use crate::{arch::x86::time, cmdline::Com1};

static PORT: Mutex<Console> = Mutex::new(Console { port: Port::NONE, open: None });
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
/// A panic owns the console: everybody else's lines are dropped.
static SEIZED: AtomicBool = AtomicBool::new(false);
/// The panic found the lock held, and goes round it.
static STUCK: AtomicBool = AtomicBool::new(false);

#[cfg(feature = "bare-metal")]
type Port = Serial;
#[cfg(not(feature = "bare-metal"))]
type Port = HostOutput;

/// The port and the line that stands there.
struct Console {
    port: Port,
    /// The domain whose line has been begun and not ended.
    open: Option<u16>,
}

impl Console {
    /// Prints one line.
    fn line(&mut self, line: fmt::Arguments<'_>) {
        // A port cannot fail; an argument's own formatting error cuts the line short.
        if self.open.take().is_some() {
            let _ = writeln!(self.port);
        }
        let _ = writeln!(self.port, "{line}");
    }

    /// Prints a guest's line, `shown` bytes of which stand there if nobody has come between.
    fn guest(&mut self, who: Guest<'_>, line: &[u8], shown: usize, ends: bool) {
        let mut from = shown;
        if self.open != Some(who.domid) {
            if self.open.is_some() {
                let _ = writeln!(self.port);
            }
            let _ = write!(self.port, "(d{} {}) ", who.domid, who.name);
            from = 0;
        }
        self.port.bytes(line.get(from..).unwrap_or(&[]));
        self.open = if ends {
            let _ = writeln!(self.port);
            None
        } else {
            Some(who.domid)
        };
    }
}

/// The serial port, when there is one.
#[cfg(feature = "bare-metal")]
struct Serial(Option<super::uart::Uart>);

#[cfg(feature = "bare-metal")]
impl Serial {
    const NONE: Self = Self(None);

    fn open(com1: Com1) -> Self {
        Self(super::uart::Uart::new(com1))
    }

    /// A second way to the port that another one is open to.
    const fn bypass(com1: Com1) -> Self {
        Self(Some(super::uart::Uart::opened(com1)))
    }

    fn enable_receive(&self) -> bool {
        self.0.as_ref().map(super::uart::Uart::enable_receive).is_some()
    }

    fn receive(&self) -> Option<u8> {
        self.0.as_ref()?.receive()
    }

    fn bytes(&self, bytes: &[u8]) {
        if let Some(uart) = &self.0 {
            bytes.iter().for_each(|&byte| uart.send(byte));
        }
    }
}

#[cfg(feature = "bare-metal")]
impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.as_mut().map_or(Ok(()), |uart| uart.write_str(text))
    }
}

/// Where lines go on a host.
#[cfg(not(feature = "bare-metal"))]
struct HostOutput;

#[cfg(not(feature = "bare-metal"))]
impl HostOutput {
    const NONE: Self = Self;

    const fn open(_: Com1) -> Self {
        Self
    }

    const fn bypass(_: Com1) -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "as the serial port's")]
    const fn enable_receive(&self) -> bool {
        false
    }

    #[expect(clippy::unused_self, reason = "as the serial port's")]
    const fn receive(&self) -> Option<u8> {
        None
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let _ = self.write_char(char::from(*byte));
        }
    }
}

#[cfg(not(feature = "bare-metal"))]
impl Write for HostOutput {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        #[cfg(test)]
        {
            extern crate std;
            std::print!("{text}");
        }
        let _ = text;
        Ok(())
    }
}

/// Opens the port and sets the level; may be called again with what the command line says.
pub fn init(com1: Com1, level: LogLevel) {
    PORT.lock().port = Port::open(com1);
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Lets the port raise its interrupt for each byte received; false when there is no port.
pub fn enable_receive() -> bool {
    PORT.lock().port.enable_receive()
}

/// Reads what has come, as much as there is room for in `bytes`. The port raises no other interrupt until it has
/// been emptied.
pub fn receive<const ROOM: usize>(bytes: &mut ArrayVec<u8, ROOM>) {
    let console = PORT.lock();
    let room = bytes.remaining_capacity();
    bytes.extend(core::iter::from_fn(|| console.port.receive()).take(room));
}

/// Prints one line at a level; the macros' other half.
pub fn log(level: LogLevel, line: fmt::Arguments<'_>) {
    if level as u8 <= LEVEL.load(Ordering::Relaxed) {
        print(level, line);
    }
}

/// The same for a line about a domain, which has its own least important one.
pub fn log_of(least: LogLevel, level: LogLevel, line: fmt::Arguments<'_>) {
    if level <= least {
        print(level, line);
    }
}

fn print(level: LogLevel, line: fmt::Arguments<'_>) {
    if SEIZED.load(Ordering::Relaxed) {
        return;
    }
    let kind = match level {
        LogLevel::Error => "error: ",
        LogLevel::Warning => "warning: ",
        LogLevel::None | LogLevel::Info | LogLevel::Debug => "",
    };
    PORT.lock().line(format_args!("(hv) {kind}{line}"));
}

/// Prints one line of a panic, whoever holds the console.
pub fn panic_line(line: fmt::Arguments<'_>) {
    SEIZED.store(true, Ordering::Relaxed);
    // Once the lock's holder is known to be stopped, or to be this very CPU, nobody waits for it again.
    let patience = if STUCK.load(Ordering::Relaxed) { 1 } else { 1_000_000 };
    for _ in 0..patience {
        if let Some(mut console) = PORT.try_lock() {
            console.line(format_args!("(hv) {line}"));
            return;
        }
        core::hint::spin_loop();
    }
    let mut port = Port::bypass(crate::panic::com1());
    if !STUCK.swap(true, Ordering::Relaxed) {
        // Whatever it was printing ends here.
        let _ = writeln!(port);
    }
    let _ = writeln!(port, "(hv) {line}");
}

/// The longest line of a guest; what is longer becomes several.
const GUEST_LINE: usize = 2048;

/// Whose output it is.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The domain's number.
    pub domid: u16,
    /// Its name.
    pub name: &'a str,
    /// It is shown only while it has the input.
    pub silent: bool,
}

/// The unfinished line of a domain's console.
#[derive(Debug, Default)]
pub struct GuestLine(Mutex<Unfinished>);

#[derive(Debug, Default)]
struct Unfinished {
    bytes: ArrayVec<u8, GUEST_LINE>,
    /// How many of them have been printed.
    shown: usize,
}

impl GuestLine {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Unfinished { bytes: ArrayVec::new_const(), shown: 0 }))
    }

    /// Takes bytes and hands lines to `print`: each with how much of it was printed before and whether it is at
    /// its end. Lines are made printable; a `live` one is not, and is handed over before its end as well.
    fn push(&self, bytes: &[u8], live: bool, print: &mut dyn FnMut(&[u8], usize, bool)) {
        let mut line = self.0.lock();
        for &byte in bytes {
            let shown = match byte {
                b' '..=b'~' | b'\t' | b'\n' => byte,
                0 => continue,
                _ if live => byte,
                b'\r' => continue,
                // No escape sequences: they could rewrite other domains' lines on a terminal.
                _ => b'?',
            };
            if shown == b'\n' || line.bytes.is_full() {
                print(&line.bytes, line.shown, true);
                *line = Unfinished::default();
            }
            if shown != b'\n' {
                line.bytes.push(shown);
            }
        }
        if live && line.shown < line.bytes.len() {
            print(&line.bytes, line.shown, false);
            line.shown = line.bytes.len();
        }
    }
}

/// Bytes a guest wrote to its console: printed as whole lines that begin with `(d1 name) `, or at once for the
/// domain that has the input. `buffer` is the domain's own partial line.
pub fn guest_write(buffer: &GuestLine, who: Guest<'_>, bytes: &[u8]) {
    let focus = input::has_focus(who.domid);
    buffer.push(bytes, focus, &mut |line, shown, ends| {
        if (focus || !who.silent) && !SEIZED.load(Ordering::Relaxed) {
            PORT.lock().guest(who, line, shown, ends);
        }
    });
}

/// Prints what is left of a guest's last line, at the domain's end.
pub fn guest_flush(buffer: &GuestLine, who: Guest<'_>) {
    if !buffer.0.lock().bytes.is_empty() {
        guest_write(buffer, who, b"\n");
    }
}

/// Logs at error level; `error!(of domain; ...)` says it of a domain ([`log_of`](crate::dev::console::log_of)).
#[macro_export]
macro_rules! error {
    (of $domain:expr; $($arg:tt)*) => {
        $crate::dev::console::log_of($domain.loglvl, $crate::cmdline::LogLevel::Error, format_args!($($arg)*))
    };
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Error, format_args!($($arg)*)) };
}

/// Logs at warning level; `warn!(of domain; ...)` says it of a domain ([`log_of`](crate::dev::console::log_of)).
#[macro_export]
macro_rules! warn {
    (of $domain:expr; $($arg:tt)*) => {
        $crate::dev::console::log_of($domain.loglvl, $crate::cmdline::LogLevel::Warning, format_args!($($arg)*))
    };
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Warning, format_args!($($arg)*)) };
}

/// Logs at info level; `info!(of domain; ...)` says it of a domain ([`log_of`](crate::dev::console::log_of)).
#[macro_export]
macro_rules! info {
    (of $domain:expr; $($arg:tt)*) => {
        $crate::dev::console::log_of($domain.loglvl, $crate::cmdline::LogLevel::Info, format_args!($($arg)*))
    };
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Info, format_args!($($arg)*)) };
}

/// Logs at debug level; `debug!(of domain; ...)` says it of a domain ([`log_of`](crate::dev::console::log_of)).
#[macro_export]
macro_rules! debug {
    (of $domain:expr; $($arg:tt)*) => {
        $crate::dev::console::log_of($domain.loglvl, $crate::cmdline::LogLevel::Debug, format_args!($($arg)*))
    };
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Debug, format_args!($($arg)*)) };
}

/// Logs through one of the level macros, at most ten lines a second from this place:
/// `rate_limited!(warn, of domain; "d{} did {}", domain.id.0, what)`.
#[macro_export]
macro_rules! rate_limited {
    (@ $level:ident, [$($of:tt)*], $($arg:tt)*) => {{
        static LIMIT: $crate::dev::console::RateLimit = $crate::dev::console::RateLimit::new();
        match LIMIT.allow() {
            None => {}
            Some(0) => $crate::$level!($($of)* $($arg)*),
            Some(left_out) => {
                $crate::$level!($($of)* "{} ({left_out} like it left out)", format_args!($($arg)*));
            }
        }
    }};
    ($level:ident, of $domain:expr; $($arg:tt)*) => {
        $crate::rate_limited!(@ $level, [of $domain;], $($arg)*)
    };
    ($level:ident, $($arg:tt)*) => { $crate::rate_limited!(@ $level, [], $($arg)*) };
}

/// The state behind one [`rate_limited!`](crate::rate_limited). CPUs may race on it: the count is then a
/// little off, which is all right for a limit on noise.
#[derive(Debug)]
pub struct RateLimit {
    /// The second the count belongs to.
    second: AtomicU64,
    /// Lines asked for in that second.
    asked: AtomicU32,
}

impl RateLimit {
    /// Lines a second.
    const LINES: u32 = 10;

    /// Nothing said yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "made by the macro only")]
    pub const fn new() -> Self {
        Self { second: AtomicU64::new(0), asked: AtomicU32::new(0) }
    }

    /// Whether another line may be printed: how many were refused since the last one, or `None`.
    #[must_use]
    pub fn allow(&self) -> Option<u32> {
        self.allow_at(time::now_ns() / 1_000_000_000)
    }

    fn allow_at(&self, second: u64) -> Option<u32> {
        if self.second.swap(second, Ordering::Relaxed) != second {
            let asked = self.asked.swap(1, Ordering::Relaxed);
            return Some(asked.saturating_sub(Self::LINES));
        }
        let before = self.asked.fetch_add(1, Ordering::Relaxed);
        (before < Self::LINES).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::String, vec::Vec};

    use super::*;

    fn lines(line: &GuestLine, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        line.push(bytes, false, &mut |text, shown, ends| {
            assert!(shown == 0 && ends);
            lines.push(String::from_utf8_lossy(text).into());
        });
        lines
    }

    #[test]
    fn guest_lines_are_whole_and_printable() {
        let line = GuestLine::new();
        assert_eq!(lines(&line, b"@result {"), [""; 0]);
        assert_eq!(lines(&line, b"}\r\n\nnext\x1b[2J"), ["@result {}", ""]);
        assert_eq!(lines(&line, b"\n"), ["next?[2J"]);
        let long = lines(&line, &[b'x'; GUEST_LINE + 3]);
        assert_eq!(long.len(), 1);
        assert_eq!(lines(&line, b"\n"), ["xxx"]);
    }

    #[test]
    fn a_live_line_is_shown_as_it_grows() {
        let line = GuestLine::new();
        let mut calls = Vec::new();
        let mut push = |bytes, live| {
            line.push(bytes, live, &mut |text, shown, ends| {
                calls.push((String::from_utf8_lossy(text).into_owned(), shown, ends));
            });
        };
        push(b"/ # ", false);
        push(b"ls\x08", true);
        push(b"", true);
        push(b"\nab\n# ", true);
        let call = |text: &str, shown, ends| (text.into(), shown, ends);
        assert_eq!(
            calls,
            [
                call("/ # ls\x08", 0, false),
                call("/ # ls\x08", 7, true),
                call("ab", 0, true),
                call("# ", 0, false)
            ]
        );
    }

    #[test]
    fn a_rate_limit_counts_what_it_refused() {
        let limit = RateLimit::new();
        let said = |second, asked: u32| (0..asked).filter_map(|_| limit.allow_at(second)).collect::<Vec<_>>();
        assert_eq!(said(1, 25), [0; 10]);
        assert_eq!(said(2, 2), [15, 0]);
    }
}
