//! Writes that fail, and what a crash leaves in VMDKs.

use super::{Lab, expected, source_of};
use diskimg::storage::edit::MemoryStorage;
use diskimg::{ErrorKind, Progress};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultyStorage};
use diskimg_testkit::tool::{full, qemu_bytes, run, try_run};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Format and options of the targets.
const TARGETS: [(&str, &str); 7] = [
    ("qcow2", "cluster_size=4k"),
    ("qcow2", "cluster_size=512,refcount_bits=64"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vpc", "force_size=on"),
    ("vdi", "static=off"),
    ("qed", "cluster_size=4k,table_size=2"),
    ("qcow", ""),
];

/// After a write that failed, be it for lack of space, the image is consistent, the error says what
/// has happened to it, and its bitmaps can be used if the storage can be written again.
#[test]
fn after_a_failed_write_every_sector_is_old_or_new() {
    for (format, options) in TARGETS {
        let lab = Lab::new(format);
        let target = lab.target();
        assert!(lab.create(options, 128 << 10, None), "{options}");
        if format == "qcow2" {
            let file = target.to_str().unwrap();
            run("qemu-img", ["bitmap", "--add", "-g", "512", file, "b"]);
        }
        lab.io(&target, &["write -P 5 0 70k".to_owned()]);
        let before = std::fs::read(&target).unwrap();
        let old = qemu_bytes(&target, format);
        let source = source_of(100 << 10, &[(6 << 10, 30 << 10, 0), (60 << 10, 30_000, 3)]);
        let new = expected(&source, &old);
        let attempt = |plan: &Arc<FaultPlan>| {
            let inner = MemoryStorage::new(before.clone());
            let storage = Arc::new(FaultyStorage { inner, faults: Arc::clone(plan) });
            let convert = lab.convert(&source).threads(1);
            let outcome = convert.run_existing_on(Arc::clone(&storage) as _, "target");
            (outcome, storage.inner.to_vec())
        };
        let all = FaultPlan::count_only(Fault::NoSpace);
        attempt(&all).0.unwrap();
        for fault in [Fault::NoSpace, Fault::EioOnce, Fault::EioForever] {
            for at in (0..all.count()).step_by(if full() { 1 } else { 3 }) {
                let context = || format!("{options}: {fault:?} at {at}");
                let (outcome, state) = attempt(&FaultPlan::new(fault, at));
                let error = outcome.expect_err(&context()).to_string();
                std::fs::write(&target, &state).unwrap();
                lab.assert_old_or_new(&old, &new, &context);
                let is_changed = qemu_bytes(&target, format) != old;
                assert!(!is_changed || error.contains("partly overwritten"), "{error}");
                if format == "qcow2" && fault != Fault::EioForever {
                    let bitmaps = lab.bitmaps().to_string();
                    assert!(!bitmaps.contains("in-use"), "{}: {bitmaps}", context());
                }
            }
        }
    }
}

/// As by a signal in the middle of writing.
#[test]
fn after_a_cancellation_every_sector_is_old_or_new() {
    const SIZE: u64 = 8 << 20;
    for (format, options) in TARGETS {
        let lab = Lab::new(format);
        assert!(lab.create(options, SIZE, None), "{options}");
        if format == "qcow2" {
            let target = lab.target();
            run("qemu-img", ["bitmap", "--add", "-g", "64k", target.to_str().unwrap(), "b"]);
        }
        lab.io(&lab.target(), &["write -P 5 1M 5M".to_owned()]);
        let old = qemu_bytes(&lab.target(), format);
        let source = source_of(SIZE, &[(0, 3 << 20, 0), (4 << 20, 4 << 20, 0)]);
        let stop = |progress: Progress| match progress.done < SIZE / 2 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        let convert = lab.convert(&source).threads(1).progress(&stop);
        let error = convert.run_existing(lab.target()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        assert!(error.to_string().contains("partly overwritten"), "{error}");
        lab.assert_old_or_new(&old, &expected(&source, &old), &|| options.to_owned());
        if format == "qcow2" {
            assert!(!lab.bitmaps().to_string().contains("in-use"), "{options}");
        }
    }
}

/// Directory entries for which there is no grain table yet.
#[test]
fn after_a_crash_new_grain_tables_are_in_both_directories_or_empty() {
    let lab = Lab::new("vmdk");
    assert!(lab.create("subformat=monolithicSparse", 64 << 20, None));
    let target = lab.target();
    let mut image = std::fs::read(&target).unwrap();
    for field in [48, 56] {
        let at = u64::from_le_bytes(image[field..field + 8].try_into().unwrap()) as usize * 512;
        image[at..at + 8].fill(0);
    }
    std::fs::write(&target, &image).unwrap();
    let old = qemu_bytes(&target, "vmdk");
    let source = source_of(33 << 20, &[(6 << 10, 30 << 10, 0), (33 << 20, 9000, 3)]);
    let mut source = source;
    source[(33 << 20) - 9000..].fill(3);
    let new = expected(&source, &old);
    let storage = Arc::new(RecordingStorage::new(image, None));
    lab.convert(&source).threads(1).run_existing_on(Arc::clone(&storage) as _, "t").unwrap();
    let mut number = 0;
    let mut flagged = 0;
    storage.crash_states(9, if full() { 1 } else { 29 }, |state| {
        number += 1;
        std::fs::write(&target, state).unwrap();
        flagged += usize::from(state[72]);
        lab.assert_old_or_new(&old, &new, &|| format!("state {number}"));
        if number % 31 == 1 {
            let check = try_run("qemu-img", ["check", "-f", "vmdk", target.to_str().unwrap()]);
            assert!(check.status.success(), "state {number}: {check:?}");
            // The next conversion repairs the redundant tables.
            lab.convert(&source).run_existing(&target).unwrap();
            lab.assert_clean();
            assert!(qemu_bytes(&target, "vmdk") == new, "state {number}");
            assert_eq!(std::fs::read(&target).unwrap()[72], 0, "state {number}");
        }
    });
    assert!(flagged > 0);
    assert_eq!(storage.to_vec()[72], 0);
}
