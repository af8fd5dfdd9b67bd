//! Version switches: `GNTTABOP_set_version`.
//!
//! # How operations are kept out
//! A switch makes every active entry of the table busy, lower references first, and fails if one that is not
//! reserved is pinned. While it holds them it converts the reserved entries, wipes the rest of the shared
//! frames, publishes version and size, and lets each entry go with the word of the new version. An
//! operation that came to an entry before it waits, or finds the new version in the entry's word; one that
//! has it pinned makes the switch fail. There is no moment in which an operation could use what it computed
//! under the other version (XSA-501). Nothing is waited for except entries busy, whose holders wait for
//! nothing. So a switch takes a time that only the table's limit bounds (the default, 32768 entries: 32768
//! exchanges and stores, some hundred microseconds), as it does in Xen under a lock that stops all
//! operations on the table. Operations on other tables go on.
//!
//! # Status frames
//! They are in place before version 2 is seen. On the way back they leave the guest's physical map, with a TLB
//! flush, and only then go back to where they came from (XSA-255, XSA-379, XSA-387). Who serialises changes of
//! the physical map keeps them from being put there anew meanwhile (XSA-486).

use crate::abi::{RESERVED_ENTRIES, gtf};
use crate::host::Frames;
use crate::policy::Version;
use crate::primitive::Ordering;
use crate::shared::WordV1;
use crate::shared::v2::WordsV2;
use crate::status::Errno;
use crate::table::{ACTIVE_PER_FRAME, Table, status_frames_for};
use crate::types::{Gfn, Gref, Mfn};
use arrayvec::ArrayVec;

/// The first entries, busy, and let go with `version` when this goes.
struct Stopped<'t, F: Frames> {
    table: &'t Table<F>,
    entries: u32,
    version: Version,
}

impl<'t, F: Frames> Stopped<'t, F> {
    /// All entries of the first `frames` frames, which have `version`.
    ///
    /// # Errors
    /// [`Errno::Busy`] if one that is not reserved is pinned; none is busy then.
    fn all(table: &'t Table<F>, frames: u32, version: Version) -> Result<Self, Errno> {
        let mut stopped = Self { table, entries: 0, version };
        for index in 0..frames * ACTIVE_PER_FRAME {
            let Some(active) = table.active_at(index as usize) else { break };
            if index < RESERVED_ENTRIES {
                active.lock_any();
            } else if active.lock_idle().is_none() {
                return Err(Errno::Busy);
            }
            stopped.entries = index + 1;
        }
        Ok(stopped)
    }
}

impl<F: Frames> Drop for Stopped<'_, F> {
    fn drop(&mut self) {
        for index in 0..self.entries {
            let Some(active) = self.table.active_at(index as usize) else { return };
            if index < RESERVED_ENTRIES {
                active.unlock_any(self.version);
            } else {
                active.unlock_idle(self.version);
            }
        }
    }
}

impl<F: Frames> Table<F> {
    /// Switches to a version that the policy allows. `unplace` takes a status frame out of the guest's
    /// physical map and returns when no CPU reaches it there.
    pub(crate) fn set_version(&self, to: Version, mut unplace: impl FnMut(Gfn, Mfn)) -> Result<(), Errno> {
        let _managing = self.manage();
        let from = self.version();
        if from == to {
            return Ok(());
        }
        let frames = self.frames();
        let statuses = 0..status_frames_for(frames);
        if to == Version::V2 && !statuses.clone().all(|index| self.fill_status(index)) {
            statuses.for_each(|index| self.remove_status(index, &mut unplace));
            return Err(Errno::NoMemory);
        }
        let result = self.switch(frames, from, to);
        if (result.is_ok(), from) == (true, Version::V2) || (result.is_err(), from) == (true, Version::V1) {
            statuses.for_each(|index| self.remove_status(index, &mut unplace));
        }
        result
    }

    fn switch(&self, frames: u32, from: Version, to: Version) -> Result<(), Errno> {
        let mut stopped = Stopped::all(self, frames, from)?;
        let kept = match from {
            Version::V1 => self.reserved_v1(),
            Version::V2 => self.reserved_v2()?,
        };
        for word in (0..frames).flat_map(|index| self.shared_words(index)) {
            word.store(0, Ordering::Release);
        }
        self.set_size(frames, to);
        for (gref, word) in (0..).map(Gref).zip(kept) {
            match to {
                Version::V1 => self.keep_v1(gref, word),
                Version::V2 => self.keep_v2(gref, word),
            }
        }
        stopped.version = to;
        Ok(())
    }

    fn reserved_v1(&self) -> ArrayVec<WordV1, { RESERVED_ENTRIES as usize }> {
        (0..RESERVED_ENTRIES).filter_map(|gref| Some(self.entry(Gref(gref))?.shared.load())).collect()
    }

    /// The reserved entries, each read once, as version 1 says them.
    ///
    /// # Errors
    /// [`Errno::Range`] if it cannot.
    fn reserved_v2(&self) -> Result<ArrayVec<WordV1, { RESERVED_ENTRIES as usize }>, Errno> {
        let entries = (0..RESERVED_ENTRIES).filter_map(|gref| self.entry_v2(Gref(gref)));
        entries
            .map(|entry| {
                let words = entry.load();
                match words.flags() & gtf::TYPE_MASK {
                    gtf::PERMIT_ACCESS if words.gfn().0 >> 32 == 0 => {
                        let flags_and_domid = words.header & 0xffff_ffff;
                        let status = u64::from(entry.status());
                        Ok(WordV1(flags_and_domid | status | words.gfn().0 << 32))
                    }
                    gtf::PERMIT_ACCESS | gtf::TRANSITIVE => Err(Errno::Range),
                    _ => Ok(WordV1(0)),
                }
            })
            .collect()
    }

    fn keep_v1(&self, gref: Gref, word: WordV1) {
        if let Some(entry) = self.entry(gref) {
            entry.shared.store(word);
        }
    }

    fn keep_v2(&self, gref: Gref, word: WordV1) {
        let in_use = gtf::READING | gtf::WRITING;
        if let Some(entry) = self.entry_v2(gref) {
            let header = word.0 & 0xffff_ffff & !u64::from(in_use);
            entry.set_status(word.flags() & in_use);
            entry.store(WordsV2 { header, body: word.gfn().0 });
        }
    }
}
