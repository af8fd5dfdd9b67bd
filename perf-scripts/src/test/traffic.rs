//! Runs of the main job, as data: every profile, numbers of CPUs, policies, captures good and bad, and the
//! proof that a wrong byte is seen.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::failure::{Exit, stop};
use crate::netback::{self, NetbackArgs};
use crate::places;

/// A run of the main job.
pub struct Case {
    /// As one would call it; the word after `--pcap` is a [`Capture`]'s name.
    pub words: &'static str,
    pub quick: bool,
    /// What it must say, if it must fail.
    fails: Option<&'static str>,
}

const fn passes(words: &'static str) -> Case {
    Case { words, quick: false, fails: None }
}

const fn fails(words: &'static str, why: &'static str) -> Case {
    Case { words, quick: false, fails: Some(why) }
}

/// Every run.
pub const CASES: &[Case] = &[
    Case { words: "--profile imix --cpus 2", quick: true, fails: None },
    passes("--profile tx-small --cpus 2"),
    passes("--profile tx-bulk --cpus 2"),
    passes("--profile rx-mtu --cpus 2"),
    passes("--profile rx-gro --cpus 2"),
    passes("--profile vm-vm --cpus 2"),
    passes("--profile block --cpus 2"),
    passes("--profile all --cpus 1"),
    passes("--profile all --cpus 4"),
    passes("--profile all --cpus 2 --gnttab max_ver:1,no-transitive"),
    passes("--profile all --cpus 2 --packets 5000"),
    passes("--profile imix --cpus 2 --seconds 5"),
    passes("--profile all --icount --cpus 1"),
    passes("--profile imix --cmdline copy=sse2"),
    passes("--profile imix --cmdline copy=rep"),
    passes("--profile all --pcap every-size"),
    Case { words: "--profile imix --corrupt 5", quick: true, fails: Some("packet 5: byte ") },
    fails("--profile tx-bulk --corrupt 0", "packet 0: byte "),
    fails("--profile rx-gro --corrupt 5", "packet 5: byte "),
    fails("--profile vm-vm --corrupt 5", "packet 5: byte "),
    fails("--profile block --corrupt 5", "5, segment 3"),
    fails("--cmdline colour=blue", "bad option 'colour=blue'"),
    fails("--gnttab max_ver:3", "bad option 'gnttab=max_ver:3'"),
    fails("--pcap truncated", "the capture is truncated in or before frame 2"),
    fails("--pcap empty", "the capture holds no frames"),
    fails("--pcap no-ethernet", "the capture is not Ethernet"),
    fails("--pcap too-long", "frame 1 has 65536 bytes; a ring takes at most 65535"),
    fails("--pcap small-only --profile tx-bulk", "it has no frame of the size that profile tx-bulk sends"),
];

/// A capture made for the tests.
struct Capture {
    name: &'static str,
    link: u32,
    lengths: &'static [u32],
    /// Bytes that are missing at the end.
    cut: usize,
}

/// Link types of the pcap format.
const ETHERNET: u32 = 1;
const RAW_IP: u32 = 101;

const CAPTURES: &[Capture] = &[
    Capture {
        name: "every-size",
        link: ETHERNET,
        lengths: &[
            14, 60, 64, 127, 128, 129, 255, 256, 257, 1500, 1513, 1514, 1515, 4095, 4096, 4097, 9014, 20_000,
            65_226, 65_535,
        ],
        cut: 0,
    },
    Capture { name: "truncated", link: ETHERNET, lengths: &[60, 60], cut: 1 },
    Capture { name: "empty", link: ETHERNET, lengths: &[], cut: 0 },
    Capture { name: "no-ethernet", link: RAW_IP, lengths: &[60], cut: 0 },
    Capture { name: "too-long", link: ETHERNET, lengths: &[65_536], cut: 0 },
    Capture { name: "small-only", link: ETHERNET, lengths: &[60, 90], cut: 0 },
];

impl Capture {
    /// Writes it and tells where.
    fn write(&self) -> Result<PathBuf> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 262_144, self.link] {
            file.extend(word.to_le_bytes());
        }
        // No two frames alike, no byte like its neighbours: what a shifted or doubled piece would show in.
        let mut state = 226_u32;
        for &length in self.lengths {
            for word in [0, 0, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend((0..length).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_le_bytes()[3]
            }));
        }
        file.truncate(file.len() - self.cut);
        let path = places::boot_dir().join(format!("{}.pcap", self.name));
        fs::create_dir_all(places::boot_dir()).context("cannot make the directory of the artefacts")?;
        fs::write(&path, file).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: NetbackArgs,
}

fn parse(case: &Case) -> Result<NetbackArgs, clap::Error> {
    // KVM is asked for by users; tests want the same machine everywhere.
    let words = ["netback", "--accel", "tcg"].into_iter().chain(case.words.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args)
}

/// Makes one run; returns how many profiles passed.
pub fn run(case: &Case) -> Result<usize> {
    let mut args = parse(case)?;
    if let Some(name) = &args.pcap {
        let capture = CAPTURES.iter().find(|capture| name.as_os_str() == capture.name);
        args.pcap = Some(capture.context("no such capture")?.write()?);
    }
    match (netback::measure(&args, true), case.fails) {
        (Ok((_, reports)), None) => Ok(reports.len()),
        (Ok(_), Some(_)) => Err(stop(Exit::Failed, "it passed, and must not")),
        (Err(error), Some(words)) if format!("{error:#}").contains(words) => Ok(1),
        (Err(error), _) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_right() {
        for case in CASES {
            let args = parse(case);
            assert!(args.is_ok(), "{}", case.words);
            let pcap = args.ok().and_then(|args| args.pcap);
            let known = |name: PathBuf| CAPTURES.iter().any(|capture| name.as_os_str() == capture.name);
            assert!(pcap.is_none_or(known), "{}", case.words);
        }
    }
}
