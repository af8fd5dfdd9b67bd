//! What compiled Rust expects by name: memory functions, unwinding stubs, an allocator, a panic handler.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::naked_asm;
use core::panic::PanicInfo;
use core::ptr::NonNull;

use hv::arch::x86::mem_fns;
use spin::Mutex;
use talc::base::{Talc, binning::Binning, binning::DefaultBinning};
use talc::source::Source;

use super::{memory, size, wide};

macro_rules! forward {
    ($($name:ident => $to:ident),*) => { $(
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        extern "sysv64" fn $name() {
            naked_asm!("jmp {to}", to = sym mem_fns::$to)
        }
    )* };
}
forward!(memcpy => memmove, memmove => memmove, memset => memset, memcmp => memcmp, bcmp => memcmp);

macro_rules! never {
    ($($name:ident),*) => { $(
        /// Named by precompiled landing pads; panics abort, so never reached.
        #[unsafe(no_mangle)]
        extern "sysv64" fn $name() -> ! {
            crate::fail!("unwinding in a guest that cannot")
        }
    )* };
}
never!(rust_eh_personality, _Unwind_Resume);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::fail!("panic: {info}")
}

/// What the heap grows by.
const CHUNK_PAGES: u64 = 16;

/// The heap, for the few guests that allocate: it grows by pages of the domain, and when there are no more the
/// guest ends with a line that says so.
struct Heap(Mutex<Talc<Pages, DefaultBinning>>);

#[derive(Debug)]
struct Pages;

// SAFETY: `acquire` takes frames, never heap, and returns Ok only after a successful claim.
unsafe impl Source for Pages {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let needed = wide(layout.size().saturating_add(layout.align())) / memory::PAGE + 2;
        let pages = needed.max(CHUNK_PAGES);
        let base = memory::pointer(memory::pages(pages));
        // SAFETY: the pages are fresh and the heap's from here on.
        unsafe { talc.claim(base, size(pages * memory::PAGE)) }.map(|_| ()).ok_or(())
    }
}

// SAFETY: blocks are talc's, under the lock, which no interrupt handler takes.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: GlobalAlloc's caller promises a layout of some size.
        let block = unsafe { self.0.lock().allocate(layout) };
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: GlobalAlloc's caller promises that `alloc` gave the block for this layout.
        unsafe { self.0.lock().deallocate(at, layout) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap(Mutex::new(Talc::new(Pages)));
