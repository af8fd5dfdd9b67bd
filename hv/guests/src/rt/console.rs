//! The console: a line is put together and written by one hypercall, so that lines of several domains do
//! not mix.

use core::fmt::{self, Write as _};

use super::{cpu, hypercall};

struct Line {
    bytes: [u8; 1024],
    length: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte is kept for the line's end; what is longer is cut.
        let room = self.bytes.len() - 1 - self.length;
        let taken = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.length..][..taken.len()].copy_from_slice(taken);
        self.length += taken.len();
        Ok(())
    }
}

/// Prints one line; see [`say!`](crate::say).
pub fn line(words: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 1024], length: 0 };
    // Writing to the buffer cannot fail; a formatter that does leaves what it has written.
    let _ = line.write_fmt(words);
    line.bytes[line.length] = b'\n';
    let line = &line.bytes[..=line.length];
    if !hypercall::console_write(line) {
        // Xen's release builds let only dom0 write there; for others Xen has the port that Bochs had.
        line.iter().for_each(|&byte| cpu::debug_port(byte));
    }
}
