//! Random damage.

use super::images::BASES;
use super::*;

/// Marsaglia's xorshift64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// Damages a word of the metadata: of the header, a table or a block.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let len = bytes.len() as u64;
    let mut image = Bytes(bytes);
    let size = image.cluster_size();
    let tables =
        [image.l1(), image.l2(0), image.l2(1), image.refcount_table(), image.refcount_block()];
    let table = tables[random.below(5) as usize];
    let at = match random.below(12) {
        // Pointers and feature bits of the header.
        0 => [40, 48, 64, 72, 56][random.below(5) as usize],
        1 => image.snapshots().unwrap_or(0) + 8 * random.below(8),
        2..6 => table + 8 * random.below(4),
        _ => table + 8 * random.below(size / 8),
    };
    let cluster = random.below(len / size + 2) * size;
    let value = match random.below(8) {
        0 => 0,
        1 => random.next() << 20 ^ random.next(),
        2 => cluster,
        3 | 4 => cluster | 1 << 63,
        5 => image.get(at) ^ 1 << 63,
        _ => image.get(at) ^ 1 << random.below(64),
    };
    // Not the magic number, the version and the cluster size.
    if at >= 40 {
        image.set(at, value);
    }
}

fn damaged(original: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(3) {
        damage(&mut bytes, &mut random);
    }
    if random.below(10) == 0 {
        bytes.truncate(random.below(original.len() as u64) as usize);
    }
    bytes
}

/// Compared with `qemu-img check -r all`.
#[test]
#[allow(clippy::print_stdout, reason = "the counts")]
fn random_damage_is_never_made_worse() {
    let (cases, mut better, mut worse) = (if full() { 400 } else { 12 }, 0, Vec::new());
    for base in BASES {
        let original = base.make();
        for seed in 0..cases {
            let context = || format!("{}, seed {seed}", base.name);
            let bytes = damaged(&original.bytes, seed);
            let image = Damaged { dir: tempfile::tempdir().unwrap(), bytes };
            let ranks @ [_, ours, qemu] = assert_repaired(&image, base, RepairScope::All, &context);
            better += usize::from(ours < qemu);
            if ours > qemu {
                worse.push(format!("{}: {ranks:?}", context()));
            }
        }
    }
    println!("better than qemu-img: {better}; worse: {}: {worse:?}", worse.len());
    // Overlaps are left, and leaks if references may be missing.
    assert!(worse.len() * 10 <= BASES.len() * cases as usize, "{worse:?}");
}

/// Everything that is in memory only: more cases.
#[test]
fn random_damage_is_repaired_without_a_panic_and_to_the_end() {
    for base in BASES {
        let original = base.make();
        for seed in 0..if full() { 20_000 } else { 1_000 } {
            let bytes = damaged(&original.bytes, seed + 1_000_000);
            for scope in [RepairScope::Leaks, RepairScope::All] {
                let before = check(&bytes);
                let (repaired, report) = repair(scope, &bytes);
                let after = check(&repaired);
                assert!(repaired.len() < 8 * bytes.len() + (1 << 20), "{} {seed}", base.name);
                assert!(
                    rank(after.as_ref()) <= rank(before.as_ref()),
                    "{} {seed} {scope}: {before:?} {after:?}",
                    base.name
                );
                if report.is_none() {
                    assert!(
                        repaired == bytes,
                        "{} {seed}: changed in spite of an error",
                        base.name
                    );
                }
            }
        }
    }
}
