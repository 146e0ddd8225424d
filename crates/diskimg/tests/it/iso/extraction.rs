//! Extraction into directories with existing files, and the options of extraction.

use diskimg::iso::{ExtractOptions, Extracted, IsoImage, IsoOptions};
use diskimg::storage::source::{FileSource, MemorySource};
use diskimg::{Error, ErrorKind};
use diskimg_testkit::iso::{FREE, GOOD, GOOD_AT, IsoBuilder, ROOT, Record, SECONDS, susp};
use diskimg_testkit::tool::run;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct TestDir {
    dir: tempfile::TempDir,
    image: IsoImage,
}

impl TestDir {
    /// Creates an image with these files, a target directory `out`, and a directory `canary` next
    /// to it, which must not change.
    fn new(files: &[Record]) -> Self {
        Self::of(&IsoBuilder::rock_ridge(files))
    }

    fn of(builder: &IsoBuilder) -> Self {
        let source = Arc::new(MemorySource::new(builder.finish()));
        let image = IsoImage::open(source, &IsoOptions::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let dir = Self { dir, image };
        fs::create_dir(dir.path("out")).unwrap();
        fs::create_dir(dir.path("canary")).unwrap();
        fs::write(dir.path("canary/secret"), "as it was").unwrap();
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn extract(&self, change: impl FnOnce(&mut ExtractOptions)) -> Result<Extracted, Error> {
        let mut options = ExtractOptions::default();
        change(&mut options);
        self.image.extract(&self.path("out"), &options)
    }

    /// Asserts that the directory `canary` is unchanged.
    fn assert_canary(&self) {
        let names: Vec<_> =
            fs::read_dir(self.path("canary")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "a file was created outside the directory");
        assert_eq!(fs::read(self.path("canary/secret")).unwrap(), b"as it was");
    }
}

fn file(name: &str) -> Record {
    Record::rock(name, GOOD_AT, GOOD.len() as u32, &[])
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_existing_link_is_not_followed() {
    for overwrite in [false, true] {
        let mut builder =
            IsoBuilder::rock_ridge(&[Record::rock_dir("d", FREE, &[]), file("secret")]);
        builder.dir(FREE, ROOT, &[file("secret"), file("planted")]);
        let dir = TestDir::of(&builder);
        symlink("../canary", dir.path("out/d")).unwrap();
        symlink("../canary/secret", dir.path("out/secret")).unwrap();
        let done = dir.extract(|options| options.overwrite = overwrite).unwrap();
        dir.assert_canary();
        assert!(done.failed >= 1, "a directory replaced a link: {done:?}");
        let replaced = dir.path("out/secret").symlink_metadata().unwrap().is_file();
        assert_eq!(replaced, overwrite);
        assert!(dir.path("out/d").is_symlink());
        assert!(dir.path("out/good.txt").is_file(), "the other files are not extracted");
    }
}

#[test]
fn a_hard_linked_file_is_replaced_and_not_overwritten() {
    let dir = TestDir::new(&[file("f")]);
    fs::hard_link(dir.path("canary/secret"), dir.path("out/f")).unwrap();
    let done = dir.extract(|_| {}).unwrap();
    assert_eq!(done.failed, 1);
    dir.assert_canary();
    let done = dir.extract(|options| options.overwrite = true).unwrap();
    assert_eq!(done.failed, 0, "{done:?}");
    dir.assert_canary();
    assert_eq!(fs::read(dir.path("out/f")).unwrap(), GOOD);
}

#[test]
fn existing_files_are_kept_unless_overwriting_is_requested() {
    let dir = TestDir::new(&[file("f")]);
    fs::write(dir.path("out/f"), "old").unwrap();
    let done = dir.extract(|_| {}).unwrap();
    assert_eq!((done.files, done.failed), (1, 1));
    assert_eq!(done.failures[0].0, b"f");
    assert_eq!(done.failures[0].1.kind(), ErrorKind::Io);
    assert_eq!(fs::read(dir.path("out/f")).unwrap(), b"old");
    // A directory is not replaced by a file.
    fs::remove_file(dir.path("out/f")).unwrap();
    fs::create_dir(dir.path("out/f")).unwrap();
    let done = dir.extract(|options| options.overwrite = true).unwrap();
    assert_eq!((done.files, done.failed), (1, 1));
}

#[test]
fn permissions_are_set_and_special_bits_only_on_request() {
    let entry = |name: &str, mode| {
        Record::file(name, GOOD_AT, 33).with_system_use(&[susp::px(mode), susp::nm(name)])
    };
    let files = [entry("plain", 0o100_640), entry("set-uid", 0o106_755), entry("none", 0o100_000)];
    let dir = TestDir::new(&files);
    dir.extract(|_| {}).unwrap();
    assert_eq!(
        ["plain", "set-uid", "none"].map(|name| mode(&dir.path("out").join(name))),
        [0o640, 0o755, 0]
    );
    let dir = TestDir::new(&files);
    dir.extract(|options| options.special_modes = true).unwrap();
    assert_eq!(mode(&dir.path("out/set-uid")), 0o6755);
    let dir = TestDir::new(&files);
    dir.extract(|options| options.modes = false).unwrap();
    assert_ne!(mode(&dir.path("out/none")), 0);
}

#[test]
fn permissions_of_a_read_only_directory_are_set_last() {
    let entries = [susp::px(0o040_555), susp::nm("d"), susp::tf()];
    let mut builder = IsoBuilder::rock_ridge(&[Record::dir("D", FREE).with_system_use(&entries)]);
    builder.dir(FREE, ROOT, &[file("one"), file("two")]);
    let dir = TestDir::of(&builder);
    let done = dir.extract(|_| {}).unwrap();
    assert_eq!((done.failed, done.directories, done.files), (0, 1, 3), "{done:?}");
    assert_eq!(mode(&dir.path("out/d")), 0o555);
    assert_eq!(dir.path("out/d").metadata().unwrap().mtime(), SECONDS, "its time is not set last");
    fs::set_permissions(dir.path("out/d"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn names_of_one_file_become_hard_links_unless_disabled() {
    let name = |name: &str| {
        Record::file(name, GOOD_AT, 33)
            .with_system_use(&[susp::px_serial(0o100_644, 3, 7), susp::nm(name)])
    };
    let mut builder = IsoBuilder::rock_ridge(&[name("one"), Record::rock_dir("d", FREE, &[])]);
    builder.dir(FREE, ROOT, &[name("two"), name("three")]);
    let inode = |dir: &TestDir, name: &str| dir.path("out").join(name).metadata().unwrap().ino();
    let dir = TestDir::of(&builder);
    let done = dir.extract(|_| {}).unwrap();
    assert_eq!((done.failed, done.files), (0, 4), "{done:?}");
    assert_eq!(inode(&dir, "one"), inode(&dir, "d/two"));
    assert_eq!(inode(&dir, "one"), inode(&dir, "d/three"));
    assert_ne!(inode(&dir, "one"), inode(&dir, "good.txt"));
    let dir = TestDir::of(&builder);
    dir.extract(|options| options.hard_links = false).unwrap();
    assert_ne!(inode(&dir, "one"), inode(&dir, "d/two"));
}

#[test]
fn symbolic_links_and_devices_can_be_left_out() {
    let device = Record::file("D", 0, 0).with_system_use(&[
        susp::px(0o020_666),
        susp::nm("zero"),
        susp::pn(1, 5),
    ]);
    let pipe = Record::file("P", 0, 0).with_system_use(&[susp::px(0o010_666), susp::nm("pipe")]);
    let dir = TestDir::new(&[Record::rock_link("l", "../canary/secret"), device, pipe]);
    let done = dir.extract(|options| options.symlinks = false).unwrap();
    assert_eq!((done.left_out, done.failed, done.files), (3, 0, 1), "{done:?}");
    assert!(!dir.path("out/l").is_symlink());
    assert!(
        dir.path("out/zero").symlink_metadata().is_err(),
        "a device was created without a request"
    );
    let done = dir.extract(|options| options.overwrite = true).unwrap();
    assert_eq!(done.left_out, 2);
    assert_eq!(fs::read_link(dir.path("out/l")).unwrap(), Path::new("../canary/secret"));
    dir.assert_canary();
}

#[test]
fn extraction_stops_at_the_byte_limit() {
    let files: Vec<_> = (0..20).map(|n| file(&format!("f{n}"))).collect();
    let dir = TestDir::new(&files);
    let limit = 5 * GOOD.len() as u64 + 7;
    let error = dir.extract(|options| options.max_bytes = limit).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    let sizes =
        fs::read_dir(dir.path("out")).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= limit);
}

#[test]
fn a_file_that_cannot_be_read_completely_is_not_created() {
    let cut = Record::rock("cut", GOOD_AT, 3 << 20, &[]);
    let far = Record::rock("far", 1 << 24, 100, &[]);
    let dir = TestDir::new(&[cut, far, file("last")]);
    let done = dir.extract(|_| {}).unwrap();
    assert_eq!((done.files, done.failed), (2, 2), "{done:?}");
    assert!(!dir.path("out/cut").exists() && !dir.path("out/far").exists());
    assert_eq!(fs::read(dir.path("out/last")).unwrap(), GOOD);
}

#[test]
fn a_directory_or_file_is_extracted_by_its_path() {
    let mut builder = IsoBuilder::rock_ridge(&[Record::rock_dir("d", FREE, &[])]);
    builder.dir(FREE, ROOT, &[file("inside"), Record::rock_dir("e", FREE + 1, &[])]);
    builder.dir(FREE + 1, FREE, &[file("deeper")]);
    let dir = TestDir::of(&builder);
    let options = ExtractOptions::default();
    let mut seen = Vec::new();
    let mut tick = |path: &[u8]| {
        seen.push(String::from_utf8(path.to_vec()).unwrap());
        Ok(())
    };
    dir.image.extract_path(b"d", &dir.path("out"), &options, &mut tick).unwrap();
    assert!(dir.path("out/inside").is_file() && dir.path("out/e/deeper").is_file());
    assert_eq!(seen, ["d/inside", "d/e", "d/e/deeper"]);
    dir.image.extract_path(b"d/e/deeper", &dir.path("out"), &options, &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read(dir.path("out/deeper")).unwrap(), GOOD);
    let error =
        dir.image.extract_path(b"none", &dir.path("out"), &options, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn an_error_of_the_progress_callback_stops_the_extraction() {
    let dir = TestDir::new(&[file("one"), file("two")]);
    let mut left = 1;
    let mut tick = |_: &[u8]| {
        left -= 1;
        if left < 0 { Err(Error::invalid("enough")) } else { Ok(()) }
    };
    let error =
        dir.image.extract_path(b"", &dir.path("out"), &ExtractOptions::default(), &mut tick);
    assert!(error.unwrap_err().to_string().contains("enough"));
    assert_eq!(fs::read_dir(dir.path("out")).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn names_with_a_backslash_are_extracted_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (from, image, to) =
        (dir.path().join("from"), dir.path().join("a.iso"), dir.path().join("to"));
    // As systemd names its units.
    let names = ["dev-disk-by\\x2duuid.swap", "..\\..\\up", "a\\"];
    fs::create_dir_all(from.join("dir\\name")).unwrap();
    for name in names {
        fs::write(from.join("dir\\name").join(name), name).unwrap();
    }
    run(
        "xorriso",
        ["-as", "mkisofs", "-quiet", "-R", "-o", image.to_str().unwrap(), from.to_str().unwrap()],
    );
    let source = Arc::new(FileSource::open(&image).unwrap());
    let opened = IsoImage::open(source, &IsoOptions::default()).unwrap();
    let result = opened.extract(&to, &ExtractOptions::default()).unwrap();
    assert_eq!(result.failures.len(), 0, "{:?}", result.failures);
    for name in names {
        assert_eq!(fs::read(to.join("dir\\name").join(name)).unwrap(), name.as_bytes());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}
