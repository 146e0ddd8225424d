//! Which guest bytes are where: all of a disk, a window at a time, as the
//! converter's plan asks.

use crate::samples::{Sample, UNIT, WINDOW};
use diskimg::{Create, Format, Image, Options};
use divan::Bencher;
use divan::counter::ItemsCount;

/// The extents of all windows, counted.
fn walk(image: &Image) -> usize {
    let starts = (0..image.size()).step_by(WINDOW as usize);
    let window = |start: u64| start..image.size().min(start + WINDOW);
    let extents = |start| image.extents(window(start)).expect("a sound map").len();
    starts.map(extents).sum()
}

/// Of `units` that the map has entries for.
fn bench(bencher: Bencher<'_, '_>, image: &Image, units: u64) {
    bencher.counter(ItemsCount::new(units)).bench(|| walk(image));
}

/// qcow2, a hole behind every cluster: as many extents as L2 entries.
#[divan::bench]
fn qcow2_fragmented(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW * 2, 4096, Format::Qcow2, "cluster_size=4k");
    bench(bencher, &sample.open(), WINDOW * 2 / 4096);
}

/// qcow2, compressed: each second cluster an extent that says where its stream is.
#[divan::bench]
fn qcow2_compressed(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW * 8, UNIT as u64, Format::Qcow2, "compress");
    bench(bencher, &sample.open(), WINDOW * 8 / UNIT as u64);
}

/// qcow2 of 64 GiB, every cluster allocated and in order: a million entries, one extent a window.
#[divan::bench]
fn qcow2_contiguous(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("contiguous.qcow2");
    let options = Options::parse("preallocation=metadata").expect("an option");
    let create = Create::new(Format::Qcow2).size(64 << 30).options(options);
    create.run(&path).expect("an empty image");
    bench(bencher, &Image::open(&path).expect("our own image opens"), (64 << 30) / UNIT as u64);
}

/// A raw file, a hole behind every block: the file system's own map.
#[divan::bench]
fn raw_sparse(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW, UNIT as u64, Format::Raw, "");
    bench(bencher, &sample.open(), WINDOW / UNIT as u64);
}

/// VMDK, a hole behind every grain.
#[divan::bench]
fn vmdk_sparse(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW, UNIT as u64, Format::Vmdk, "");
    bench(bencher, &sample.open(), WINDOW / UNIT as u64);
}

/// A streamed VMDK.
#[divan::bench]
fn vmdk_stream(bencher: Bencher<'_, '_>) {
    let sample = Sample::striped(WINDOW * 8, UNIT as u64, Format::Vmdk, "compress");
    bench(bencher, &sample.open(), WINDOW * 8 / UNIT as u64);
}
