//! Opening of images: probing, headers and top-level tables.

use crate::samples::{Sample, UNIT, WINDOW};
use diskimg::{Format, Image};
use divan::Bencher;

fn bench(bencher: Bencher<'_, '_>, format: Format, options: &str) {
    let sample = Sample::striped(WINDOW, UNIT as u64, format, options);
    bencher.bench(|| Image::open(sample.path()).map(|image| image.size()));
}

#[divan::bench]
fn qcow2(bencher: Bencher<'_, '_>) {
    bench(bencher, Format::Qcow2, "compress");
}

#[divan::bench]
fn vmdk_sparse(bencher: Bencher<'_, '_>) {
    bench(bencher, Format::Vmdk, "");
}

#[divan::bench]
fn vmdk_stream(bencher: Bencher<'_, '_>) {
    bench(bencher, Format::Vmdk, "compress");
}
