//! A kill or a power failure at any point.

use super::super::snapshots::crash::assert_clean;
use super::{Case, MIB, contents, options, qemu, shorten_extra_data};
use diskimg::storage::edit::{MemoryStorage, Storage};
use diskimg::{Amend, Options, Result};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultyStorage};
use diskimg_testkit::tool::{full, run, try_run};
use std::path::Path;
use std::sync::Arc;

/// Images, whether they have a backing file, and the changes of each.
const CASES: &[(Case, bool, &[&str])] = &[
    (
        Case {
            name: "zero clusters that a snapshot shares",
            options: "cluster_size=4k",
            size: MIB,
            commands: &[
                "write -P 1 0 128k",
                "write -z 32k 16k",
                "write -z -u 64k 16k",
                "write -z 256k 64k",
                "img snapshot -c s",
                "write -P 2 256k 8k",
                "write -z 100k 16k",
            ],
        },
        false,
        &["compat=0.10", "refcount_bits=8", "lazy_refcounts=on"],
    ),
    (
        Case {
            name: "zero clusters over a backing file",
            options: "cluster_size=512",
            size: MIB / 4,
            commands: &[
                "write -P 1 0 32k",
                "write -z 8k 4k",
                "img snapshot -c s",
                "write -z 0 12k",
                "write -z -u 64k 16k",
                "write -c -P 3 100k 512",
            ],
        },
        true,
        &["compat=0.10", "compat=0.10,refcount_bits=16"],
    ),
    (
        Case {
            name: "version 2",
            options: "cluster_size=4k,compat=0.10",
            size: MIB,
            commands: &["write -P 1 0 64k", "img snapshot -c s", "write -P 2 32k 64k"],
        },
        true,
        &["compat=1.1", "compat=1.1,refcount_bits=64,lazy_refcounts=on"],
    ),
    (
        Case {
            name: "narrow refcounts",
            options: "cluster_size=512,refcount_bits=1",
            size: 2 * MIB,
            commands: &["write -P 9 0 1000k"],
        },
        false,
        &["refcount_bits=64", "refcount_bits=2"],
    ),
    (
        Case {
            name: "wide refcounts",
            options: "cluster_size=512,refcount_bits=64",
            size: 2 * MIB,
            commands: &["write -P 9 0 1000k"],
        },
        false,
        &["refcount_bits=1", "refcount_bits=16,compat=0.10"],
    ),
    (
        Case {
            name: "bitmaps",
            options: "cluster_size=4k",
            size: MIB,
            commands: &["write -P 1 0 64k", "img bitmap --add b", "write -P 2 32k 64k"],
        },
        false,
        &["compat=0.10", "refcount_bits=32"],
    ),
];

/// Makes an image, over a backing file of 1 MiB if `has_backing` is true.
fn make(case: &Case, has_backing: bool, dir: &Path) -> std::path::PathBuf {
    let path = case.make(dir);
    if has_backing {
        std::fs::write(dir.join("base"), vec![7; MIB as usize]).unwrap();
        let file = path.to_str().unwrap();
        run("qemu-img", ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "base", file]);
    }
    if case.options.contains("compat=0.10") {
        shorten_extra_data(&path, 0);
    }
    path
}

fn amend(storage: Arc<dyn Storage>, given: &str) -> Result<()> {
    let amend = Amend::new(Options::parse(given)?).open_options(options());
    amend.run_on(storage, "a.qcow2").map(drop)
}

/// Returns the version, the feature bits and the width of refcounts.
fn header(image: &[u8]) -> Vec<u8> {
    match image[7] {
        2 => vec![2],
        _ => [&image[7..8], &image[72..104]].concat(),
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_an_image_is_clean_and_has_the_old_or_the_new_options() {
    let mut lines = Vec::new();
    for (case, has_backing, changes) in CASES {
        let dir = tempfile::tempdir().unwrap();
        let path = make(case, *has_backing, dir.path());
        let recorded = std::fs::read(&path).unwrap();
        let before = contents(&path);
        for change in *changes {
            let storage = Arc::new(RecordingStorage::new(recorded.clone(), None));
            amend(storage.clone(), change).unwrap();
            let (old, new) = (header(&recorded), header(&storage.to_vec()));
            assert!(old != new, "{}, {change}", case.name);
            let (mut number, mut counts) = (0, [0; 2]);
            let step = if full() { 1 } else { 23 };
            let states = storage.crash_states(11, step, |state| {
                number += 1;
                let context = || format!("{}, {change}, state {number}", case.name);
                std::fs::write(&path, state).unwrap();
                assert_clean_file(&path, &context);
                assert!(contents(&path) == before, "{}", context());
                let found = header(state);
                assert!(found == old || found == new, "{}: {found:?}", context());
                counts[usize::from(found == new)] += 1;
                if number % 50 == 1 {
                    let args = ["check", "-f", "qcow2", path.to_str().unwrap()];
                    let check = try_run("qemu-img", args);
                    assert!(check.status.success(), "{}: {check:?}", context());
                }
            });
            assert!(counts[0] > 0 && counts[1] > 0, "{}: {counts:?}", case.name);
            std::fs::write(&path, storage.to_vec()).unwrap();
            qemu(&path, "img check -q -f qcow2");
            lines.push(format!("{}, {change}: {states} states {counts:?}", case.name));
        }
    }
    // Shown with --no-capture.
    println!("{}", lines.join("\n"));
}

fn assert_clean_file(path: &Path, context: &dyn Fn() -> String) {
    let image = options().with_chain(false).open(path).unwrap();
    let mut findings = Vec::new();
    let report = image.check(&mut |finding| findings.push(finding.message)).unwrap().unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{}: {findings:?}", context());
}

#[test]
fn after_an_error_an_image_is_clean_and_has_the_old_or_the_new_options() {
    for (case, has_backing, changes) in CASES {
        if *has_backing {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = make(case, *has_backing, dir.path());
        let recorded = std::fs::read(&path).unwrap();
        let before = contents(&path);
        let change = changes[0];
        let attempt = |plan: &Arc<FaultPlan>| {
            let inner = MemoryStorage::new(recorded.clone());
            let storage = Arc::new(FaultyStorage { inner, faults: Arc::clone(plan) });
            let outcome = amend(Arc::clone(&storage) as _, change);
            (outcome, storage.inner.to_vec())
        };
        let all = FaultPlan::count_only(Fault::NoSpace);
        let (outcome, state) = attempt(&all);
        outcome.unwrap();
        let (old, new) = (header(&recorded), header(&state));
        for fault in [Fault::NoSpace, Fault::EioOnce, Fault::EioForever] {
            for at in (0..all.count()).step_by(if full() { 1 } else { 5 }) {
                let context = || format!("{}, {change}: {fault:?} at {at}", case.name);
                let (outcome, state) = attempt(&FaultPlan::new(fault, at));
                assert_clean(&state, &context);
                std::fs::write(&path, &state).unwrap();
                assert!(contents(&path) == before, "{}", context());
                let found = header(&state);
                assert!(found == old || found == new, "{}", context());
                // Deallocating may fail when the modification has taken effect.
                assert!(outcome.is_err() || found == new, "{}", context());
            }
        }
    }
}
