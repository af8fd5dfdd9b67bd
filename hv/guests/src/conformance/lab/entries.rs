//! Entries of the table, and its version.
#![forbid(unsafe_code)]

use hv::abi::grant_table::{self as gnttab, gtf, op};
use hv::abi::memory as mem;
use hv::abi::xen::DOMID_SELF;

use super::super::bytes;
use super::super::request::low;
use super::{FRAMES, Lab};
use crate::rt::memory::{PAGE, gfn};

impl Lab {
    fn entry(&self, gref: u32) -> u64 {
        let size = if self.version == 1 { 8 } else { 16 };
        let offset = u64::from(gref) * size;
        assert!(offset < FRAMES * PAGE, "no such entry");
        self.table + offset
    }

    /// References below this are in the mapped part of the table.
    #[must_use]
    pub fn entries(&self) -> u32 {
        low(FRAMES * PAGE / if self.version == 1 { 8 } else { 16 })
    }

    /// Writes an entry: the flags last.
    pub fn grant(&self, gref: u32, domid: u16, frame: u64, flags: u16) {
        let entry = self.entry(gref);
        bytes::put_half(entry, 0);
        bytes::put_half(entry + 2, domid);
        if self.version == 1 {
            bytes::put(entry + 4, &low(frame));
        } else {
            bytes::put(entry + 4, &0_u32);
            bytes::put(entry + 8, &frame);
        }
        bytes::put_half(entry, flags);
    }

    /// Lets ourselves use a page of the pool.
    pub fn permit(&self, gref: u32, page: u64, flags: u16) {
        self.grant(gref, self.own, gfn(self.page(page)), gtf::PERMIT_ACCESS | flags);
    }

    /// A version-2 entry for `length` bytes from `offset`.
    pub fn permit_part(&self, gref: u32, page: u64, offset: u16, length: u16, flags: u16) {
        let flags = gtf::PERMIT_ACCESS | gtf::SUB_PAGE | flags;
        self.grant(gref, self.own, gfn(self.page(page)), 0);
        let entry = self.entry(gref);
        bytes::put_half(entry + 4, offset);
        bytes::put_half(entry + 6, length);
        bytes::put_half(entry, flags);
    }

    /// A version-2 entry that passes on a grant of `domid`.
    pub fn pass_on(&self, gref: u32, domid: u16, inner: u32, flags: u16) {
        self.grant(gref, self.own, u64::from(inner), 0);
        let entry = self.entry(gref);
        bytes::put_half(entry + 4, domid);
        bytes::put_half(entry, gtf::TRANSITIVE | flags);
    }

    /// Overwrites the flags of an entry.
    pub fn set_flags(&self, gref: u32, flags: u16) {
        bytes::put_half(self.entry(gref), flags);
    }

    /// The flags of an entry.
    #[must_use]
    pub fn flags(&self, gref: u32) -> u16 {
        bytes::get(self.entry(gref))
    }

    /// The second half of the entry: domain or, in version 1, the frame.
    #[must_use]
    pub fn entry_word(&self, gref: u32, offset: u64) -> u32 {
        bytes::get_word(self.entry(gref) + offset)
    }

    /// The word that tells whether an entry is in use: flags, or in version 2 the status.
    #[must_use]
    pub fn in_use(&self, gref: u32) -> u16 {
        if self.version == 1 { self.flags(gref) } else { bytes::get(self.status + u64::from(gref) * 2) }
    }

    /// `GNTTABOP_set_version`: the result and the version written back.
    pub fn set_version(&mut self, version: u32) -> (i64, u32) {
        let (result, told) = self.one(op::SET_VERSION, gnttab::SetVersion { version });
        let before = self.version;
        self.version = self.get_version();
        if before == 1 {
            self.map_status();
        }
        (result, told.version)
    }

    /// Maps the status frame of version 2.
    pub(super) fn map_status(&self) {
        if self.version == 2 {
            let placed = self.place(mem::MAPIDX_GRANT_TABLE_STATUS, self.status);
            if placed != 0 {
                crate::fail!("the first status frame cannot be mapped: {placed}");
            }
        }
    }

    fn get_version(&self) -> u32 {
        let request = gnttab::GetVersion { dom: DOMID_SELF, pad: 0, version: 0 };
        let (result, told) = self.one(op::GET_VERSION, request);
        if result != 0 {
            crate::fail!("GNTTABOP_get_version: {result}");
        }
        told.version
    }
}
