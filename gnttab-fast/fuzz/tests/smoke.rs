//! Each target on its corpus, and on inputs made from it in a fixed sequence.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gnttab_fuzz::{TARGETS, Target};
use std::fs;
use std::path::Path;

/// Tells which input it was.
struct Told<'a>(&'a str, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {}, input {:?}", self.0, self.1);
        }
    }
}

fn run(target: &Target, input: &[u8]) {
    let _told = Told(target.name, input);
    (target.run)(input);
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no corpus", target.name);
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % n.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Some bytes changed, cut, doubled, or put in from another input.
    fn change(&mut self, mut input: Vec<u8>, other: &[u8]) -> Vec<u8> {
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(5) {
                0 => input.truncate(at),
                1 => input.insert(at, self.byte()),
                2 if !other.is_empty() => {
                    let from = self.below(other.len());
                    let to = (from + self.below(40)).min(other.len());
                    input.splice(at..at, other[from..to].iter().copied());
                }
                _ if at < input.len() => input[at] = self.byte(),
                _ => input.push(self.byte()),
            }
        }
        input.truncate(4096);
        input
    }
}

fn smoke(name: &str, rounds: usize) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = corpus(target);
    seeds.iter().for_each(|input| run(target, input));
    let mut random = Random(0x7011_6a7e_0000_0001);
    for _ in 0..rounds {
        let (one, other) = (random.below(seeds.len()), random.below(seeds.len()));
        let input = random.change(seeds[one].clone(), &seeds[other]);
        run(target, &input);
    }
}

#[test]
fn hypercall() {
    smoke("hypercall", 300);
}

#[test]
fn hostile() {
    smoke("hostile", 100);
}

#[test]
fn policy() {
    smoke("policy", 5_000);
}

#[test]
fn cmdline() {
    smoke("cmdline", 5_000);
}

#[test]
fn module() {
    smoke("module", 5_000);
}

#[test]
fn image() {
    smoke("image", 5_000);
}
