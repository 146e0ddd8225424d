//! A kill or a power failure at any point.

use super::{Case, MIB, by_name, bytes_of, id_or_name, options, qemu};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::storage::edit::{MemoryStorage, Storage};
use diskimg::storage::source::MemorySource;
use diskimg::{Result, SnapshotSelector};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultyStorage};
use diskimg_testkit::tool::{full, try_run};
use std::sync::Arc;

const CASES: &[Case] = &[
    Case {
        name: "data that a snapshot shares",
        options: "cluster_size=64k",
        size: MIB,
        commands: &["write -P 1 0 512k", "img snapshot -c s", "write -P 2 256k 512k"],
    },
    Case {
        name: "version 2",
        options: "cluster_size=4k,compat=0.10",
        size: MIB,
        commands: &["write -P 1 0 64k", "img snapshot -c s", "write -P 2 32k 64k"],
    },
    Case {
        name: "extended L2 entries",
        options: "cluster_size=16k,extended_l2=on",
        size: MIB,
        commands: &[
            "write -P 1 0 64k",
            "write -P 2 100k 512",
            "write -z 200k 1k",
            "img snapshot -c s",
            "write -P 3 60k 3k",
        ],
    },
    Case {
        name: "compressed clusters",
        options: "cluster_size=4k",
        size: MIB,
        commands: &[
            "write -c -P 1 0 4k",
            "write -c -P 2 4k 4k",
            "write -c -P 3 8k 4k",
            "img snapshot -c s",
            "write -c -P 4 12k 4k",
            "write -P 5 8k 100k",
        ],
    },
    Case {
        name: "a new refcount table",
        options: "cluster_size=512,refcount_bits=64",
        size: 2 * MIB,
        commands: &["write -P 9 0 1000k", "img snapshot -c s", "write -P 8 500k 950k"],
    },
    Case {
        name: "refcounts of two bits",
        options: "cluster_size=512,refcount_bits=2",
        size: MIB,
        commands: &["write -P 9 0 200k", "img snapshot -c s", "write -P 8 100k 200k"],
    },
    Case {
        name: "another size",
        options: "cluster_size=4k",
        size: MIB,
        commands: &[
            "write -P 1 0 256k",
            "img snapshot -c s",
            "img resize -q 8M",
            "write -P 2 128k 256k",
        ],
    },
    Case {
        name: "several snapshots",
        options: "cluster_size=512",
        size: MIB,
        commands: &[
            "write -P 1 0 64k",
            "img snapshot -c t",
            "write -P 2 32k 64k",
            "img snapshot -c s",
            "write -z -u 0 4k",
            "write -P 3 64k 32k",
            "img snapshot -c u",
        ],
    },
    Case {
        name: "bitmaps",
        options: "cluster_size=4k",
        size: MIB,
        commands: &[
            "write -P 1 0 64k",
            "img snapshot -c s",
            "img bitmap --add b",
            "write -P 2 32k 64k",
        ],
    },
];

/// The name of an operation, and what it does.
type Operation = (&'static str, fn(&mut Qcow2Mut) -> Result<()>);

const OPERATIONS: [Operation; 3] = [
    ("create", |image| image.create_snapshot("new").map(drop)),
    ("apply", |image| image.apply_snapshot(&id_or_name("s"))),
    ("delete", |image| image.delete_snapshot(&by_name("s"))),
];

/// Returns the bytes of the disk and of each snapshot with its name.
pub(in crate::ops) fn contents(image: &[u8]) -> Vec<(String, Vec<u8>)> {
    let open = |wanted: Option<SnapshotSelector>| {
        let source = Arc::new(MemorySource::new(image.to_vec()));
        options().snapshot(wanted).open_source(source, "a.qcow2").unwrap()
    };
    let active = open(None);
    let mut contents = vec![(String::new(), bytes_of(&active))];
    for snapshot in active.info(0).unwrap().snapshots {
        let wanted = SnapshotSelector::Exactly { id: Some(snapshot.id), name: None };
        contents.push((snapshot.name, bytes_of(&open(Some(wanted)))));
    }
    contents
}

pub(in crate::ops) fn assert_clean(image: &[u8], context: &dyn Fn() -> String) {
    let source = Arc::new(MemorySource::new(image.to_vec()));
    let image = options().open_source(source, "a.qcow2").unwrap();
    let mut findings = Vec::new();
    let report = image.check(&mut |finding| findings.push(finding.message.clone()));
    let report = report.unwrap().unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{}: {findings:?}", context());
}

fn modify(storage: Arc<dyn Storage>, operation: Operation) -> Result<()> {
    operation.1(&mut Qcow2Mut::open_on(storage, "a.qcow2", options())?)
}

/// Not even clusters are leaked: what is new is not counted by the old refcounts, and the old is not
/// counted by the new ones.
#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_an_image_is_clean_and_as_it_was_or_as_it_will_be() {
    let mut lines = Vec::new();
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        let path = case.make(dir.path());
        let recorded = std::fs::read(&path).unwrap();
        let before = contents(&recorded);
        for operation in OPERATIONS {
            if case.name == "bitmaps" && operation.0 == "apply" {
                continue;
            }
            let storage = Arc::new(RecordingStorage::new(recorded.clone(), None));
            modify(storage.clone(), operation).unwrap();
            let after = contents(&storage.to_vec());
            assert!(before != after, "{}", case.name);
            let (mut number, mut counts) = (0, [0; 2]);
            let step = if full() { 1 } else { 23 };
            let states = storage.crash_states(11, step, |state| {
                number += 1;
                let context = || format!("{}, {}, state {number}", case.name, operation.0);
                assert_clean(state, &context);
                let found = contents(state);
                assert!(found == before || found == after, "{}", context());
                counts[usize::from(found == after)] += 1;
                if number % 50 == 1 {
                    std::fs::write(&path, state).unwrap();
                    let args = ["check", "-f", "qcow2", path.to_str().unwrap()];
                    let check = try_run("qemu-img", args);
                    assert!(check.status.success(), "{}: {check:?}", context());
                    if found == before {
                        let again = Arc::new(RecordingStorage::new(state.to_vec(), None));
                        modify(again.clone(), operation).unwrap();
                        assert!(contents(&again.to_vec()) == after, "{}", context());
                    }
                }
            });
            assert!(counts[0] > 0 && counts[1] > 0, "{}: {counts:?}", case.name);
            std::fs::write(&path, storage.to_vec()).unwrap();
            qemu(&path, "img check -q -f qcow2");
            lines.push(format!("{}, {}: {states} states {counts:?}", case.name, operation.0));
        }
    }
    // Shown with --no-capture.
    println!("{}", lines.join("\n"));
}

/// What was written for a modification that failed is removed.
#[test]
fn after_an_error_an_image_is_clean_and_as_it_was_or_as_it_will_be() {
    for case in [&CASES[0], &CASES[4]] {
        let dir = tempfile::tempdir().unwrap();
        let recorded = std::fs::read(case.make(dir.path())).unwrap();
        let before = contents(&recorded);
        for operation in OPERATIONS {
            let attempt = |plan: &Arc<FaultPlan>| {
                let inner = MemoryStorage::new(recorded.clone());
                let storage = Arc::new(FaultyStorage { inner, faults: Arc::clone(plan) });
                let outcome = modify(Arc::clone(&storage) as _, operation);
                (outcome, storage.inner.to_vec())
            };
            let all = FaultPlan::count_only(Fault::NoSpace);
            let (outcome, state) = attempt(&all);
            outcome.unwrap();
            let after = contents(&state);
            let mut uncut = 0;
            for fault in [Fault::NoSpace, Fault::EioOnce, Fault::EioForever] {
                for at in (0..all.count()).step_by(if full() { 1 } else { 5 }) {
                    let context = || format!("{}, {}: {fault:?} at {at}", case.name, operation.0);
                    let (outcome, state) = attempt(&FaultPlan::new(fault, at));
                    assert_clean(&state, &context);
                    let found = contents(&state);
                    assert!(found == before || found == after, "{}", context());
                    // Deallocating may fail when the modification has taken effect.
                    assert!(outcome.is_err() || found == after, "{}", context());
                    let is_cut = fault != Fault::EioForever && found == before;
                    uncut += usize::from(is_cut && state.len() != recorded.len());
                }
            }
            // If writing the header fails, nobody knows what it refers to.
            assert!(uncut <= 3, "{}, {}: {uncut}", case.name, operation.0);
        }
    }
}
