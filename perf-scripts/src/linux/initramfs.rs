//! An initramfs: a cpio archive in the "newc" format (Linux's Documentation/driver-api/early-userspace/
//! buffer-format.rst), not compressed, since a guest unpacks it faster than it inflates it.

use std::collections::BTreeSet;

/// Regular file, directory, symbolic link, character device.
const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
    names: BTreeSet<String>,
}

impl Initramfs {
    /// A directory.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, &[], (0, 0));
    }

    /// A file that may be run.
    pub fn program(&mut self, name: &str, bytes: &[u8]) {
        self.entry(name, FILE | 0o755, bytes, (0, 0));
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, to: &str) {
        self.entry(name, LINK | 0o777, to.as_bytes(), (0, 0));
    }

    /// A character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, DEVICE | 0o600, &[], (major, minor));
    }

    /// Whether there is an entry of that name.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        self.entries += 1;
        self.names.insert(name.to_owned());
        // Sizes are far below 4 GiB; what is not would show at once as a kernel that finds no archive.
        let size = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size(data.len()),
            0,
            0,
            device.0,
            device.1,
            size(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_tell_their_lengths() {
        let mut archive = Initramfs::default();
        archive.directory("dev");
        archive.device("dev/console", 5, 1);
        archive.program("init", b"#!/x\n1");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0));
        // Mode, size and device of the third and second entry.
        assert_eq!(&text[starts[2] + 14..starts[2] + 22], "000081ed");
        assert_eq!(&text[starts[2] + 54..starts[2] + 62], "00000006");
        assert_eq!(&text[starts[1] + 78..starts[1] + 94], "0000000500000001");
        assert!(text.contains("init\0\0#!/x\n1\0\0") && text.contains("TRAILER!!!"));
    }
}
