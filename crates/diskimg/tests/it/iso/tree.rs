//! Trees of files for images, and their comparison after reading them back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Type and contents of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Directory,
    File(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
    Other,
}

/// All files in a tree, by path.
pub type Manifest = BTreeMap<Vec<u8>, Content>;

/// Returns all files below a directory on the host.
pub fn manifest(dir: &Path) -> Manifest {
    let mut found = Manifest::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_dir() {
                todo.push(path.clone());
                Content::Directory
            } else if kind.is_file() {
                Content::File(fs::read(&path).unwrap())
            } else if kind.is_symlink() {
                Content::Link(fs::read_link(&path).unwrap().into_os_string().into_vec())
            } else if kind.is_fifo() {
                Content::Fifo
            } else {
                Content::Other
            };
            let name = path.strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec();
            found.insert(name, content);
        }
    }
    found
}

/// Compares two manifests. Panics with the path of the first difference, without contents.
pub fn assert_same(found: &Manifest, expected: &Manifest) {
    let shown = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    for (name, content) in expected {
        match found.get(name) {
            None => panic!("{} is missing", shown(name)),
            Some(found) => assert!(found == content, "{} differs", shown(name)),
        }
    }
    if let Some((name, _)) = found.iter().find(|(name, _)| !expected.contains_key(*name)) {
        panic!("{} is not expected", shown(name));
    }
}

/// Sets the modification time of all files in the tree.
pub fn set_times(dir: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    for (name, content) in manifest(dir).iter().rev() {
        if matches!(content, Content::Directory | Content::File(_)) {
            let file = fs::File::open(dir.join(OsStr::from_bytes(name))).unwrap();
            file.set_modified(time).unwrap();
        }
    }
    fs::File::open(dir).unwrap().set_modified(time).unwrap();
}

/// Creates a tree with everything that is hard to record.
pub fn hard(dir: &Path) {
    plain(dir);
    let at = |name: &str| dir.join(name);
    for (name, fill) in [("a", 100), ("b", 200), ("c", 250), ("d", 255)] {
        fs::write(at(&name.repeat(fill)), format!("{fill}")).unwrap();
        fs::create_dir(at(&format!("{}x", name.repeat(fill - 1)))).unwrap();
    }
    fs::write(at("emoji-😀.txt"), "smile").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"latin-\xe9\xff")), "bytes").unwrap();
    fs::write(at("ab:c*d?e;1\\"), "forbidden").unwrap();
    for (name, target) in [
        ("link", "empty".to_owned()),
        ("link-up", "../../x/./y/..".to_owned()),
        ("link-root", "/".to_owned()),
        ("link-absolute", "/etc/../etc/hosts".to_owned()),
        ("link-component", format!("/{}/{}", "x".repeat(255), "y".repeat(255))),
        ("link-short-names", "a/".repeat(300) + "b"),
        ("link-long", "abcdefg/".repeat(510) + "end"),
    ] {
        symlink(target, at(name)).unwrap();
    }
    fs::hard_link(at("big"), at("dir/big-again")).unwrap();
    mkfifo(&at("fifo"));
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o4711)).unwrap();
}

/// Creates files that every namespace can record, in all relevant sizes.
pub fn plain(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("dir/sub")).unwrap();
    fs::create_dir(at("empty-dir")).unwrap();
    for (name, len) in [
        ("empty", 0),
        ("one", 1),
        ("dir/sector", 2048),
        ("dir/more", 2049),
        ("dir/sub/page", 4096),
        ("big", 3_000_001),
    ] {
        let seed = name.len() as u64;
        fs::write(at(name), diskimg_testkit::disk::noise(seed, len)).unwrap();
    }
    // Directory records in more than one sector.
    for n in 0..60 {
        fs::write(at(&format!("dir/sub/file-number-{n}.text")), format!("{n}")).unwrap();
    }
}

fn mkfifo(path: &Path) {
    diskimg_testkit::tool::run("mkfifo", [path]);
}

/// Returns the attributes that Rock Ridge records: mode, owner, group, links, time, device.
pub fn attributes(path: &Path) -> (u32, u32, u32, u64, i64, u64) {
    let m = fs::symlink_metadata(path).unwrap();
    let links = if m.is_dir() { 0 } else { m.nlink() };
    (m.mode(), m.uid(), m.gid(), links, m.mtime(), m.rdev())
}
