//! Enumeration of all extents of an image.

use crate::samples::{Sample, UNIT, WINDOW};
use diskimg::{Create, Format, Image, Options};
use divan::Bencher;
use divan::counter::ItemsCount;

/// Returns the number of extents.
fn walk(image: &Image) -> usize {
    let extents = image.extents(0..image.size()).expect("in range");
    extents.filter(|extent| extent.is_ok()).count()
}

/// Measures the throughput in map entries, of which there are `units`.
fn bench(bencher: Bencher<'_, '_>, image: &Image, units: u64) {
    bencher.counter(ItemsCount::new(units)).bench(|| walk(image));
}

/// qcow2 with every second cluster unallocated: as many extents as L2 entries.
#[divan::bench]
fn qcow2_fragmented(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW * 2, 4096, Format::Qcow2, "cluster_size=4k");
    bench(bencher, &sample.open(), WINDOW * 2 / 4096);
}

/// qcow2 with every second cluster compressed, each an extent of its own.
#[divan::bench]
fn qcow2_compressed(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW * 8, UNIT as u64, Format::Qcow2, "compress");
    bench(bencher, &sample.open(), WINDOW * 8 / UNIT as u64);
}

/// qcow2 of 64 GiB with all clusters allocated contiguously: a million entries, one extent per
/// window.
#[divan::bench]
fn qcow2_contiguous(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("contiguous.qcow2");
    let options = Options::parse("preallocation=metadata").expect("an option");
    let create = Create::new(Format::Qcow2).size(64 << 30).options(options);
    create.run(&path).expect("an empty image");
    bench(bencher, &Image::open(&path).expect("opens"), (64 << 30) / UNIT as u64);
}

/// A raw file with every second block a hole: the map of the file system.
#[divan::bench]
fn raw_sparse(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW, UNIT as u64, Format::Raw, "");
    bench(bencher, &sample.open(), WINDOW / UNIT as u64);
}

/// VMDK with every second grain unallocated.
#[divan::bench]
fn vmdk_sparse(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW, UNIT as u64, Format::Vmdk, "");
    bench(bencher, &sample.open(), WINDOW / UNIT as u64);
}

/// A streamOptimized VMDK.
#[divan::bench]
fn vmdk_stream(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW * 8, UNIT as u64, Format::Vmdk, "compress");
    bench(bencher, &sample.open(), WINDOW * 8 / UNIT as u64);
}
