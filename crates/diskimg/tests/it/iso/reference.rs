//! The contents of an image as reported by several readers.
//!
//! ```text
//!   source tree ──► host ─────────────┐
//!   image ──► diskimg, listed ────────┤
//!         ──► diskimg, extracted ─────┼──► Tree ──► differences
//!         ──► bsdtar, as a tar ───────┤
//!         ──► bsdtar, xorriso, 7-Zip ─┤
//!         ──► pycdlib ────────────────┘
//! ```
//!
//! An attribute that a reader does not report is `None` and is not compared.

use diskimg::iso::{ExtractOptions, FileType, IsoImage, IsoOptions, Namespace};
use diskimg::storage::source::FileSource;
use diskimg_testkit::tool::try_run;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Files by path, without the root.
pub type Tree = BTreeMap<Vec<u8>, Facts>;

/// Attributes of a file as reported by a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: FileType,
    pub size: Option<u64>,
    /// Digest of the contents: see [`digest`].
    pub digest: Option<String>,
    pub mode: Option<u32>,
    pub owner: Option<(u32, u32)>,
    /// Seconds since 1970.
    pub mtime: Option<i64>,
    pub link: Option<Vec<u8>>,
    pub device: Option<(u32, u32)>,
}

impl Facts {
    pub fn of(kind: FileType) -> Self {
        Self {
            kind,
            size: None,
            digest: None,
            mode: None,
            owner: None,
            mtime: None,
            link: None,
            device: None,
        }
    }
}

/// Returns whether owners can be set and devices can be created.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns a SHA-256 of the contents; for huge files, only of the beginning, the end and the range
/// around 4 GiB.
fn digest(
    len: u64,
    mut read_at: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<String> {
    const PIECE: u64 = 1 << 18;
    const HUGE: u64 = 64 << 20;
    let mut sha = Sha256::new();
    let ends = [0..PIECE, (4 << 30) - PIECE..(4 << 30) + PIECE, len.saturating_sub(PIECE)..len];
    let ranges = if len > HUGE { ends.to_vec() } else { std::iter::once(0..len).collect() };
    let mut buf = vec![0; PIECE as usize];
    for range in ranges {
        let mut at = range.start;
        while at < range.end.min(len) {
            let here = (range.end.min(len) - at).min(PIECE) as usize;
            read_at(&mut buf[..here], at)?;
            sha.update(&buf[..here]);
            at += here as u64;
        }
    }
    Ok(sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// Returns every file below a directory on the host.
pub fn host(dir: &Path) -> Tree {
    host_without(dir, &[])
}

/// Returns every file below a directory on the host, without these entries of the directory.
pub fn host_without(dir: &Path, excluded: &[&str]) -> Tree {
    let mut tree = Tree::new();
    let excluded = excluded.iter().map(|name| name.as_bytes()).collect::<Vec<_>>();
    add_host(dir, &[], &excluded, &mut tree);
    tree
}

fn add_host(dir: &Path, parent: &[u8], excluded: &[&[u8]], tree: &mut Tree) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_vec();
        if excluded.contains(&&name[..]) {
            continue;
        }
        let path = if parent.is_empty() { name } else { [parent, b"/", &name].concat() };
        let facts = host_facts(&entry.path());
        let is_dir = facts.kind == FileType::Directory;
        tree.insert(path.clone(), facts);
        if is_dir {
            add_host(&entry.path(), &path, &[], tree);
        }
    }
}

fn host_facts(path: &Path) -> Facts {
    let meta = path.symlink_metadata().unwrap();
    let kind = meta.file_type();
    let kind = match () {
        () if kind.is_dir() => FileType::Directory,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_block_device() => FileType::BlockDevice,
        () if kind.is_char_device() => FileType::CharacterDevice,
        () if kind.is_fifo() => FileType::Fifo,
        () if kind.is_socket() => FileType::Socket,
        () => FileType::Regular,
    };
    let mut facts = Facts {
        mode: Some(meta.mode() & 0o7777),
        owner: Some((meta.uid(), meta.gid())),
        mtime: Some(meta.mtime()),
        ..Facts::of(kind)
    };
    match kind {
        FileType::Regular => {
            let file = File::open(path).unwrap();
            facts.size = Some(meta.len());
            facts.digest = Some(digest(meta.len(), |buf, at| file.read_exact_at(buf, at)).unwrap());
        }
        FileType::Symlink => {
            facts.mode = None;
            facts.link = Some(std::fs::read_link(path).unwrap().into_os_string().into_vec());
        }
        FileType::BlockDevice | FileType::CharacterDevice => {
            let device = meta.rdev();
            facts.device = Some((rustix::fs::major(device), rustix::fs::minor(device)));
        }
        _ => {}
    }
    facts
}

/// Opens an image with this namespace.
pub fn open(image: &Path, namespace: Namespace) -> Result<IsoImage, diskimg::Error> {
    let mut options = IsoOptions::default();
    options.namespace = namespace;
    let file = FileSource::open(image).unwrap();
    IsoImage::open(Arc::new(file), &options)
}

/// Lists the image with diskimg and reads all files.
///
/// # Panics
/// If anything cannot be read.
pub fn listed(image: &IsoImage) -> Tree {
    let mut tree = Tree::new();
    for found in image.walk() {
        let found = found.unwrap_or_else(|e| panic!("walking: {e}"));
        let node = &found.node;
        let mut facts = Facts::of(node.file_type);
        facts.mode = node.attributes.mode.filter(|_| node.file_type != FileType::Symlink);
        facts.owner = node.attributes.uid.zip(node.attributes.gid);
        facts.mtime = node.attributes.modified.map(|time| time.seconds);
        facts.link.clone_from(&node.link_target);
        facts.device = node.attributes.device.filter(|_| is_device(node.file_type));
        if node.file_type == FileType::Regular {
            let path = String::from_utf8_lossy(&found.path);
            let contents = image.contents(node).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(
                contents.len(),
                node.size,
                "{path}: the length of the contents differs from the size"
            );
            let digest = digest(contents.len(), |buf, at| Ok(contents.read_exact_at(buf, at)?));
            facts.size = Some(node.size);
            facts.digest = Some(digest.unwrap_or_else(|e| panic!("{path}: {e}")));
        }
        let previous = tree.insert(found.path, facts);
        assert!(previous.is_none(), "a path is visited twice");
    }
    tree
}

fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::BlockDevice | FileType::CharacterDevice)
}

/// Extracts the image with diskimg, without owners and devices if the user is not root.
///
/// # Panics
/// If anything cannot be extracted.
pub fn extracted(image: &IsoImage) -> Tree {
    let dir = tempfile::tempdir().unwrap();
    let mut options = ExtractOptions::default();
    options.owners = is_root();
    options.devices = is_root();
    options.special_modes = true;
    let done = image.extract(dir.path(), &options).unwrap();
    let failures: Vec<_> = done
        .failures
        .iter()
        .map(|(path, error)| format!("{}: {error}", String::from_utf8_lossy(path)))
        .collect();
    assert!(failures.is_empty(), "extraction: {failures:?}");
    let mut tree = host(dir.path());
    if !is_root() {
        tree.values_mut().for_each(|facts| facts.owner = None);
    }
    tree
}

/// Lists the image with bsdtar, which converts it to a tar archive, so that attributes do not
/// depend on the user.
pub fn bsdtar(image: &Path) -> Result<Tree, String> {
    let mut from = std::ffi::OsString::from("@");
    from.push(image);
    let args = ["-c", "-f", "-", "--format", "pax"].map(Into::into);
    let output = try_run("bsdtar", args.into_iter().chain([from]));
    if !output.status.success() {
        return Err(last_line(&output.stderr));
    }
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(&output.stdout[..]);
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let mut entry = entry.map_err(|e| e.to_string())?;
        let path = trimmed(&entry.path_bytes());
        if path.is_empty() {
            continue;
        }
        let facts = tar_facts(&mut entry, &tree).map_err(|e| e.to_string())?;
        tree.insert(path, facts);
    }
    Ok(tree)
}

fn trimmed(path: &[u8]) -> Vec<u8> {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let path = if path == b"." { b"" } else { path };
    path.strip_prefix(b"./").unwrap_or(path).to_vec()
}

fn tar_facts(entry: &mut tar::Entry<'_, &[u8]>, before: &Tree) -> io::Result<Facts> {
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        tar::EntryType::Link => {
            let target = entry.link_name_bytes().unwrap_or_default();
            return Ok(before
                .get(&trimmed(&target))
                .expect("the target of a hard link precedes it")
                .clone());
        }
        tar::EntryType::Directory => FileType::Directory,
        tar::EntryType::Symlink => FileType::Symlink,
        tar::EntryType::Block => FileType::BlockDevice,
        tar::EntryType::Char => FileType::CharacterDevice,
        tar::EntryType::Fifo => FileType::Fifo,
        _ => FileType::Regular,
    };
    let mut facts = Facts::of(kind);
    facts.mode = Some(header.mode()? & 0o7777).filter(|_| kind != FileType::Symlink);
    facts.owner = Some((header.uid()? as u32, header.gid()? as u32));
    facts.mtime = Some(header.mtime()? as i64);
    if kind == FileType::Symlink {
        facts.link = entry.link_name_bytes().map(|name| name.to_vec());
    }
    if is_device(kind) {
        // A number too large for the header is not reported.
        facts.device =
            header.device_major().ok().flatten().zip(header.device_minor().ok().flatten());
    }
    if kind == FileType::Regular {
        let mut content = Vec::new();
        io::Read::read_to_end(entry, &mut content)?;
        facts.size = Some(content.len() as u64);
        facts.digest = Some(digest_of(&content));
    }
    Ok(facts)
}

fn digest_of(content: &[u8]) -> String {
    let copy = |buf: &mut [u8], at: u64| {
        buf.copy_from_slice(&content[at as usize..at as usize + buf.len()]);
        Ok(())
    };
    digest(content.len() as u64, copy).expect("memory can be read")
}

/// Runs a command that extracts the image. Returns names, contents and links.
fn by_extraction(
    program: &str,
    args: impl FnOnce(&Path) -> Vec<std::ffi::OsString>,
) -> Result<Tree, String> {
    let dir = tempfile::tempdir().unwrap();
    let output = try_run(program, args(dir.path()));
    if !output.status.success() {
        return Err(last_line(&output.stderr));
    }
    let mut tree = host(dir.path());
    // Whether these are kept depends on the command and the user.
    for facts in tree.values_mut() {
        (facts.mode, facts.owner, facts.mtime) = (None, None, None);
    }
    Ok(tree)
}

/// Extracts with bsdtar and options of its ISO reader, such as `!rockridge`.
pub fn bsdtar_with(image: &Path, options: &str) -> Result<Tree, String> {
    by_extraction("bsdtar", |dir| {
        let args =
            ["-x".as_ref(), "-f".as_ref(), image.as_os_str(), "-C".as_ref(), dir.as_os_str()];
        args.into_iter().chain(["--options".as_ref(), options.as_ref()]).map(Into::into).collect()
    })
}

/// Extracts with xorriso: Rock Ridge, or Joliet if `read_fs` is `norock`.
pub fn xorriso(image: &Path, read_fs: &str) -> Result<Tree, String> {
    by_extraction("xorriso", |dir| {
        let before = ["-report_about", "SORRY", "-read_fs", read_fs, "-osirrox", "on"];
        let args =
            before.map(AsRef::as_ref).into_iter().chain(["-indev".as_ref(), image.as_os_str()]);
        args.chain(["-extract".as_ref(), "/".as_ref(), dir.as_os_str()]).map(Into::into).collect()
    })
}

/// Extracts with 7-Zip, which prefers Joliet.
pub fn seven_zip(image: &Path, kind: &str) -> Result<Tree, String> {
    by_extraction("7zz", |dir| {
        let mut out = std::ffi::OsString::from("-o");
        out.push(dir);
        let args = ["x", "-y", "-bd"].map(std::ffi::OsString::from).into_iter();
        args.chain([format!("-t{kind}").into(), out, image.into()]).collect()
    })
}

/// Lists the image with pycdlib. `namespace` is `rr`, `joliet`, `iso` or `udf`. Returns `None`
/// unless `DISKIMG_ORACLES` names a virtual environment with pycdlib.
pub fn pycdlib(image: &Path, namespace: &str) -> Option<Result<Tree, String>> {
    let output = pycdlib_run(
        include_str!("../../../../diskimg-testkit/src/oracles/pycdlib_list.py"),
        &[image.as_os_str(), namespace.as_ref()],
    )?;
    let lines = match output {
        Ok(lines) => lines,
        Err(error) => return Some(Err(error)),
    };
    let mut tree = Tree::new();
    for line in lines.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [kind, path, size, sha, link] = fields[..] else { panic!("pycdlib_list.py: {line}") };
        let mut facts = Facts::of(match kind {
            "d" => FileType::Directory,
            "l" => FileType::Symlink,
            _ => FileType::Regular,
        });
        match facts.kind {
            FileType::Regular => {
                facts.size = Some(size.parse().unwrap());
                facts.digest = Some(sha[..16].to_owned());
            }
            FileType::Symlink => facts.link = Some(hex(link)),
            _ => {}
        }
        tree.insert(hex(path), facts);
    }
    Some(Ok(tree))
}

/// Runs a Python program that uses pycdlib. Returns `None` if pycdlib is not available.
pub fn pycdlib_run(program: &str, args: &[&std::ffi::OsStr]) -> Option<Result<String, String>> {
    let environment = std::env::var_os("DISKIMG_ORACLES")?;
    let python = PathBuf::from(environment).join("bin/python");
    let mut command = Command::new(python);
    let output =
        command.args(["-I", "-c", program]).args(args).stdin(Stdio::null()).output().unwrap();
    Some(if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(last_line(&output.stderr))
    })
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned()
}

/// Returns descriptions of all differences between two trees.
pub fn differences(wanted: &Tree, got: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |path: &[u8], what: String| {
        found.push(format!("{}: {what}", path.escape_ascii()));
    };
    for (path, wanted) in wanted {
        let Some(got) = got.get(path) else {
            note(path, "missing".into());
            continue;
        };
        if wanted.kind != got.kind {
            note(path, format!("{:?} instead of {:?}", got.kind, wanted.kind));
            continue;
        }
        let mut field = |name: &str, wanted: Option<String>, got: Option<String>| {
            if let (Some(wanted), Some(got)) = (wanted, got)
                && wanted != got
            {
                note(path, format!("{name} {got} instead of {wanted}"));
            }
        };
        let octal = |mode: Option<u32>| mode.map(|mode| format!("{mode:04o}"));
        let shown =
            |link: &Option<Vec<u8>>| link.as_ref().map(|link| link.escape_ascii().to_string());
        field("size", wanted.size.map(|n| n.to_string()), got.size.map(|n| n.to_string()));
        field("content", wanted.digest.clone(), got.digest.clone());
        field("mode", octal(wanted.mode), octal(got.mode));
        field("owner", wanted.owner.map(|o| format!("{o:?}")), got.owner.map(|o| format!("{o:?}")));
        field("mtime", wanted.mtime.map(|n| n.to_string()), got.mtime.map(|n| n.to_string()));
        field("link", shown(&wanted.link), shown(&got.link));
        field(
            "device",
            wanted.device.map(|d| format!("{d:?}")),
            got.device.map(|d| format!("{d:?}")),
        );
    }
    for path in got.keys().filter(|path| !wanted.contains_key(*path)) {
        note(path, "not in the reference".into());
    }
    found
}

/// Returns the tree with `clear` applied to every file, to remove attributes that differ by design.
pub fn without(tree: &Tree, clear: impl Fn(&mut Facts)) -> Tree {
    let mut tree = tree.clone();
    tree.values_mut().for_each(clear);
    tree
}
