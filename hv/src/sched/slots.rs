//! Machine-wide numbers of vCPUs: what the sets of the scheduler hold.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};

use gnttab_fast::types::DomId;

use super::set::MAX_SLOTS;

/// Free: 0. Taken: bit 63, the domain in bits 32 to 47, the vCPU's number below.
static SLOTS: [AtomicU64; MAX_SLOTS] = [const { AtomicU64::new(0) }; MAX_SLOTS];

const TAKEN: u64 = 1 << 63;

/// Takes a free slot for a vCPU. `None` when there is none.
#[must_use]
pub fn take(domain: DomId, vcpu: u32) -> Option<usize> {
    let word = TAKEN | u64::from(domain.0) << 32 | u64::from(vcpu);
    SLOTS.iter().position(|slot| slot.compare_exchange(0, word, Ordering::SeqCst, Ordering::SeqCst).is_ok())
}

/// Gives a slot back. Its vCPU is down and will not be woken again.
pub fn give_back(slot: usize) {
    if let Some(word) = SLOTS.get(slot) {
        word.store(0, Ordering::SeqCst);
    }
}

/// Whose a slot is.
#[must_use]
pub fn owner(slot: usize) -> Option<(DomId, u32)> {
    let word = SLOTS.get(slot)?.load(Ordering::SeqCst);
    let [v0, v1, v2, v3, d0, d1, ..] = word.to_le_bytes();
    (word & TAKEN != 0).then_some((DomId(u16::from_le_bytes([d0, d1])), u32::from_le_bytes([v0, v1, v2, v3])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_owner() {
        let first = take(DomId(7), 1).expect("free");
        let second = take(DomId(7), 2).expect("free");
        assert_ne!(first, second);
        assert_eq!(owner(first), Some((DomId(7), 1)));
        assert_eq!(owner(second), Some((DomId(7), 2)));
        give_back(first);
        assert_eq!(owner(first), None);
        give_back(second);
        assert_eq!(owner(MAX_SLOTS), None);
    }
}
