//! `check` with a repair: damaged qcow2 images, compared with `qemu-img check -r`, and after a crash
//! at any point.

use diskimg::check::{CheckReport, RepairScope};
use diskimg::storage::edit::MemoryStorage;
use diskimg::{ExternalFiles, Format, Image, OpenOptions, Repair};
use diskimg_testkit::crash::RecordingStorage;
use diskimg_testkit::tool::{full, run, try_run};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod copies;
mod crashes;
mod damages;
mod images;
mod others;
mod random;
mod snapshots;
mod tables;

use images::{Base, Bytes};

/// An image file, and the directory in which it and its data file are.
struct Damaged {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Damaged {
    fn path(&self) -> PathBuf {
        self.dir.path().join("a.qcow2")
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(), bytes).unwrap();
        self.path()
    }
}

fn options() -> OpenOptions {
    OpenOptions::new().format(Format::Qcow2).external_files(ExternalFiles::Any)
}

/// Repairs an image in memory. Returns its bytes afterwards and the result.
fn repair(scope: RepairScope, bytes: &[u8]) -> (Vec<u8>, Option<CheckReport>) {
    let storage = Arc::new(MemoryStorage::new(bytes.to_vec()));
    let repair = Repair::new(scope).open_options(options());
    let report = repair.run_on(Arc::clone(&storage) as _, "a.qcow2", &mut |_, _| {});
    match report {
        Ok(repaired) => (storage.to_vec(), Some(repaired.expect("qcow2 can be repaired").after)),
        Err(_) => (storage.to_vec(), None),
    }
}

/// Checks an image in memory.
fn check(bytes: &[u8]) -> Option<CheckReport> {
    let source = Arc::new(diskimg::storage::source::MemorySource::new(bytes.to_vec()));
    let image = options().metadata_only(true).open_source(source, "a.qcow2").ok()?;
    image.check(&mut |_| {}).ok().flatten()
}

/// How bad the state of an image is: clean, leaks, corruptions, or that it cannot be checked.
fn rank(report: Option<&CheckReport>) -> u8 {
    match report {
        None => 3,
        Some(CheckReport { check_errors: 1.., .. }) => 3,
        Some(CheckReport { corruptions: 1.., .. }) => 2,
        Some(CheckReport { leaks: 1.., .. }) => 1,
        Some(_) => 0,
    }
}

/// As [`rank`], by `qemu-img check`.
fn qemu_rank(path: &Path) -> u8 {
    let check = try_run("qemu-img", ["check", "-f", "qcow2", path.to_str().unwrap()]);
    match check.status.code() {
        Some(0) => 0,
        Some(3) => 1,
        Some(2) => 2,
        _ => 3,
    }
}

/// What the guest reads, of the disk and of each snapshot, by blocks. `None` is what cannot be read.
#[derive(Debug, PartialEq, Eq)]
struct Contents(Vec<Option<Vec<u8>>>);

const BLOCK: usize = 4096;

impl Contents {
    fn of(path: &Path, snapshots: &[&str]) -> Self {
        let mut blocks = Vec::new();
        for snapshot in std::iter::once(None).chain(snapshots.iter().map(Some)) {
            let snapshot =
                snapshot.map(|&name| diskimg::SnapshotSelector::IdOrName(name.to_owned()));
            match options().snapshot(snapshot).open(path) {
                Ok(image) => Self::read(&image, &mut blocks),
                // A snapshot has at most as many blocks.
                Err(_) => blocks.extend((0..512).map(|_| None)),
            }
        }
        Self(blocks)
    }

    fn read(image: &Image, blocks: &mut Vec<Option<Vec<u8>>>) {
        for number in 0..512 {
            let start = (number * BLOCK) as u64;
            let len = image.size().saturating_sub(start).min(BLOCK as u64);
            let mut block = vec![0; len as usize];
            blocks.push(image.read_at(&mut block, start.min(image.size())).ok().map(|()| block));
        }
    }

    /// Asserts that everything that could be read before has the same bytes.
    fn assert_kept(&self, after: &Self, context: &dyn Fn() -> String) {
        assert_eq!(self.0.len(), after.0.len());
        for (number, (before, after)) in self.0.iter().zip(&after.0).enumerate() {
            if before.is_some() {
                assert!(before == after, "{}: block {number} changed", context());
            }
        }
    }
}

/// Returns the bytes of the disk as qemu-img reads them, if it can.
fn qemu_contents(path: &Path) -> Option<Vec<u8>> {
    let raw = path.with_extension("raw");
    let args = ["convert", "-f", "qcow2", "-O", "raw"].map(std::ffi::OsStr::new);
    let args = args.into_iter().chain([path.as_os_str(), raw.as_os_str()]);
    let converted = try_run("qemu-img", args);
    let bytes = std::fs::read(&raw).ok().filter(|_| converted.status.success());
    let _ = std::fs::remove_file(&raw);
    bytes
}

/// Repairs a damaged image and asserts what always holds. Returns the ranks: before, after the
/// repair, and after that of qemu-img.
fn assert_repaired(
    image: &Damaged,
    base: &Base,
    scope: RepairScope,
    context: &dyn Fn() -> String,
) -> [u8; 3] {
    let path = image.write(&image.bytes);
    let before = check(&image.bytes);
    let (contents, qemu) = (Contents::of(&path, base.snapshots), qemu_contents(&path));
    let before_qemu = qemu_rank(&path);
    let (repaired, report) = repair(scope, &image.bytes);

    image.write(&repaired);
    contents.assert_kept(&Contents::of(&path, base.snapshots), context);
    if let Some(qemu) = qemu {
        // qemu-img reads what is beyond the end of the file as zeros.
        assert!(qemu_contents(&path).is_some_and(|after| after == qemu), "{}", context());
    }
    let after_qemu = qemu_rank(&path);
    assert!(after_qemu <= before_qemu, "{}: {before_qemu} {after_qemu}", context());
    let after = check(&repaired);
    assert!(rank(after.as_ref()) <= rank(before.as_ref()), "{}: {before:?} {after:?}", context());
    if let (Some(report), Some(after)) = (report, after) {
        assert!(report.corruptions >= after.corruptions, "{}", context());
        let counts = |report: CheckReport| (report.leaks, report.check_errors);
        assert_eq!(counts(report), counts(after), "{}", context());
    }
    // An entry of a table may be corrected only after refcounts that overlapped it were rebuilt.
    let (again, _) = repair(scope, &repaired);
    assert!(rank(check(&again).as_ref()) <= rank(after.as_ref()), "{}", context());
    let (third, _) = repair(scope, &again);
    assert!(third == again, "{}: repairs do not come to an end", context());

    let copy = image.write(&image.bytes);
    let word = scope.name();
    try_run("qemu-img", ["check", "-f", "qcow2", "-r", word, copy.to_str().unwrap()]);
    [before_qemu, after_qemu, qemu_rank(&copy)]
}
