//! Map and unmap.

use crate::common::*;
use crate::watched::{At, WatchedHost, assert_quiet, pins};
use crate::{GENERAL, OKAY};
use gnttab_fast::abi::{UnmapGrantRef, gtf, map_flags::*, op};
use gnttab_fast::testing::{Kind, Machine, MachineBuilder};
use gnttab_fast::{Domain, Gfn, Gref, Limits, Outcome, Scan, Status, Width, teardown_step};
use std::cell::{Cell, RefCell};
use std::time::Instant;

/// Granter 1, grantee 2, bystander 3.
fn machine() -> Machine {
    let limits = Limits { frames: 2, maptrack_frames: 2 };
    MachineBuilder { gfns: 600, limits, spare: 4, ..MachineBuilder::default() }.build(3)
}

/// Maps gref 9 of domain 1, which grants gfn 3, to gfn 20 of domain 2. The handle, too.
fn mapped(flags: u32) -> (Machine, u32) {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    let handle = map_ok(&m, 2, 1, 9, flags, 20);
    (m, handle)
}

#[test]
fn xsa_218_bits_and_pins_stay_until_the_flush() {
    let (m, handle) = mapped(HOST_MAP);
    let flushed = Cell::new(false);
    let hook = |at| {
        let held = in_use(&m, 1, 9) == gtf::READING | gtf::WRITING && pins(&m, 1, 9) == (0, 1);
        match at {
            At::Unmap(..) => assert!(held && !flushed.get()),
            At::Flush(who) => {
                assert!(held, "the granter may use the frame, and the grantee's TLB still has it");
                assert_eq!((who, m.domain(2).at(Gfn(20)).0), (2, Kind::None));
                flushed.set(true);
            }
            At::Put(..) => assert!(flushed.get()),
            _ => {}
        }
        true
    };
    let (outcome, done) =
        WatchedHost::new(&m, 2, &hook).call(Width::Bits64, op::UNMAP_GRANT_REF, &[unmap_request(handle, 20)]);
    assert_eq!((outcome, done[0].status), (Outcome::Done, OKAY));
    assert!(flushed.get());
    assert_quiet(&m);
}

#[test]
fn xsa_222_a_mapping_that_cannot_be_removed_stays() {
    let (m, handle) = mapped(HOST_MAP);
    let mfn = m.domain(1).mfn(Gfn(3));
    let hook = |at| !matches!(at, At::Unmap(..));
    for _ in 0..3 {
        let host = WatchedHost::new(&m, 2, &hook);
        let (_, done) = host.call(Width::Bits64, op::UNMAP_GRANT_REF, &[unmap_request(handle, 20)]);
        assert_eq!(done[0].status, GENERAL);
        assert_eq!((m.ram().refs(mfn), pins(&m, 1, 9)), (2, (0, 1)), "a frame still mapped was let go");
        assert_eq!(m.domain(2).at(Gfn(20)), (Kind::GrantRw, mfn));
    }
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
    assert_quiet(&m);
}

#[test]
fn xsa_224_every_combination_of_flags_gives_back_what_it_took() {
    for flags in 0..32u32 {
        for refuse_map in [false, true] {
            let m = machine();
            let mfn = m.domain(1).mfn(Gfn(3));
            grant(&m, 1, 9, 0, 2, 3);
            let hook = |at| !(refuse_map && matches!(at, At::Map(..)));
            let host = WatchedHost::new(&m, 2, &hook);
            let (_, done) = host.call(Width::Bits64, op::MAP_GRANT_REF, &[map_request(1, 9, flags, 20)]);
            let plain = matches!(flags, HOST_MAP) || flags == HOST_MAP | READONLY;
            if plain && !refuse_map {
                assert_eq!((done[0].status, m.ram().refs(mfn)), (OKAY, 2));
                // The device half, which there is none of, then the host half, and the other way about.
                let device = UnmapGrantRef {
                    host_addr: 0,
                    dev_bus_addr: mfn.0 << 12,
                    handle: done[0].handle,
                    status: 77,
                    pad: 0,
                };
                assert_eq!(m.ram().refs(mfn), 2);
                unmap(&m, 2, &[device]);
                assert_eq!((m.ram().refs(mfn), pins(&m, 1, 9).0 + pins(&m, 1, 9).1), (2, 1));
                assert_eq!(unmap(&m, 2, &[unmap_request(done[0].handle, 20)]), [OKAY]);
                assert_eq!(unmap(&m, 2, &[device]), [Status::BadHandle.abi()]);
            } else {
                assert!(done[0].status < 0, "{flags:#x}");
                assert_eq!(done[0].handle, 0xdead, "{flags:#x}");
            }
            assert_eq!((m.ram().refs(mfn), in_use(&m, 1, 9)), (1, 0), "{flags:#x}");
            assert_eq!(m.domain(2).at(Gfn(20)).0, Kind::None);
            assert_quiet(&m);
        }
    }
}

#[test]
fn xsa_227_a_page_table_entry_is_no_place_to_map() {
    let m = machine();
    grant(&m, 1, 9, 0, 2, 3);
    for address in [0x3001, 0x3004, 0x3007, 0x3008] {
        let mut request = map_request(1, 9, HOST_MAP | CONTAINS_PTE, 20);
        request.host_addr = address;
        assert_eq!(map(&m, 2, request).status, GENERAL);
        assert_eq!(m.domain(2).at(Gfn(3)).0, Kind::Ram);
    }
    assert_quiet(&m);
}

#[test]
fn xsa_230_bits_stay_until_the_last_pin() {
    // Every pair of pins, let go in both orders.
    for (first, second) in
        [(HOST_MAP, READONLY | HOST_MAP), (READONLY | HOST_MAP, HOST_MAP), (HOST_MAP, HOST_MAP)]
    {
        let (m, handle) = mapped(first);
        let bits = |flags: u32| gtf::READING | if flags & READONLY == 0 { gtf::WRITING } else { 0 };
        let other = map_ok(&m, 2, 1, 9, second, 21);
        let copies = [element(by_gref(1, 9, 0), by_gfn(0, 0), 8), element(by_gfn(1, 0), by_gref(1, 9, 0), 8)];
        assert_eq!(copy(&m, 2, &copies), [OKAY, OKAY]);
        assert_eq!(in_use(&m, 1, 9), bits(first) | bits(second));
        assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
        assert_eq!(in_use(&m, 1, 9), bits(second), "the second mapping is there");
        assert_eq!(copy(&m, 2, &copies), [OKAY, OKAY]);
        assert_eq!(in_use(&m, 1, 9), bits(second), "a copy clears what is not its own");
        assert_eq!(unmap(&m, 2, &[unmap_request(other, 21)]), [OKAY]);
        assert_eq!(in_use(&m, 1, 9), 0);
    }
}

#[test]
fn xsa_234_an_unmap_wants_the_rights_it_mapped() {
    for (flags, now, back) in
        [(HOST_MAP, Kind::GrantRo, Kind::GrantRw), (HOST_MAP | READONLY, Kind::GrantRw, Kind::GrantRo)]
    {
        let (m, handle) = mapped(flags);
        let mfn = m.domain(1).mfn(Gfn(3));
        m.domain(2).set(Gfn(20), now, mfn);
        assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [GENERAL]);
        assert_eq!(m.ram().refs(mfn), 2);
        m.domain(2).set(Gfn(20), back, mfn);
        assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
        assert_quiet(&m);
    }
}

#[test]
fn xsa_236_the_pin_goes_before_the_reference() {
    let (m, handle) = mapped(HOST_MAP);
    let mfn = m.domain(1).mfn(Gfn(3));
    let puts = RefCell::new(Vec::new());
    let hook = |at| {
        if let At::Put(who, which) = at {
            puts.borrow_mut().push((who, which));
            assert_eq!((pins(&m, 1, 9), in_use(&m, 1, 9)), ((0, 0), 0), "a pin without its reference");
        } else {
            assert_eq!((pins(&m, 1, 9), m.ram().refs(mfn)), ((0, 1), 2));
        }
        true
    };
    WatchedHost::new(&m, 2, &hook).call(Width::Bits64, op::UNMAP_GRANT_REF, &[unmap_request(handle, 20)]);
    assert_eq!(*puts.borrow(), [(1, mfn)]);
    // And at death.
    let handle = map_ok(&m, 2, 1, 9, HOST_MAP, 20);
    assert_ne!(handle, 0);
    let host = WatchedHost::new(&m, 2, &hook);
    let dead = gnttab_fast::Host::caller(&host);
    assert_eq!(teardown_step(&host, dead, 0, 0, u32::MAX), None);
    assert_eq!(puts.borrow().len(), 2);
    assert_quiet(&m);
}

#[test]
fn xsa_380_handles_cost_the_same_full_or_empty_and_teardown_is_in_steps() {
    // The default limit: 262,144 handles, from 2048 entries with 128 pins each.
    let limits = Limits { frames: 5, maptrack_frames: 1024 };
    let m = MachineBuilder { gfns: 262_200, limits, ..MachineBuilder::default() }.build(2);
    m.domain(1).grants().grow_to(5).unwrap();
    let batch = 4096;
    let mut times = Vec::new();
    for from in (0..262_144u32).step_by(batch) {
        let requests: Vec<_> = (from..from + 4096)
            .map(|n| {
                let gref = 8 + n / 128;
                grant_once(&m, gref);
                map_request(1, gref, HOST_MAP | READONLY, 8 + u64::from(n))
            })
            .collect();
        let since = Instant::now();
        let done = call(&m, 2, op::MAP_GRANT_REF, &requests);
        times.push(since.elapsed());
        assert!(done.iter().all(|r| r.status == OKAY));
    }
    // A search through what is taken would cost the last ones a thousand times what the first ones do.
    times[..8].sort_unstable();
    let (early, late) = (times[4], *times[56..].iter().min().unwrap());
    assert!(late < early * 20, "{early:?} a batch at first, {late:?} in the end");
    let handles = m.domain(2).grants().maptrack();
    assert_eq!(handles.in_use(), 262_144);
    grant(&m, 1, 2056, 0, 2, 3);
    let none_left = || {
        let since = Instant::now();
        assert_eq!(map(&m, 2, map_request(1, 2056, HOST_MAP, 7)).status, Status::NoSpace.abi());
        since.elapsed()
    };
    let least = (0..20).map(|_| none_left()).min().unwrap();
    assert!(least < early * 20, "{least:?} to find that there is none");

    // The domain dies: each step does what it is given at most, and as many steps as needed end it.
    let host = m.host(2, 0);
    let (mut from, mut steps) = (0, 0);
    while let Some(next) = teardown_step(&host, m.domain(2), 0, from, 10_000) {
        steps += 1;
        assert!(handles.in_use() >= 262_144 - steps * 10_000, "a step did more than its budget");
        from = next;
    }
    assert!(steps >= 26);
    assert_eq!(handles.in_use(), 0);
    assert_eq!(m.domain(1).grants().find_pinned(Gref(0), u32::MAX), Scan::Clear);
    assert_eq!(m.ram().refs(m.domain(1).mfn(Gfn(3))), 1);
}

/// Grants gfn 3 to domain 2, unless it is in use already.
fn grant_once(m: &Machine, gref: u32) {
    if in_use(m, 1, gref) == 0 {
        grant(m, 1, gref, 0, 2, 3);
    }
}

#[test]
fn xsa_394_an_unmap_of_no_half_drops_nothing() {
    let (m, handle) = mapped(HOST_MAP);
    let mfn = m.domain(1).mfn(Gfn(3));
    for _ in 0..300 {
        assert_eq!(unmap(&m, 2, &[unmap_request(handle, 0)]), [OKAY]);
        assert_eq!((m.ram().refs(mfn), pins(&m, 1, 9)), (2, (0, 1)));
        assert_eq!(m.domain(2).at(Gfn(20)), (Kind::GrantRw, mfn));
    }
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 20)]), [OKAY]);
    assert_eq!(unmap(&m, 2, &[unmap_request(handle, 0)]), [Status::BadHandle.abi()]);
    assert_quiet(&m);
}
