//! Files that a resized disk may change, create and remove, and those that it must not.

use super::resizing::{options, our_bytes, resize, resized};
use diskimg::storage::locking::Lock;
use diskimg::storage::source::{FileSource, Source};
use diskimg::{Error, ErrorKind, ExternalFiles, NewSize, Resize};
use diskimg_testkit::hosted::descriptor;
use diskimg_testkit::tool::run;
use std::collections::BTreeMap;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn create(path: &Path, layout: &str, size: u64) {
    let options = format!("subformat={layout}");
    let args = ["create", "-q", "-f", "vmdk", "-o", &options, path.to_str().unwrap()];
    run("qemu-img", args.into_iter().chain([size.to_string().as_str()]));
}

/// Returns the names of files in a directory with their lengths and what they begin with.
fn files(dir: &Path) -> BTreeMap<String, (u64, Vec<u8>)> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let len = std::fs::metadata(&path).unwrap().len();
        let mut bytes = vec![0; len.min(1 << 20) as usize];
        std::io::Read::read_exact(&mut std::fs::File::open(&path).unwrap(), &mut bytes).unwrap();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), (len, bytes))
    };
    std::fs::read_dir(dir).unwrap().map(entry).collect()
}

/// Requires that a disk is not resized, and that no file changes.
#[track_caller]
fn refused(dir: &Path, result: impl FnOnce() -> Result<(), Error>, kind: ErrorKind, text: &str) {
    let before = files(dir);
    let error = result().unwrap_err();
    assert!(error.kind() == kind && error.to_string().contains(text), "{error}");
    assert!(files(dir) == before, "{error}");
}

#[cfg(unix)]
#[test]
fn new_extents_of_a_linked_disk_replace_no_file() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("d")).unwrap();
    create(&at("d/x.vmdk"), "twoGbMaxExtentSparse", 1024 * MIB);
    symlink("d/x.vmdk", at("link.vmdk")).unwrap();
    std::fs::write(at("d/x-s002.vmdk"), "precious").unwrap();
    // An extent of this name would be looked for beside the link first.
    std::fs::write(at("x-s003.vmdk"), "other").unwrap();
    resize(&at("link.vmdk"), 5120 * MIB).unwrap();
    assert_eq!(std::fs::read(at("d/x-s002.vmdk")).unwrap(), b"precious");
    assert_eq!(std::fs::read(at("x-s003.vmdk")).unwrap(), b"other");
    assert_eq!(std::fs::read_link(at("link.vmdk")).unwrap(), Path::new("d/x.vmdk"));
    for path in [at("link.vmdk"), at("d/x.vmdk")] {
        let image = options().open(&path).unwrap();
        assert_eq!(image.size(), 5120 * MIB);
        assert!(at("d/x-s004.vmdk").exists() && !at("d/x-s003.vmdk").exists());
    }
    run("qemu-img", ["check", "-q", "-f", "vmdk", at("d/x.vmdk").to_str().unwrap()]);
    resize(&at("link.vmdk"), 1024 * MIB).unwrap();
    assert!(!at("d/x-s004.vmdk").exists() && at("d/x-s002.vmdk").exists());
}

/// The descriptor has a part of a file.
#[test]
fn bytes_behind_a_flat_extent_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (path, flat) = (dir.path().join("x.vmdk"), dir.path().join("x-flat.vmdk"));
    let text = descriptor("monolithicFlat", "RW 100 FLAT \"x-flat.vmdk\" 0", None);
    std::fs::write(&path, &text).unwrap();
    std::fs::write(&flat, [7; 200 * 512]).unwrap();
    for size in [50, 101, 150, 300] {
        let message = "cut the file to 51200 bytes";
        refused(dir.path(), || resize(&path, size * 512), ErrorKind::Refused, message);
    }
    // Zeros may be there after a change that was interrupted.
    std::fs::write(&flat, resized(&[7; 100 * 512], 200 * 512)).unwrap();
    refused(dir.path(), || resize(&path, 50 * 512), ErrorKind::Refused, "behind it");
    resize(&path, 150 * 512).unwrap();
    assert!(our_bytes(&path) == resized(&[7; 100 * 512], 150 * 512));
    assert_eq!(std::fs::metadata(&flat).unwrap().len(), 200 * 512);
    resize(&path, 300 * 512).unwrap();
    resize(&path, 50 * 512).unwrap();
    assert!(std::fs::read(&flat).unwrap() == [7; 50 * 512]);
}

#[test]
fn extents_outside_of_the_directory_are_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::create_dir(inner.join("sub")).unwrap();
    let path = inner.join("x.vmdk");
    let outside = dir.path().join("host");
    let absolute = inner.join("absolute");
    let link = inner.join("link");
    for file in [&outside, &absolute, &inner.join("sub/file")] {
        std::fs::write(file, [1; 512]).unwrap();
    }
    let mut names = vec!["../host", "sub/file", absolute.to_str().unwrap()];
    if cfg!(unix) {
        #[cfg(unix)]
        std::os::unix::fs::symlink("../host", &link).unwrap();
        names.push(link.file_name().unwrap().to_str().unwrap());
    }
    for name in names {
        let line = format!("RW 1 FLAT \"{name}\" 0");
        let zeros = "RW 1 ZERO";
        let any = options().external_files(ExternalFiles::Any);
        for (lines, size) in [(line.clone(), 1024), (format!("{zeros}\n{line}"), 512)] {
            std::fs::write(&path, descriptor("custom", &lines, None)).unwrap();
            let before = std::fs::read(&path).unwrap();
            let resize = Resize::new(NewSize::Bytes(size)).open_options(any.clone()).shrink(true);
            let error = resize.run(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{name}: {error}");
            assert!(error.to_string().contains("directory of the descriptor"), "{error}");
            assert!(std::fs::read(&path).unwrap() == before);
            for file in [&outside, &absolute, &inner.join("sub/file")] {
                assert_eq!(std::fs::read(file).unwrap(), [1; 512]);
            }
        }
    }
}

#[test]
fn only_whole_extents_of_the_disk_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let path = at("x.vmdk");
    for name in ["x-f001.vmdk", "x-f002.vmdk", "notes.txt", "y-f002.vmdk", "x-flat.vmdk"] {
        std::fs::write(at(name), [1; 1024]).unwrap();
    }
    std::fs::write(at("x-f003.vmdk"), [1; 1536]).unwrap();
    let first = "RW 2 FLAT \"x-f001.vmdk\" 0\n";
    for second in [
        "RW 2 FLAT \"notes.txt\" 0",
        "RW 2 FLAT \"y-f002.vmdk\" 0",
        "RW 2 FLAT \"x-flat.vmdk\" 0",
        "RW 1 FLAT \"x-f002.vmdk\" 1",
        "RW 1 FLAT \"x-f002.vmdk\" 0",
        "RW 2 FLAT \"x-f003.vmdk\" 0",
        "RW 1 FLAT \"x-f002.vmdk\" 0\nRW 1 FLAT \"x-f002.vmdk\" 1",
    ] {
        let lines = format!("{first}{second}");
        std::fs::write(&path, descriptor("twoGbMaxExtentFlat", &lines, None)).unwrap();
        for size in [512, 1024] {
            refused(dir.path(), || resize(&path, size), ErrorKind::Refused, "not removed");
        }
    }
    let lines = format!("{first}RW 2 FLAT \"x-f002.vmdk\" 0");
    std::fs::write(&path, descriptor("twoGbMaxExtentFlat", &lines, None)).unwrap();
    resize(&path, 1024).unwrap();
    assert!(at("x-f001.vmdk").exists() && !at("x-f002.vmdk").exists());
}

/// Locks belong to open files, so that it does not matter which process holds them.
#[cfg(target_os = "linux")]
#[test]
fn extents_that_are_in_use_are_not_changed() {
    for layout in ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.vmdk");
        let several = layout != "monolithicFlat";
        create(&path, layout, if several { 2049 * MIB } else { MIB });
        let text = std::fs::read_to_string(&path).unwrap();
        let names: Vec<_> = text.lines().filter(|line| line.starts_with("RW")).collect();
        let names: Vec<_> = names.iter().map(|line| line.split('"').nth(1).unwrap()).collect();
        for name in &names {
            let reader = FileSource::open(dir.path().join(name)).unwrap();
            reader.lock(Lock::READ).unwrap();
            // An extent that stays as it is may be read.
            if name == names.last().unwrap() {
                let grow = || resize(&path, 3000 * MIB);
                refused(dir.path(), grow, ErrorKind::Locked, "Failed to get \"write\" lock");
            }
            refused(dir.path(), || resize(&path, 512), ErrorKind::Locked, "write");
            drop(reader);
            let writer = FileSource::open(dir.path().join(name)).unwrap();
            writer.lock(Lock::WRITE).unwrap();
            refused(dir.path(), || resize(&path, 3000 * MIB), ErrorKind::Locked, "write");
        }
        resize(&path, 512).unwrap();
        assert_eq!(files(dir.path()).len(), 2);
    }
}

/// The descriptor cannot be replaced: the disk keeps its files.
#[cfg(unix)]
#[test]
fn what_cannot_be_done_is_refused_before_the_last_extent_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.vmdk");
    create(&path, "twoGbMaxExtentFlat", MIB);
    std::fs::hard_link(&path, dir.path().join("other.vmdk")).unwrap();
    let grow = || resize(&path, 5000 * MIB);
    refused(dir.path(), grow, ErrorKind::Unsupported, "hard links");
    assert_eq!(std::fs::metadata(dir.path().join("x-f001.vmdk")).unwrap().len(), MIB);
}
