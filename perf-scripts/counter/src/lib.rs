//! A plugin for QEMU's translator (its plugin API, version 1): how many instructions a machine has executed, and how
//! many of them at the hypervisor's addresses, each time a guest executes one that it knows as a mark.
//!
//! Arguments, as `-plugin FILE,name=value,...` gives them: `out`, the file that gets a line `all hypervisor` for each
//! mark; `from` and `to`, the addresses, hexadecimal, the last one not among them; `mark`, the bytes of the
//! instruction, hexadecimal.
//!
//! What is added for a block when it begins is all its instructions. One that is left early - an access that faults
//! or exits - is counted whole: some tenths of a percent. Counters are not atomic, so the machine must run in one
//! thread, as it does under `-icount`.
//!
//! `unsafe`: all of it is QEMU's C interface.

mod api;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::ptr;
use std::slice;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{Block, Info, Instruction, Plugin};

/// What the arguments say.
#[derive(Debug)]
struct Asked {
    out: File,
    hypervisor: Range<u64>,
    mark: Vec<u8>,
}

static ASKED: OnceLock<Asked> = OnceLock::new();
static ALL: AtomicU64 = AtomicU64::new(0);
static HYPERVISOR: AtomicU64 = AtomicU64::new(0);

/// The version of the interface, which QEMU looks for.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// What QEMU calls first. Another value than 0 ends it.
///
/// # Safety
/// Called by QEMU: `argv` are `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Plugin,
    _info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let count = usize::try_from(argc).unwrap_or(0);
    // SAFETY: the caller's promise; none at all may be a null pointer.
    let words = if count == 0 { &[] } else { unsafe { slice::from_raw_parts(argv, count) } };
    // SAFETY: as above, each is a string.
    let words = words.iter().map(|&word| unsafe { CStr::from_ptr(word) }.to_string_lossy());
    let words = words.map(|word| word.into_owned());
    let set = asked(words).and_then(|asked| ASKED.set(asked).map_err(|_| "only once a machine".to_owned()));
    if let Err(why) = set {
        eprintln!("instruction-counter: {why}");
        return 1;
    }
    // SAFETY: `id` is the one we were called with; `translated` is what the interface wants.
    unsafe { api::qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}

fn asked(words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let (mut out, mut from, mut to, mut mark) = (None, None, None, None);
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("{word}: no value"))?;
        let bad = |why: &dyn std::fmt::Display| format!("{word}: {why}");
        let number = || u64::from_str_radix(value, 16).map_err(|why| bad(&why));
        match name {
            "out" => out = Some(File::create(value).map_err(|why| bad(&why))?),
            "from" => from = Some(number()?),
            "to" => to = Some(number()?),
            "mark" => mark = Some(number().map(|bytes| bytes.to_be_bytes())?),
            _ => return Err(bad(&"no such argument")),
        }
    }
    let missing = |name| move || format!("{name}= is missing");
    let mark = mark.ok_or_else(missing("mark"))?;
    Ok(Asked {
        out: out.ok_or_else(missing("out"))?,
        hypervisor: from.ok_or_else(missing("from"))?..to.ok_or_else(missing("to"))?,
        mark: mark.into_iter().skip_while(|&byte| byte == 0).collect(),
    })
}

/// A block has been translated: what is to be done whenever it is executed.
extern "C" fn translated(_id: Plugin, block: *mut Block) {
    let Some(asked) = ASKED.get() else { return };
    // SAFETY: QEMU calls us with a block that is valid during the call.
    let (at, count) = unsafe { (api::qemu_plugin_tb_vaddr(block), api::qemu_plugin_tb_n_insns(block)) };
    let counters = [Some(&ALL), asked.hypervisor.contains(&at).then_some(&HYPERVISOR)];
    for counter in counters.into_iter().flatten() {
        // SAFETY: as above; the counter is there for ever and is a `u64`.
        unsafe {
            api::qemu_plugin_register_vcpu_tb_exec_inline(
                block,
                api::INLINE_ADD_U64,
                counter.as_ptr().cast(),
                count as u64,
            );
        }
    }
    for index in 0..count {
        // SAFETY: the block has so many instructions.
        let instruction = unsafe { api::qemu_plugin_tb_get_insn(block, index) };
        if is(instruction, &asked.mark) {
            // SAFETY: the instruction is the block's; `marked` looks at no register.
            unsafe {
                api::qemu_plugin_register_vcpu_insn_exec_cb(
                    instruction,
                    marked,
                    api::CB_NO_REGS,
                    ptr::null_mut(),
                );
            }
        }
    }
}

/// Whether those are the bytes of the instruction.
fn is(instruction: *const Instruction, mark: &[u8]) -> bool {
    // SAFETY: QEMU's instruction, valid during the call we are in, as are its bytes, which nobody writes.
    let bytes: &[u8] = unsafe {
        let data = api::qemu_plugin_insn_data(instruction);
        slice::from_raw_parts(data.cast(), api::qemu_plugin_insn_size(instruction))
    };
    bytes == mark
}

/// The mark is executed.
extern "C" fn marked(_vcpu: c_uint, _data: *mut c_void) {
    let Some(asked) = ASKED.get() else { return };
    let (all, hypervisor) = (ALL.load(Ordering::Relaxed), HYPERVISOR.load(Ordering::Relaxed));
    // Who reads the file misses the line then.
    let _ = writeln!(&asked.out, "{all} {hypervisor}");
}
