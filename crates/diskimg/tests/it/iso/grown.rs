//! `verify` reports nothing for images that were grown, padded or only partly recorded, and still
//! finds damage in them.
//!
//! ```text
//!   session 1   … padding …   session 2   … padding or anything else
//!   16: descriptors, in a grown image a copy of the newest ones
//! ```

use diskimg::Severity;
use diskimg::iso::{Finding, IsoImage, IsoOptions};
use diskimg::storage::source::MemorySource;
use diskimg_testkit::tool::run;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECTOR: usize = 2048;

/// Directories `a`, `b` and `c` with some files each.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Self {
        let lab = Self(tempfile::tempdir().unwrap());
        for name in ["a", "b", "c"] {
            let dir = lab.path(name);
            std::fs::create_dir_all(dir.join(format!("in {name}"))).unwrap();
            for n in 1..4usize {
                let bytes: Vec<u8> = (0..n * 50_000).map(|i| (i * n) as u8).collect();
                std::fs::write(dir.join(format!("{name}{n}")), &bytes).unwrap();
                std::fs::write(dir.join(format!("in {name}/{n}")), &bytes[n..]).unwrap();
            }
        }
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Returns an image with a session for each directory, written by `xorriso -dev`.
    fn xorriso(&self, options: &[&str]) -> Vec<u8> {
        let image = self.path("x.iso");
        let _ = std::fs::remove_file(&image);
        let device = format!("stdio:{}", image.display());
        for name in ["a", "b", "c"] {
            let (dir, target) = (self.arg(name), format!("/{name}"));
            let mut args = vec!["-report_about", "SORRY", "-dev", &device];
            args.extend(options);
            args.extend(["-map", &dir, &target, "-commit"]);
            run("xorriso", args);
        }
        self.read("x.iso")
    }

    /// Returns an image that `xorriso -indev -outdev` writes from another one.
    fn xorriso_modified(&self) -> Vec<u8> {
        let [first, second] = ["first.iso", "second.iso"].map(|name| self.arg(name));
        let quiet = ["-report_about", "SORRY"];
        let [a, b] = ["a", "b"].map(|name| self.arg(name));
        run("xorriso", quiet.into_iter().chain(["-outdev", &first, "-map", &a, "/a"]));
        let devices = ["-indev", &first, "-outdev", &second, "-map", &b, "/b"];
        run("xorriso", quiet.into_iter().chain(devices));
        self.read("second.iso")
    }

    /// Returns the sessions that `program`, genisoimage or xorrisofs, writes one after the other
    /// for two directories: the image with both, and the start sector of the second.
    fn concatenated(&self, program: &str, options: &[&str]) -> (Vec<u8>, usize) {
        let [one, two] = ["one.iso", "two.iso"].map(|name| self.arg(name));
        let [a, b] = ["a", "b"].map(|name| self.arg(name));
        let quiet = ["-quiet"].into_iter().chain(options.iter().copied());
        run(program, quiet.clone().chain(["-o", &one, &a]));
        let mut bytes = self.read("one.iso");
        let start = bytes.len().div_ceil(SECTOR).next_multiple_of(16);
        let position = format!("0,{start}");
        run(program, quiet.chain(["-C", &position, "-M", &one, "-o", &two, &b]));
        bytes.resize(start * SECTOR, 0);
        bytes.extend(self.read("two.iso"));
        (bytes, start)
    }
}

/// Returns the image as growisofs leaves it on overwritable media: the first descriptors are those
/// of the second session.
fn grown((mut bytes, start): (Vec<u8>, usize)) -> Vec<u8> {
    let newest = (start + 16) * SECTOR..(start + 32) * SECTOR;
    bytes.copy_within(newest, 16 * SECTOR);
    bytes
}

fn findings(bytes: Vec<u8>) -> Vec<Finding> {
    let image = IsoImage::open(Arc::new(MemorySource::new(bytes)), &IsoOptions::default()).unwrap();
    let mut found = Vec::new();
    image.verify(&mut |finding| found.push(finding)).unwrap();
    found.retain(|finding| finding.severity > Severity::Note);
    found
}

/// Checks an image, also with zeros or other bytes after it.
fn check(name: &str, bytes: &[u8]) {
    let zeros = [bytes, &[0; 700 * SECTOR]].concat();
    let others = [bytes, &b"x".repeat(300 * SECTOR + 17)].concat();
    for (what, bytes) in [("as it is", bytes.to_vec()), ("zeros", zeros), ("others", others)] {
        let found = findings(bytes);
        assert!(found.is_empty(), "{name}, {what}: {found:?}");
    }
}

/// Checks that damage is found: the end is cut off, or a record of the newest root is invalid.
fn check_damage(name: &str, bytes: &[u8]) {
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    assert!(bytes.len() > 1_000_000, "{name}: too short");
    let cut = bytes.len() - 500_000;
    assert!(findings(bytes[..cut].to_vec()).iter().any(is_error), "{name}: cut off");
    let mut sectors = bytes.chunks_exact(SECTOR);
    let newest = sectors.rfind(|sector| sector.starts_with(b"\x01CD001")).unwrap();
    let root = u32::from_le_bytes(newest[158..162].try_into().unwrap()) as usize * SECTOR;
    let mut damaged = bytes.to_vec();
    let second = root + usize::from(bytes[root]);
    let third = second + usize::from(bytes[second]);
    damaged[third + 32] = 250;
    assert!(findings(damaged).iter().any(is_error), "{name}: a directory record");
}

#[test]
fn images_grown_by_xorriso_are_valid() {
    let lab = Lab::new();
    for options in [
        &[][..],
        &["-joliet", "on"],
        &["-padding", "0"],
        &["-compliance", "no_emul_toc"],
        &["-boot_image", "any", "partition_offset=16"],
    ] {
        let (name, image) = (format!("xorriso {options:?}"), lab.xorriso(options));
        check(&name, &image);
        // With an offset, the last descriptors are those of the partition's own tree.
        if !options.contains(&"partition_offset=16") {
            check_damage(&name, &image);
        }
    }
    check("xorriso, -indev and -outdev", &lab.xorriso_modified());
}

#[test]
fn concatenated_and_grown_sessions_are_valid() {
    let lab = Lab::new();
    for (program, options) in [
        ("genisoimage", &["-R"][..]),
        ("genisoimage", &["-R", "-J"]),
        ("genisoimage", &["-J"]),
        ("genisoimage", &[]),
        ("genisoimage", &["-R", "-no-pad"]),
        ("genisoimage", &["-R", "-J", "-udf"]),
        ("xorrisofs", &["-R", "-J"]),
        ("xorrisofs", &["-R", "-no-pad"]),
    ] {
        let name = format!("{program} {options:?}");
        let image = lab.concatenated(program, options);
        check(&name, &image.0);
        check_damage(&name, &image.0);
        let image = grown(image);
        check(&format!("{name}, grown"), &image);
        check_damage(&format!("{name}, grown"), &image);
    }
}

#[test]
fn udf_volumes_of_all_media_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    for media in ["dvd", "dvdram", "dvdrw", "dvdr", "worm", "mo", "cdrw", "cdr", "bdr"] {
        let path = dir.path().join(media);
        let (media, path) = (format!("--media-type={media}"), path.to_str().unwrap());
        run("mkudffs", ["--new-file", &media, "-b", "2048", path, "3000"]);
        let bytes = std::fs::read(Path::new(path)).unwrap();
        let found = findings(bytes.clone());
        assert!(found.is_empty(), "{media}: {found:?}");
        // The table of write-once media is in the last sector.
        if !["dvdr", "cdr", "bdr"].iter().any(|name| media.ends_with(name)) {
            check(&media, &bytes);
        }
    }
}
