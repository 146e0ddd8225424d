//! Guest data that is written into existing QED images.

use super::{assert_consistent, findings, our_bytes, write, write_bytes};
use diskimg::check::Code;
use diskimg::storage::source::MemorySource;
use diskimg::{Backing, Convert, Format, Image, OpenOptions, Sparse};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::qed::*;
use diskimg_testkit::tool::{full, qemu_bytes, run};
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::Arc;

const CLUSTER: u64 = 4096;

fn convert(source: &[u8]) -> Convert<'static> {
    let source = Arc::new(MemorySource::new(source.to_vec()));
    let image = OpenOptions::new().format(Format::Raw).open_source(source, "source").unwrap();
    Convert::new(image).format(Format::Qed)
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
        options in select(vec!["cluster_size=4k,table_size=2", "cluster_size=64k", "cluster_size=1M"]),
        has_backing in any::<bool>(),
        same in any::<bool>(),
        sparse in select(vec![Sparse::Off, Sparse::Blocks(512), Sparse::Blocks(4096)]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, target) = (dir.path().join("raw"), dir.path().join("disk.qed"));
        let size = 12_000 * 512;
        let base = Disk { size, runs: vec![Run { at: 0, len: size / 2, fill: Fill::Noise(9) }] };
        let mut old = Disk { size, runs: before };
        if has_backing {
            base.write(&dir.path().join("base"));
            old.runs.splice(0..0, base.runs);
        }
        old.write(&raw);
        let mut args = vec!["convert", "-f", "raw", "-O", "qed", "-o", options];
        if has_backing {
            args.extend(["-B", "base", "-F", "raw"]);
        }
        args.extend([raw.to_str().unwrap(), target.to_str().unwrap()]);
        run("qemu-img", args);
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        let mut convert = convert(&source).sparse(sparse);
        if has_backing && same {
            convert = convert.backing(Backing::new("base").with_format("raw"));
        }
        convert.verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old.bytes());
        prop_assert!(our_bytes(&target) == wanted);
        prop_assert!(qemu_bytes(&target, "qed") == wanted);
        let found = findings(&target);
        // What became unallocated is leaked: nothing records free clusters.
        prop_assert!(found.iter().all(|finding| same && finding.code == Code::Leak), "{found:?}");
        prop_assert!(!Image::open(&target).unwrap().info(0).unwrap().dirty_flag);
    }
}

fn image() -> Qed {
    Qed::new(1200 * CLUSTER)
        .cluster(0, Cluster::Data(0x10))
        .cluster(3, Cluster::Zero)
        .cluster(4, Cluster::Data(0x14))
        .cluster(600, Cluster::Data(0x60))
}

#[test]
fn existing_clusters_are_overwritten_and_new_ones_appended() {
    let dir = tempfile::tempdir().unwrap();
    let target = write(dir.path(), "disk.qed", &image());
    let len = std::fs::metadata(&target).unwrap().len();
    let mut source = our_bytes(&target);
    source[..4096].fill(0x77);
    source[4096 * 4..][..4096].fill(0);
    source[4096 * 600 + 512..][..512].fill(0x78);
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert_eq!(std::fs::metadata(&target).unwrap().len(), len);
    // One new cluster in an existing table, one in a new table.
    source[4096 * 3..][..4096].fill(0x79);
    source[4096 * 1100..][..4096].fill(0x80);
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert!(qemu_bytes(&target, "qed") == source);
    assert_eq!(std::fs::metadata(&target).unwrap().len(), len + 4 * 4096);
    assert_consistent(&target);
}

/// What a program does not know, it must clear when it modifies the image.
#[test]
fn unknown_autoclear_features_are_cleared_and_compatible_ones_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = image().build();
    file[COMPATIBLE] = 0x55;
    file[AUTOCLEAR..L1_OFFSET].fill(0xff);
    let target = write_bytes(dir.path(), "disk.qed", &file);
    convert(&[1; 512]).run_existing(&target).unwrap();
    let file = std::fs::read(&target).unwrap();
    assert_eq!(file[COMPATIBLE], 0x55);
    assert_eq!(file[AUTOCLEAR..L1_OFFSET], [0; 8]);
    assert_eq!(file[FEATURES..COMPATIBLE], [0; 8]);
}

/// The partial cluster at the end of the file does not belong to the image.
#[test]
fn new_clusters_replace_what_follows_the_last_whole_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = image().build();
    file.extend([0xee; 4000]);
    let target = write_bytes(dir.path(), "disk.qed", &file);
    let mut source = image().bytes(0);
    source[4096 * 7 + 1024..][..512].fill(0x71);
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == source);
    assert_consistent(&target);
    assert!(std::fs::metadata(&target).unwrap().len().is_multiple_of(CLUSTER));
}

/// An image that was not closed may be written if its tables are consistent; who closes it decides
/// about its leaks.
#[test]
fn an_image_that_needs_a_check_keeps_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let target = write(dir.path(), "disk.qed", &Qed { features: NEED_CHECK, ..image() });
    convert(&[1; 4096]).run_existing(&target).unwrap();
    assert!(Image::open(&target).unwrap().info(0).unwrap().dirty_flag);
    assert!(our_bytes(&target)[..4096] == [1; 4096]);
}

#[test]
fn an_image_whose_clusters_are_used_twice_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let image = image();
    let mut file = image.build();
    let shared = (image.cluster_at(0) as u64).to_le_bytes();
    let at = image.entry_at(4);
    file[at..at + 8].copy_from_slice(&shared);
    let target = write_bytes(dir.path(), "disk.qed", &file);
    let error = convert(&[1; 4096]).run_existing(&target).unwrap_err();
    assert!(error.to_string().contains("used more than once"), "{error}");
    assert!(std::fs::read(&target).unwrap() == file);
}

/// A crash leaves each sector as it was or as it will be, and an image that can be written again.
#[test]
fn after_a_crash_every_sector_of_an_overlay_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base"), vec![0xbb; 1200 * 4096]).unwrap();
    let features = BACKING_FILE | BACKING_IS_RAW;
    let overlay = Qed { features, backing: "base".into(), ..image() };
    let target = write(dir.path(), "disk.qed", &overlay);
    let old = our_bytes(&target);
    let mut source = old.clone();
    source[..4096].fill(0x77);
    source[4096 * 4..][..4096].fill(0);
    source[4096 * 9..][..8192].fill(0);
    source[4096 * 20..][..9000].fill(0x44);
    source[4096 * 1100..][..4096].fill(0x45);
    source[4096 * 600..][..4096].fill(0xbb);
    let recorded = std::fs::read(&target).unwrap();
    let storage = Arc::new(RecordingStorage::new(recorded, Some(target.clone())));
    let backed =
        |source: &[u8]| convert(source).backing(Backing::new("base").with_format("raw")).threads(1);
    backed(&source).run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
    let mut number = 0;
    storage.crash_states(9, if full() { 1 } else { 7 }, |state| {
        number += 1;
        std::fs::write(&target, state).unwrap();
        let found = findings(&target);
        assert!(found.iter().all(|finding| finding.code == Code::Leak), "{number}: {found:?}");
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
            assert!(qemu_bytes(&target, "qed") == source, "state {number}");
        }
    });
    assert!(number > 20);
}
