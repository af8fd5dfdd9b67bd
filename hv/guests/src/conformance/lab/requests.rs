//! Requests to map, unmap and copy.
#![forbid(unsafe_code)]

use hv::abi::grant_table::{self as gnttab, MapGrantRef, UnmapGrantRef, copy_flags, map_flags, op};
use hv::abi::xen::DOMID_SELF;

use super::super::bytes;
use super::super::show::{UNSET, UNSET_WORD};
use super::{Lab, Side};
use crate::rt::memory::{PAGE, gfn};

impl Lab {
    /// A request to map `gref` at a window.
    #[must_use]
    pub fn map_request(&self, gref: u32, window: u64, flags: u32) -> MapGrantRef {
        MapGrantRef {
            host_addr: self.window(window),
            flags,
            gref,
            dom: self.own,
            status: UNSET,
            handle: UNSET_WORD,
            dev_bus_addr: u64::from(UNSET_WORD),
        }
    }

    /// Maps, and remembers what has to be undone.
    pub fn maps(&mut self, batch: &mut [MapGrantRef]) -> i64 {
        let result = self.op(op::MAP_GRANT_REF, batch);
        self.remember(batch);
        result
    }

    /// Notes the mappings among `batch`.
    pub fn remember(&mut self, batch: &[MapGrantRef]) {
        for request in batch.iter().filter(|request| request.status == 0) {
            let Some(slot) = self.live.iter_mut().find(|slot| slot.is_none()) else {
                crate::fail!("a case maps more than the bookkeeping has room for");
            };
            *slot = Some((request.host_addr, request.handle));
        }
    }

    /// Maps one reference.
    pub fn map(&mut self, request: MapGrantRef) -> MapGrantRef {
        let mut request = request;
        let result = self.maps(core::slice::from_mut(&mut request));
        if result != 0 {
            crate::fail!("a map of one element returns {result}");
        }
        request
    }

    /// Maps one reference writable at window 0.
    pub fn map_rw(&mut self, gref: u32) -> MapGrantRef {
        self.map(self.map_request(gref, 0, map_flags::HOST_MAP))
    }

    /// Maps one reference read-only at window 1.
    pub fn map_ro(&mut self, gref: u32) -> MapGrantRef {
        self.map(self.map_request(gref, 1, map_flags::HOST_MAP | map_flags::READONLY))
    }

    /// The request that undoes a mapping.
    #[must_use]
    pub fn unmap_request(&self, map: &MapGrantRef) -> UnmapGrantRef {
        UnmapGrantRef { host_addr: map.host_addr, dev_bus_addr: 0, handle: map.handle, status: UNSET, pad: 0 }
    }

    /// Unmaps, and forgets what is undone.
    pub fn unmaps(&mut self, batch: &mut [UnmapGrantRef]) -> i64 {
        let result = self.op(op::UNMAP_GRANT_REF, batch);
        self.forget(batch);
        result
    }

    /// Notes that the mappings among `batch` are gone.
    pub fn forget(&mut self, batch: &[UnmapGrantRef]) {
        for request in batch.iter().filter(|request| request.status == 0 && request.host_addr != 0) {
            let same = |slot: &Option<(u64, u32)>| slot.is_some_and(|(_, handle)| handle == request.handle);
            if let Some(slot) = self.live.iter_mut().find(|slot| same(slot)) {
                *slot = None;
            }
        }
    }

    /// Unmaps one mapping: its status.
    pub fn unmap(&mut self, map: &MapGrantRef) -> i16 {
        let mut request = self.unmap_request(map);
        let result = self.unmaps(core::slice::from_mut(&mut request));
        if result != 0 {
            crate::fail!("an unmap of one element returns {result}");
        }
        request.status
    }

    /// A request to copy.
    #[must_use]
    pub fn copy_request(&self, source: Side, dest: Side, len: u16) -> gnttab::Copy {
        let pointer = |side| match side {
            Side::Page(page, offset) => {
                gnttab::CopyPtr { u: gfn(self.page(page)), domid: DOMID_SELF, offset, pad: 0 }
            }
            Side::Ref(gref, offset) => {
                gnttab::CopyPtr { u: u64::from(gref), domid: self.own, offset, pad: 0 }
            }
        };
        let flag = |side, flag| if matches!(side, Side::Ref(..)) { flag } else { 0 };
        gnttab::Copy {
            source: pointer(source),
            dest: pointer(dest),
            len,
            flags: flag(source, copy_flags::SOURCE_GREF) | flag(dest, copy_flags::DEST_GREF),
            status: UNSET,
            pad: 0,
        }
    }

    /// Copies once: the status.
    pub fn copy(&self, source: Side, dest: Side, len: u16) -> i16 {
        self.copy_as(self.copy_request(source, dest, len))
    }

    /// Copies as asked: the status.
    pub fn copy_as(&self, request: gnttab::Copy) -> i16 {
        let (result, request) = self.one(op::COPY, request);
        if result != 0 {
            crate::fail!("a copy of one element returns {result}");
        }
        request.status
    }

    /// Checksum of a page of the pool.
    #[must_use]
    pub fn sum(&self, page: u64) -> u32 {
        bytes::sum(self.page(page), PAGE)
    }
}
