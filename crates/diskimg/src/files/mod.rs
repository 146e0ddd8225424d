//! File systems on disks: which there are, and the names in them.
//!
//! ```text
//!   Image ──► partition::table ──► Partition::range ──► WindowSource ──┐
//!     └──────── a disk without a partition table ──────────────────────┴──► FileSystem
//! ```
//!
//! [`recognize`] tells what a disk or partition contains. [`FileSystem`] lists names and attributes
//! in FAT12, FAT16, FAT32, ext2, ext3, ext4, ISO 9660 and UDF. Nothing is mounted, and no code of
//! the operating system reads the disk.
//!
//! ```no_run
//! use diskimg::Image;
//! use diskimg::files::{FileSystem, recognize};
//! use diskimg::storage::source::{Source, WindowSource};
//! use std::sync::Arc;
//!
//! let image: Arc<dyn Source> = Arc::new(Image::open("disk.qcow2")?);
//! let table = diskimg::partition::table(&*image, None)?;
//! let partition = table.as_ref().and_then(|table| table.partition(1)).expect("a partition");
//! let range = partition.range(image.len()).expect("within the disk");
//! let source: Arc<dyn Source> = Arc::new(WindowSource::new(image, range).expect("in range"));
//! println!("{:?}", recognize(&source)?);
//!
//! let files = FileSystem::open(source, &diskimg::Limits::default())?;
//! for entry in files.read_dir(b"/boot")? {
//!     println!("{} {}", entry.node.size, String::from_utf8_lossy(&entry.name));
//! }
//! # Ok::<(), diskimg::Error>(())
//! ```
//!
//! The input may be damaged or malicious: every number is checked before it is used, and the
//! [`Limits`] bound memory and time (`directory_bytes`, `directory_depth`, `tree_entries`,
//! `link_bytes`).

// Numbers read from a disk are converted with `storage::number`, not with `as`, which truncates.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

mod contents;
mod ext;
mod fat;
mod recognize;

pub use contents::{Contents, contents};
pub use recognize::{Kind, Recognized, recognize};

use crate::error::{Error, Result};
use crate::iso::{Entry, FileTree, FileType, IsoImage, IsoOptions, Listing};
use crate::iso::{MAX_COST_RATIO, Node, Walk};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use crate::storage::source::{Cached, Source};
use ext::ExtTree;
use fat::FatTree;
use std::collections::HashMap;
use std::sync::Arc;

/// Maximum number of symbolic links that a path is followed through, as in Linux.
const MAX_LINKS: usize = 40;

/// Maximum length of all directories together that a walk reads, in bytes, if the file system is
/// longer. Five million names, the default of `tree_entries`, take less.
const MAX_DIRECTORIES: u64 = 256 << 20;

/// Maximum number of names in a path, with those in the symbolic links that it is followed through.
const MAX_COMPONENTS: usize = 4096;

/// Maximum length of all directories together that a path is looked up in, as a multiple of
/// `directory_bytes`.
const MAX_LOOKUP_RATIO: u64 = 4;

/// Memory for parts of the file system that are read repeatedly, in bytes.
const CACHE: u64 = 16 << 20;

/// A file system whose names can be listed. Cheap to clone; can be shared between threads.
#[derive(Debug, Clone)]
pub struct FileSystem {
    recognized: Recognized,
    tree: Arc<dyn FileTree>,
    root: Node,
    bytes: u64,
    limits: Limits,
    warnings: Arc<[String]>,
}

impl FileSystem {
    /// Opens the file system of a disk or partition: `source` has its bytes, from the first one.
    ///
    /// # Errors
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if no file system is recognized, if names
    ///   in one of its kind cannot be listed, or if it uses a feature that is not supported.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if it is damaged.
    /// - [`Io`](crate::ErrorKind::Io), or the error of the image, if reading fails.
    pub fn open(source: Arc<dyn Source>, limits: &Limits) -> Result<Self> {
        let source: Arc<dyn Source> = Arc::new(Cached::with_capacity(source, CACHE));
        let Some(recognized) = recognize(&source)? else {
            return Err(Error::unsupported("no file system is recognized"));
        };
        let (bytes, mut warnings) = (source.len(), Vec::new());
        let not_listed = || {
            let message = format!("the contents of {} are not supported", recognized.kind);
            Err(Error::unsupported(message)
                .hint("names are listed in FAT, ext2 to ext4 and ISO 9660"))
        };
        let (tree, root): (Arc<dyn FileTree>, Node) = match recognized.kind {
            Kind::Fat => {
                let Some(tree) = FatTree::open(source)? else { return not_listed() };
                let root = tree.root()?;
                (Arc::new(tree), root)
            }
            Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => {
                let tree = ExtTree::open(source, limits, &mut warnings)?;
                let root = tree.root()?;
                (Arc::new(tree), root)
            }
            Kind::Iso | Kind::Udf => {
                let options = IsoOptions { limits: limits.clone(), ..IsoOptions::default() };
                let image = IsoImage::open(source, &options)?;
                warnings.extend(image.truncated().map(|finding| finding.to_string()));
                image.into_tree()
            }
            _ => return not_listed(),
        };
        let (limits, warnings) = (limits.clone(), warnings.into());
        Ok(Self { recognized, tree, root, bytes, limits, warnings })
    }

    /// Returns kind, label and identifier.
    pub fn recognized(&self) -> &Recognized {
        &self.recognized
    }

    /// Returns why the names may not be the newest ones, or not complete.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns the root directory.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Returns the file or directory at `path`: names separated by `/`. Symbolic links are
    /// followed, unless the last name of a path that does not end with `/` is one; `..` is the
    /// directory above. In FAT, case is ignored.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if there is no such file or directory;
    /// [`Limit`](crate::ErrorKind::Limit) if there are too many symbolic links, or names in them,
    /// or if the directories on the way exceed one of the limits; otherwise the errors of
    /// [`read_dir`](Self::read_dir), unless a damaged directory has a readable entry of that name.
    pub fn lookup(&self, path: &[u8]) -> Result<Node> {
        self.resolve(path).map(|(node, _)| node)
    }

    /// Returns the file or directory at `path`, and its path without symbolic links.
    fn resolve(&self, path: &[u8]) -> Result<(Node, Vec<u8>)> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let missing = || Error::invalid(format!("no file or directory '{}'", shown()));
        // The directories above, and the names that remain, the next one last.
        let mut above: Vec<(Node, Vec<u8>)> = vec![(self.root.clone(), Vec::new())];
        let mut names: Vec<Vec<u8>> = components(path);
        let (mut lookup, mut links, mut count) = (Lookup::new(&self.limits), 0, names.len());
        let too_many = |what| Err(Error::limit(format!("too many {what} in '{}'", shown())));
        let follow_last = path.ends_with(b"/");
        while let Some(name) = names.pop() {
            if count > MAX_COMPONENTS {
                return too_many("names");
            }
            let Some((dir, dir_path)) = above.last() else { return Err(missing()) };
            if name == b".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            if !dir.is_dir() {
                return Err(missing());
            }
            if to_u64(above.len()) > self.limits.directory_depth {
                let found = "a path with more nested directories";
                let limit = self.limits.directory_depth;
                return Err(Error::over_limit("directory_depth", found, limit));
            }
            let node = self.entry(dir, &name, &mut lookup)?.ok_or_else(missing)?;
            match node.link_target.as_ref().filter(|_| !names.is_empty() || follow_last) {
                Some(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return too_many("symbolic links");
                    }
                    if target.starts_with(b"/") {
                        above.truncate(1);
                    }
                    let target = components(target);
                    count += target.len();
                    names.extend(target);
                }
                None => {
                    let mut path = dir_path.clone();
                    path.push(b'/');
                    path.extend_from_slice(&name);
                    above.push((node, path));
                }
            }
        }
        above.pop().ok_or_else(missing)
    }

    /// Returns the entry of a directory with this name.
    fn entry(&self, dir: &Node, name: &[u8], lookup: &mut Lookup) -> Result<Option<Node>> {
        let key = (dir.location, name.to_vec());
        if let Some(node) = lookup.found.get(&key) {
            return Ok(Some(node.clone()));
        }
        lookup.require_left(&self.limits)?;
        let (listing, error) = self.tree.read_dir_partial(dir)?;
        lookup.charge(dir, &listing);
        let mut entries = listing.entries;
        let folded = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
        let exact = entries.iter().position(|entry| entry.name == name);
        let index = exact.or_else(|| match self.recognized.kind {
            Kind::Fat => entries.iter().position(|entry| folded(&entry.name) == folded(name)),
            _ => None,
        });
        match (index, error) {
            (Some(index), _) => {
                let node = entries.swap_remove(index).node;
                lookup.found.insert(key, node.clone());
                Ok(Some(node))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// Returns the entries of the directory at `path`, without `.` and `..`; in ext2 to ext4, by
    /// name, else in recorded order. A symbolic link to a directory is followed.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid) if there is no such directory.
    /// - [`Corrupt`](crate::ErrorKind::Corrupt) if the directory is damaged, even if some of its
    ///   entries can be read. [`walk`](Self::walk) yields those.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if its names are encrypted.
    /// - [`Limit`](crate::ErrorKind::Limit) if it exceeds one of the limits.
    /// - [`Io`](crate::ErrorKind::Io), or the error of the image, if reading fails.
    pub fn read_dir(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let (dir, _) = self.resolve_directory(path)?;
        match self.tree.read_dir_partial(&dir)? {
            (listing, None) => Ok(listing.entries),
            (_, Some(error)) => Err(error),
        }
    }

    /// Returns an iterator over all files and directories below the directory at `path`. Their
    /// paths begin with that of the directory, without symbolic links. Symbolic links below are not
    /// followed.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup). The iterator has errors of its own.
    pub fn walk(&self, path: &[u8]) -> Result<Walk> {
        let (dir, path) = self.resolve_directory(path)?;
        let path = path.strip_prefix(b"/").unwrap_or(&path);
        let bytes = self.bytes.min(MAX_DIRECTORIES);
        Ok(Walk::new(Arc::clone(&self.tree), dir, path, bytes, self.limits.clone()))
    }

    /// Returns the first bytes of a regular file, at most `max`. `None` if it is not one, or if files
    /// of this kind of file system are not read.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the location of the contents is damaged,
    /// and [`Io`](crate::ErrorKind::Io), or the error of the image, if reading fails.
    #[cfg(feature = "preflight")]
    pub(crate) fn first_bytes(&self, file: &Node, max: u64) -> Result<Option<Vec<u8>>> {
        match file.file_type {
            FileType::Regular => self.tree.first_bytes(file, max),
            _ => Ok(None),
        }
    }

    /// Returns the entries of a directory.
    ///
    /// # Errors
    /// As [`read_dir`](Self::read_dir), except for a missing directory.
    #[cfg(feature = "preflight")]
    pub(crate) fn entries(&self, dir: &Node) -> Result<Vec<Entry>> {
        Ok(self.tree.read_dir(dir)?.entries)
    }

    fn resolve_directory(&self, path: &[u8]) -> Result<(Node, Vec<u8>)> {
        let found = self.resolve(&[path, b"/"].concat())?;
        match found.0.file_type {
            FileType::Directory => Ok(found),
            _ => {
                let shown = String::from_utf8_lossy(path).into_owned();
                Err(Error::invalid(format!("'{shown}' is not a directory")))
            }
        }
    }
}

/// What looking up a path has found, and may still read.
struct Lookup {
    /// The files found, by the location of their directory and by their name there.
    found: HashMap<(u64, Vec<u8>), Node>,
    /// Number of entries that may still be read.
    entries_left: u64,
    /// Length of directories that may still be read, in bytes.
    bytes_left: u64,
}

impl Lookup {
    fn new(limits: &Limits) -> Self {
        let bytes_left = limits.directory_bytes.saturating_mul(MAX_LOOKUP_RATIO);
        Self { found: HashMap::new(), entries_left: limits.tree_entries, bytes_left }
    }

    /// Returns an error if no further directory may be read.
    fn require_left(&self, limits: &Limits) -> Result<()> {
        let found = "a path through more or longer directories";
        match (self.entries_left, self.bytes_left) {
            (0, _) => Err(Error::over_limit("tree_entries", found, limits.tree_entries)),
            (_, 0) => Err(Error::over_limit("directory_bytes", found, limits.directory_bytes)),
            _ => Ok(()),
        }
    }

    /// Subtracts a directory that was read.
    fn charge(&mut self, dir: &Node, listing: &Listing) {
        let bytes: u64 = dir.extents().iter().map(|extent| extent.len).sum();
        let bytes = bytes.saturating_add(listing.cost / MAX_COST_RATIO);
        self.entries_left = self.entries_left.saturating_sub(to_u64(listing.entries.len()));
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }
}

/// Returns the names of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    names.rev().map(<[u8]>::to_vec).collect()
}
