//! A kill or a power failure at any point.

use super::{Case, Contents, MIB, bytes_of, contents_of, options, qemu};
use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::storage::edit::{MemoryStorage, Storage};
use diskimg::storage::source::MemorySource;
use diskimg::{Image, Result, SnapshotSelector};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::faulty::{Fault, FaultPlan, FaultyStorage};
use diskimg_testkit::tool::{full, try_run};
use std::sync::Arc;

const CASES: &[Case] = &[
    Case {
        name: "the extension beyond sector 0",
        options: "cluster_size=64k",
        size: MIB,
        commands: &[
            "img bitmap --add -g 512 b",
            "img bitmap --add other",
            "write -P 1 0 64k",
            "write -P 2 300k 512",
        ],
    },
    Case {
        name: "small clusters",
        options: "cluster_size=512",
        size: 8 * MIB,
        commands: &[
            "img bitmap --add -g 512 b",
            "img bitmap --add -g 4k other",
            "write -P 1 1M 2M",
            "write -P 2 5M 512",
        ],
    },
    Case {
        name: "a new refcount table",
        options: "cluster_size=512,refcount_bits=64",
        size: 2 * MIB,
        commands: &[
            "write -P 9 0 1000k",
            "img bitmap --add -g 512 b",
            "img bitmap --add other",
            "write -P 2 5k 512",
        ],
    },
    Case {
        name: "snapshots and compressed clusters",
        options: "cluster_size=4k",
        size: MIB,
        commands: &[
            "write -c -P 1 0 4k",
            "img bitmap --add b",
            "img bitmap --add -g 1M other",
            "img snapshot -c s",
            "write -P 2 32k 64k",
        ],
    },
    Case {
        name: "no bitmaps",
        options: "cluster_size=64k",
        size: MIB,
        commands: &["write -P 1 0 64k"],
    },
    Case {
        name: "no bitmaps in small clusters",
        options: "cluster_size=512",
        size: MIB,
        commands: &["write -P 1 0 64k"],
    },
];

/// The name of an operation, and what it does.
type Operation = (&'static str, fn(&mut Qcow2Mut) -> Result<()>);

const OPERATIONS: [Operation; 7] = [
    ("add", |image| image.add_bitmap("new", Some(512))),
    ("remove", |image| image.remove_bitmap("b")),
    ("clear", |image| image.clear_bitmap("b")),
    ("disable", |image| image.disable_bitmap("b")),
    ("merge", |image| image.merge_bitmap("b", "other")),
    ("remove all", |image| {
        let mut changes = image.change_bitmaps()?;
        for bitmap in changes.list() {
            changes.remove(&bitmap.name)?;
        }
        changes.store()
    }),
    ("several", |image| {
        let mut changes = image.change_bitmaps()?;
        changes.add("new", Some(4096))?;
        changes.merge("new", "b")?;
        changes.remove("other")?;
        changes.disable("b")?;
        changes.store()
    }),
];

/// The bytes of the disk and of the snapshot, and the bitmaps.
type State = (Vec<u8>, Option<Vec<u8>>, Vec<Contents>);

fn open(image: &[u8], wanted: Option<SnapshotSelector>) -> Result<Image> {
    let source = Arc::new(MemorySource::new(image.to_vec()));
    options().snapshot(wanted).open_source(source, "a.qcow2")
}

fn state_of(image: &[u8]) -> State {
    let disk = open(image, None).unwrap();
    let snapshot = open(image, Some(SnapshotSelector::IdOrName("s".into())));
    (bytes_of(&disk), snapshot.ok().map(|image| bytes_of(&image)), contents_of(&disk))
}

fn assert_clean(image: &[u8], context: &dyn Fn() -> String) {
    let mut findings = Vec::new();
    let image = open(image, None).unwrap();
    let report = image.check(&mut |finding| findings.push(finding.message.clone()));
    let report = report.unwrap().unwrap();
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{}: {findings:?}", context());
    assert_eq!(image.info(0).unwrap().notes, Vec::<String>::new(), "{}", context());
}

fn modify(storage: Arc<dyn Storage>, operation: Operation) -> Result<()> {
    operation.1(&mut Qcow2Mut::open_on(storage, "a.qcow2", options())?)
}

/// Returns the operations that an image allows.
fn operations(case: &Case) -> impl Iterator<Item = Operation> {
    let has_bitmaps = !case.name.starts_with("no bitmaps");
    OPERATIONS.into_iter().filter(move |operation| has_bitmaps || operation.0 == "add")
}

/// Nothing is leaked, no bitmap becomes inconsistent, and each has its old or its new contents.
#[test]
#[allow(clippy::print_stdout, reason = "the table of states")]
fn after_a_crash_an_image_is_clean_and_its_bitmaps_are_as_before_or_as_afterwards() {
    let (mut lines, mut total) = (Vec::new(), 0);
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        let path = case.make(dir.path());
        let recorded = std::fs::read(&path).unwrap();
        let before = state_of(&recorded);
        for operation in operations(case) {
            let storage = Arc::new(RecordingStorage::new(recorded.clone(), None));
            modify(storage.clone(), operation).unwrap();
            let after = state_of(&storage.to_vec());
            assert!(before.2 != after.2, "{}, {}", case.name, operation.0);
            assert!(before.0 == after.0 && before.1 == after.1, "{}", case.name);
            let (mut number, mut counts) = (0, [0; 2]);
            let step = if full() { 1 } else { 41 };
            let states = storage.crash_states(13, step, |state| {
                number += 1;
                let context = || format!("{}, {}, state {number}", case.name, operation.0);
                assert_clean(state, &context);
                let found = state_of(state);
                assert!(found == before || found == after, "{}", context());
                counts[usize::from(found == after)] += 1;
                if number % 50 == 1 {
                    std::fs::write(&path, state).unwrap();
                    let args = ["check", "-f", "qcow2", path.to_str().unwrap()];
                    let check = try_run("qemu-img", args);
                    assert!(check.status.success(), "{}: {check:?}", context());
                    assert!(check.stderr.is_empty(), "{}: {check:?}", context());
                    if found == before {
                        let again = Arc::new(RecordingStorage::new(state.to_vec(), None));
                        modify(again.clone(), operation).unwrap();
                        assert!(state_of(&again.to_vec()) == after, "{}", context());
                    }
                }
            });
            assert!(counts[0] > 0 && counts[1] > 0, "{}: {counts:?}", case.name);
            std::fs::write(&path, storage.to_vec()).unwrap();
            qemu(&path, "img check -q -f qcow2");
            total += states;
            lines.push(format!("{}, {}: {states} states {counts:?}", case.name, operation.0));
        }
    }
    // Shown with --no-capture.
    println!("{}\n{total} states", lines.join("\n"));
}

/// What was written for a change that failed is removed.
#[test]
fn after_an_error_an_image_is_clean_and_its_bitmaps_are_as_before_or_as_afterwards() {
    for case in [&CASES[0], &CASES[2]] {
        let dir = tempfile::tempdir().unwrap();
        let recorded = std::fs::read(case.make(dir.path())).unwrap();
        let before = state_of(&recorded);
        for operation in operations(case) {
            let attempt = |plan: &Arc<FaultPlan>| {
                let inner = MemoryStorage::new(recorded.clone());
                let storage = Arc::new(FaultyStorage { inner, faults: Arc::clone(plan) });
                let outcome = modify(Arc::clone(&storage) as _, operation);
                (outcome, storage.inner.to_vec())
            };
            let all = FaultPlan::count_only(Fault::NoSpace);
            let (outcome, state) = attempt(&all);
            outcome.unwrap();
            let after = state_of(&state);
            for fault in [Fault::NoSpace, Fault::EioOnce, Fault::EioForever] {
                for at in (0..all.count()).step_by(if full() { 1 } else { 3 }) {
                    let context = || format!("{}, {}: {fault:?} at {at}", case.name, operation.0);
                    let (outcome, state) = attempt(&FaultPlan::new(fault, at));
                    assert_clean(&state, &context);
                    let found = state_of(&state);
                    assert!(found == before || found == after, "{}", context());
                    // Deallocating may fail when the change has taken effect.
                    assert!(outcome.is_err() || found == after, "{}", context());
                }
            }
        }
    }
}
