//! Source trees for images.

use crate::iso::reference::{self, Facts, Tree};
use diskimg::iso::FileType;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// A temporary directory with the source tree and the images created from it.
pub(super) struct TestDir {
    dir: tempfile::TempDir,
}

impl TestDir {
    /// Creates the source tree in `tree/`.
    pub(super) fn new(fill: impl FnOnce(&Path)) -> Self {
        let dir = Self { dir: tempfile::tempdir().unwrap() };
        let root = dir.path("tree");
        std::fs::create_dir(&root).unwrap();
        fill(&root);
        set_times(&root);
        dir
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Returns the files in the source tree.
    pub(super) fn wanted(&self) -> Tree {
        reference::host(&self.path("tree"))
    }
}

/// Sets times that depend on the file's name, in whole seconds and the same in every run.
fn set_times(dir: &Path) {
    let mut all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    for path in &all {
        if path.is_dir() && !path.is_symlink() {
            set_times(path);
        }
        let sum: i64 = path.file_name().unwrap().as_bytes().iter().map(|&b| i64::from(b)).sum();
        // From 1995 on.
        let time = Timespec { tv_sec: 800_000_000 + sum * 86_399, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn file(dir: &Path, name: impl AsRef<OsStr>, size: usize) {
    let path = dir.join(name.as_ref());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let seed = name.as_ref().len() as u64 * 1000 + size as u64;
    std::fs::write(path, diskimg_testkit::disk::noise(seed, size)).unwrap();
}

fn mode(dir: &Path, name: &str, mode: u32) {
    std::fs::set_permissions(dir.join(name), PermissionsExt::from_mode(mode)).unwrap();
}

/// Creates names that every level of ISO 9660 allows, and sizes around the sector size.
pub(super) fn plain(root: &Path) {
    for (name, size) in [
        ("EMPTY", 0),
        ("ONE.BIN", 1),
        ("README.TXT", 100),
        ("DIR/BEFORE.BIN", 2047),
        ("DIR/SECTOR.BIN", 2048),
        ("DIR/SUB/AFTER.BIN", 2049),
        ("DIR/SUB/BIG.BIN", 70_000),
    ] {
        file(root, name, size);
    }
    std::fs::create_dir(root.join("NOTHING")).unwrap();
}

/// Creates names that Joliet allows.
pub(super) fn names(root: &Path) {
    for (name, size) in [
        ("readme.txt", 100),
        (".hidden", 10),
        ("UPPER and lower.Tar.Gz", 3000),
        ("two  spaces", 5),
        ("ünïcödé-文字.txt", 300),
        ("no extension", 1),
        ("sub.directory/inside.txt", 77),
        ("sub.directory/deeper/and deeper/at last.bin", 5000),
        ("a name of sixty-four characters, which is all that Joliet has.txt", 64),
    ] {
        file(root, &name[..name.len().min(64)], size);
    }
    // Directory records in more than one sector.
    for n in 0..120 {
        file(root, format!("many/file number {n:03}.dat"), n);
    }
    std::fs::create_dir(root.join("empty directory")).unwrap();
}

/// Creates files with POSIX modes, links and long names.
pub(super) fn posix(root: &Path) {
    names(root);
    file(root, "x".repeat(200), 10);
    file(root, "colon:star*question?back slash", 20);
    for (name, bits) in [
        ("run", 0o755),
        ("private", 0o600),
        ("set-uid", 0o4755),
        ("read-only", 0o444),
        ("all", 0o777),
    ] {
        file(root, name, bits as usize);
        mode(root, name, bits);
    }
    std::fs::create_dir(root.join("sticky")).unwrap();
    mode(root, "sticky", 0o1777);
    mode(root, "empty directory", 0o700);
    for (name, target) in [
        ("link", "readme.txt"),
        ("link down", "sub.directory/deeper"),
        ("sub.directory/link up", "../readme.txt"),
        ("link to nowhere", "nowhere/./at/../all"),
        ("absolute link", "/usr/share/doc"),
        ("link to root", "/"),
        ("link to itself", "link to itself"),
        ("link to here", "."),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    std::fs::hard_link(root.join("readme.txt"), root.join("sub.directory/second name")).unwrap();
}

/// Creates links whose targets, and components of them, need several entries.
pub(super) fn links(root: &Path) {
    file(root, "file", 10);
    for (name, parts) in [
        ("two", &[150, 100][..]),
        ("many", &[20; 12]),
        ("one", &[250]),
        ("both", &[1, 200, 1, 1, 99]),
    ] {
        let names: Vec<_> = parts.iter().map(|&len| "x".repeat(len)).collect();
        symlink(names.join("/"), root.join(name)).unwrap();
        symlink(format!("/{}", names.join("/../")), root.join(format!("{name}, from the root")))
            .unwrap();
    }
}

/// Creates names that are not UTF-8, and emoji, which UCS-2 cannot represent.
pub(super) fn bytes(root: &Path) {
    file(root, OsStr::from_bytes(b"latin-\xFC\xFF"), 12);
    file(root, OsStr::from_bytes(b"dir-\x80/\xFE\xFD"), 40);
    file(root, "emoji-😀.txt", 8);
    file(root, "new\nline", 8);
}

/// Creates UTF-8 names with characters outside the Basic Multilingual Plane.
pub(super) fn emoji(root: &Path) {
    file(root, "emoji-😀.txt", 8);
    file(root, "math 𝔘𝔫𝔦/𝔠𝔬𝔡𝔢", 80);
}

/// Creates directories deeper than ISO 9660 allows.
pub(super) fn deep(root: &Path) {
    file(root, "one/two/three/four/five/six/seven/eight/nine/ten/eleven/at last.txt", 44);
    file(root, "one/two/three/four/five/six/seven/in seven.txt", 33);
    file(root, "one/two/three/four/five/six/seven/eight/in eight.txt", 22);
    file(root, "one/two/three/four/five/six/other/eight/nine.txt", 11);
    file(root, "top.txt", 5);
}

/// Creates compressible and incompressible files.
pub(super) fn mixed(root: &Path) {
    compressible(root);
    file(root, "noise.bin", 100_000);
}

/// Creates compressible files.
pub(super) fn compressible(root: &Path) {
    let text = "All work and no play makes Jack a dull boy.\n";
    std::fs::write(root.join("text.txt"), text.repeat(5000)).unwrap();
    std::fs::write(root.join("zeros.bin"), vec![0; 300_000]).unwrap();
    let holes = [vec![1; 40_000], vec![0; 100_000], vec![2; 40_001]].concat();
    std::fs::write(root.join("holes.bin"), holes).unwrap();
    file(root, "tiny", 3);
    file(root, "empty", 0);
}

/// Creates devices and a pipe, which needs root.
pub(super) fn devices(root: &Path) {
    use rustix::fs::{FileType as Kind, Mode, makedev, mknodat};
    let node = |name: &str, kind, major, minor| {
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, root.join(name), kind, mode, makedev(major, minor)).unwrap();
    };
    node("null", Kind::CharacterDevice, 1, 3);
    node("sda1", Kind::BlockDevice, 8, 1);
    node("nvme", Kind::BlockDevice, 259, 7);
    node("wide-minor", Kind::BlockDevice, 259, 70_000);
    node("wide-both", Kind::CharacterDevice, 4095, 1_048_575);
    node("sixteen", Kind::BlockDevice, 65, 1000);
    node("pipe", Kind::Fifo, 0, 0);
    file(root, "file", 10);
    mode(root, "null", 0o666);
}

/// Returns the tree as `mkisofs -r` records it: owned by root, readable by all, writable by nobody.
pub(super) fn rational(tree: &Tree) -> Tree {
    reference::without(tree, |facts| {
        facts.owner = Some((0, 0));
        let executable = |mode: u32| if mode & 0o111 == 0 { 0o444 } else { 0o555 };
        facts.mode = facts.mode.map(executable);
    })
}

/// Returns what namespaces without Rock Ridge record: directories and regular files without
/// attributes.
pub(super) fn bare(tree: &Tree) -> Tree {
    let mut tree = reference::without(tree, |facts| {
        let Facts { kind, size, digest, .. } = facts.clone();
        *facts = Facts { size, digest, ..Facts::of(kind) };
    });
    tree.retain(|_, facts| matches!(facts.kind, FileType::Regular | FileType::Directory));
    tree
}
