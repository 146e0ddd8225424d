//! Runs every target without a fuzzer: on its seeds, on a few hundred mutations of them (always the
//! same) and on regression inputs.

#![allow(clippy::unwrap_used)]

use diskimg_fuzz_targets::{TARGETS, Target};
use std::path::{Path, PathBuf};

/// Number of mutations per target.
const MUTATIONS: usize = 300;

/// Number of mutations for `round_trip`, which is slow.
const ROUND_TRIP_MUTATIONS: usize = 30;

/// Maximum length in bytes of a seed that is mutated.
const MAX_MUTATED_SEED: usize = 64 << 10;

/// A pseudorandom number generator (splitmix64).
struct Random(u64);

impl Random {
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

/// Mutates an input: inserts boundary values, flips bits, truncates it or repeats a part.
fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        // Headers and tables are mostly at the beginning.
        let reach = if random.below(2) == 0 { input.len().min(512) } else { input.len() };
        let at = random.below(reach);
        let limits = [0, 1, 0x7f, 0x80, 0xff, u64::MAX, 1 << 31, 1 << 32, 1 << 62, 1 << 63];
        let number = limits[random.below(limits.len())].to_be_bytes();
        match random.below(8) {
            0..3 => {
                let width = 1 << random.below(4);
                let at = at / width * width;
                input[at..].iter_mut().zip(&number[8 - width..]).for_each(|(old, new)| *old = *new);
            }
            3..6 => {
                input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (number[7] % 8))
            }
            6 => input.truncate(at),
            _ => {
                let end = input.len().min(at + random.below(64));
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
    seeds.retain(|seed| seed.len() <= MAX_MUTATED_SEED);
    let mut random =
        Random(target.name.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte)));
    let mutations = if target.name == "round_trip" { ROUND_TRIP_MUTATIONS } else { MUTATIONS };
    for index in 0..mutations {
        let mut input = seeds[index % seeds.len()].clone();
        mutate(&mut input, &mut random);
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
        fn every_target_is_tested() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|target| target.name).collect::<Vec<_>>(), tested);
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
    vhd
    vhdx
    compressed
    vdi
    qed
    qcow
    parallels
    sparseimage
    sparsebundle
    asif
    ewf
    cloop
    bochs
    dmg
    dmg_codecs
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
    file_systems
    detect
    open_anything
    inspect_descriptor
    inspect_archive
    inspect_probes
    nbd_replies
    http_answers
    openstack_replies
    s3_replies
    nbd_server
    round_trip
}

/// Returns the directory `fuzz`.
fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn regression_inputs_do_not_fail() {
    for directory in std::fs::read_dir(fuzz_dir().join("regressions")).unwrap() {
        let directory = directory.unwrap().path();
        let target = Target::named(directory.file_name().unwrap().to_str().unwrap());
        for input in std::fs::read_dir(directory).unwrap() {
            target.run(&std::fs::read(input.unwrap().path()).unwrap());
        }
    }
}

#[test]
fn every_target_has_a_fuzzer() {
    for target in TARGETS {
        let fuzzer = fuzz_dir().join(format!("fuzz_targets/{}.rs", target.name));
        assert!(std::fs::read_to_string(&fuzzer).unwrap().contains(target.name), "{fuzzer:?}");
    }
}
