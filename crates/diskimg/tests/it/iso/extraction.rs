//! Extraction into directories that hold something already, and what the options say.

use diskimg::iso::{ExtractOptions, Extracted, IsoImage, IsoOptions};
use diskimg::storage::source::MemorySource;
use diskimg::{Error, ErrorKind};
use diskimg_testkit::iso::{Craft, FREE, GOOD, GOOD_AT, ROOT, Record, SECONDS, susp};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Lab {
    dir: tempfile::TempDir,
    image: IsoImage,
}

impl Lab {
    /// An image with these files; a directory `out`; a canary beside it.
    fn new(files: &[Record]) -> Self {
        Self::of(&Craft::rock_ridge(files))
    }

    fn of(craft: &Craft) -> Self {
        let source = Arc::new(MemorySource::new(craft.finish()));
        let image = IsoImage::open(source, &IsoOptions::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let lab = Self { dir, image };
        fs::create_dir(lab.path("out")).unwrap();
        fs::create_dir(lab.path("canary")).unwrap();
        fs::write(lab.path("canary/secret"), "as it was").unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn extract(&self, change: impl FnOnce(&mut ExtractOptions)) -> Result<Extracted, Error> {
        let mut options = ExtractOptions::default();
        change(&mut options);
        self.image.extract(&self.path("out"), &options)
    }

    /// # Panics
    /// If anything is in it that was not, or it is not as it was.
    fn assert_canary(&self) {
        let names: Vec<_> =
            fs::read_dir(self.path("canary")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "something was made outside of the directory");
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
fn a_link_that_was_there_is_not_followed() {
    for overwrite in [false, true] {
        let mut craft = Craft::rock_ridge(&[Record::rock_dir("d", FREE, &[]), file("secret")]);
        craft.dir(FREE, ROOT, &[file("secret"), file("planted")]);
        let lab = Lab::of(&craft);
        symlink("../canary", lab.path("out/d")).unwrap();
        symlink("../canary/secret", lab.path("out/secret")).unwrap();
        let done = lab.extract(|options| options.overwrite = overwrite).unwrap();
        lab.assert_canary();
        assert!(done.failed >= 1, "a directory cannot be where a link is: {done:?}");
        let replaced = lab.path("out/secret").symlink_metadata().unwrap().is_file();
        assert_eq!(replaced, overwrite);
        assert!(lab.path("out/d").is_symlink());
        assert!(lab.path("out/good.txt").is_file(), "the others are extracted");
    }
}

#[test]
fn a_file_with_another_name_elsewhere_is_replaced_not_written_into() {
    let lab = Lab::new(&[file("f")]);
    fs::hard_link(lab.path("canary/secret"), lab.path("out/f")).unwrap();
    let done = lab.extract(|_| {}).unwrap();
    assert_eq!(done.failed, 1);
    lab.assert_canary();
    let done = lab.extract(|options| options.overwrite = true).unwrap();
    assert_eq!(done.failed, 0, "{done:?}");
    lab.assert_canary();
    assert_eq!(fs::read(lab.path("out/f")).unwrap(), GOOD);
}

#[test]
fn what_is_there_stays_unless_it_is_to_be_replaced() {
    let lab = Lab::new(&[file("f")]);
    fs::write(lab.path("out/f"), "old").unwrap();
    let done = lab.extract(|_| {}).unwrap();
    assert_eq!((done.files, done.failed), (1, 1));
    assert_eq!(done.failures[0].0, b"f");
    assert_eq!(done.failures[0].1.kind(), ErrorKind::Io);
    assert_eq!(fs::read(lab.path("out/f")).unwrap(), b"old");
    // A directory is no file that could be replaced.
    fs::remove_file(lab.path("out/f")).unwrap();
    fs::create_dir(lab.path("out/f")).unwrap();
    let done = lab.extract(|options| options.overwrite = true).unwrap();
    assert_eq!((done.files, done.failed), (1, 1));
}

#[test]
fn permissions_are_kept_and_special_bits_only_on_request() {
    let entry =
        |name: &str, mode| Record::file(name, GOOD_AT, 33).using(&[susp::px(mode), susp::nm(name)]);
    let files = [entry("plain", 0o100_640), entry("set-uid", 0o106_755), entry("none", 0o100_000)];
    let lab = Lab::new(&files);
    lab.extract(|_| {}).unwrap();
    assert_eq!(
        ["plain", "set-uid", "none"].map(|name| mode(&lab.path("out").join(name))),
        [0o640, 0o755, 0]
    );
    let lab = Lab::new(&files);
    lab.extract(|options| options.special_modes = true).unwrap();
    assert_eq!(mode(&lab.path("out/set-uid")), 0o6755);
    let lab = Lab::new(&files);
    lab.extract(|options| options.modes = false).unwrap();
    assert_ne!(mode(&lab.path("out/none")), 0);
}

#[test]
fn a_directory_that_may_not_be_written_is_filled_first() {
    let entries = [susp::px(0o040_555), susp::nm("d"), susp::tf()];
    let mut craft = Craft::rock_ridge(&[Record::dir("D", FREE).using(&entries)]);
    craft.dir(FREE, ROOT, &[file("one"), file("two")]);
    let lab = Lab::of(&craft);
    let done = lab.extract(|_| {}).unwrap();
    assert_eq!((done.failed, done.directories, done.files), (0, 1, 3), "{done:?}");
    assert_eq!(mode(&lab.path("out/d")), 0o555);
    assert_eq!(
        lab.path("out/d").metadata().unwrap().mtime(),
        SECONDS,
        "its time is set at the end"
    );
    fs::set_permissions(lab.path("out/d"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn names_of_one_file_are_hard_links_if_that_is_wanted() {
    let name = |name: &str| {
        Record::file(name, GOOD_AT, 33).using(&[susp::px_serial(0o100_644, 3, 7), susp::nm(name)])
    };
    let mut craft = Craft::rock_ridge(&[name("one"), Record::rock_dir("d", FREE, &[])]);
    craft.dir(FREE, ROOT, &[name("two"), name("three")]);
    let inode = |lab: &Lab, name: &str| lab.path("out").join(name).metadata().unwrap().ino();
    let lab = Lab::of(&craft);
    let done = lab.extract(|_| {}).unwrap();
    assert_eq!((done.failed, done.files), (0, 4), "{done:?}");
    assert_eq!(inode(&lab, "one"), inode(&lab, "d/two"));
    assert_eq!(inode(&lab, "one"), inode(&lab, "d/three"));
    assert_ne!(inode(&lab, "one"), inode(&lab, "good.txt"));
    let lab = Lab::of(&craft);
    lab.extract(|options| options.hard_links = false).unwrap();
    assert_ne!(inode(&lab, "one"), inode(&lab, "d/two"));
}

#[test]
fn links_and_devices_are_left_out_on_request() {
    let device =
        Record::file("D", 0, 0).using(&[susp::px(0o020_666), susp::nm("zero"), susp::pn(1, 5)]);
    let pipe = Record::file("P", 0, 0).using(&[susp::px(0o010_666), susp::nm("pipe")]);
    let lab = Lab::new(&[Record::rock_link("l", "../canary/secret"), device, pipe]);
    let done = lab.extract(|options| options.symlinks = false).unwrap();
    assert_eq!((done.left_out, done.failed, done.files), (3, 0, 1), "{done:?}");
    assert!(!lab.path("out/l").is_symlink());
    assert!(lab.path("out/zero").symlink_metadata().is_err(), "a device without being asked");
    let done = lab.extract(|options| options.overwrite = true).unwrap();
    assert_eq!(done.left_out, 2);
    assert_eq!(fs::read_link(lab.path("out/l")).unwrap(), Path::new("../canary/secret"));
    lab.assert_canary();
}

#[test]
fn no_more_bytes_are_written_than_allowed() {
    let files: Vec<_> = (0..20).map(|n| file(&format!("f{n}"))).collect();
    let lab = Lab::new(&files);
    let most = 5 * GOOD.len() as u64 + 7;
    let error = lab.extract(|options| options.most_bytes = most).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    let sizes =
        fs::read_dir(lab.path("out")).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= most);
}

#[test]
fn a_file_that_cannot_be_read_whole_is_not_there_at_all() {
    let cut = Record::rock("cut", GOOD_AT, 3 << 20, &[]);
    let far = Record::rock("far", 1 << 24, 100, &[]);
    let lab = Lab::new(&[cut, far, file("last")]);
    let done = lab.extract(|_| {}).unwrap();
    assert_eq!((done.files, done.failed), (2, 2), "{done:?}");
    assert!(!lab.path("out/cut").exists() && !lab.path("out/far").exists());
    assert_eq!(fs::read(lab.path("out/last")).unwrap(), GOOD);
}

#[test]
fn a_part_is_extracted_by_its_path() {
    let mut craft = Craft::rock_ridge(&[Record::rock_dir("d", FREE, &[])]);
    craft.dir(FREE, ROOT, &[file("inside"), Record::rock_dir("e", FREE + 1, &[])]);
    craft.dir(FREE + 1, FREE, &[file("deeper")]);
    let lab = Lab::of(&craft);
    let options = ExtractOptions::default();
    let mut seen = Vec::new();
    let mut tick = |path: &[u8]| {
        seen.push(String::from_utf8(path.to_vec()).unwrap());
        Ok(())
    };
    lab.image.extract_path(b"d", &lab.path("out"), &options, &mut tick).unwrap();
    assert!(lab.path("out/inside").is_file() && lab.path("out/e/deeper").is_file());
    assert_eq!(seen, ["d/inside", "d/e", "d/e/deeper"]);
    lab.image.extract_path(b"d/e/deeper", &lab.path("out"), &options, &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read(lab.path("out/deeper")).unwrap(), GOOD);
    let error =
        lab.image.extract_path(b"none", &lab.path("out"), &options, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn an_error_of_who_watches_ends_the_work() {
    let lab = Lab::new(&[file("one"), file("two")]);
    let mut left = 1;
    let mut tick = |_: &[u8]| {
        left -= 1;
        if left < 0 { Err(Error::invalid("enough")) } else { Ok(()) }
    };
    let error =
        lab.image.extract_path(b"", &lab.path("out"), &ExtractOptions::default(), &mut tick);
    assert!(error.unwrap_err().to_string().contains("enough"));
    assert_eq!(fs::read_dir(lab.path("out")).unwrap().count(), 1);
}
