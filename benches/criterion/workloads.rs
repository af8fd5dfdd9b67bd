//! Wall-clock time of every workload under criterion, ours and the baseline's: for its statistics and its
//! history. Comparisons of the two are the A/B runner's, which plays them in turns.

use benches::baseline::Xen;
use benches::engine;
use benches::ours::Ours;
use benches::workload::{self, Player, Seat};
use copy_engine::Choice;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn rounds(c: &mut Criterion) {
    for w in workload::all().expect("definitions parse").into_iter().filter(|w| !w.swept) {
        let machine = engine::machine(w.shape());
        let (ours, xen) = (Ours::new(&machine, Choice::Auto), Xen::new(&machine));
        let mut player = Player::new(&w, Seat::ALONE, &machine).expect("definitions fit the machine");
        let mut group = c.benchmark_group(&w.name);
        group.throughput(Throughput::Elements(player.elements() as u64));
        player.verified_round(&ours, &machine, 1).expect("ours answers right");
        group.bench_function("ours", |b| b.iter(|| player.round(&ours)));
        player.verified_round(&xen, &machine, 2).expect("the baseline answers right");
        group.bench_function("xen", |b| b.iter(|| player.round(&xen)));
        group.finish();
    }
}

criterion_group!(benches, rounds);
criterion_main!(benches);
