//! What would be written, without writing it.

use diskimg::{Convert, Create, ErrorKind, FileAction, Format, Image, Options, Plan};
use std::fs;
use std::path::Path;

/// Creates a raw disk of 1 MiB with 64 KiB of data.
fn disk(path: &Path) -> Image {
    let mut bytes = vec![0; 1 << 20];
    bytes[..64 << 10].fill(7);
    fs::write(path, bytes).unwrap();
    Image::open(path).unwrap()
}

/// Returns the names of the files and what happens to them.
fn files(plan: &Plan) -> Vec<(String, FileAction)> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    plan.files.iter().map(|file| (name(&file.path), file.action)).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(feature = "vmdk")]
#[test]
fn a_plan_names_all_files_and_creates_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("v-flat.vmdk"), "old").unwrap();
    let options = Options::parse("subformat=monolithicFlat").unwrap();
    let convert = Convert::new(disk(&path("a.raw"))).format(Format::Vmdk).options(options);
    let plan = convert.plan(path("v.vmdk")).unwrap();
    let wanted = [("v.vmdk", FileAction::Create), ("v-flat.vmdk", FileAction::Replace)];
    assert_eq!(files(&plan), wanted.map(|(name, action)| (name.to_owned(), action)));
    assert_eq!((plan.format, plan.guest_bytes), (Format::Vmdk, 1 << 20));
    assert!(plan.required_bytes >= 64 << 10 && plan.free_bytes.is_some(), "{plan:?}");
    assert_eq!(names(dir.path()), ["a.raw", "v-flat.vmdk"]);
    assert_eq!(fs::read(path("v-flat.vmdk")).unwrap(), b"old");
}

#[cfg(feature = "qcow2")]
#[test]
fn plans_fail_like_the_operations() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let convert = |output: &str| Convert::new(disk(&path("a.raw"))).plan(path(output));
    assert_eq!(convert("a.raw").unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(convert("none/b.raw").unwrap_err().kind(), ErrorKind::Io);
    Create::new(Format::Qcow2).size(1 << 19).run(path("small.qcow2")).unwrap();
    let before = fs::read(path("small.qcow2")).unwrap();
    let existing = Convert::new(disk(&path("a.raw"))).format(Format::Qcow2);
    assert_eq!(existing.plan_existing(path("small.qcow2")).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(fs::read(path("small.qcow2")).unwrap(), before);
    let error = Create::new(Format::Qcow2).plan(path("new.qcow2")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let plan = Create::new(Format::Qcow2).size(10 << 30).plan(path("small.qcow2")).unwrap();
    assert_eq!(files(&plan), [("small.qcow2".to_owned(), FileAction::Replace)]);
    assert!(plan.required_bytes < 16 << 20 && !plan.may_not_fit(), "{plan:?}");
    assert_eq!(fs::read(path("small.qcow2")).unwrap(), before);
}

/// A device or an image in place needs no space for a second file.
#[cfg(feature = "qcow2")]
#[test]
fn an_existing_target_is_overwritten_and_unlocked_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    Create::new(Format::Qcow2).size(1 << 20).run(path("t.qcow2")).unwrap();
    let convert = || Convert::new(disk(&path("a.raw"))).format(Format::Qcow2);
    let plan = convert().plan_existing(path("t.qcow2")).unwrap();
    assert_eq!(files(&plan), [("t.qcow2".to_owned(), FileAction::Overwrite)]);
    assert_eq!(plan.free_bytes, None);
    convert().run_existing(path("t.qcow2")).unwrap();
}
