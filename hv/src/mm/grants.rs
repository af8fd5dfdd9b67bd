//! Memory as the grant tables use it: where their pages come from, and how granted bytes are copied.
//!
//! `gnttab_fast` has no `unsafe` for these; it states what it needs and this module keeps it. Pages of active
//! entries and of handles are the hypervisor's own. Frames of shared entries belong to the domain, like any
//! other memory it sees, so that its death accounts for them; the table holds one reference to each.

use core::ptr::NonNull;

use alloc::boxed::Box;
use copy_engine::{Choice, Engine, Scratch, Segment};
use gnttab_fast::{Batch, SharedSource, types::DomId, types::Mfn, types::PAGE_SHIFT};
use maptrack::{Page, PageSource};
use spin::Once;

use super::{
    frames::{self, Owner},
    phys_to_virt, virt_to_phys,
};
use crate::arch::x86::time;
use crate::cmdline::CopyKernel;
use crate::{info, warn};

/// Pages only the hypervisor sees.
#[derive(Clone, Copy, Debug)]
pub struct OwnPages;

// SAFETY: `frames::alloc` hands out a zeroed, page-aligned frame of RAM for us alone; `give_back` returns it
// and nothing else does.
unsafe impl PageSource for OwnPages {
    fn take(&self) -> Option<NonNull<Page>> {
        page_of(frames::alloc(0, Owner::Hypervisor)?)
    }

    unsafe fn give_back(&self, page: NonNull<Page>) {
        frames::free(mfn_of(page), 0);
    }
}

/// Frames that a domain sees.
#[derive(Clone, Copy, Debug)]
pub struct SharedPages {
    /// The domain.
    pub domain: DomId,
}

// SAFETY: as for `OwnPages`; the guest gets at the frame through its p2m only, and the reference of the
// allocation keeps it in place until `give_back`.
unsafe impl PageSource for SharedPages {
    fn take(&self) -> Option<NonNull<Page>> {
        page_of(frames::alloc(0, Owner::Domain(self.domain))?)
    }

    unsafe fn give_back(&self, page: NonNull<Page>) {
        frames::put_ref(mfn_of(page));
    }
}

// SAFETY: pages come from `page_of`, whose inverse in the direct map this is.
unsafe impl SharedSource for SharedPages {
    fn mfn(&self, page: NonNull<Page>) -> Mfn {
        mfn_of(page)
    }
}

fn page_of(mfn: Mfn) -> Option<NonNull<Page>> {
    NonNull::new(phys_to_virt(mfn.0 << PAGE_SHIFT).cast())
}

fn mfn_of(page: NonNull<Page>) -> Mfn {
    Mfn(virt_to_phys(page.as_ptr().cast()) >> PAGE_SHIFT)
}

static ENGINE: Once<Engine> = Once::new();

/// Chooses the copy kernel, once, at boot, when XCR0 is the hypervisor's: `copy=`. What the processor lacks
/// is said, and `auto` taken.
pub fn choose_copy_kernel(asked: CopyKernel) {
    let choice = match asked {
        CopyKernel::Auto => Choice::Auto,
        CopyKernel::Avx2 => Choice::Avx2,
        CopyKernel::Sse2 => Choice::Sse2,
        CopyKernel::Rep => Choice::Rep,
    };
    ENGINE.call_once(|| {
        let mut scratch = Box::new(Scratch::new());
        let chosen = Engine::select(choice, &mut scratch, time::rdtsc).or_else(|why| {
            warn!("{why}; choosing another");
            Engine::select(Choice::Auto, &mut scratch, time::rdtsc)
        });
        match chosen {
            Ok((engine, selection)) => {
                info!("grant copies: {selection}");
                engine
            }
            // `auto` always finds one; SSE2 is part of the architecture.
            Err(_) => Engine::SSE2,
        }
    });
}

/// Copies a batch of grant copies, within one session of the copy engine.
pub fn copy<S: AsRef<Segment>>(batch: Batch<'_, S>) {
    let engine = ENGINE.get().unwrap_or(&Engine::SSE2);
    let session = engine.begin();
    // SAFETY: both sides of each segment lie in one frame each that `gnttab_fast` translated or pinned under
    // the host's guard, which the caller still holds, as `phys_to_virt` gave it: RAM that stays the domain's
    // until the guard goes. Only that crate makes batches.
    unsafe { session.copy_batch(batch.segments()) };
}
