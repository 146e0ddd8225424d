//! Guest data that is written into existing QCOW version 1 images.

use super::{assert_consistent, findings, our_bytes, write_bytes};
use diskimg::storage::source::MemorySource;
use diskimg::{Backing, Convert, Format, Image, OpenOptions, Sparse};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::qcow::*;
use diskimg_testkit::tool::{full, qemu_bytes, try_run};
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

fn convert(source: &[u8]) -> Convert<'static> {
    let source = Arc::new(MemorySource::new(source.to_vec()));
    let image = OpenOptions::new().format(Format::Raw).open_source(source, "source").unwrap();
    Convert::new(image).format(Format::Qcow)
}

/// The disk after `source` was written to the beginning of `old`.
fn expected(source: &[u8], old: &[u8]) -> Vec<u8> {
    [source, &old[source.len()..]].concat()
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let fill = select(vec![Fill::Byte(0), Fill::Byte(5), Fill::Noise(1), Fill::Words(2)]);
    let run = (0..12_000u64, 1..600u64, fill).prop_map(|(at, len, fill)| Run {
        at: at * 512,
        len: len * 512,
        fill,
    });
    prop::collection::vec(run, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if full() { 400 } else { 25 },
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_disk_of_qemu_img_has_the_sources_bytes_and_keeps_the_rest(
        (before, after) in (runs(), runs()),
        sectors in 1..12_000u64,
        (was_compressed, compress) in (any::<bool>(), any::<bool>()),
        has_backing in any::<bool>(),
        same in any::<bool>(),
        sparse in select(vec![Sparse::Off, Sparse::Blocks(512), Sparse::Blocks(4096)]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, target) = (dir.path().join("raw"), dir.path().join("disk.qcow"));
        let size = 12_000 * 512;
        let base = Disk { size, runs: vec![Run { at: 0, len: size / 2, fill: Fill::Noise(9) }] };
        let mut old = Disk { size, runs: before };
        if has_backing {
            base.write(&dir.path().join("base"));
            old.runs.splice(0..0, base.runs);
        }
        old.write(&raw);
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow"];
        if was_compressed {
            args.push("-c");
        }
        if has_backing {
            args.extend(["-B", "base", "-F", "raw"]);
        }
        args.extend([raw.to_str().unwrap(), target.to_str().unwrap()]);
        // With -c, it fails after everything is written (see `matrix.rs`).
        let output = try_run("qemu-img", args);
        prop_assert!(output.status.success() || was_compressed && output.stderr.is_empty());
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        let mut convert = convert(&source).sparse(sparse).compress(compress);
        if has_backing && same {
            convert = convert.backing(Backing::new("base").with_format("raw"));
        }
        convert.verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old.bytes());
        prop_assert!(our_bytes(&target) == wanted);
        prop_assert!(qemu_bytes(&target, "qcow") == wanted);
        prop_assert_eq!(findings(&target), []);
    }
}

/// The table comes last in the file, and a compressed cluster ends in the middle of a sector.
fn image() -> Qcow {
    Qcow::new(1200 * 4096)
        .cluster(0, Cluster::Data(0x10))
        .cluster(3, Cluster::Compressed(0x13))
        .cluster(4, Cluster::Data(0x14))
        .cluster(600, Cluster::Compressed(0x60))
}

#[test]
fn compressed_clusters_are_replaced_and_others_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let built = image().build();
    let target = write_bytes(dir.path(), "disk.qcow", &built.file);
    let mut source = our_bytes(&target);
    source[..4096].fill(0x77);
    source[4096 * 4..][..4096].fill(0);
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    // Zeros instead of compressed clusters are unallocated; they need no space.
    let len = |path: &std::path::Path| std::fs::metadata(path).unwrap().len();
    source[4096 * 3..][..4096].fill(0);
    source[4096 * 600..][..4096].fill(0x61);
    source[4096 * 1100..][..4096].fill(0x80);
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert!(qemu_bytes(&target, "qcow") == source);
    assert!(len(&target) >= built.file.len() as u64 + 2 * 4096);
    assert_consistent(&target);
}

/// New clusters must not overlap the part of the last cluster that is beyond the end of the file.
#[test]
fn a_cluster_that_extends_beyond_the_end_of_the_file_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let built = Qcow::new(9 * 4096).cluster(0, Cluster::Data(0x10)).build();
    let mut file = built.file.clone();
    let at = (file.len().next_multiple_of(4096) + 3584) as u64;
    file[built.entries[&0]..][..8].copy_from_slice(&at.to_be_bytes());
    file.resize(at as usize, 0);
    file.extend([0x33; 700]);
    let target = write_bytes(dir.path(), "disk.qcow", &file);
    let mut source = vec![0; 9 * 4096];
    source[4096 * 2..][..4096 * 2].fill(0x22);
    source[..4096].fill(0x44);
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert!(qemu_bytes(&target, "qcow") == source);
    assert_consistent(&target);
}

#[test]
fn an_image_whose_clusters_are_used_twice_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let built = image().build();
    let mut file = built.file.clone();
    let shared = file[built.entries[&0]..][..8].to_vec();
    file[built.entries[&4]..][..8].copy_from_slice(&shared);
    let target = write_bytes(dir.path(), "disk.qcow", &file);
    let error = convert(&[1; 4096]).run_existing(&target).unwrap_err();
    assert!(error.to_string().contains("used more than once"), "{error}");
    assert!(std::fs::read(&target).unwrap() == file);
}

/// A crash leaves each sector as it was or as it will be, and an image that can be written again.
#[test]
fn after_a_crash_every_sector_of_an_overlay_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base"), vec![0xbb; 1200 * 4096]).unwrap();
    let overlay = Qcow { backing: "base".into(), ..image() };
    for compress in [false, true] {
        let target = write_bytes(dir.path(), "disk.qcow", &overlay.build().file);
        let old = our_bytes(&target);
        let mut source = old.clone();
        source[..4096].fill(0x77);
        source[4096 * 3..][..4096].fill(0x78);
        source[4096 * 4..][..4096].fill(0);
        source[4096 * 9..][..8192].fill(0);
        source[4096 * 20..][..9000].fill(0x44);
        source[4096 * 1100..][..4096].fill(0x45);
        source[4096 * 600..][..4096].fill(0xbb);
        let recorded = std::fs::read(&target).unwrap();
        let storage = Arc::new(RecordingStorage::new(recorded, Some(target.clone())));
        let backed = |source: &[u8]| {
            let backing = Backing::new("base").with_format("raw");
            convert(source).backing(backing).compress(compress).threads(1)
        };
        backed(&source).run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
        let mut number = 0;
        storage.crash_states(9, if full() { 1 } else { 7 }, |state| {
            number += 1;
            std::fs::write(&target, state).unwrap();
            assert_consistent(&target);
            let image = Image::open(&target).unwrap();
            let mut bytes = vec![0; image.size() as usize];
            image.read_at(&mut bytes, 0).unwrap();
            drop(image);
            for (index, sector) in bytes.chunks(512).enumerate() {
                let at = index * 512..(index + 1) * 512;
                let known = sector == &old[at.clone()] || sector == &source[at];
                assert!(known, "state {number}: sector {index}");
            }
            if number % 20 == 1 {
                backed(&source).run_existing(&target).unwrap();
                assert!(our_bytes(&target) == source, "state {number}");
                assert!(qemu_bytes(&target, "qcow") == source, "state {number}");
            }
        });
        assert!(number > 10);
    }
}
