//! Looking for zeros.

use crate::samples::{UNIT, unit};
use diskimg::storage::zeros::is_zero;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn bench(bencher: Bencher<'_, '_>, unit: Vec<u8>) {
    bencher.counter(BytesCount::new(unit.len())).bench_local(|| is_zero(black_box(&unit)));
}

/// Every byte must be looked at.
#[divan::bench]
fn all_zero(bencher: Bencher<'_, '_>) {
    bench(bencher, vec![0; UNIT]);
}

/// The usual case: the answer is in the first bytes. (The throughput shown is
/// that of units passed over.)
#[divan::bench]
fn data_at_once(bencher: Bencher<'_, '_>) {
    bench(bencher, unit());
}

/// Zeros, and then not.
#[divan::bench]
fn late_byte(bencher: Bencher<'_, '_>) {
    let mut unit = vec![0; UNIT];
    unit[UNIT - 1000] = 1;
    bench(bencher, unit);
}
