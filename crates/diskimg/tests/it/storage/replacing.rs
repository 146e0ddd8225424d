//! Existing files that can be written but not replaced.

use diskimg::{Convert, Create, ErrorKind, Format, Image, OpenOptions, Options};
use diskimg_testkit::disk;
use diskimg_testkit::tool::{qemu_bytes, run, try_run};
use std::fs::{self, File};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A directory with a raw disk in it.
struct Place {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bytes = disk::noise(3, 3 << 20);
        fs::write(dir.path().join("a.raw"), &bytes).unwrap();
        Self { dir, bytes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self) -> Image {
        OpenOptions::new().format(Format::Raw).open(self.path("a.raw")).unwrap()
    }

    fn convert(&self, to: &Path) -> Vec<String> {
        Convert::new(self.source()).format(Format::Qcow2).run(to).unwrap().notes
    }

    fn assert_complete(&self, path: &Path) {
        assert!(qemu_bytes(path, "qcow2") == self.bytes, "{}", path.display());
    }
}

#[test]
fn a_file_with_other_names_keeps_them() {
    let place = Place::new();
    let (out, other) = (place.path("out"), place.path("other"));
    fs::write(&out, disk::noise(1, 9 << 20)).unwrap();
    fs::hard_link(&out, &other).unwrap();
    let notes = place.convert(&out);
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert!(note.contains("hard links") && note.contains(out.to_str().unwrap()), "{note}");
    place.assert_complete(&other);
    assert_eq!(fs::metadata(&other).unwrap().nlink(), 2);
    let created = Create::new(Format::Qcow2).size(1 << 20).run(&other).unwrap();
    assert_eq!(created.notes.len(), 1);
    assert_eq!(qemu_bytes(&out, "qcow2"), vec![0; 1 << 20]);
}

#[test]
fn an_overwritten_file_keeps_its_content_until_something_is_written() {
    let place = Place::new();
    let (out, other) = (place.path("out"), place.path("other"));
    fs::write(&out, b"old").unwrap();
    fs::hard_link(&out, &other).unwrap();
    let options = Options::parse("cluster_size=3").unwrap();
    let convert = Convert::new(place.source()).format(Format::Qcow2).options(options);
    convert.run(&out).unwrap_err();
    assert_eq!(fs::read(&out).unwrap(), b"old");

    let stop = |progress: diskimg::Progress| match progress.done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let convert = Convert::new(place.source()).format(Format::Qcow2).threads(1).progress(&stop);
    let error = convert.run(&out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let message = format!("{error:#}");
    assert!(message.contains("old content is lost") || fs::read(&out).unwrap() == b"old");
    assert!(out.exists() && other.exists());
}

#[test]
fn a_file_that_a_descriptor_names_is_written_even_if_it_is_deleted() {
    let place = Place::new();
    let path = place.path("out");
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    assert_eq!(place.convert(&link).len(), 1);
    place.assert_complete(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(place.convert(&link).len(), 1);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let copy = place.path("copy");
    fs::write(&copy, bytes).unwrap();
    place.assert_complete(&copy);
    assert!(!path.exists());
}

/// Only root can create files in a directory that nobody may write.
#[test]
fn a_file_in_a_directory_that_is_not_writable_is_overwritten() {
    let place = Place::new();
    let (closed, out, link) = (place.path("closed"), place.path("closed/out"), place.path("link"));
    fs::create_dir(&closed).unwrap();
    fs::write(&out, b"old").unwrap();
    symlink("closed/out", &link).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let is_root = File::create_new(place.path("closed/trial")).is_ok();
    let notes = place.convert(&link);
    assert_eq!(notes.len(), usize::from(!is_root), "{notes:?}");
    place.assert_complete(&out);
    let new = Convert::new(place.source()).run(place.path("closed/new"));
    assert_eq!(new.is_ok(), is_root, "a new file cannot be created");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_that_is_replaced_keeps_its_attributes() {
    let place = Place::new();
    let out = place.path("out");
    fs::write(&out, b"old").unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).unwrap();
    let name = out.to_str().unwrap();
    if !try_run("setfattr", ["-n", "user.origin", "-v", "here", name]).status.success() {
        return; // The file system has no extended attributes.
    }
    let lists = try_run("setfacl", ["-m", "u:1:rw,m::rw", name]).status.success();
    let mode = fs::metadata(&out).unwrap().mode();
    let before = fs::metadata(&out).unwrap().ino();
    assert!(place.convert(&out).is_empty());
    assert_ne!(fs::metadata(&out).unwrap().ino(), before, "it is replaced");
    assert_eq!(fs::metadata(&out).unwrap().mode(), mode);
    let value = run("getfattr", ["--only-values", "-n", "user.origin", name]);
    assert_eq!(value, "here");
    if lists {
        assert!(run("getfacl", ["-c", name]).contains("user:daemon:rw-\n"));
    }
}

/// `flat.vmdk` is a second file of the image.
#[test]
fn companion_files_are_overwritten_too() {
    let place = Place::new();
    let (out, flat) = (place.path("x.vmdk"), place.path("x-flat.vmdk"));
    fs::write(&flat, b"old").unwrap();
    fs::hard_link(&flat, place.path("other")).unwrap();
    let options = Options::parse("subformat=monolithicFlat").unwrap();
    let report =
        Convert::new(place.source()).format(Format::Vmdk).options(options).run(&out).unwrap();
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    assert!(qemu_bytes(&out, "vmdk") == place.bytes);
    assert!(fs::read(place.path("other")).unwrap() == place.bytes);
}
