//! Sets of pCPUs: a vCPU's affinity.
#![forbid(unsafe_code)]

use crate::cmdline::MAX_CPUS;

const WORDS: usize = (MAX_CPUS as usize).div_ceil(64);

/// A set of pCPU numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// No pCPU.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// Every pCPU.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Adds a pCPU; false when there can be none of that number.
    pub fn insert(&mut self, cpu: u32) -> bool {
        let Ok(cpu) = usize::try_from(cpu) else { return false };
        self.0.get_mut(cpu / 64).map(|word| *word |= 1 << (cpu % 64)).is_some()
    }

    /// Whether a pCPU is in.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        usize::try_from(cpu).ok().and_then(|cpu| Some(self.0.get(cpu / 64)? >> (cpu % 64) & 1)) == Some(1)
    }

    /// The lowest pCPU that is in.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        (0..MAX_CPUS).find(|&cpu| self.contains(cpu))
    }

    /// The set without the pCPUs at and behind `online`.
    #[must_use]
    pub fn below(&self, online: u32) -> Self {
        let mut kept = Self::EMPTY;
        for cpu in (0..online.min(MAX_CPUS)).filter(|&cpu| self.contains(cpu)) {
            kept.insert(cpu);
        }
        kept
    }

    /// Whether no pCPU is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_what_was_put_in() {
        let mut set = CpuSet::EMPTY;
        assert!(set.is_empty());
        assert!(set.insert(3) && set.insert(64) && set.insert(MAX_CPUS - 1));
        assert!(!set.insert(MAX_CPUS));
        assert!(set.contains(64) && !set.contains(65) && !set.contains(MAX_CPUS));
        assert_eq!(set.first(), Some(3));
        assert_eq!(set.below(64).first(), Some(3));
        assert!(!set.below(64).contains(64));
        assert!(CpuSet::ALL.below(2).contains(1) && !CpuSet::ALL.below(2).contains(2));
    }
}
