//! The console: the hypervisor's log and the guests' output, line by line on the serial port.
//!
//! Log with [`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info) and
//! [`debug!`](crate::debug); what a guest can provoke goes through
//! [`rate_limited!`](crate::rate_limited). The hypervisor's lines begin with `(hv) `, a guest's with
//! `(d1 name) `, and a line is never torn by another.
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

pub use crate::cmdline::LogLevel;
use crate::{arch::x86::time, cmdline::Com1};

static PORT: Mutex<Port> = Mutex::new(Port::NONE);
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
/// A panic owns the console: everybody else's lines are dropped.
static SEIZED: AtomicBool = AtomicBool::new(false);
/// The panic found the lock held, and goes round it.
static STUCK: AtomicBool = AtomicBool::new(false);

#[cfg(feature = "bare-metal")]
type Port = Serial;
#[cfg(not(feature = "bare-metal"))]
type Port = HostOutput;

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
    *PORT.lock() = Port::open(com1);
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Lets the port raise its interrupt for each byte received; false when there is no port.
pub fn enable_receive() -> bool {
    PORT.lock().enable_receive()
}

/// Reads what has come. The port is emptied, or it would not raise its interrupt again; what finds no room in
/// `bytes` is dropped.
pub fn receive<const ROOM: usize>(bytes: &mut ArrayVec<u8, ROOM>) {
    /// A port that has more than this at once is broken.
    const AT_MOST: usize = 4096;
    let port = PORT.lock();
    for byte in core::iter::from_fn(|| port.receive()).take(AT_MOST) {
        // No room: dropped.
        let _ = bytes.try_push(byte);
    }
}

/// Prints one line at a level; the macros' other half.
pub fn log(level: LogLevel, line: fmt::Arguments<'_>) {
    if level as u8 > LEVEL.load(Ordering::Relaxed) || SEIZED.load(Ordering::Relaxed) {
        return;
    }
    let kind = match level {
        LogLevel::Error => "error: ",
        LogLevel::Warning => "warning: ",
        LogLevel::None | LogLevel::Info | LogLevel::Debug => "",
    };
    // A port cannot fail; an argument's own formatting error cuts the line short.
    let _ = writeln!(PORT.lock(), "(hv) {kind}{line}");
}

/// Prints one line of a panic, whoever holds the console.
pub fn panic_line(line: fmt::Arguments<'_>) {
    SEIZED.store(true, Ordering::Relaxed);
    // Once the lock's holder is known to be stopped, or to be this very CPU, nobody waits for it again.
    let patience = if STUCK.load(Ordering::Relaxed) { 1 } else { 1_000_000 };
    for _ in 0..patience {
        if let Some(mut port) = PORT.try_lock() {
            let _ = writeln!(port, "(hv) {line}");
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

/// The unfinished line of a domain's console.
#[derive(Debug, Default)]
pub struct GuestLine {
    bytes: Mutex<ArrayVec<u8, GUEST_LINE>>,
}

impl GuestLine {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Mutex::new(ArrayVec::new_const()) }
    }

    /// Takes bytes, handing each finished line to `print`, made printable.
    fn push(&self, bytes: &[u8], print: &mut dyn FnMut(&str)) {
        let mut line = self.bytes.lock();
        for &byte in bytes {
            let shown = match byte {
                b' '..=b'~' | b'\t' => byte,
                b'\r' | 0 => continue,
                b'\n' => b'\n',
                // No escape sequences: they could rewrite other domains' lines on a terminal.
                _ => b'?',
            };
            if shown == b'\n' || line.is_full() {
                print(core::str::from_utf8(&line).unwrap_or(""));
                line.clear();
            }
            if shown != b'\n' {
                line.push(shown);
            }
        }
    }
}

/// Bytes a guest wrote to its console: printed as whole lines that begin with `(d1 name) `.
/// `buffer` is the domain's own partial line.
pub fn guest_write(buffer: &GuestLine, domid: u16, name: &str, bytes: &[u8]) {
    buffer.push(bytes, &mut |line| {
        if !SEIZED.load(Ordering::Relaxed) {
            let _ = writeln!(PORT.lock(), "(d{domid} {name}) {line}");
        }
    });
}

/// Prints what is left of a guest's last line, at the domain's end.
pub fn guest_flush(buffer: &GuestLine, domid: u16, name: &str) {
    if !buffer.bytes.lock().is_empty() {
        guest_write(buffer, domid, name, b"\n");
    }
}

/// Logs at error level.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Error, format_args!($($arg)*)) };
}

/// Logs at warning level.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Warning, format_args!($($arg)*)) };
}

/// Logs at info level.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Info, format_args!($($arg)*)) };
}

/// Logs at debug level.
#[macro_export]
macro_rules! debug {
    ($($arg:tt)*) => { $crate::dev::console::log($crate::cmdline::LogLevel::Debug, format_args!($($arg)*)) };
}

/// Logs through one of the level macros, at most ten lines a second from this place:
/// `rate_limited!(warn, "d{} did {}", domid, what)`.
#[macro_export]
macro_rules! rate_limited {
    ($level:ident, $($arg:tt)*) => {{
        static LIMIT: $crate::dev::console::RateLimit = $crate::dev::console::RateLimit::new();
        match LIMIT.allow() {
            None => {}
            Some(0) => $crate::$level!($($arg)*),
            Some(left_out) => $crate::$level!("{} ({left_out} like it left out)", format_args!($($arg)*)),
        }
    }};
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
        line.push(bytes, &mut |text| lines.push(text.into()));
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
    fn a_rate_limit_counts_what_it_refused() {
        let limit = RateLimit::new();
        let said = |second, asked: u32| (0..asked).filter_map(|_| limit.allow_at(second)).collect::<Vec<_>>();
        assert_eq!(said(1, 25), [0; 10]);
        assert_eq!(said(2, 2), [15, 0]);
    }
}
