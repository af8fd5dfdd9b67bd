//! `audit`: reads the finished image's code and tells what must not be in it.
//!
//! - **Red zone.** Interrupts and exits may use the stack below RSP at any instruction, so no code may
//!   keep data there: every memory operand `-N(%rsp)` without an index is refused (`lea` reads nothing).
//! - **Vector state.** The exit stub saves XMM and MXCSR only. YMM, ZMM, mask registers and VEX-coded
//!   instructions belong to the copy engine, which saves what it touches. x87 and MMX registers are never
//!   saved around hypervisor code, so they are refused everywhere; instructions that move the whole
//!   state (FXSAVE, XSAVE ... and FNINIT) are left to those who switch guests.
//! - **TLS.** FS belongs to the guest. GS holds the per-CPU block and is used as `%gs:OFFSET` with a
//!   small constant offset only; an addressing mode with registers would be a compiler's TLS model.
//! - **Relocations.** The image runs where it was linked, with nobody to relocate it: no dynamic segment,
//!   no interpreter, no relocation sections.
//! - **W^X.** No segment is both writable and executable.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use elf::ElfBytes;
use elf::abi::{PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS, SHT_REL, SHT_RELA};
use elf::endian::LittleEndian;

use crate::failure::{Exit, stop};
use crate::image::{self, ImageArgs};
use crate::process::run;
use crate::progress::Step;
use crate::setup;

const DISASSEMBLY_LIMIT: Duration = Duration::from_secs(120);
/// Symbols with this in their path may use vector registers.
const VECTOR_ROOM: &str = "copy_engine";
/// The per-CPU block is smaller than this.
const PER_CPU_BYTES: u64 = 4096;
/// Functions that run before long mode, with interrupts off: 32-bit code, which a 64-bit disassembly
/// misreads.
const BEFORE_LONG_MODE: &[&str] =
    &["multiboot_header", "multiboot_entry", "pvh_entry", "enter", "no_long_mode"];
/// Findings printed per rule before the rest is only counted.
const SHOWN_PER_RULE: usize = 8;

/// What `audit` may be asked.
#[derive(Args, Debug, Default)]
pub struct AuditArgs {
    /// Audit this file instead of a fresh image
    #[arg(long, value_name = "ELF")]
    image: Option<PathBuf>,
}

/// The rules, for the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    RedZone,
    WideVectors,
    X87,
    Tls,
    Relocations,
    WritableCode,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RedZone => "memory below RSP is used",
            Self::WideVectors => "AVX or AVX-512 outside the copy engine",
            Self::X87 => "x87 or MMX registers",
            Self::Tls => "thread-local storage, or FS/GS used otherwise than for the per-CPU block",
            Self::Relocations => "something to relocate at run time",
            Self::WritableCode => "a segment is writable and executable",
        })
    }
}

/// One offence: the rule and where.
pub type Finding = (Rule, String);

/// The verb itself.
pub fn audit(args: &AuditArgs, no_install: bool) -> Result<()> {
    setup::need(&[setup::OBJDUMP], no_install)?;
    let path = match &args.image {
        Some(path) => path.clone(),
        None => image::build(&ImageArgs::default())?.image,
    };
    let (findings, instructions) = check(&path)?;
    if findings.is_empty() {
        println!(
            "audit: {instructions} instructions: no red zone, no wide vectors outside {VECTOR_ROOM}, no x87, \
             no TLS, no relocations, W^X"
        );
        return Ok(());
    }
    Err(stop(Exit::Failed, told(&findings)))
}

/// All findings of an image, and how many instructions were read.
pub fn check(path: &Path) -> Result<(Vec<Finding>, usize)> {
    let step = Step::new("Auditing the image");
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&file)
        .map_err(|error| stop(Exit::BadInput, format!("{} is no ELF file: {error}", path.display())))?;
    let mut findings = headers(&elf)?;
    let mut objdump = Command::new("objdump");
    objdump.args(["-d", "-w", "--no-show-raw-insn"]).arg(path);
    let done = run(&mut objdump, &step, DISASSEMBLY_LIMIT)?;
    if !done.status.success() {
        return Err(stop(Exit::BadInput, format!("objdump cannot read the image: {}", done.tail(2))));
    }
    let mut code = Disassembly::default();
    done.out.lines().for_each(|line| code.line(line));
    findings.append(&mut code.findings);
    Ok((findings, code.instructions))
}

/// The findings in words, by rule.
pub fn told(findings: &[Finding]) -> String {
    let mut by_rule: BTreeMap<Rule, Vec<&str>> = BTreeMap::new();
    for (rule, place) in findings {
        by_rule.entry(*rule).or_default().push(place);
    }
    let mut text = String::from("audit: the image breaks its rules");
    for (rule, places) in by_rule {
        text.push_str(&format!("\n{rule}: {}", places.len()));
        for place in places.iter().take(SHOWN_PER_RULE) {
            text.push_str(&format!("\n  {place}"));
        }
    }
    text
}

/// What the program and section headers give away.
fn headers(elf: &ElfBytes<'_, LittleEndian>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for segment in elf.segments().context("the image has no program headers")?.iter() {
        let place = || format!("segment at {:#x}", segment.p_vaddr);
        match segment.p_type {
            PT_LOAD if segment.p_flags & (PF_W | PF_X) == PF_W | PF_X => {
                findings.push((Rule::WritableCode, place()));
            }
            PT_DYNAMIC | PT_INTERP => findings.push((Rule::Relocations, place())),
            PT_TLS => findings.push((Rule::Tls, place())),
            _ => {}
        }
    }
    if let (Some(sections), Some(names)) = elf.section_headers_with_strtab().context("bad section headers")? {
        for section in sections.iter() {
            if matches!(section.sh_type, SHT_REL | SHT_RELA) && section.sh_size > 0 {
                let name = names.get(usize::try_from(section.sh_name)?).unwrap_or("?");
                findings.push((Rule::Relocations, format!("section {name}")));
            }
        }
    }
    Ok(findings)
}

/// Reads objdump's lines, remembering which function they belong to.
#[derive(Default)]
struct Disassembly {
    function: String,
    findings: Vec<Finding>,
    instructions: usize,
}

impl Disassembly {
    fn line(&mut self, line: &str) {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
            self.function = format!("{:#}", rustc_demangle::demangle(name.1));
            return;
        }
        // "  address:\tmnemonic operands".
        let Some((address, code)) = line.trim_start().split_once(":\t") else { return };
        if BEFORE_LONG_MODE.contains(&self.function.as_str()) {
            return;
        }
        self.instructions += 1;
        for rule in broken_rules(&self.function, code) {
            let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
            self.findings.push((rule, format!("{address} in {}: {code}", self.function)));
        }
    }
}

/// Prefixes objdump prints as words of their own.
const PREFIXES: &[&str] =
    &["lock", "rep", "repz", "repnz", "notrack", "data16", "cs", "ds", "es", "ss", "bnd"];

/// The rules one instruction breaks.
fn broken_rules(function: &str, code: &str) -> Vec<Rule> {
    // objdump's comments: "# symbol" and "<symbol>".
    let code = code.split(['#', '<']).next().unwrap_or("");
    let mut words = code.split_whitespace().skip_while(|word| PREFIXES.contains(word));
    let mnemonic = words.next().unwrap_or("");
    let operands = words.collect::<Vec<_>>().join(" ");
    let mut broken = Vec::new();

    if !mnemonic.starts_with("lea") && !mnemonic.starts_with("nop") && below_rsp(&operands) {
        broken.push(Rule::RedZone);
    }
    if !function.contains(VECTOR_ROOM) && is_wide(mnemonic, &operands) {
        broken.push(Rule::WideVectors);
    }
    if is_x87(mnemonic, &operands) {
        broken.push(Rule::X87);
    }
    if !mnemonic.starts_with("nop") && is_tls(&operands) {
        broken.push(Rule::Tls);
    }
    broken
}

/// Whether a memory operand is `-N(%rsp)`.
fn below_rsp(operands: &str) -> bool {
    operands.match_indices("(%rsp)").any(|(at, _)| {
        let displacement = operands[..at].rsplit([',', ' ', ':', '*']).next().unwrap_or("");
        displacement.starts_with('-')
    })
}

/// Vector state beyond XMM. VERR, VERW and SVM's instructions begin with `v` without being vectors.
fn is_wide(mnemonic: &str, operands: &str) -> bool {
    const NOT_VECTORS: &[&str] = &["verr", "verw", "vmrun", "vmload", "vmsave", "vmmcall", "vmcall"];
    let mask = (0..8).any(|k| operands.contains(&format!("%k{k}")));
    mask || operands.contains("%ymm")
        || operands.contains("%zmm")
        || (mnemonic.starts_with('v') && !NOT_VECTORS.contains(&mnemonic))
}

/// x87 or MMX registers; whole-state instructions are not meant.
fn is_x87(mnemonic: &str, operands: &str) -> bool {
    const WHOLE_STATE: &[&str] = &["fxsave", "fxrstor", "fxsave64", "fxrstor64", "fninit"];
    operands.contains("%st")
        || operands.contains("%mm")
        || mnemonic == "emms"
        || (mnemonic.starts_with('f') && !WHOLE_STATE.contains(&mnemonic))
}

/// A segment override with FS, or with GS in any form but `%gs:CONSTANT`.
fn is_tls(operands: &str) -> bool {
    if operands.contains("%fs:") {
        return true;
    }
    operands.match_indices("%gs:").any(|(at, word)| {
        let place = &operands[at + word.len()..];
        let end = place.find(|c: char| !c.is_ascii_hexdigit() && c != 'x').unwrap_or(place.len());
        let offset = place[..end].strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        offset.is_none_or(|offset| offset >= PER_CPU_BYTES) || place[end..].starts_with('(')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(function: &str, code: &str) -> Vec<Rule> {
        let mut read = Disassembly::default();
        read.line(&format!("ffffffff80101000 <{function}>:"));
        read.line(&format!("ffffffff80101004:\t{code}"));
        assert_eq!(read.instructions, 1);
        read.findings.into_iter().map(|(rule, _)| rule).collect()
    }

    #[test]
    fn ordinary_code_passes() {
        for code in [
            "mov    %rax,0x8(%rsp)",
            "lea    -0x80(%rsp),%rsp",
            "mov    -0x8(%rbp),%rax",
            "movups %xmm0,(%rsp)",
            "mov    %gs:0x0,%rax",
            "mov    %gs:0x18,%rsp",
            "mov    %eax,%fs",
            "mov    %gs,%eax",
            "verw   (%rsp)",
            "vmrun  %rax",
            "fxsave64 (%rdi)",
            "xsaveopt64 (%rdi)",
            "lock cmpxchg %rdx,(%rdi)",
            "rep movsb %ds:(%rsi),%es:(%rdi)",
            "cs nopw 0x0(%rax,%rax,1)",
            "call   ffffffff80101000 <fs::%ymm0>",
            "lea    0x1234(%rip),%rdi        # ffffffff80200000 <x -0x8(%rsp)>",
        ] {
            assert_eq!(rules("hv::start", code), [], "{code}");
        }
    }

    #[test]
    fn code_before_long_mode_is_not_judged() {
        let mut read = Disassembly::default();
        read.line("ffffffff80000cef <enter>:");
        read.line("ffffffff80000dc4:\tfimuls 0x80020(%rip)");
        assert_eq!((read.instructions, read.findings.len()), (0, 0));
    }

    #[test]
    fn the_red_zone_is_found() {
        for code in [
            "mov    %rax,-0x8(%rsp)",
            "mov    -0x10(%rsp),%ecx",
            "push   -0x8(%rsp)",
            "call   *-0x18(%rsp)",
            "movaps %xmm0,-0x28(%rsp)",
            "lock incl -0x4(%rsp)",
        ] {
            assert_eq!(rules("hv::start", code), [Rule::RedZone], "{code}");
        }
    }

    #[test]
    fn wide_vectors_are_found_outside_the_copy_engine() {
        for code in [
            "vmovdqu (%rsi),%ymm0",
            "vmovdqu64 (%rsi),%zmm17",
            "kmovw  %k1,%eax",
            "vpxor  %xmm0,%xmm0,%xmm0",
            "vzeroupper",
        ] {
            assert_eq!(rules("_ZN2hv5start17h0123456789abcdefE", code), [Rule::WideVectors], "{code}");
            assert_eq!(rules("_ZN11copy_engine4avx24copy17h0123456789abcdefE", code), [], "{code}");
        }
    }

    #[test]
    fn x87_and_mmx_are_found() {
        for code in ["fldt   (%rsp)", "fadd   %st(1),%st", "movq   %mm0,(%rdi)", "emms"] {
            assert_eq!(rules("copy_engine::copy", code), [Rule::X87], "{code}");
        }
    }

    #[test]
    fn tls_is_found() {
        for code in [
            "mov    %fs:0x0,%rax",
            "mov    %fs:0xfffffffffffffff8,%rax",
            "mov    %gs:(%rax),%rcx",
            "mov    %gs:0x10(%rax),%rcx",
            "mov    %gs:0xfffffffffffffff8,%rcx",
        ] {
            assert_eq!(rules("hv::start", code), [Rule::Tls], "{code}");
        }
    }

    /// An ELF64 with one program header of the given type and flags.
    fn elf_with_segment(kind: u32, flags: u32) -> Vec<u8> {
        let mut file = vec![0_u8; 64 + 56];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..20].copy_from_slice(&[2, 0, 62, 0]);
        file[20] = 1;
        file[32] = 64; // e_phoff
        file[52] = 64; // e_ehsize
        file[54] = 56; // e_phentsize
        file[56] = 1; // e_phnum
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file[68..72].copy_from_slice(&flags.to_le_bytes());
        file
    }

    #[test]
    fn headers_are_judged() {
        let found = |kind, flags| {
            let file = elf_with_segment(kind, flags);
            let elf = ElfBytes::<LittleEndian>::minimal_parse(&file).unwrap();
            headers(&elf).unwrap().into_iter().map(|(rule, _)| rule).collect::<Vec<_>>()
        };
        assert_eq!(found(PT_LOAD, PF_X | 4), []);
        assert_eq!(found(PT_LOAD, PF_W | 4), []);
        assert_eq!(found(PT_LOAD, PF_W | PF_X | 4), [Rule::WritableCode]);
        assert_eq!(found(PT_DYNAMIC, 4), [Rule::Relocations]);
        assert_eq!(found(PT_INTERP, 4), [Rule::Relocations]);
        assert_eq!(found(PT_TLS, 4), [Rule::Tls]);
    }

    #[test]
    fn the_report_names_the_rule_and_the_place() {
        let text = told(&[(Rule::RedZone, "10 in f: push -0x8(%rsp)".to_owned())]);
        assert!(text.contains("memory below RSP is used: 1\n  10 in f: push"), "{text}");
    }
}
