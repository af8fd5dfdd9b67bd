//! Instructions a whole machine executes while a guest measures something, and those of the hypervisor among them:
//! QEMU's translator counts them with a plugin of ours (`perf-scripts/counter`), and the guest says when, by a
//! program whose only work is an instruction that nothing else executes.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::progress::Step;
use crate::{image, places};

/// `nopl 0x4b4d4754(%rax)`: it does nothing, and no compiler makes it.
const MARK: [u8; 7] = [0x0f, 0x1f, 0x80, 0x54, 0x47, 0x4d, 0x4b];
/// Where Tollgate's code runs (`hv/src/boot`); above it Linux begins.
pub const TOLLGATE: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_8100_0000;
/// Where Xen's does (`asm/config.h`, "Xen text, static data, bss").
pub const XEN: Range<u64> = 0xffff_82d0_4000_0000..0xffff_82d0_8000_0000;

/// The plugin.
#[derive(Clone, Debug)]
pub struct Counter(PathBuf);

impl Counter {
    /// Builds it.
    pub fn build() -> Result<Self> {
        let mut command = places::cargo();
        command.args(["build", "--locked", "--release", "-p", "instruction-counter"]);
        image::cargo_succeeds(&mut command, &Step::new("Building QEMU's plugin"))?;
        Ok(Self(places::target().join("release/libinstruction_counter.so")))
    }

    /// Options with which QEMU counts, for a hypervisor with that code; marks go to the file `out`.
    pub fn options(&self, hypervisor: &Range<u64>, out: &Path) -> [String; 2] {
        let mark: String = MARK.iter().map(|byte| format!("{byte:02x}")).collect();
        let plugin = format!(
            "{},out={},from={:x},to={:x},mark={mark}",
            self.0.display(),
            out.display(),
            hypervisor.start,
            hypervisor.end
        );
        ["-plugin".to_owned(), plugin]
    }
}

/// Instructions between two marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    pub all: u64,
    pub hypervisor: u64,
}

/// What was executed between the first mark in the file and the second, the third and the fourth, and so on.
pub fn read(out: &Path) -> Result<Vec<Executed>> {
    let text = fs::read_to_string(out).with_context(|| format!("cannot read {}", out.display()))?;
    let marks = text.lines().map(mark).collect::<Option<Vec<_>>>();
    let marks = marks.with_context(|| format!("{}: not what the plugin writes", out.display()))?;
    let (pairs, _) = marks.as_chunks::<2>();
    let between = pairs
        .iter()
        .map(|[from, to]| Executed { all: to.all - from.all, hypervisor: to.hypervisor - from.hypervisor });
    Ok(between.collect())
}

fn mark(line: &str) -> Option<Executed> {
    let (all, hypervisor) = line.split_once(' ')?;
    Some(Executed { all: all.parse().ok()?, hypervisor: hypervisor.parse().ok()? })
}

/// The program that marks: a static executable of one page (ELF-64, gABI chapters 4 and 5).
pub fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    // mov $60, %eax (exit); xor %edi, %edi; syscall
    const EXIT: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
    let size = u64::from(HEADERS) + (MARK.len() + EXIT.len()) as u64;
    let halves = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let words = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let longs = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    [
        // ELF64, little endian, version 1, System V
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        // ET_EXEC, EM_X86_64
        halves(&[2, 62]),
        words(&[1]),
        // Entry, program headers, no section headers
        longs(&[BASE + u64::from(HEADERS), 64, 0]),
        words(&[0]),
        halves(&[64, 56, 1, 64, 0, 0]),
        // PT_LOAD, readable and executable
        words(&[1, 5]),
        longs(&[0, BASE, BASE, size, size, 0x1000]),
        MARK.to_vec(),
        EXIT.to_vec(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    #[test]
    fn the_program_runs_and_marks() {
        let file = std::env::temp_dir().join(format!("tollgate-mark-{}", std::process::id()));
        let program = program();
        assert!(program.windows(MARK.len()).any(|bytes| bytes == MARK));
        fs::write(&file, program).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let status = Command::new(&file).status();
        fs::remove_file(&file).unwrap();
        assert!(status.unwrap().success());
    }

    #[test]
    fn pairs_of_marks_are_read() {
        let file = std::env::temp_dir().join(format!("tollgate-marks-{}", std::process::id()));
        fs::write(&file, "10 1\n110 21\n500 30\n600 40\n700 50\n").unwrap();
        let read = read(&file).unwrap();
        fs::write(&file, "10\n").unwrap();
        let torn = super::read(&file);
        fs::remove_file(&file).unwrap();
        assert_eq!(read, [Executed { all: 100, hypervisor: 20 }, Executed { all: 100, hypervisor: 10 }]);
        assert!(torn.is_err());
    }
}
