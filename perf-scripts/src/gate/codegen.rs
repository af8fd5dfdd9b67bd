//! Snapshots of the machine code of the v1 fast paths: what the compiler made of them, in counts.
//!
//! For each hot function of the image: its instructions, and of these the branches, the locked ones, divisions and
//! string instructions; and each function it calls, with how often. Instances of one generic function are counted
//! together. So a bounds check that has come, an inlining that is lost or an atomic more is a row that has grown
//! or is new, and told by name, before anybody runs anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use elf::ElfBytes;
use elf::endian::LittleEndian;

use super::Rows;
use crate::failure::{Exit, stop};
use crate::process::run;
use crate::progress::Step;

const LIMIT: Duration = Duration::from_secs(120);

/// The functions the v1 copy and map paths consist of, by the beginnings of their names, and the way into the
/// hypervisor and back. One that is inlined into another of them has no row of its own.
const HOT: &[&str] = &[
    "hv::vt::svm::run::enter",
    "hv::vt::svm::Vcpu::run",
    "hv::hypercall::handle",
    "hv::hypercall::grant_table::op",
    "gnttab_fast::copy::",
    "gnttab_fast::map::",
    "copy_engine::batch::copy",
    "hv::mm::p2m::P2m::set_if",
];

/// Reads the image's code.
pub fn measure(image: &Path) -> Result<Rows> {
    let step = Step::new("Reading the fast paths' code");
    let file = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&file).context("the image is no ELF file")?;
    let names = names(&elf)?;
    let mut objdump = Command::new("objdump");
    objdump.args(["-d", "-w", "--no-show-raw-insn"]).arg(image);
    let done = run(&mut objdump, &step, LIMIT)?;
    if !done.status.success() {
        return Err(stop(Exit::BadInput, format!("objdump cannot read the image: {}", done.tail(2))));
    }
    let mut code = Code::default();
    let pointer = |at| names.get(&word_at(&elf, &file, at)?).cloned();
    done.out.lines().for_each(|line| code.line(line, &pointer));
    if code.functions.is_empty() {
        return Err(stop(
            Exit::Failed,
            "the image has none of the hot functions: see HOT in gate/codegen.rs",
        ));
    }
    Ok(code.rows())
}

/// Functions by address.
fn names(elf: &ElfBytes<'_, LittleEndian>) -> Result<BTreeMap<u64, String>> {
    let (symbols, strings) =
        elf.symbol_table().context("cannot read the symbols")?.context("there are no symbols")?;
    let named = symbols.iter().filter_map(|symbol| {
        let name = strings.get(usize::try_from(symbol.st_name).ok()?).ok()?;
        (symbol.st_symtype() == elf::abi::STT_FUNC).then(|| (symbol.st_value, plain(name)))
    });
    Ok(named.collect())
}

/// The 8 bytes of the image at an address.
fn word_at(elf: &ElfBytes<'_, LittleEndian>, file: &[u8], at: u64) -> Option<u64> {
    let segment = elf.segments()?.iter().find(|segment| {
        segment.p_type == elf::abi::PT_LOAD
            && at.checked_sub(segment.p_vaddr).is_some_and(|inside| inside + 8 <= segment.p_filesz)
    })?;
    let start = usize::try_from(segment.p_offset + (at - segment.p_vaddr)).ok()?;
    Some(u64::from_le_bytes(file.get(start..start + 8)?.try_into().ok()?))
}

/// A name without hash and arguments of generics.
fn plain(mangled: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(mangled));
    let (mut short, mut depth) = (String::new(), 0u32);
    for (at, c) in name.char_indices() {
        // A path that begins with an angle bracket is a type with its trait: kept.
        match c {
            '<' if at > 0 && !name[..at].ends_with(['<', ' ', '&']) => depth += 1,
            '>' if depth > 0 => depth -= 1,
            _ if depth == 0 => short.push(c),
            _ => {}
        }
    }
    short.replace("::::", "::")
}

/// What is known of one function.
#[derive(Default)]
struct Function {
    kinds: BTreeMap<&'static str, u64>,
    calls: BTreeMap<String, u64>,
}

/// objdump's lines, taken in one by one.
#[derive(Default)]
struct Code {
    now: Option<String>,
    functions: BTreeMap<String, Function>,
}

impl Code {
    fn line(&mut self, line: &str, pointer: &dyn Fn(u64) -> Option<String>) {
        if let Some(name) =
            line.strip_suffix(">:").and_then(|line| line.split_once(" <")).map(|(_, name)| name)
        {
            let name = plain(name);
            self.now = HOT.iter().any(|hot| name.starts_with(hot)).then_some(name);
            return;
        }
        let Some(name) = &self.now else { return };
        let Some((_, insn)) = line.split_once(":\t") else { return };
        let function = self.functions.entry(name.clone()).or_default();
        *function.kinds.entry("instructions").or_default() += 1;
        if let Some(kind) = kind(insn) {
            *function.kinds.entry(kind).or_default() += 1;
        }
        if let Some(callee) = callee(insn, pointer).filter(|callee| callee != name) {
            *function.calls.entry(callee).or_default() += 1;
        }
    }

    fn rows(self) -> Rows {
        let mut rows = Rows::new();
        for (name, Function { kinds, calls }) in self.functions {
            rows.extend(kinds.into_iter().map(|(kind, count)| (format!("{name}: {kind}"), count)));
            rows.extend(calls.into_iter().map(|(callee, count)| (format!("{name}: calls {callee}"), count)));
        }
        rows
    }
}

/// The kind of an instruction that is counted apart.
fn kind(insn: &str) -> Option<&'static str> {
    let words: BTreeSet<&str> = insn.split_whitespace().take(2).collect();
    let mnemonic = insn.split_whitespace().next()?;
    if words.contains("lock") || (mnemonic.starts_with("xchg") && insn.contains('(')) {
        Some("locked")
    } else if mnemonic.starts_with("rep") {
        Some("string instructions")
    } else if mnemonic.starts_with("div") || mnemonic.starts_with("idiv") {
        Some("divisions")
    } else if mnemonic.starts_with('j') {
        Some("branches")
    } else {
        None
    }
}

/// Whom an instruction calls, or jumps to for good.
fn callee(insn: &str, pointer: &dyn Fn(u64) -> Option<String>) -> Option<String> {
    let mnemonic = insn.split_whitespace().next()?;
    if !mnemonic.starts_with("call") && !mnemonic.starts_with("jmp") {
        return None;
    }
    if let Some((_, place)) = insn.split_once("# ") {
        // By a pointer in the image.
        let at = u64::from_str_radix(place.split_whitespace().next()?, 16).ok()?;
        return pointer(at);
    }
    let name = insn.split_once('<')?.1.strip_suffix('>')?;
    // Inside a function, after its beginning: a jump within.
    (!name.contains("+0x")).then(|| plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_counted_by_kind_and_by_whom_they_call() {
        let text = "\
ffffffff80001000 <_ZN11gnttab_fast4copy5block17h0123456789abcdefE>:
ffffffff80001000:\tpush   %rbp
ffffffff80001001:\tlock cmpxchg %rcx,(%rdx)
ffffffff80001005:\tje     ffffffff80001000 <_ZN11gnttab_fast4copy5block17h0123456789abcdefE>
ffffffff80001007:\tcall   ffffffff80002000 <_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE>
ffffffff8000100c:\tcall   *0xb7fba(%rip)        # ffffffff800b9000 <DW.ref+0x8>
ffffffff80001012:\tjmp    ffffffff80001005 <_ZN11gnttab_fast4copy5block17h0123456789abcdefE+0x5>

ffffffff80003000 <_ZN4cold4cold17h0123456789abcdefE>:
ffffffff80003000:\tret
";
        let mut code = Code::default();
        let pointer = |at| (at == 0xffff_ffff_800b_9000).then(|| "there".to_owned());
        text.lines().for_each(|line| code.line(line, &pointer));
        let row = |what: &str, count| (format!("gnttab_fast::copy::block: {what}"), count);
        assert_eq!(
            code.rows(),
            [
                row("branches", 2),
                row("instructions", 6),
                row("locked", 1),
                row("calls core::panicking::panic_bounds_check", 1),
                row("calls there", 1),
            ]
        );
    }

    #[test]
    fn generics_lose_their_arguments() {
        assert_eq!(
            plain("_ZN11gnttab_fast4copy13Plan$LT$H$GT$9claim_new17h0123456789abcdefE"),
            "gnttab_fast::copy::Plan::claim_new"
        );
    }
}
