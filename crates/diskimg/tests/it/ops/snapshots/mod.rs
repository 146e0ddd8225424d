//! Internal snapshots of qcow2: created, applied and deleted by turns with qemu-img, and after a
//! crash at any point.

pub(super) mod crash;
mod hostile;
pub(super) mod sequences;

use diskimg::formats::qcow2::Qcow2Mut;
use diskimg::{ErrorKind, Format, Image, OpenOptions, SnapshotSelector};
use diskimg_testkit::tool::{assert_qemu_check, run, try_run};
use std::path::{Path, PathBuf};

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn options() -> OpenOptions {
    OpenOptions::new().format(Format::Qcow2)
}

fn by_name(name: &str) -> SnapshotSelector {
    SnapshotSelector::Exactly { id: None, name: Some(name.to_owned()) }
}

fn id_or_name(text: &str) -> SnapshotSelector {
    SnapshotSelector::IdOrName(text.to_owned())
}

/// Returns the bytes of a disk.
pub(super) fn bytes_of(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Returns the bytes of the disk and of each snapshot, in the order of the table.
pub(super) fn contents(path: &Path) -> Vec<Vec<u8>> {
    let options = || options().force_share(true);
    let image = options().open(path).unwrap();
    let snapshots = image.info(0).unwrap().snapshots;
    let mut contents = vec![bytes_of(&image)];
    for snapshot in snapshots {
        let wanted = SnapshotSelector::Exactly { id: Some(snapshot.id), name: None };
        contents.push(bytes_of(&options().snapshot(wanted).open(path).unwrap()));
    }
    contents
}

/// An image, made by commands of qemu-io or, if they begin with "img", of qemu-img.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Options of `qemu-img create`.
    pub(super) options: &'static str,
    pub(super) size: u64,
    pub(super) commands: &'static [&'static str],
}

impl Case {
    pub(super) fn make(&self, dir: &Path) -> PathBuf {
        let path = dir.join("a.qcow2");
        let file = path.to_str().unwrap();
        let size = self.size.to_string();
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", self.options, file, &size]);
        for command in self.commands {
            qemu(&path, command);
        }
        path
    }
}

/// Runs a command of qemu-io or, if it begins with "img", of qemu-img.
pub(super) fn qemu(path: &Path, command: &str) {
    let file = path.to_str().unwrap();
    match command.strip_prefix("img ") {
        Some(command) => {
            let mut args: Vec<_> = command.split(' ').collect();
            // The last argument of some commands follows the file.
            let is_last = matches!(args[0], "resize" | "bitmap");
            args.insert(if is_last { args.len() - 1 } else { args.len() }, file);
            run("qemu-img", args);
        }
        None => drop(run("qemu-io", ["-f", "qcow2", "-c", command, file])),
    }
}

#[test]
fn snapshots_are_created_applied_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case {
        name: "",
        options: "cluster_size=64k",
        size: MIB,
        commands: &["write -P 1 0 256k", "write -c -P 2 512k 64k"],
    };
    let path = case.make(dir.path());
    let first = contents(&path).remove(0);
    let mut image = Qcow2Mut::open(&path).unwrap();
    assert!(image.snapshots().unwrap().is_empty());
    let created = image.create_snapshot("same name").unwrap();
    assert_eq!((&*created.id, &*created.name, created.icount), ("1", "same name", Some(0)));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now - created.date_sec < 100);
    drop(image);
    assert_qemu_check(&path, "qcow2");
    qemu(&path, "write -P 3 128k 768k");
    let second = contents(&path).remove(0);
    let mut image = Qcow2Mut::open(&path).unwrap();
    assert_eq!(image.create_snapshot("same name").unwrap().id, "2");
    assert_eq!(image.create_snapshot("1").unwrap().id, "3");
    let ids = |image: &Qcow2Mut| {
        image.snapshots().unwrap().iter().map(|s| s.id.parse().unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(ids(&image), [1, 2, 3]);
    // The ID is preferred to the name.
    image.apply_snapshot(&id_or_name("1")).unwrap();
    assert!(contents(&path)[0] == first);
    image.apply_snapshot(&id_or_name("same name")).unwrap();
    assert!(contents(&path)[0] == first);
    image.apply_snapshot(&by_name("1")).unwrap();
    assert!(contents(&path) == [&second, &first, &second, &second].map(Vec::clone));
    image.delete_snapshot(&by_name("1")).unwrap();
    image.delete_snapshot(&by_name("same name")).unwrap();
    assert_eq!(ids(&image), [2]);
    for missing in [by_name("2"), id_or_name("3"), id_or_name("x")] {
        let error = image.delete_snapshot(&missing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("there is no snapshot"), "{error}");
    }
    image.delete_snapshot(&id_or_name("2")).unwrap();
    drop(image);
    assert!(contents(&path) == [second]);
    assert_qemu_check(&path, "qcow2");
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    let file = path.to_str().unwrap();
    let create = |options: &str| {
        let _ = std::fs::remove_file(&path);
        run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, file, "1M"]);
    };
    type Change<'a> = &'a dyn Fn(&mut Qcow2Mut) -> diskimg::Result<()>;
    let refused = |change: Change<'_>, kind: ErrorKind, text: &str| {
        let before = std::fs::read(&path).unwrap();
        let mut image = Qcow2Mut::open(&path).unwrap();
        let error = change(&mut image).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(text) && error.path().is_some(), "{error}");
        assert!(std::fs::read(&path).unwrap() == before, "{error}");
    };
    let named = |name: String| move |image: &mut Qcow2Mut| image.create_snapshot(&name).map(drop);
    create("cluster_size=64k");
    refused(&named("x".repeat(256)), ErrorKind::Invalid, "at most 255 bytes");
    refused(&named("a\0b".into()), ErrorKind::Invalid, "zero bytes");
    Qcow2Mut::open(&path).unwrap().create_snapshot(&"é".repeat(127)).unwrap();
    Qcow2Mut::open(&path).unwrap().create_snapshot("").unwrap();
    run("qemu-img", ["bitmap", "--add", file, "b"]);
    let apply = |image: &mut Qcow2Mut| image.apply_snapshot(&id_or_name("1"));
    refused(&apply, ErrorKind::Unsupported, "Device has active dirty bitmaps");
    create(&format!("data_file={file}.data"));
    refused(&named("s".into()), ErrorKind::Unsupported, "external data file");
    for (bits, allowed) in [(1, 0), (2, 2), (4, 14)] {
        create(&format!("refcount_bits={bits}"));
        qemu(&path, "write -P 1 0 128k");
        for _ in 0..allowed {
            Qcow2Mut::open(&path).unwrap().create_snapshot("s").unwrap();
        }
        refused(&named("s".into()), ErrorKind::Limit, "refcounts of");
        assert_qemu_check(&path, "qcow2");
        assert!(!try_run("qemu-img", ["snapshot", "-c", "s", file]).status.success());
    }
    create("lazy_refcounts=on");
    let mut bytes = std::fs::read(&path).unwrap();
    for (bit, text) in [(1, "not closed properly"), (2, "marked as corrupt")] {
        bytes[79] = bit;
        std::fs::write(&path, &bytes).unwrap();
        refused(&named("s".into()), ErrorKind::Corrupt, text);
    }
    let raw = dir.path().join("a.raw");
    std::fs::write(&raw, [0; 4096]).unwrap();
    let error = Qcow2Mut::open_with(&raw, OpenOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // A raw disk is not taken for a qcow2 image.
    create("cluster_size=64k");
    let options = OpenOptions::new().format(Format::Raw);
    assert_eq!(Qcow2Mut::open_with(&path, options).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn an_image_is_locked_while_its_snapshots_are_modified() {
    let dir = tempfile::tempdir().unwrap();
    let case = Case { name: "", options: "cluster_size=64k", size: MIB, commands: &[] };
    let path = case.make(dir.path());
    let image = Qcow2Mut::open(&path).unwrap();
    assert_eq!(Qcow2Mut::open(&path).unwrap_err().kind(), ErrorKind::Locked);
    let output = try_run("qemu-img", ["snapshot", "-c", "s", path.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("lock"), "{output:?}");
    drop(image);
    qemu(&path, "img snapshot -c s");
}
