//! The processor's event counters, where the system lets us read them.

use crate::ab::Events;
use perf_event::events::Hardware;
use perf_event::{Builder, Counter, Group};
use std::io;

/// The four counters, read together.
pub struct Counting {
    group: Group,
    cycles: Counter,
    instructions: Counter,
    branches: Counter,
    caches: Counter,
}

impl Counting {
    /// Opens them for this thread.
    ///
    /// # Errors
    /// If there is no such unit (most virtual machines), or it may not be used.
    pub fn new() -> io::Result<Self> {
        let mut group = Group::new()?;
        let mut open = |event| Builder::new().group(&mut group).kind(event).build();
        let cycles = open(Hardware::CPU_CYCLES)?;
        let instructions = open(Hardware::INSTRUCTIONS)?;
        let branches = open(Hardware::BRANCH_MISSES)?;
        let caches = open(Hardware::CACHE_MISSES)?;
        Ok(Self { group, cycles, instructions, branches, caches })
    }

    /// Events per element of `rounds` rounds of `work`, each of `elements`.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn of(&mut self, rounds: u32, elements: usize, mut work: impl FnMut()) -> io::Result<Events> {
        self.group.reset()?;
        self.group.enable()?;
        for _ in 0..rounds {
            work();
        }
        self.group.disable()?;
        let counts = self.group.read()?;
        #[expect(clippy::cast_precision_loss, reason = "counts of one short run")]
        let per = |counter: &Counter| counts[counter] as f64 / f64::from(rounds) / elements as f64;
        Ok(Events {
            cycles: per(&self.cycles),
            instructions: per(&self.instructions),
            branch_misses: per(&self.branches),
            cache_misses: per(&self.caches),
        })
    }
}
