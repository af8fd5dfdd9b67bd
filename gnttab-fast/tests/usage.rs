//! What a table tells of its use.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use gnttab_fast::abi::map_flags::{HOST_MAP, READONLY};
use gnttab_fast::testing::{Machine, MachineBuilder};
use gnttab_fast::{Domain, Limits, Policy, Version};

fn machine(policy: Policy) -> Machine {
    let limits = Limits { frames: 4, maptrack_frames: 1 };
    MachineBuilder { limits, policy, ..MachineBuilder::default() }.build(3)
}

#[test]
fn it_follows_growth_and_handles() {
    let m = machine(Policy::HOST_DEFAULT);
    let usage = |id| m.domain(id).grants().usage();
    let fresh = usage(2);
    assert_eq!((fresh.version, fresh.frames, fresh.max_frames), (Version::V1, 1, 4));
    assert_eq!((fresh.references, fresh.status_frames), (512, 0));
    assert_eq!((fresh.handles, fresh.max_handles, fresh.handle_room), (0, 256, 0));
    m.domain(1).grants().grow_to(3).unwrap();
    assert_eq!((usage(1).frames, usage(1).references), (3, 1536));
    for gref in 1..4 {
        grant(&m, 1, gref, 0, 2, gref);
    }
    let handles: Vec<u32> =
        (1..4).map(|gref| map_ok(&m, 2, 1, gref, HOST_MAP | READONLY, u64::from(20 + gref))).collect();
    assert_eq!((usage(2).handles, usage(2).handle_room, usage(1).handles), (3, 256, 0));
    unmap(&m, 2, &[unmap_request(handles[0], 21)]);
    assert_eq!(usage(2).handles, 2);
}

#[test]
fn it_tells_the_policy() {
    for (policy, transitive) in [
        (Policy::new(Version::V1, true), true),
        (Policy::new(Version::V1, false), false),
        (Policy::new(Version::V2, false), false),
        (Policy::new(Version::V2, true), true),
    ] {
        let m = machine(policy);
        let usage = m.domain(1).grants().usage();
        assert_eq!(usage.max_version, m.domain(1).grants().policy().max_version());
        assert_eq!(usage.transitive, transitive, "{policy}");
    }
}

#[test]
fn the_128th_pin_of_a_kind_is_the_last() {
    use gnttab_fast::abi::op;
    use gnttab_fast::active::Pin;
    use gnttab_fast::{Gref, Status};
    let m = MachineBuilder { gfns: 256, ..MachineBuilder::default() }.build(2);
    grant(&m, 1, 1, 0, 2, 1);
    let pins = || m.domain(1).grants().pins(Gref(1)).unwrap();
    for at in 0..128 {
        assert!(!pins().at_limit(Pin::Read), "{at}");
        map_ok(&m, 2, 1, 1, HOST_MAP | READONLY, 100 + at);
    }
    assert!(pins().at_limit(Pin::Read) && !pins().at_limit(Pin::Write));
    let more = call(&m, 2, op::MAP_GRANT_REF, &[map_request(1, 1, HOST_MAP | READONLY, 250)]);
    assert_eq!(more[0].status, Status::GeneralError.abi());
}

#[test]
fn a_pinned_entry_tells_its_frame_and_flags() {
    use gnttab_fast::Gref;
    let m = machine(Policy::HOST_DEFAULT);
    grant(&m, 1, 5, 0, 2, 7);
    let pinned = || m.domain(1).grants().pinned(Gref(5));
    assert_eq!(pinned(), None);
    let handle = map_ok(&m, 2, 1, 5, HOST_MAP, 20);
    let seen = pinned().unwrap();
    assert_eq!((seen.pins.host_read, seen.pins.host_write, seen.pins.grantee), (0, 1, 2));
    assert_eq!((seen.frame.start(), seen.frame.last()), (0, 4095));
    assert_eq!(seen.frame.mfn(), m.domain(1).ram(gnttab_fast::Gfn(7)).unwrap().mfn);
    // Access permitted, reading and writing.
    assert_eq!(seen.flags, 0x19);
    unmap(&m, 2, &[unmap_request(handle, 20)]);
    assert_eq!(pinned(), None);
    assert_eq!(m.domain(1).grants().pinned(Gref(100_000)), None);
}
