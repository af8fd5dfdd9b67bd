//! Cycles per copy: each kernel, libc's memcpy and a bare `REP MOVSQ`, interleaved, medians.
//!
//! `cargo run --release -p copy-engine --example kernels [hot|mix|cold|state]...`

use core::arch::asm;
use core::arch::x86_64::{_mm_lfence, _rdtsc};
use core::hint::black_box;

use copy_engine::{Choice, Engine, Scratch, Segment};

/// A table.
type Part = fn(&[Copier], &mut [u8]);

/// Copies per timed run.
const COPIES: usize = 64;

/// Something that copies a batch.
enum Copier {
    Engine(Engine),
    Libc,
    RepMovsq,
    RepMovsb,
}

impl Copier {
    fn name(&self) -> &'static str {
        match self {
            Self::Engine(engine) => engine.name(),
            Self::Libc => "libc",
            Self::RepMovsq => "rep movsq",
            Self::RepMovsb => "rep movsb",
        }
    }

    fn copy(&self, segments: &[Segment]) {
        match self {
            // SAFETY: the segments lie in memory of this program.
            Self::Engine(engine) => unsafe { engine.begin().copy_batch(segments) },
            Self::Libc => segments.iter().for_each(|s| {
                // SAFETY: likewise, and they never overlap.
                unsafe { s.dst.copy_from_nonoverlapping(s.src, black_box(s.len)) };
            }),
            Self::RepMovsq => segments.iter().for_each(|s| {
                // SAFETY: likewise: `len / 8` words, then `len % 8` bytes.
                unsafe {
                    asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb", rest = in(reg) s.len % 8,
                         inout("rcx") s.len / 8 => _, inout("rdi") s.dst => _, inout("rsi") s.src => _);
                }
            }),
            Self::RepMovsb => segments.iter().for_each(|s| {
                // SAFETY: likewise: `len` bytes.
                unsafe {
                    asm!("rep movsb",
                         inout("rcx") s.len => _, inout("rdi") s.dst => _, inout("rsi") s.src => _);
                }
            }),
        }
    }
}

fn copiers() -> Vec<Copier> {
    let mut scratch = Box::new(Scratch::new());
    let mut all: Vec<_> = Choice::ALL[1..]
        .iter()
        .filter_map(|&choice| Engine::select(choice, &mut scratch, clock).ok())
        .map(|(engine, _)| Copier::Engine(engine))
        .collect();
    all.extend([Copier::Libc, Copier::RepMovsq, Copier::RepMovsb]);
    all
}

fn clock() -> u64 {
    // SAFETY: both exist on every x86-64 processor.
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

/// Median cycles per copy of each copier; the copiers take turns. `before` prepares each run.
fn table(copiers: &[Copier], rounds: usize, batches: &[Vec<Segment>]) -> Vec<f64> {
    let mut samples = vec![Vec::with_capacity(rounds); copiers.len()];
    let mut turn = 0;
    for _ in 0..rounds {
        for (copier, samples) in copiers.iter().zip(&mut samples) {
            let batch = &batches[turn % batches.len()];
            turn += 1;
            let start = clock();
            copier.copy(black_box(batch));
            samples.push((clock() - start) as f64 / batch.len() as f64);
        }
    }
    samples
        .iter_mut()
        .map(|samples| {
            samples.sort_by(f64::total_cmp);
            samples[samples.len() / 2]
        })
        .collect()
}

fn print_row(label: &str, cells: &[f64]) {
    print!("{label:>22}");
    cells.iter().for_each(|cell| print!("{cell:11.1}"));
    println!();
}

fn print_head(title: &str, copiers: &[Copier]) {
    println!("== {title}");
    print!("{:>22}", "");
    copiers.iter().for_each(|copier| print!("{:>11}", copier.name()));
    println!();
}

fn hot(copiers: &[Copier], arena: &mut [u8]) {
    let base = arena.as_mut_ptr().wrapping_add(arena.as_ptr().align_offset(4096));
    print_head("hot, one pair of buffers; (dst, src) page offsets", copiers);
    for (to, from) in [
        (0, 0),
        (0, 2048),
        (0, 2),
        (2, 0),
        (16, 0),
        (0, 16),
        (64, 0),
        (2050, 1),
        (40, 0),
        (300, 0),
        (1000, 0),
    ] {
        for len in [1, 8, 16, 20, 40, 64, 66, 128, 256, 512, 1024, 1514, 2048, 4096] {
            let segment = Segment { dst: base.wrapping_add(16384 + to), src: base.wrapping_add(from), len };
            let cells = table(copiers, 101, &[vec![segment; COPIES]]);
            print_row(&format!("({to},{from}) {len}"), &cells);
        }
    }
}

/// Lengths that vary, so that branches on the length are mispredicted as they are in life.
fn mix(copiers: &[Copier], arena: &mut [u8]) {
    let base = arena.as_mut_ptr().wrapping_add(arena.as_ptr().align_offset(4096));
    print_head("hot, lengths drawn at random", copiers);
    let mut state = 1_u64;
    let mut draw = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("64-bit")
    };
    let mixes: [(&str, &[usize]); 6] = [
        ("64 or 128", &[64, 128]),
        ("54 66 90 128", &[54, 66, 90, 128]),
        ("42..128", &[42, 54, 60, 66, 74, 80, 90, 102, 118, 128]),
        ("66 or 1514", &[66, 1514]),
        ("imix", &[64, 64, 64, 64, 64, 64, 64, 594, 594, 594, 594, 1518]),
        ("1514 2962 4096", &[1514, 1448, 2962, 4096]),
    ];
    for (label, lengths) in mixes {
        let batches: Vec<Vec<_>> = (0..61)
            .map(|_| {
                (0..COPIES)
                    .map(|_| Segment {
                        dst: base.wrapping_add(65536 + draw() % 8 * 4096 + draw() % 2 * 2),
                        src: base.wrapping_add(draw() % 8 * 4096 + draw() % 32 * 64 + 2),
                        len: lengths[draw() % lengths.len()],
                    })
                    .collect()
            })
            .collect();
        print_row(label, &table(copiers, 1001, &batches));
    }
}

/// Pages that no cache holds.
fn cold(copiers: &[Copier], arena: &mut [u8]) {
    let base = arena.as_mut_ptr().wrapping_add(arena.as_ptr().align_offset(4096));
    let pages = arena.len() / 4096 - 2;
    print_head("cold, pages of the whole arena in turn", copiers);
    for len in [64, 128, 256, 512, 1514, 4096] {
        let mut page = 0;
        let mut next = || {
            page = (page + 7919) % pages;
            base.wrapping_add(page * 4096)
        };
        let batches: Vec<Vec<_>> = (0..pages / 2 / COPIES)
            .map(|_| (0..COPIES).map(|_| Segment { dst: next(), src: next(), len }).collect())
            .collect();
        print_row(&format!("{len}"), &table(copiers, 301, &batches));
    }
}

/// What widening a session and returning the registers costs, upper halves initial and live.
fn state(copiers: &[Copier], _: &mut [u8]) {
    println!("== session that widens and copies nothing, cycles");
    for copier in copiers {
        let Copier::Engine(engine) = copier else { continue };
        for live in [false, true] {
            let mut samples = Vec::new();
            for _ in 0..2001 {
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: AVX exists, and in this program nobody keeps anything in upper halves.
                    unsafe { asm!("vzeroupper") };
                    if live {
                        // SAFETY: likewise.
                        unsafe { asm!("vpcmpeqd ymm15, ymm15, ymm15", out("xmm15") _) };
                    }
                }
                let start = clock();
                let session = engine.begin();
                session.widen();
                drop(black_box(session));
                let end = clock();
                samples.push((end - start).saturating_sub(clock() - end));
            }
            samples.sort_unstable();
            println!(
                "{:>22} {:>8} {:>6}",
                engine.name(),
                if live { "live" } else { "initial" },
                samples[1000]
            );
        }
    }
}

fn main() {
    let mut scratch = Box::new(Scratch::new());
    let chosen = Engine::select(Choice::Auto, &mut scratch, clock).map(|(_, selection)| selection);
    println!("copy: {}", chosen.expect("auto always finds one"));
    let copiers = copiers();
    let mut arena = vec![1_u8; 128 << 20];
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let parts = [("state", state as Part), ("mix", mix), ("cold", cold), ("hot", hot)];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            part(&copiers, &mut arena);
        }
    }
}
