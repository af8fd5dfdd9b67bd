//! Hypercalls in both ABIs: 64-bit by way of the hypercall page, and 32-bit from compatibility mode
//! through the same page (its instructions mean the same in both).

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use hv::abi::xen::hypercall as number;
use hv::abi::{sched, xen};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::cpu::{cpuid, wrmsr};

unsafe extern "C" {
    static guest_hypercall_page: [[u8; 32]; 128];
    fn compat_hypercall(entry: u64, arguments: *const [u32; 5]) -> i32;
}

/// First of the hypervisor's CPUID leaves.
static LEAVES: AtomicU32 = AtomicU32::new(0);

/// Finds the hypervisor and asks it for the hypercall page. Without one there is no console to complain
/// on, so the guest stops.
pub(super) fn init() {
    let found = (0x4000_0000..0x4001_0000).step_by(0x100).find(|&leaf| {
        let id = cpuid(leaf, 0);
        [id.ebx, id.ecx, id.edx].map(u32::to_le_bytes).as_flattened() == b"XenVMMXenVMM"
    });
    let Some(base) = found else { halt() };
    LEAVES.store(base, Ordering::Relaxed);
    let page = (&raw const guest_hypercall_page).addr();
    // SAFETY: leaf 2 names the MSR, which fills the page given; the page is ours alone.
    unsafe { wrmsr(cpuid(base + 2, 0).ebx, super::wide(page)) };
}

/// A leaf of the hypervisor's, counted from its first.
#[must_use]
pub fn leaf(offset: u32) -> core::arch::x86_64::CpuidResult {
    cpuid(LEAVES.load(Ordering::Relaxed) + offset, 0)
}

/// Our own number, where the hypervisor tells it; else `DOMID_SELF`.
#[must_use]
pub fn domid() -> u16 {
    const TOLD: u32 = 1 << 4;
    let leaf = leaf(4);
    let told = (leaf.eax & TOLD != 0).then_some(leaf.ecx);
    told.and_then(|domid| u16::try_from(domid).ok()).unwrap_or(xen::DOMID_SELF)
}

/// Stops for good.
fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing but a reset ends it.
        unsafe { asm!("cli", "hlt", options(nostack, nomem)) }
    }
}

/// The code of one hypercall in the page.
#[must_use]
pub fn entry(nr: u32) -> *const u8 {
    let index = super::size(u64::from(nr)) % 128;
    (&raw const guest_hypercall_page).cast::<[u8; 32]>().wrapping_add(index).cast()
}

/// A hypercall with up to five arguments.
///
/// # Safety
/// Arguments that are addresses must be good for what the call does with them.
#[inline]
pub unsafe fn call(nr: u32, arguments: [u64; 5]) -> i64 {
    let entry = entry(nr);
    let [a, b, c, d, e] = arguments;
    let result: i64;
    // SAFETY: the page's code is a hypercall and a return. The stack is used by the call alone.
    unsafe {
        asm!(
            "call rax",
            inlateout("rax") entry => result,
            inlateout("rdi") a => _, inlateout("rsi") b => _, inlateout("rdx") c => _,
            inlateout("r10") d => _, inlateout("r8") e => _,
            out("rcx") _, out("r9") _, out("r11") _,
        );
    }
    result
}

/// The same in the 32-bit ABI.
///
/// # Safety
/// As [`call`]; structures must have the 32-bit layout. Interrupts must be off.
pub unsafe fn call_compat(nr: u32, arguments: [u32; 5]) -> i32 {
    let entry = super::wide(entry(nr).addr());
    // SAFETY: everything of the guest lies below 4 GiB, so the page and the stack work in 32-bit code.
    unsafe { compat_hypercall(entry, &raw const arguments) }
}

/// A hypercall of the shape (operation, structure): the structure is read, and written back.
pub fn op<T: FromBytes + IntoBytes + Immutable>(nr: u32, cmd: u32, argument: &mut T) -> i64 {
    // SAFETY: the structure is borrowed for the call and any bytes are a `T`.
    unsafe { call(nr, [u64::from(cmd), super::wide((&raw mut *argument).addr()), 0, 0, 0]) }
}

/// [`op`] in the 32-bit ABI, for structures that lie on the stack or in the image, below 4 GiB.
pub fn op_compat<T: FromBytes + IntoBytes + Immutable>(nr: u32, cmd: u32, argument: &mut T) -> i32 {
    // SAFETY: the structure is borrowed for the call and any bytes are a `T`.
    unsafe { call_compat(nr, [cmd, low(&raw const *argument), 0, 0, 0]) }
}

/// An address for the 32-bit ABI.
#[must_use]
pub fn low<T>(pointer: *const T) -> u32 {
    u32::try_from(pointer.addr()).expect("the guest lies below 4 GiB")
}

/// `xen_version`.
pub fn version<T: FromBytes + IntoBytes + Immutable>(cmd: u32, argument: &mut T) -> i64 {
    op(number::XEN_VERSION, cmd, argument)
}

/// Writes to the hypervisor's console; whether it took it.
pub(super) fn console_write(bytes: &[u8]) -> bool {
    let (count, address) = (super::wide(bytes.len()), super::wide(bytes.as_ptr().addr()));
    // SAFETY: the bytes are only read.
    unsafe { call(number::CONSOLE_IO, [u64::from(xen::CONSOLEIO_WRITE), count, address, 0, 0]) >= 0 }
}

/// Ends the domain.
pub fn shutdown(reason: u32) -> ! {
    op(number::SCHED_OP, sched::op::SHUTDOWN, &mut sched::Shutdown { reason });
    halt()
}

/// Gives the CPU away for a moment.
pub fn yield_now() {
    // SAFETY: takes no address.
    unsafe { call(number::SCHED_OP, [u64::from(sched::op::YIELD), 0, 0, 0, 0]) };
}

/// `grant_table_op`: a batch of structures, read and written back.
pub fn op_count<T: FromBytes + IntoBytes + Immutable>(cmd: u32, batch: &mut [T]) -> i64 {
    let (address, count) = (super::wide(batch.as_mut_ptr().addr()), super::wide(batch.len()));
    // SAFETY: the batch is borrowed for the call and any bytes are a `T`.
    unsafe { call(number::GRANT_TABLE_OP, [u64::from(cmd), address, count, 0, 0]) }
}

/// [`op_count`] in the 32-bit ABI.
pub fn op_count_compat<T: FromBytes + IntoBytes + Immutable>(cmd: u32, batch: &mut [T]) -> i32 {
    let count = u32::try_from(batch.len()).expect("a short batch");
    // SAFETY: the batch is borrowed for the call and any bytes are a `T`.
    unsafe { call_compat(number::GRANT_TABLE_OP, [cmd, low(batch.as_ptr()), count, 0, 0]) }
}

/// Hypercalls with addresses that may be good or bad.
///
/// The hypervisor checks every address against guest memory; what a good one names is the caller's to
/// answer for, as with any other write to a physical address.
pub mod raw {
    /// [`call`](super::call) with three arguments.
    #[must_use]
    pub fn call(nr: u32, [a, b, c]: [u64; 3]) -> i64 {
        // SAFETY: callers pass addresses of pages that hold no Rust object, or none at all.
        unsafe { super::call(nr, [a, b, c, 0, 0]) }
    }

    /// [`call_compat`](super::call_compat) with three arguments.
    #[must_use]
    pub fn call_compat(nr: u32, [a, b, c]: [u32; 3]) -> i32 {
        // SAFETY: as above. Interrupts are off wherever guests run Rust code.
        unsafe { super::call_compat(nr, [a, b, c, 0, 0]) }
    }
}
