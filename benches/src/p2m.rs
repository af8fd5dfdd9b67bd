//! Nested page tables as both engines walk them: four levels of 512, as the processor does.

use crate::primitive::{AtomicU64, Ordering};

/// Nested page tables: four levels of 512, as the processor walks them.
pub(crate) struct P2m {
    tables: Vec<Box<[AtomicU64; 512]>>,
}

impl P2m {
    /// Tables for the guest frames below `end`, with nothing mapped.
    pub(crate) fn new(end: u32) -> Self {
        let mut p2m = Self { tables: vec![Self::table()] };
        for gfn in (0..u64::from(end)).step_by(512) {
            let mut at = 0;
            for shift in [27, 18, 9] {
                let entry = Self::index(gfn, shift);
                let next = p2m.tables[at][entry].load(Ordering::Relaxed);
                at = if next == 0 {
                    p2m.tables.push(Self::table());
                    let new = p2m.tables.len() - 1;
                    p2m.tables[at][entry].store(new as u64, Ordering::Relaxed);
                    new
                } else {
                    usize::try_from(next).expect("an index")
                };
            }
        }
        p2m
    }

    fn table() -> Box<[AtomicU64; 512]> {
        Box::new([const { AtomicU64::new(0) }; 512])
    }

    #[inline]
    fn index(gfn: u64, shift: u32) -> usize {
        usize::try_from(gfn >> shift & 511).unwrap_or(0)
    }

    /// The leaf of a guest frame, if there are tables for it.
    #[inline]
    pub(crate) fn leaf(&self, gfn: u64) -> Option<&AtomicU64> {
        let mut table = self.tables.first()?;
        for shift in [27, 18, 9] {
            let next = table[Self::index(gfn, shift)].load(Ordering::Acquire);
            if next == 0 {
                return None;
            }
            table = self.tables.get(usize::try_from(next).ok()?)?;
        }
        Some(&table[Self::index(gfn, 0)])
    }
}
