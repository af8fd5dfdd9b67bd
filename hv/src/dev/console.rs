//! The console: the hypervisor's log and the guests' output, line by line on the serial port.
//!
//! Log with [`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info) and
//! [`debug!`](crate::debug); what a guest can provoke goes through
//! [`rate_limited!`](crate::rate_limited).

use core::fmt;

pub use crate::cmdline::LogLevel;

/// Prints one line at a level; the macros' other half.
pub fn log(level: LogLevel, line: fmt::Arguments<'_>) {
    let _ = (level, line);
    todo!()
}

/// Bytes a guest wrote to its console: printed as whole lines that begin with `(d1 name) `.
/// `buffer` is the domain's own partial line.
pub fn guest_write(buffer: &GuestLine, domid: u16, name: &str, bytes: &[u8]) {
    let _ = (buffer, domid, name, bytes);
    todo!()
}

/// The unfinished line of a domain's console.
#[derive(Debug, Default)]
pub struct GuestLine {}

impl GuestLine {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
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
        if LIMIT.allow() {
            $crate::$level!($($arg)*);
        }
    }};
}

/// The state behind one [`rate_limited!`](crate::rate_limited).
#[derive(Debug)]
pub struct RateLimit {}

impl RateLimit {
    /// Nothing said yet.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "made by the macro only")]
    pub const fn new() -> Self {
        Self {}
    }

    /// Whether another line may be printed.
    #[must_use]
    pub fn allow(&self) -> bool {
        todo!()
    }
}
