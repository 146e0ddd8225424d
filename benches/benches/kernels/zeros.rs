//! Detection of zeros.

use crate::samples::{UNIT, unit};
use diskimg::storage::zeros::is_zero;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn bench(bencher: Bencher<'_, '_>, unit: Vec<u8>) {
    bencher.counter(BytesCount::new(unit.len())).bench_local(|| is_zero(black_box(&unit)));
}

/// Every byte is compared.
#[divan::bench]
fn all_zero(bencher: Bencher<'_, '_>) {
    bench(bencher, vec![0; UNIT]);
}

/// The usual case: the first bytes are not zero. The throughput counts whole units.
#[divan::bench]
fn early_byte(bencher: Bencher<'_, '_>) {
    bench(bencher, unit());
}

/// Zeros except near the end.
#[divan::bench]
fn late_byte(bencher: Bencher<'_, '_>) {
    let mut unit = vec![0; UNIT];
    unit[UNIT - 1000] = 1;
    bench(bencher, unit);
}
