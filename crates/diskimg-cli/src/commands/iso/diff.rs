//! `iso diff`: compares the files of two ISO images or directories.

use crate::args::common::OutputFormat;
use crate::args::iso::diff::{CANNOT_COMPARE, Job, Side};
use crate::args::names;
use crate::commands::iso::{open, texts};
use crate::confine::{self, Rules};
use crate::failure::Failure;
use crate::output::{Console, json};
use diskimg::iso::{ContentsKey, FileType, IsoImage, Node};
use diskimg::{Error, printable};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Exit code for trees that differ.
const DIFFERENT: u8 = 1;

/// Number of bytes compared at a time.
const CHUNK: u64 = 1 << 20;

/// Runs the comparison.
pub(in crate::commands) fn run(job: &Job, console: &Console) -> Result<u8, Failure> {
    compare(job, console).map_err(|e| e.with_code(CANNOT_COMPARE))
}

fn compare(job: &Job, console: &Console) -> Result<u8, Failure> {
    let mut rules = Rules::new();
    let mut inputs = Vec::new();
    for side in &job.sides {
        match side {
            Side::Directory(path) => rules = rules.allow_read([path]),
            Side::Image(image) => inputs.push(&image.input),
        }
    }
    let [a, b] = &job.sides;
    let open = || Ok((Tree::of(a, console)?, Tree::of(b, console)?));
    let (a, b) = confine::open(&rules, &inputs, open)?;
    let differences = differences(&a, &b, job.content)?;
    if !job.quiet {
        match job.output {
            OutputFormat::Human => {
                let lines: String = differences.iter().map(Difference::line).collect();
                console.print(&lines)?;
            }
            OutputFormat::Json => json::print(console, &differences)?,
        }
    }
    Ok(if differences.is_empty() { 0 } else { DIFFERENT })
}

/// All files of one side, sorted by path.
struct Tree {
    files: BTreeMap<Vec<u8>, File>,
    image: Option<IsoImage>,
}

/// The attributes of a file that are compared.
struct File {
    kind: &'static str,
    /// Length in bytes, of a regular file.
    size: Option<u64>,
    mode: Option<u32>,
    target: Option<Vec<u8>>,
    device: Option<(u32, u32)>,
    contents: Contents,
}

/// Where the contents of a file are read from.
enum Contents {
    Node(Box<Node>),
    Host(PathBuf),
}

/// A difference between the two sides.
#[derive(Debug, Serialize)]
struct Difference {
    path: String,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b: Option<String>,
}

impl Difference {
    fn new(path: &[u8], what: &'static str, a: Option<String>, b: Option<String>) -> Self {
        Self { path: String::from_utf8_lossy(path).into_owned(), what, a, b }
    }

    fn line(&self) -> String {
        let Self { path, what, a, b } = self;
        let text = match (a, b) {
            (Some(a), Some(b)) => format!("/{path}: {what} {a}, {b}"),
            (Some(at), None) => format!("/{path}: {what} {at}"),
            _ => format!("/{path}: {what}"),
        };
        format!("{}\n", printable(&text))
    }
}

fn differences(a: &Tree, b: &Tree, content: bool) -> Result<Vec<Difference>, Failure> {
    if content {
        a.require_bounded_contents()?;
        b.require_bounded_contents()?;
    }
    let mut compared = HashMap::new();
    let mut found = Vec::new();
    // Entries of a directory that exists on one side only are not reported individually.
    let mut one_sided = HashSet::new();
    let paths: std::collections::BTreeSet<_> = a.files.keys().chain(b.files.keys()).collect();
    for path in paths {
        let parent = path.iter().rposition(|&byte| byte == b'/').map(|at| &path[..at]);
        let only_in = match (a.files.get(path), b.files.get(path)) {
            (Some(_), None) => Some("only in A"),
            (None, Some(_)) => Some("only in B"),
            (Some(one), Some(other)) => {
                attributes(path, one, other, &mut found);
                let same = one.size.is_some() && one.size == other.size;
                if content
                    && same
                    && let Some(at) = once(&mut compared, a, one, b, other)?
                {
                    let at = Some(format!("at byte {at}"));
                    found.push(Difference::new(path, "contents differ", at, None));
                }
                None
            }
            (None, None) => None,
        };
        let Some(only_in) = only_in else { continue };
        one_sided.insert(path.as_slice());
        if parent.is_none_or(|parent| !one_sided.contains(parent)) {
            found.push(Difference::new(path, only_in, None, None));
        }
    }
    Ok(found)
}

fn attributes(path: &[u8], a: &File, b: &File, found: &mut Vec<Difference>) {
    let octal = |mode: u32| format!("{mode:04o}");
    let lossy = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let device = |(major, minor): (u32, u32)| format!("{major},{minor}");
    let mut report = |what, a, b| found.push(Difference::new(path, what, Some(a), Some(b)));
    if a.kind != b.kind {
        return report("type", a.kind.to_owned(), b.kind.to_owned());
    }
    // Attributes that one side does not record are not compared.
    if let (Some(a), Some(b)) = (a.size, b.size)
        && a != b
    {
        report("size", a.to_string(), b.to_string());
    }
    if let (Some(a), Some(b)) = (a.mode, b.mode)
        && a != b
    {
        report("mode", octal(a), octal(b));
    }
    if let (Some(a), Some(b)) = (&a.target, &b.target)
        && a != b
    {
        report("target", lossy(a), lossy(b));
    }
    if let (Some(a), Some(b)) = (a.device, b.device)
        && a != b
    {
        report("device", device(a), device(b));
    }
}

/// Pairs of files of two images that were compared, and the results.
type Compared<'a> = HashMap<(ContentsKey<'a>, ContentsKey<'a>), Option<u64>>;

/// As [`first_difference`], but compares two files that have several names once.
fn once<'a>(
    compared: &mut Compared<'a>,
    a: &Tree,
    one: &'a File,
    b: &Tree,
    other: &'a File,
) -> Result<Option<u64>, Failure> {
    let (Contents::Node(left), Contents::Node(right)) = (&one.contents, &other.contents) else {
        return first_difference(a, one, b, other);
    };
    let pair = (left.contents_key(), right.contents_key());
    if let Some(known) = compared.get(&pair) {
        return Ok(*known);
    }
    let found = first_difference(a, one, b, other)?;
    compared.insert(pair, found);
    Ok(found)
}

/// Returns the offset of the first difference between two files of the same length.
fn first_difference(a: &Tree, one: &File, b: &Tree, other: &File) -> Result<Option<u64>, Failure> {
    let (mut one, mut other) = (a.reader(one)?, b.reader(other)?);
    let mut at = 0;
    let mut buffers = [vec![0; CHUNK as usize], vec![0; CHUNK as usize]];
    loop {
        let [left, right] = &mut buffers;
        let (n, m) = (one(at, left)?, other(at, right)?);
        let (left, right) = (&left[..n], &right[..m]);
        if left != right {
            let equal = left.iter().zip(right).take_while(|(a, b)| a == b).count();
            return Ok(Some(at + equal as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        at += n as u64;
    }
}

/// Reads at an offset until the buffer is full or the file ends; returns the number of bytes read.
type ReadAt<'a> = Box<dyn FnMut(u64, &mut [u8]) -> Result<usize, Failure> + 'a>;

impl Tree {
    fn of(side: &Side, console: &Console) -> Result<Self, Failure> {
        let mut files = BTreeMap::new();
        match side {
            Side::Image(input) => {
                let image = open(input, console)?;
                for found in image.walk() {
                    let found = found?;
                    files.insert(found.path, File::of_node(found.node));
                }
                Ok(Self { files, image: Some(image) })
            }
            Side::Directory(path) => {
                list(path, &[], &mut files)?;
                Ok(Self { files, image: None })
            }
        }
    }

    /// Checks that reading all files of an image takes work in proportion to its length.
    fn require_bounded_contents(&self) -> Result<(), Failure> {
        let Some(image) = &self.image else { return Ok(()) };
        let nodes = self.files.values().filter_map(|file| match &file.contents {
            Contents::Node(node) => Some(&**node),
            Contents::Host(_) => None,
        });
        Ok(image.require_little_overlap(nodes)?)
    }

    fn reader<'a>(&self, file: &'a File) -> Result<ReadAt<'a>, Failure> {
        match (&file.contents, &self.image) {
            (Contents::Node(node), Some(image)) => {
                let source = image.contents(node)?;
                Ok(Box::new(move |at, buf| {
                    let n = source.len().saturating_sub(at).min(buf.len() as u64) as usize;
                    let read = source.read_exact_at(&mut buf[..n], at);
                    read.map_err(|e| Error::io("cannot read a file of the image", e))?;
                    Ok(n)
                }))
            }
            (Contents::Host(path), _) => {
                let cannot_read = move |e: io::Error| Error::io("cannot read", e).in_file(path);
                let mut file = fs::File::open(path).map_err(cannot_read)?;
                Ok(Box::new(move |_, buf| {
                    let mut part = (&mut file).take(buf.len() as u64);
                    let mut n = 0;
                    while n < buf.len() {
                        match part.read(&mut buf[n..]).map_err(cannot_read)? {
                            0 => break,
                            more => n += more,
                        }
                    }
                    Ok(n)
                }))
            }
            (Contents::Node(_), None) => {
                Err(Failure::error("a file of an ISO image that is not open"))
            }
        }
    }
}

impl File {
    fn of_node(node: Node) -> Self {
        Self {
            kind: texts::kind(node.file_type),
            size: (node.file_type == FileType::Regular).then_some(node.size),
            mode: node.attributes.mode,
            target: node.link_target.clone(),
            device: node.attributes.device,
            contents: Contents::Node(Box::new(node)),
        }
    }

    /// Permissions and device numbers are not compared, since an image rarely records the host's.
    fn of_host(path: PathBuf, found: &fs::Metadata) -> Result<Self, Failure> {
        let cannot_read = |e: io::Error| Error::io("cannot read the link", e).in_file(&path);
        let kind = host_kind(found.file_type());
        let target = match kind {
            FileType::Symlink => Some(fs::read_link(&path).map_err(cannot_read)?),
            _ => None,
        };
        Ok(Self {
            kind: texts::kind(kind),
            size: (kind == FileType::Regular).then_some(found.len()),
            mode: None,
            target: target.map(|target| names::bytes(target.as_os_str())).transpose()?,
            device: None,
            contents: Contents::Host(path),
        })
    }
}

fn host_kind(found: fs::FileType) -> FileType {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        for (is, kind) in [
            (found.is_block_device(), FileType::BlockDevice),
            (found.is_char_device(), FileType::CharacterDevice),
            (found.is_fifo(), FileType::Fifo),
            (found.is_socket(), FileType::Socket),
        ] {
            if is {
                return kind;
            }
        }
    }
    if found.is_dir() {
        FileType::Directory
    } else if found.is_symlink() {
        FileType::Symlink
    } else {
        FileType::Regular
    }
}

fn list(dir: &Path, prefix: &[u8], files: &mut BTreeMap<Vec<u8>, File>) -> Result<(), Failure> {
    let cannot_list = |e: io::Error| Error::io("cannot list", e).in_file(dir);
    for entry in fs::read_dir(dir).map_err(cannot_list)? {
        let entry = entry.map_err(cannot_list)?;
        let mut path = prefix.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(names::bytes(&entry.file_name())?);
        let found = entry.metadata().map_err(cannot_list)?;
        if found.is_dir() {
            list(&entry.path(), &path, files)?;
        }
        files.insert(path, File::of_host(entry.path(), &found)?);
    }
    Ok(())
}
