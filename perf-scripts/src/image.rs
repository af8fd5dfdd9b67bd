//! `image`: builds the hypervisor and the guests and lays them out for booting.
//!
//! The image is always built with `-p`, never as part of the workspace: a host member that switches on
//! a shared dependency's `std` would pull it into the freestanding binary. Hence also its own target
//! directory, which image and guests share so that their dependencies are compiled once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use comfy_table::presets::UTF8_BORDERS_ONLY;

use crate::failure::{Exit, stop};
use crate::process::run;
use crate::progress::Step;
use crate::{places, symbols};

const BUILD_LIMIT: Duration = Duration::from_secs(1200);
const OBJCOPY_LIMIT: Duration = Duration::from_secs(30);

/// What `image` may be asked.
#[derive(Args, Clone, Debug)]
pub struct ImageArgs {
    /// Cargo profile of the image and the guests
    #[arg(long, default_value = "release")]
    profile: String,
}

impl Default for ImageArgs {
    fn default() -> Self {
        Self { profile: "release".to_owned() }
    }
}

/// The files a boot needs.
#[derive(Clone, Debug)]
pub struct Artefacts {
    /// The hypervisor with its symbol table.
    pub image: PathBuf,
    /// The guests, by name of their binary.
    pub guests: Vec<PathBuf>,
    /// Symbols in the image's table.
    pub symbols: usize,
}

impl Artefacts {
    /// The guest called `name`.
    pub fn guest(&self, name: &str) -> Result<&Path> {
        self.guests
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .map(PathBuf::as_path)
            .with_context(|| format!("hv/guests builds no `{name}`"))
    }
}

/// Builds everything; nothing is printed unless it takes long or fails.
pub fn build(args: &ImageArgs) -> Result<Artefacts> {
    let dir = places::boot_dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;

    let built = cargo_build("hv", "Building the hypervisor", args)?;
    let source = built.first().context("cargo built no hypervisor binary")?;
    let mut file = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    let symbols = symbols::embed(&mut file)?;
    let image = dir.join("tollgate");
    write_if_new(&image, &file)?;

    let mut guests = Vec::new();
    for built in cargo_build("tollgate-guests", "Building the guests", args)? {
        let name = built.file_name().context("a guest without a name")?;
        let guest = dir.join(name);
        let is_32_bit = name.to_str().is_some_and(|name| name.ends_with("32"));
        let source = if is_32_bit { as_elf32(&built)? } else { built };
        write_if_new(
            &guest,
            &fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?,
        )?;
        guests.push(guest);
    }
    Ok(Artefacts { image, guests, symbols })
}

/// A 32-bit guest is linked as an x86-64 file, because only that target is installed; objcopy, which came
/// with the linker's driver, rewrites the container. Returns the 32-bit file's path.
fn as_elf32(linked: &Path) -> Result<PathBuf> {
    let elf32 = linked.with_extension("elf32");
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["-O", "elf32-i386"]).arg(linked).arg(&elf32);
    let done = run(&mut objcopy, &Step::new("Rewriting a 32-bit guest"), OBJCOPY_LIMIT)?;
    if !done.status.success() {
        return Err(stop(
            Exit::Build,
            format!("objcopy cannot rewrite {}: {}", linked.display(), done.tail(2)),
        ));
    }
    Ok(elf32)
}

/// The verb itself.
pub fn image(args: &ImageArgs) -> Result<()> {
    let made = build(args)?;
    let mut table = comfy_table::Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["artefact", "bytes", "what"]);
    let what = format!("the hypervisor, {} symbols", made.symbols);
    let rows =
        std::iter::once((&made.image, what.as_str())).chain(made.guests.iter().map(|guest| (guest, "guest")));
    for (path, what) in rows {
        let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        table.add_row([path.display().to_string(), size.to_string(), what.to_owned()]);
    }
    println!("{table}");
    Ok(())
}

/// Builds the binaries of one package for bare metal; returns their paths.
fn cargo_build(package: &str, what: &str, args: &ImageArgs) -> Result<Vec<PathBuf>> {
    let step = Step::new(what);
    let mut command = places::cargo();
    command.args(["build", "--locked", "-p", package, "--bins", "--features", "bare-metal"]);
    command.args(["--message-format", "json-render-diagnostics", "--profile", &args.profile]);
    command.arg("--target-dir").arg(places::target().join("image"));
    Ok(executables(&cargo_succeeds(&mut command, &step)?))
}

/// Has cargo build something; what it printed.
pub fn cargo_succeeds(command: &mut Command, step: &Step) -> Result<String> {
    let done = run(command, step, BUILD_LIMIT)?;
    if !done.status.success() {
        let told: Vec<&str> = done
            .all
            .lines()
            .filter(|line| !line.starts_with('{') && !line.trim_start().starts_with("Compiling"))
            .collect();
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        return Err(stop(Exit::Build, format!("{}\ncargo {} failed", told.join("\n"), words.join(" "))));
    }
    Ok(done.out)
}

/// The executables named in cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

/// Keeps the file's time when nothing changed.
fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_picked_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","executable":null}
{"reason":"compiler-artifact","executable":"/t/release/tollgate"}
{"reason":"build-finished","success":true}
not json
"#;
        assert_eq!(executables(messages), [PathBuf::from("/t/release/tollgate")]);
    }
}
