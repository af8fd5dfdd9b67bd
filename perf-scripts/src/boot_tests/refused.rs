//! Input that is refused: options, words, machines, kernels.

use anyhow::{Context as _, Result};

use super::parts::{hello, module, read, scratch};
use super::{Case, End};
use crate::image::Artefacts;
use crate::qemu::{Machine, Module};

/// A case for which only the outcome of a refused input matters.
pub(super) const fn refused(
    name: &'static str,
    setup: fn(&mut Machine, &Artefacts) -> Result<()>,
    expect: &'static [&'static str],
) -> Case {
    Case { name, quick: false, setup, expect, never: &["panic"], end: End::Any }
}

/// Every case.
pub const CASES: &[Case] = &[
    refused(
        "unknown option",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" colour=blue");
            Ok(())
        },
        &["bad option 'colour=blue': no such option", "@result"],
    ),
    refused(
        "bad value",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" maxcpus=none");
            Ok(())
        },
        &["bad option 'maxcpus=none': takes a count", "@result"],
    ),
    refused(
        "bad item of gnttab=",
        |machine, made| {
            hello(machine, made, "hello")?;
            machine.cmdline.push_str(" gnttab=max_ver:9,no-transitive");
            Ok(())
        },
        &["bad option 'gnttab=max_ver:9'", "gnttab=max_ver:2,no-transitive"],
    ),
    refused(
        "no SVM",
        |machine, made| {
            machine.cpu_model = Some("max,-svm".to_owned());
            hello(machine, made, "hello")
        },
        &["error: cannot boot: ", "this CPU has no AMD SVM"],
    ),
    refused(
        "no nested paging",
        |machine, made| {
            machine.cpu_model = Some("max,-npt".to_owned());
            hello(machine, made, "hello")
        },
        &["error: cannot boot: ", "no nested paging"],
    ),
    refused(
        "too little memory",
        |machine, _| {
            machine.mem_mib = 24;
            Ok(())
        },
        &["error: cannot boot: too little memory"],
    ),
    refused(
        "a domain larger than the machine",
        |machine, made| module(machine, made, "hello", "domain=large mem=4G"),
        &["error: cannot boot: domain 'large'"],
    ),
    refused("no modules", |_, _| Ok(()), &["error: cannot boot: no domain to run"]),
    refused(
        "unknown word in a module string",
        |machine, made| module(machine, made, "hello", "domain=x colour=blue"),
        &["error: cannot boot: module 1 ('hello'): 'colour=blue': no such word"],
    ),
    refused(
        "missing data module",
        |machine, made| module(machine, made, "hello", "domain=x data=disk.img"),
        &["error: cannot boot: domain 'x': no data module is called 'disk.img'"],
    ),
    refused(
        "module: not ELF",
        |machine, _| {
            let path = scratch("text", b"this is no kernel\n")?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('text'): not an ELF file"],
    ),
    refused(
        "module: ELF without a PVH note",
        |machine, _| {
            let own = std::env::current_exe().context("cannot tell this program's own file")?;
            machine.mem_mib = 1024;
            machine.modules.push(Module::new(own, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x'", "no PVH entry note"],
    ),
    refused(
        "module: truncated",
        |machine, made| {
            let file = read(made.guest("hello")?)?;
            let path = scratch("truncated", &file[..file.len().min(5000)])?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('truncated'): truncated"],
    ),
    refused(
        "module: truncated bzImage",
        |machine, _| {
            let path = scratch("bzImage", &bzimage(b"\x02\x21\x4c\x18", 5000))?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('bzImage'): a truncated bzImage"],
    ),
    refused(
        "module: bzImage with a damaged payload",
        |machine, _| {
            let path = scratch("bzImage", &bzimage(b"\xfd7zXZ\0 and then no more \x00\x10\x00\x00", 28))?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('bzImage'): a damaged bzImage: its XZ payload does not unpack"],
    ),
    refused(
        "module: overlapping segments",
        |machine, made| {
            let path = scratch("overlapping", &with_overlapping_segments(read(made.guest("hello")?)?)?)?;
            machine.modules.push(Module::new(path, "domain=x"));
            Ok(())
        },
        &["error: cannot boot: domain 'x' ('overlapping'): two of its segments overlap"],
    ),
];

/// A bzImage of one sector of set-up code and this payload, which the header says is so long.
fn bzimage(payload: &[u8], length: u32) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    file.extend_from_slice(payload);
    file
}

/// An ELF64 file whose second loaded segment goes where the first one does.
fn with_overlapping_segments(mut file: Vec<u8>) -> Result<Vec<u8>> {
    /// Program headers of ELF64: where they begin, how long one is, and `p_paddr` in it.
    const TABLE: usize = 64;
    const ENTRY: usize = 56;
    const PHYSICAL: usize = 24;
    const LOAD: [u8; 4] = 1_u32.to_le_bytes();
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let loaded: Vec<usize> = (0..count)
        .map(|index| TABLE + index * ENTRY)
        .filter(|&at| file.get(at..at + 4) == Some(&LOAD))
        .collect();
    let [first, second, ..] = loaded[..] else { anyhow::bail!("the guest has fewer than two segments") };
    file.copy_within(first + PHYSICAL..first + PHYSICAL + 8, second + PHYSICAL);
    Ok(file)
}
