//! Every target, by the ordinary compiler: its seeds, a few hundred mutations of them, always the
//! same, and whatever once made it fail.

#![allow(clippy::unwrap_used)]

use diskimg_fuzz_targets::{TARGETS, Target};
use std::path::{Path, PathBuf};

/// Mutations of all seeds of a target together …
const MUTATIONS: usize = 300;

/// … and of one that converts disks.
const MUTATED_DISKS: usize = 30;

/// Bytes of the longest seed that is mutated here.
const LONGEST: usize = 64 << 10;

/// A generator of numbers that look random (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Changes an input a little: numbers that are limits, bits, a cut, a piece doubled.
fn mutate(input: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        // Headers and tables are mostly in front.
        let reach = if numbers.below(2) == 0 { input.len().min(512) } else { input.len() };
        let at = numbers.below(reach);
        let limits = [0, 1, 0x7f, 0x80, 0xff, u64::MAX, 1 << 31, 1 << 32, 1 << 62, 1 << 63];
        let number = limits[numbers.below(limits.len())].to_be_bytes();
        match numbers.below(8) {
            0..3 => {
                let width = 1 << numbers.below(4);
                let at = at / width * width;
                input[at..].iter_mut().zip(&number[8 - width..]).for_each(|(old, new)| *old = *new);
            }
            3..6 => {
                input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (number[7] % 8))
            }
            6 => input.truncate(at),
            _ => {
                let end = input.len().min(at + numbers.below(64));
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
        }
    }
}

fn smoke(target: &Target) {
    let mut seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    for seed in &seeds {
        target.run(seed);
    }
    seeds.retain(|seed| seed.len() <= LONGEST);
    let mut numbers =
        Numbers(target.name.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte)));
    let mutations = if target.name == "round_trip" { MUTATED_DISKS } else { MUTATIONS };
    for index in 0..mutations {
        let mut input = seeds[index % seeds.len()].clone();
        mutate(&mut input, &mut numbers);
        target.run(&input);
    }
}

macro_rules! smoke {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                smoke(&Target::named(stringify!($name)));
            }
        )*

        #[test]
        fn no_target_is_left_out() {
            let here = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), here);
        }
    };
}

smoke! {
    qcow2_header
    qcow2_tables
    qcow2_snapshots
    qcow2_bitmaps
    vmdk_descriptor
    vmdk_sparse
    vmdk_stream
    vmdk_cowd
    vmdk_sesparse
    ovf_envelope
    ova_archive
    ova_packed
    iso_volume
    iso_disc
    iso_remaster
    iso_rock_ridge
    iso_boot
    iso_udf
    iso_zisofs
    iso_cue
    detect
    open_anything
    round_trip
}

/// The folder of this crate's parent.
fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn what_once_failed_does_not_fail() {
    for folder in std::fs::read_dir(fuzz().join("regressions")).unwrap() {
        let folder = folder.unwrap().path();
        let target = Target::named(folder.file_name().unwrap().to_str().unwrap());
        for input in std::fs::read_dir(folder).unwrap() {
            target.run(&std::fs::read(input.unwrap().path()).unwrap());
        }
    }
}

#[test]
fn each_target_has_its_fuzzer() {
    for target in TARGETS {
        let shim = fuzz().join(format!("fuzz_targets/{}.rs", target.name));
        assert!(std::fs::read_to_string(&shim).unwrap().contains(target.name), "{shim:?}");
    }
}
