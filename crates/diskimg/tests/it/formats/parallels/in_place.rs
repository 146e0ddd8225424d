//! Guest data that is written into existing images.

use super::{findings, our_bytes, write, write_bytes};
use diskimg::check::RepairScope;
use diskimg::storage::edit::MemoryStorage;
use diskimg::storage::source::MemorySource;
use diskimg::{Convert, Format, Image, OpenOptions, Repair, Sparse};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::disk::{Disk, Fill, Run};
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultyStorage};
use diskimg_testkit::parallels::{Bundle, Feature, IN_USE, NIL, Parallels, SECTOR, TOP};
use diskimg_testkit::tool::{assert_qemu_check, full, qemu_bytes, run};
use proptest::prelude::*;
use proptest::sample::select;
use std::path::Path;
use std::sync::Arc;

fn convert(source: &[u8]) -> Convert<'static> {
    let source = Arc::new(MemorySource::new(source.to_vec()));
    let image = OpenOptions::new().format(Format::Raw).open_source(source, "source").unwrap();
    Convert::new(image).format(Format::Parallels)
}

/// The disk after `source` was written to the beginning of `old`.
fn expected(source: &[u8], old: &[u8]) -> Vec<u8> {
    [source, &old[source.len()..]].concat()
}

fn assert_consistent(path: &Path) {
    Image::open(path).unwrap().check(&mut |finding| panic!("{finding:?}")).unwrap();
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let fill = select(vec![Fill::Byte(0), Fill::Byte(5), Fill::Noise(1), Fill::Words(2)]);
    let run = (0..6_000u64, 1..600u64, fill).prop_map(|(at, len, fill)| Run {
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
        sectors in 1..6_000u64,
        cluster in select(vec!["512", "64k", "258048", "1M"]),
        sparse in select(vec![Sparse::Off, Sparse::Blocks(512), Sparse::Blocks(4096)]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, target) = (dir.path().join("raw"), dir.path().join("disk.hds"));
        let old = Disk { size: 6_000 * 512, runs: before };
        old.write(&raw);
        let options = format!("cluster_size={cluster}");
        let paths = [raw.to_str().unwrap(), target.to_str().unwrap()];
        let args = ["convert", "-f", "raw", "-O", "parallels", "-o", &options];
        run("qemu-img", args.iter().chain(&paths));
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        convert(&source).sparse(sparse).verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old.bytes());
        prop_assert!(our_bytes(&target) == wanted);
        prop_assert!(qemu_bytes(&target, "parallels") == wanted);
        assert_consistent(&target);
        assert_qemu_check(&target, "parallels");
    }

    #[test]
    fn an_image_of_any_cluster_size_keeps_its_layout(
        after in runs(),
        sectors in 1..700u64,
        cluster in select(vec![1, 8, 63, 504]),
        is_old in any::<bool>(),
        omit_data_off in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let old = Parallels::old(700, cluster);
        let old = match is_old {
            true => Parallels { omit_data_off, ..old },
            false => Parallels { cluster_sectors: cluster, ..Parallels::new(700) },
        };
        let old = old.cluster(1, 0x11).cluster(0, 0x10);
        let target = write(dir.path(), "disk.hds", &old);
        let source = Disk { size: sectors * 512, runs: after }.bytes();
        convert(&source).verify(true).run_existing(&target).unwrap();
        let wanted = expected(&source, &old.bytes());
        prop_assert!(our_bytes(&target) == wanted);
        prop_assert!(qemu_bytes(&target, "parallels") == wanted);
        assert_consistent(&target);
        let (before, after) = (old.build(), std::fs::read(&target).unwrap());
        prop_assert!(before[..44] == after[..44] && before[48..64] == after[48..64]);
    }
}

/// A crash leaves each sector as it was or as it will be, and an image that can be written again.
#[test]
fn after_a_crash_every_sector_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    for image in [
        Parallels::new(900).cluster(0, 0x10).cluster(90, 0x90),
        Parallels::old(900, 8).cluster(0, 0x10).cluster(90, 0x90),
        Parallels { features: Some(vec![Feature::bitmap(900, 8, [3; 16])]), ..Parallels::new(900) },
    ] {
        let target = write(dir.path(), "disk.hds", &image);
        let old = image.bytes();
        let mut source = old.clone();
        source[..2048].fill(0x77);
        source[40_960..][..8192].fill(0x44);
        source[90 * 4096..][..512].fill(0);
        // In another sector of the table.
        let end = source.len() - 512;
        source[end..].fill(0x55);
        let recorded = std::fs::read(&target).unwrap();
        let storage = Arc::new(RecordingStorage::new(recorded, Some(target.clone())));
        convert(&source).threads(1).run_existing_on(Arc::clone(&storage) as _, "target").unwrap();
        let (mut number, mut dirty) = (0, 0);
        storage.crash_states(9, if full() { 1 } else { 7 }, |state| {
            number += 1;
            std::fs::write(&target, state).unwrap();
            let found = findings(&target);
            let is_expected = |message: &String| {
                message.contains("not closed correctly") || message.contains("are not used")
            };
            assert!(found.iter().all(is_expected), "state {number}: {found:?}");
            let is_dirty = state[44..48] == IN_USE.to_le_bytes();
            dirty += u32::from(is_dirty);
            let found = our_bytes(&target);
            for (index, found) in found.chunks(SECTOR).enumerate() {
                let at = index * SECTOR..(index + 1) * SECTOR;
                let known = found == &old[at.clone()] || found == &source[at.clone()];
                assert!(known, "state {number}: sector {index}");
                // Nothing is written before the image is marked.
                assert!(is_dirty || old[at.clone()] == *found || our_bytes(&target) == source);
            }
            if number % 20 == 1 {
                assert!(qemu_bytes(&target, "parallels") == our_bytes(&target));
                convert(&source).run_existing(&target).unwrap();
                assert!(our_bytes(&target) == source, "state {number}");
                let leaks = |message: &String| message.contains("are not used");
                assert!(findings(&target).iter().all(leaks), "state {number}");
            }
        });
        assert!(number > 10 && dirty > 5, "{number}, {dirty}");
    }
}

/// Whether the storage fails for a while or for ever, what was written is consistent.
#[test]
fn after_a_failed_write_every_sector_is_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let image = Parallels::new(300).cluster(0, 0x10).cluster(30, 0x30);
    let (before, old) = (image.build(), image.bytes());
    let mut source = old.clone();
    source[2048..60_000].fill(0x77);
    let attempt = |plan: &Arc<FaultPlan>| {
        let inner = MemoryStorage::new(before.clone());
        let storage = Arc::new(FaultyStorage { inner, faults: Arc::clone(plan) });
        let outcome = convert(&source).threads(1).run_existing_on(Arc::clone(&storage) as _, "t");
        (outcome, storage.inner.to_vec())
    };
    let all = FaultPlan::count_only(Fault::NoSpace);
    attempt(&all).0.unwrap();
    assert!(all.count() > 4);
    for fault in [Fault::NoSpace, Fault::EioOnce, Fault::EioForever] {
        for at in 0..all.count() {
            let (outcome, state) = attempt(&FaultPlan::new(fault, at));
            outcome.unwrap_err();
            let target = write_bytes(dir.path(), "disk.hds", &state);
            let found = our_bytes(&target);
            for (index, found) in found.chunks(SECTOR).enumerate() {
                let at = index * SECTOR..(index + 1) * SECTOR;
                assert!(found == &old[at.clone()] || found == &source[at], "sector {index}");
            }
            // If the storage can be written again, the image is closed.
            let is_open = state[44..48] == IN_USE.to_le_bytes();
            assert!(!is_open || fault != Fault::EioOnce, "{fault:?} at {at}");
        }
    }
}

/// QEMU repairs such an image when it opens it for writing.
#[test]
fn an_image_that_was_not_closed_is_closed_after_writing() {
    let dir = tempfile::tempdir().unwrap();
    let image = Parallels { in_use: IN_USE, flags: 1, ..Parallels::new(64) }.cluster(1, 1);
    let mut file = image.build();
    // Space that a crash left.
    file.extend([9; 5000]);
    let target = write_bytes(dir.path(), "disk.hds", &file);
    let source = vec![0x99; 4096];
    convert(&source).run_existing(&target).unwrap();
    assert!(our_bytes(&target) == expected(&source, &image.bytes()));
    let after = std::fs::read(&target).unwrap();
    assert_eq!((&after[44..48], after[52]), (&b"v2.1"[..], 0));
    assert_consistent(&target);
}

/// The bitmaps do not know what was written. A backup program then makes a full backup.
#[test]
fn a_format_extension_is_dropped_and_its_clusters_are_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = Feature { magic: 77, flags: 0, data: vec![1; 9] };
    for feature in [Feature::bitmap(64, 8, [3; 16]), unknown] {
        let image = Parallels { features: Some(vec![feature]), ..Parallels::new(64) }.cluster(1, 1);
        let before = image.build();
        let target = write_bytes(dir.path(), "disk.hds", &before);
        let source = vec![0x99; 4096];
        convert(&source).run_existing(&target).unwrap();
        assert!(our_bytes(&target) == expected(&source, &image.bytes()));
        let after = std::fs::read(&target).unwrap();
        assert_eq!(after[56..64], [0; 8]);
        assert!(after[before.len() - 4096..before.len()] == before[before.len() - 4096..]);
        assert_qemu_check(&target, "parallels");
    }
}

#[test]
fn an_image_with_a_feature_that_must_be_kept_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    for flags in [1, 2, 3] {
        let unknown = Feature { magic: 77, flags, data: vec![1; 9] };
        let image = Parallels { features: Some(vec![unknown]), ..Parallels::new(64) };
        let target = write(dir.path(), "disk.hds", &image);
        let error = convert(&[1; 4096]).run_existing(&target).unwrap_err();
        assert!(error.to_string().contains("unknown feature 0x000000000000004d"), "{error}");
        assert!(std::fs::read(&target).unwrap() == image.build());
    }
}

/// It may use space that nothing else refers to.
#[test]
fn a_repair_leaves_the_space_of_unknown_features() {
    for flags in [0, 3] {
        let unknown = Feature { magic: 77, flags, data: vec![1; 9] };
        let image = Parallels { features: Some(vec![unknown]), ..Parallels::new(64) };
        let mut before = image.cluster(1, 1).build();
        before.resize(before.len() + 9 * 4096, b'U');
        // One wrong bit, and there are clusters that it may have meant.
        let mut damaged = before.clone();
        damaged[64..68]
            .copy_from_slice(&(0x4000_0000_u32 | (before.len() as u32 / 4096 - 2)).to_le_bytes());
        for (scope, bytes) in [(RepairScope::Leaks, &before), (RepairScope::All, &damaged)] {
            let storage = Arc::new(MemoryStorage::new(bytes.clone()));
            let options = OpenOptions::new().format(Format::Parallels);
            let repair = Repair::new(scope).open_options(options);
            repair.run_on(Arc::clone(&storage) as _, "a", &mut |_, _| {}).unwrap();
            let after = storage.to_vec();
            assert!(after.len() == before.len() && after[64..] == bytes[64..], "{flags} {scope}");
        }
    }
}

#[test]
fn a_damaged_image_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let image = Parallels::new(64).cluster(1, 1).cluster(2, 2);
    for entry in [1, 200] {
        let mut file = image.build();
        file[72] = entry;
        let target = write_bytes(dir.path(), "disk.hds", &file);
        convert(&[1; 4096]).run_existing(&target).unwrap_err();
        assert!(std::fs::read(&target).unwrap() == file);
    }
}

#[test]
fn a_bundle_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.hdd");
    let image = Parallels::new(64).build();
    Bundle::new(64)
        .storage(0, 64, &[(TOP, "Compressed", "a.hds")])
        .shot(TOP, NIL)
        .file("a.hds", image.clone())
        .write(&path);
    let target = path.join("DiskDescriptor.xml");
    let error = convert(&[1; 4096]).run_existing(&target).unwrap_err();
    assert!(error.to_string().contains("a bundle cannot be written in place"), "{error}");
    assert!(std::fs::read(path.join("a.hds")).unwrap() == image);
}
