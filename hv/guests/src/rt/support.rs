//! What compiled Rust expects by name: memory functions, unwinding stubs, an allocator, a panic handler.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use hv::arch::x86::mem_fns;

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

const ARENA: usize = 64 << 10;

/// The allocator that linking `alloc` demands. The guests allocate nothing on purpose, so a small arena
/// that only grows is enough, and running out is an error.
struct Arena {
    bytes: UnsafeCell<[u8; ARENA]>,
    used: AtomicUsize,
}

// SAFETY: `bytes` is handed out in disjoint parts, claimed by an atomic.
unsafe impl Sync for Arena {}

// SAFETY: parts are disjoint, aligned, inside the arena and never taken back.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.bytes.get().cast::<u8>();
        let claimed = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let start = (base.addr() + used).next_multiple_of(layout.align()) - base.addr();
            start.checked_add(layout.size()).filter(|&end| end <= ARENA)
        });
        match claimed {
            Ok(used) => {
                base.wrapping_add((base.addr() + used).next_multiple_of(layout.align()) - base.addr())
            }
            Err(_) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Arena = Arena { bytes: UnsafeCell::new([0; ARENA]), used: AtomicUsize::new(0) };
