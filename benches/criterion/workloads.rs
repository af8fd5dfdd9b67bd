//! Wall-clock time of every workload under criterion, ours and the baseline's: for its statistics and its
//! history. Comparisons of the two are the A/B runner's, which plays them in turns.

use benches::{stage, workload};
use copy_engine::Choice;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn rounds(c: &mut Criterion) {
    for w in workload::all().expect("definitions parse") {
        let mut group = c.benchmark_group(&w.name);
        let (mut ours, mut xen) = (stage::ours(&w, Choice::Auto), stage::xen(&w));
        ours.verify(1);
        xen.verify(1);
        group.throughput(Throughput::Elements(ours.elements() as u64));
        group.bench_function("ours", |b| b.iter(|| ours.round()));
        ours.verify(2);
        group.bench_function("xen", |b| b.iter(|| xen.round()));
        xen.verify(2);
        group.finish();
    }
}

criterion_group!(benches, rounds);
criterion_main!(benches);
