//! Random operations of several CPUs, in one thread, against a naive account of who owns what.
#![cfg(not(loom))]

use maptrack::{BadHandle, Claim, Halves, Handle, HeapPages, MapInfo, Maptrack, NoSpace, Reserved};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CPUS: u32 = 4;

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        cpu: u32,
    },
    /// `n` allocations in one batch of a CPU, kept.
    Burst {
        cpu: u32,
        n: usize,
    },
    Publish {
        pick: usize,
        info: MapInfo,
    },
    Free {
        cpu: u32,
        pick: usize,
    },
    Begin {
        pick: usize,
        halves: Halves,
    },
    Finish {
        cpu: u32,
        pick: usize,
    },
    Rollback {
        pick: usize,
    },
    /// Unmaps up to `n` live handles on one CPU.
    Sweep {
        cpu: u32,
        n: usize,
    },
    Stale {
        pick: usize,
    },
    Garbage {
        raw: u32,
    },
    Walk {
        budget: u32,
    },
}

fn halves() -> impl Strategy<Value = Halves> {
    prop::sample::select(vec![Halves::NONE, Halves::HOST, Halves::DEVICE, Halves::BOTH])
}

fn info() -> impl Strategy<Value = MapInfo> {
    (any::<u16>(), any::<u32>(), 1usize..4, any::<bool>(), any::<u64>()).prop_map(
        |(domid, gref, h, readonly, gfn)| {
            let halves = [Halves::NONE, Halves::HOST, Halves::DEVICE, Halves::BOTH][h];
            MapInfo { domid, gref, halves, readonly, gfn }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let cpu = || 0..CPUS;
    let pick = any::<usize>;
    prop_oneof![
        4 => cpu().prop_map(|cpu| Op::Alloc { cpu }),
        2 => (cpu(), 1usize..200).prop_map(|(cpu, n)| Op::Burst { cpu, n }),
        6 => (pick(), info()).prop_map(|(pick, info)| Op::Publish { pick, info }),
        3 => (cpu(), pick()).prop_map(|(cpu, pick)| Op::Free { cpu, pick }),
        6 => (pick(), halves()).prop_map(|(pick, halves)| Op::Begin { pick, halves }),
        6 => (cpu(), pick()).prop_map(|(cpu, pick)| Op::Finish { cpu, pick }),
        2 => pick().prop_map(|pick| Op::Rollback { pick }),
        2 => (cpu(), 1usize..300).prop_map(|(cpu, n)| Op::Sweep { cpu, n }),
        2 => pick().prop_map(|pick| Op::Stale { pick }),
        1 => any::<u32>().prop_map(|raw| Op::Garbage { raw }),
        1 => (1u32..300).prop_map(|budget| Op::Walk { budget }),
    ]
}

/// What the table ought to know.
struct Model {
    table: Maptrack<HeapPages>,
    limit: usize,
    reserved: Vec<Reserved>,
    /// Live handles: what is mapped, and which halves are claimed.
    live: BTreeMap<u32, (MapInfo, Halves)>,
    claims: Vec<Claim>,
    stale: Vec<Handle>,
}

impl Model {
    fn new(pages: u32) -> Self {
        let table = Maptrack::new(HeapPages, pages, CPUS);
        let limit = table.limit() as usize;
        let (reserved, live, claims, stale) = Default::default();
        Self { table, limit, reserved, live, claims, stale }
    }

    fn used(&self) -> usize {
        self.reserved.len() + self.live.len()
    }

    fn took(&mut self, got: Result<Reserved, NoSpace>) {
        match got {
            Ok(r) => {
                let raw = r.handle().raw();
                assert!(raw != 0 && raw != !0);
                let index = raw & 0x3f_ffff;
                assert!((index as usize) < self.limit);
                assert!(self.live.keys().all(|k| k & 0x3f_ffff != index), "live entry given out");
                assert!(
                    self.reserved.iter().all(|o| o.handle().raw() & 0x3f_ffff != index),
                    "given out twice"
                );
                self.reserved.push(r);
            }
            Err(NoSpace) => assert_eq!(self.used(), self.limit, "exhaustion is told though handles are free"),
        }
    }

    fn live_handle(&self, pick: usize) -> Option<Handle> {
        let keys: Vec<_> = self.live.keys().collect();
        (!keys.is_empty()).then(|| Handle::from_raw(*keys[pick % keys.len()]))
    }

    fn finish(&mut self, cpu: u32, c: Claim) {
        let (h, halves) = (c.handle(), c.halves());
        let freed = self.table.finish_unmap(cpu, c);
        if halves == Halves::NONE {
            assert!(!freed, "XSA-394: an unmap of neither half frees nothing");
            return;
        }
        let (info, busy) = self.live.get_mut(&h.raw()).expect("claimed handles are live");
        let left = |from: Halves| {
            [Halves::HOST, Halves::DEVICE]
                .into_iter()
                .filter(|&one| from.contains(one) && !halves.contains(one))
                .fold(Halves::NONE, |a, b| a | b)
        };
        (info.halves, *busy) = (left(info.halves), left(*busy));
        assert_eq!(freed, info.halves == Halves::NONE);
        if freed {
            self.live.remove(&h.raw());
            self.stale.push(h);
        }
    }

    fn begin(&mut self, h: Handle, halves: Halves) {
        let (info, busy) = self.live.get_mut(&h.raw()).expect("live");
        let want = halves & info.halves;
        match self.table.begin_unmap(h, halves) {
            Err(BadHandle) => assert!(!(want & *busy).is_empty(), "refused without a rival"),
            Ok(c) => {
                assert_eq!(c.halves(), want);
                assert!((want & *busy).is_empty(), "a half claimed twice");
                let got = c.info();
                assert_eq!(
                    (got.domid, got.gref, got.readonly, got.gfn),
                    (info.domid, info.gref, info.readonly, info.gfn)
                );
                *busy = *busy | want;
                self.claims.push(c);
            }
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Alloc { cpu } => {
                let got = self.table.alloc(cpu);
                self.took(got);
            }
            Op::Burst { cpu, n } => {
                let got: Vec<_> = {
                    let mut local = self.table.local(cpu);
                    let room = self.limit - self.used();
                    (0..n.min(room)).map(|_| local.alloc().expect("there is room")).collect()
                };
                got.into_iter().for_each(|r| self.took(Ok(r)));
            }
            Op::Publish { pick, info } if !self.reserved.is_empty() => {
                let r = self.reserved.swap_remove(pick % self.reserved.len());
                assert_eq!(self.table.get(r.handle()), None, "a reserved handle is not live");
                assert_eq!(self.table.begin_unmap(r.handle(), Halves::BOTH), Err(BadHandle));
                let h = self.table.publish(r, &info);
                self.live.insert(h.raw(), (info, Halves::NONE));
            }
            Op::Free { cpu, pick } if !self.reserved.is_empty() => {
                let r = self.reserved.swap_remove(pick % self.reserved.len());
                self.stale.push(r.handle());
                self.table.free(cpu, r);
            }
            Op::Begin { pick, halves } => {
                if let Some(h) = self.live_handle(pick) {
                    self.begin(h, halves);
                }
            }
            Op::Finish { cpu, pick } if !self.claims.is_empty() => {
                let c = self.claims.swap_remove(pick % self.claims.len());
                self.finish(cpu, c);
            }
            Op::Rollback { pick } if !self.claims.is_empty() => {
                let c = self.claims.swap_remove(pick % self.claims.len());
                if let Some((_, busy)) = self.live.get_mut(&c.handle().raw()) {
                    for one in [Halves::HOST, Halves::DEVICE] {
                        if c.halves().contains(one) && *busy == Halves::BOTH {
                            *busy = if one == Halves::HOST { Halves::DEVICE } else { Halves::HOST };
                        } else if c.halves().contains(one) {
                            *busy = Halves::NONE;
                        }
                    }
                }
                self.table.rollback(c);
            }
            Op::Sweep { cpu, n } => {
                let idle: Vec<_> = self
                    .live
                    .iter()
                    .filter(|(_, (_, busy))| busy.is_empty())
                    .map(|(k, _)| *k)
                    .take(n)
                    .collect();
                for raw in idle {
                    let c = self.table.begin_unmap(Handle::from_raw(raw), Halves::BOTH).expect("idle");
                    self.finish(cpu, c);
                }
            }
            Op::Stale { pick } if !self.stale.is_empty() => {
                let h = self.stale[pick % self.stale.len()];
                if !self.live.contains_key(&h.raw()) {
                    assert_eq!(self.table.get(h), None);
                    assert_eq!(self.table.begin_unmap(h, Halves::BOTH), Err(BadHandle));
                }
            }
            Op::Garbage { raw } if !self.live.contains_key(&raw) => {
                assert_eq!(self.table.get(Handle::from_raw(raw)), None);
                assert_eq!(self.table.begin_unmap(Handle::from_raw(raw), Halves::HOST), Err(BadHandle));
            }
            Op::Walk { budget } => {
                let mut seen = BTreeMap::new();
                let (mut from, mut steps) = (Some(0), 0);
                while let Some(at) = from {
                    from = self.table.walk(at, budget, |h, i| assert!(seen.insert(h.raw(), i).is_none()));
                    steps += 1;
                    assert!(steps <= self.limit, "the walk ends");
                }
                let want: BTreeMap<_, _> = self.live.iter().map(|(k, (i, _))| (*k, *i)).collect();
                assert_eq!(seen, want);
            }
            _ => {}
        }
        assert_eq!(self.table.in_use(), self.used() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn as_the_naive_account_says(pages in 1u32..4, ops in prop::collection::vec(op(), 1..250)) {
        let mut m = Model::new(pages);
        for op in ops {
            m.run(op);
        }
        // What is free can be had, to the last one.
        while m.used() < m.limit {
            let got = m.table.alloc(3).expect("free handles are found wherever they are");
            m.took(Ok(got));
        }
        prop_assert_eq!(m.table.alloc(0), Err(NoSpace));
    }
}
