//! Programs out of Debian's packages, with the libraries they need, for an initramfs.
//!
//! apt works out what the packages depend on from an empty list of installed ones, so that nothing depends on
//! what this machine has, and only downloads. The packages are unpacked side by side and nothing of them is
//! run here: no root, no chroot.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_STRTAB};
use elf::endian::LittleEndian;

use super::UNPACK_LIMIT;
use super::initramfs::Initramfs;
use crate::failure::{Exit, stop};
use crate::progress::Step;
use crate::{process, setup};

/// Where Debian's packages have libraries.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// The dynamic linker, as programs name it.
const LINKER: &str = "lib64/ld-linux-x86-64.so.2";

/// Unpacked packages.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// `packages` and all they depend on, below `dir`, fetched once.
    pub fn fetch(packages: &[&str], dir: &Path, step: &Step) -> Result<Self> {
        let (root, archives) = (dir.join("tree"), dir.join("archives"));
        let (mark, wanted) = (dir.join(".complete"), packages.join(" "));
        if fs::read_to_string(&mark).is_ok_and(|had| had == wanted) {
            return Ok(Self { root });
        }
        for dir in [&root, &archives.join("partial")] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let installed = dir.join("nothing-installed");
        fs::write(&installed, "").context("cannot write the list of installed packages")?;
        let mut command = Command::new("apt-get");
        for option in [
            format!("Dir::State::status={}", installed.display()),
            format!("Dir::Cache::archives={}", archives.display()),
            "Debug::NoLocking=1".to_owned(),
            "APT::Install-Recommends=0".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.args(["-y", "--download-only", "install"]).args(packages);
        let done = process::run(&mut command, step, setup::INSTALL_LIMIT)?;
        if !done.status.success() {
            let why =
                format!("apt cannot fetch {wanted}: {}\nits lists may be old: apt-get update", done.tail(2));
            return Err(stop(Exit::MissingTool, why));
        }
        for entry in fs::read_dir(&archives).context("cannot list the packages")? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|ending| ending == "deb") {
                step.at(deb.file_name().unwrap_or_default().to_string_lossy());
                let done = process::run(
                    Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root),
                    step,
                    UNPACK_LIMIT,
                )?;
                if !done.status.success() {
                    let why = format!("cannot unpack {}: {}", deb.display(), done.tail(1));
                    return Err(stop(Exit::Failed, why));
                }
            }
        }
        fs::write(&mark, wanted).context("cannot mark the packages as unpacked")?;
        Ok(Self { root })
    }

    /// Puts the program at `from` into the archive as `to`, with what it is linked to.
    pub fn program(&self, archive: &mut Initramfs, from: &str, to: &str) -> Result<()> {
        let bytes = self.read(from)?;
        archive.program(to, &bytes);
        if !archive.has(LINKER) {
            archive.program(LINKER, &self.read(LINKER)?);
        }
        let mut missing: BTreeSet<String> = needed(&bytes).with_context(|| from.to_owned())?;
        while let Some(name) = missing.pop_first() {
            missing.extend(self.add_library(archive, &name)?);
        }
        Ok(())
    }

    /// Puts a library into the archive which a program opens without being linked to it.
    pub fn library(&self, archive: &mut Initramfs, name: &str) -> Result<()> {
        self.add_library(archive, name).map(|_| ())
    }

    /// What the library is linked to; nothing if it was there already.
    fn add_library(&self, archive: &mut Initramfs, name: &str) -> Result<BTreeSet<String>> {
        let to = format!("{}/{name}", LIBRARIES[0]);
        if archive.has(&to) {
            return Ok(BTreeSet::new());
        }
        let from = LIBRARIES.iter().map(|dir| format!("{dir}/{name}"));
        let from = from.into_iter().find(|file| self.root.join(file).is_file());
        let bytes = self.read(&from.with_context(|| format!("no package holds {name}"))?)?;
        archive.program(&to, &bytes);
        needed(&bytes).with_context(|| name.to_owned())
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.root.join(file);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// The directories that programs with libraries need in an archive.
pub fn directories(archive: &mut Initramfs) {
    for directory in ["lib", "lib/x86_64-linux-gnu", "lib64"] {
        if !archive.has(directory) {
            archive.directory(directory);
        }
    }
}

/// The modules of a kernel that [`super::kernel`] found, as `modules/NAME.ko`.
pub fn modules(archive: &mut Initramfs, kernel: &Path, names: &[&str]) -> Result<()> {
    let tree = kernel.parent().and_then(Path::parent).context("the kernel lies in no package")?;
    let version =
        kernel.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("vmlinuz-"));
    let all = tree.join("lib/modules").join(version.context("the kernel has no version")?).join("kernel");
    archive.directory("modules");
    for name in names {
        let file = find(&all, &format!("{name}.ko"))?;
        let file = file.with_context(|| format!("{} holds no {name}.ko", all.display()))?;
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        archive.program(&format!("modules/{name}.ko"), &bytes);
    }
    Ok(())
}

/// The file of that name somewhere below `dir`.
fn find(dir: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let found = if path.is_dir() { find(&path, name)? } else { path.ends_with(name).then_some(path) };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The libraries an ELF file names.
fn needed(file: &[u8]) -> Result<BTreeSet<String>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file)?;
    let common = elf.find_common_data()?;
    let (Some(entries), Some(names)) = (common.dynamic, common.dynsyms_strs) else {
        return Ok(BTreeSet::new());
    };
    debug_assert!(entries.iter().any(|entry| entry.d_tag == DT_STRTAB));
    let needed = entries.iter().filter(|entry| entry.d_tag == DT_NEEDED);
    needed.map(|entry| Ok(names.get(usize::try_from(entry.d_val())?)?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_libraries_are_read() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let names = needed(&own).unwrap();
        assert!(names.iter().any(|name| name.starts_with("libc.so")), "{names:?}");
        assert!(needed(b"no ELF file").is_err());
    }

    #[test]
    fn what_no_package_holds_is_named() {
        let tree = Tree { root: PathBuf::from("/no/such/directory") };
        let error = tree.library(&mut Initramfs::default(), "libx.so.1").unwrap_err();
        assert_eq!(error.to_string(), "no package holds libx.so.1");
    }
}
