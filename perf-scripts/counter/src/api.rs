//! QEMU's interface for plugins (`qemu-plugin.h`, version 1), as far as it is used here.

use std::ffi::{c_int, c_uint, c_void};

/// A plugin's number.
pub type Plugin = u64;
/// Only for QEMU to look into.
pub type Info = c_void;
/// A translated block.
pub type Block = c_void;
/// An instruction of one.
pub type Instruction = c_void;

/// `QEMU_PLUGIN_INLINE_ADD_U64`
pub const INLINE_ADD_U64: c_int = 0;
/// `QEMU_PLUGIN_CB_NO_REGS`
pub const CB_NO_REGS: c_int = 0;

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Plugin, call: extern "C" fn(Plugin, *mut Block));
    pub fn qemu_plugin_register_vcpu_tb_exec_inline(
        block: *mut Block,
        what: c_int,
        to: *mut c_void,
        value: u64,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const c_void;
    pub fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
}
