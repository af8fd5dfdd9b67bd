//! `terminal`: a guest at its console ring, for tests of the console. `mode=`
//!
//! - `echo`: says `@heard` and each line that is typed, byte by byte as the shell of a kernel would, until one is
//!   `exit`;
//! - `deaf`: reads nothing until its ring is full, and then a while longer; then counts what it can read;
//! - `flood`: prints 4000 numbered lines through the ring as fast as it can;
//! - `indexes`: puts numbers without sense into all four indexes, again and again, while somebody types.
#![no_std]
#![no_main]

use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use hv::abi::io::console as ring;
use tollgate_guests::options::Options;
use tollgate_guests::rt::terminal::Terminal;
use tollgate_guests::rt::{boot, clock, events};
use tollgate_guests::{fail, guest, say};

guest!(main);

/// The longest sleep without input.
const NAP: u64 = 100_000_000;

/// Writes to the ring what is formatted.
struct Out<'a>(&'a Terminal);

impl core::fmt::Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn main() {
    let options = Options::parse(boot::cmdline()).unwrap_or_else(|bad| fail!("{bad}"));
    let terminal = Terminal::open();
    match options.mode {
        "echo" => echo(&terminal),
        "deaf" => deaf(&terminal),
        "flood" => flood(&terminal),
        "indexes" => indexes(&terminal),
        other => fail!("command line: no mode `{other}`"),
    }
    say!("@result {{\"role\":\"terminal\",\"mode\":\"{}\",\"ok\":true}}", options.mode);
}

fn sleep(terminal: &Terminal) {
    events::poll(&[terminal.port], clock::now() + NAP);
}

fn echo(terminal: &Terminal) {
    say!("terminal: listening");
    let mut line = [0; 256];
    let mut length = 0;
    loop {
        let mut byte = [0];
        if terminal.read(&mut byte) == 0 {
            sleep(terminal);
            continue;
        }
        if byte != *b"\n" && byte != *b"\r" {
            terminal.write(&byte);
            if length < line.len() {
                line[length] = byte[0];
                length += 1;
            }
            continue;
        }
        // The bytes themselves have been printed: now as text that can be told from them.
        let heard = line[..length].escape_ascii();
        let _ = writeln!(Out(terminal), "\n@heard {heard}");
        if line[..length] == *b"exit" {
            return;
        }
        length = 0;
    }
}

fn deaf(terminal: &Terminal) {
    say!("terminal: does not listen");
    while terminal.waiting() < 1024 {
        sleep(terminal);
    }
    let until = clock::now() + 1_000_000_000;
    while clock::now() < until {
        events::poll(&[terminal.port], until);
    }
    let mut all = 0_usize;
    let mut bytes = [0; 100];
    loop {
        let read = terminal.read(&mut bytes);
        // What is typed are the letters from a to y, over and over.
        for (place, &byte) in (all..).zip(&bytes[..read]) {
            if usize::from(byte) != usize::from(b'a') + place % 25 {
                fail!("byte {place} of the input is {byte:#x}");
            }
        }
        all += read;
        if read == 0 {
            break;
        }
    }
    if all < 2048 {
        fail!("only {all} bytes were kept");
    }
    say!("terminal: {all} bytes");
}

fn flood(terminal: &Terminal) {
    for number in 0..4000 {
        let _ = writeln!(Out(terminal), "flood {number}: one of many lines that are printed in a hurry");
    }
}

fn indexes(terminal: &Terminal) {
    say!("terminal: begins");
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        u32::try_from(number >> 32).unwrap_or(0)
    };
    let deadline = clock::now() + 1_500_000_000;
    let all = [ring::IN_CONS, ring::IN_PROD, ring::OUT_CONS, ring::OUT_PROD];
    while clock::now() < deadline {
        for index in all {
            // Far off, or off by a little.
            let value = if random().is_multiple_of(2) { random() } else { 1020 + random() % 2080 };
            terminal.word(index).store(value, Ordering::Relaxed);
        }
        events::send(terminal.port);
    }
    for index in all {
        terminal.word(index).store(0, Ordering::Relaxed);
    }
    terminal.write(b"\nterminal: and all is well\n");
}
