//! Instructions of one round of each workload, ours and the baseline's, by callgrind.
//!
//! The copy kernel is the SSE2 one, whatever the processor: the figures are for the work around the copies
//! and must not depend on a choice made by time. (`REP MOVS` counts once per iteration: compare no kernels
//! by these.) Divide by the workload's elements: 32 for the `b32` rows.
#![expect(missing_docs, clippy::exit, reason = "what the macros of the runner expand to")]

use benches::baseline::Xen;
use benches::ours::Ours;
use benches::stage::{self, Stage};
use copy_engine::Choice;
use iai_callgrind::{library_benchmark, library_benchmark_group, main};
use std::hint::black_box;

fn ours(name: &str) -> Stage<Ours<'static>> {
    stage::ours(&stage::named(name), Choice::Sse2)
}

fn xen(name: &str) -> Stage<Xen<'static>> {
    stage::xen(&stage::named(name))
}

#[library_benchmark(setup = ours)]
#[bench::copy_gref_own_b1_64("copy.gref_own.b1.64")]
#[bench::copy_gref_own_b32_64("copy.gref_own.b32.64")]
#[bench::copy_own_gref_b32_64("copy.own_gref.b32.64")]
#[bench::copy_gref_gref_b32_64("copy.gref_gref.b32.64")]
#[bench::copy_same_pair_b32_64("copy.same_pair.b32.64")]
#[bench::map_unmap_b1("map_unmap.b1")]
#[bench::map_unmap_b32("map_unmap.b32")]
#[bench::tx_small("tx-small")]
#[bench::vm_vm("vm-vm")]
#[bench::block("block")]
fn ours_round(mut stage: Stage<Ours<'static>>) -> Stage<Ours<'static>> {
    stage.round();
    black_box(stage)
}

#[library_benchmark(setup = xen)]
#[bench::copy_gref_own_b1_64("copy.gref_own.b1.64")]
#[bench::copy_gref_own_b32_64("copy.gref_own.b32.64")]
#[bench::copy_own_gref_b32_64("copy.own_gref.b32.64")]
#[bench::copy_gref_gref_b32_64("copy.gref_gref.b32.64")]
#[bench::copy_same_pair_b32_64("copy.same_pair.b32.64")]
#[bench::map_unmap_b1("map_unmap.b1")]
#[bench::map_unmap_b32("map_unmap.b32")]
#[bench::tx_small("tx-small")]
#[bench::vm_vm("vm-vm")]
#[bench::block("block")]
fn xen_round(mut stage: Stage<Xen<'static>>) -> Stage<Xen<'static>> {
    stage.round();
    black_box(stage)
}

library_benchmark_group!(
    name = rounds;
    compare_by_id = true;
    benchmarks = ours_round, xen_round
);
main!(library_benchmark_groups = rounds);
