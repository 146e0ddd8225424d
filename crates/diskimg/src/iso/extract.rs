//! Extraction of an image's files into a directory.
//!
//! Every file is opened by a single path component, relative to its directory, which is open, and no
//! symbolic link is followed, neither an existing one nor one from the image. A name in an image
//! therefore cannot refer to anything outside the destination.

mod directory;

use crate::error::{Error, ErrorKind, Result};
use crate::iso::image::IsoImage;
use crate::iso::node::{Content, FileType, Node, is_usable_name};
use crate::iso::walk::{Found, Walk};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::HostFileId;
use crate::storage::source::Source;
use directory::Directory;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// Number of bytes read and written at a time.
const CHUNK: usize = 1 << 20;

/// Maximum number of failures that are returned individually.
const MAX_FAILURES: usize = 1000;

/// How to extract.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExtractOptions {
    /// Replace existing files. Otherwise each existing file is a failure.
    pub overwrite: bool,
    /// Set the recorded permissions (the low nine bits of the mode). Otherwise files get the
    /// default permissions of new files.
    pub modes: bool,
    /// Also set the set-user-ID, set-group-ID and sticky bits.
    pub special_modes: bool,
    /// Set the recorded modification times.
    pub times: bool,
    /// Set the recorded owners and groups; requires root.
    pub owners: bool,
    /// Extract symbolic links. They are created as recorded, whatever their target, and never
    /// followed.
    pub symlinks: bool,
    /// Create hard links for multiple names of one file.
    pub hard_links: bool,
    /// Extract devices, named pipes and sockets; requires root.
    pub devices: bool,
    /// Maximum total length of all files in bytes. 256 GiB by default.
    pub max_bytes: u64,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            overwrite: false,
            modes: true,
            special_modes: false,
            times: true,
            owners: false,
            symlinks: true,
            hard_links: true,
            devices: false,
            max_bytes: 256 << 30,
        }
    }
}

/// The result of an extraction.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Extracted {
    /// Number of files, links and devices extracted.
    pub files: u64,
    /// Number of directories extracted.
    pub directories: u64,
    /// Total length of the extracted files in bytes.
    pub bytes: u64,
    /// Number of entries skipped because of the options: devices, links.
    pub left_out: u64,
    /// Number of entries that could not be extracted.
    pub failed: u64,
    /// Path in the image and error of the first thousand entries that could not be extracted.
    pub failures: Vec<(Vec<u8>, Error)>,
}

/// Creates the directory `dest`, if it does not exist, as an extraction into it does.
///
/// # Errors
/// Returns [`Io`](ErrorKind::Io) if it cannot be created or opened: if another user's symbolic link
/// leads there, for example (see [`Destination`](crate::storage::output::Destination::of)).
pub fn create_destination(dest: &Path) -> Result<()> {
    open_destination(dest).map(drop)
}

fn open_destination(dest: &Path) -> Result<Directory> {
    Directory::create(dest).map_err(|e| Error::io("cannot use it as a directory", e).in_file(dest))
}

impl IsoImage {
    /// Extracts everything into the directory `dest`, which is created if it does not exist.
    /// Entries that cannot be extracted are recorded in the result, and the extraction continues.
    ///
    /// # Errors
    /// - [`Io`](ErrorKind::Io) if `dest` cannot be created or opened, or reading the image fails.
    /// - [`Limit`](ErrorKind::Limit) if the image exceeds one of the limits, or its files exceed
    ///   [`max_bytes`](ExtractOptions::max_bytes).
    pub fn extract(&self, dest: &Path, options: &ExtractOptions) -> Result<Extracted> {
        self.extract_path(b"", dest, options, &mut |_| Ok(()))
    }

    /// Extracts the contents of the directory at `path` or, if it is a file, the file. `tick` is
    /// called with each path in the image before it is extracted. If it returns an error, the
    /// extraction ends.
    ///
    /// # Errors
    /// As [`extract`](Self::extract) and [`lookup`](Self::lookup), and the errors of `tick`.
    pub fn extract_path(
        &self,
        path: &[u8],
        dest: &Path,
        options: &ExtractOptions,
        tick: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Extracted> {
        let node = self.lookup(path)?;
        if !node.is_dir() {
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path).to_vec();
            tick(path)?;
            return self.extract_node(node, dest, name, options);
        }
        let mut extraction = Extraction::new(self, dest, options)?;
        extraction.extract_all(self.walk_from(node, b""), path, tick)?;
        Ok(extraction.result)
    }

    /// Extracts the file at `path`, which is not a directory, as `name` into the directory `dest`,
    /// which is created if it does not exist.
    ///
    /// # Errors
    /// As [`extract_path`](Self::extract_path), and [`Invalid`](ErrorKind::Invalid) if `path` is a
    /// directory or `name` is not the name of a file.
    pub fn extract_as(
        &self,
        path: &[u8],
        dest: &Path,
        name: &[u8],
        options: &ExtractOptions,
    ) -> Result<Extracted> {
        let node = self.lookup(path)?;
        if node.is_dir() || !is_usable_name(name) {
            let what = if node.is_dir() { path } else { name };
            let why = if node.is_dir() { "is a directory" } else { "is not a valid file name" };
            return Err(Error::invalid(format!("\"{}\" {why}", String::from_utf8_lossy(what))));
        }
        self.extract_node(node, dest, name.to_vec(), options)
    }

    fn extract_node(
        &self,
        node: Node,
        dest: &Path,
        name: Vec<u8>,
        options: &ExtractOptions,
    ) -> Result<Extracted> {
        let mut extraction = Extraction::new(self, dest, options)?;
        extraction.extract_entry(Found { path: name, node }, 0)?;
        Ok(extraction.result)
    }
}

/// Identifies a file that has several names.
type FileKey = (u32, (Content, u64));

struct Extraction<'a> {
    image: &'a IsoImage,
    options: &'a ExtractOptions,
    /// The files that are read, which must not be overwritten.
    inputs: Vec<HostFileId>,
    /// The files that were created, if existing files are replaced.
    created: HashSet<HostFileId>,
    root: Directory,
    /// Directories whose entries are being extracted, outermost first.
    open: Vec<OpenDirectory>,
    /// For each file with several names, the path below the destination of the first one extracted.
    first_names: HashMap<FileKey, Vec<u8>>,
    result: Extracted,
    chunk: Vec<u8>,
}

/// A directory whose entries are being extracted.
struct OpenDirectory {
    /// Path below the destination.
    path: Vec<u8>,
    directory: Directory,
    node: Node,
}

impl<'a> Extraction<'a> {
    fn new(image: &'a IsoImage, dest: &Path, options: &'a ExtractOptions) -> Result<Self> {
        let root = open_destination(dest)?;
        Ok(Self {
            image,
            options,
            inputs: image.source().identities(),
            created: HashSet::new(),
            root,
            open: Vec::new(),
            first_names: HashMap::new(),
            result: Extracted::default(),
            chunk: vec![0; CHUNK],
        })
    }

    fn extract_all(
        &mut self,
        mut walk: Walk,
        parent_path: &[u8],
        tick: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while let Some(found) = walk.next() {
            let found = match found {
                Ok(found) => found,
                Err(error) if error.kind() == ErrorKind::Limit || error.is_storage_failure() => {
                    return Err(error);
                }
                Err(error) => {
                    self.record_failure(Vec::new(), error);
                    continue;
                }
            };
            let mut full_path = parent_path.to_vec();
            if !parent_path.is_empty() {
                full_path.push(b'/');
            }
            full_path.extend_from_slice(&found.path);
            tick(&full_path)?;
            let depth = found.path.iter().filter(|&&byte| byte == b'/').count();
            if !self.extract_entry(found, depth)? {
                walk.skip_directory();
            }
        }
        self.close_directories(0);
        Ok(())
    }

    /// Extracts the entry `found`, which has `depth` parent directories. Returns false if it
    /// failed, so that the contents of a directory must be skipped.
    ///
    /// # Errors
    /// Returns [`Limit`](ErrorKind::Limit) if the total length of the files would exceed
    /// `max_bytes`; the extraction must end.
    fn extract_entry(&mut self, found: Found, depth: usize) -> Result<bool> {
        self.close_directories(depth);
        let Found { path, node } = found;
        if node.file_type == FileType::Regular {
            let left = self.options.max_bytes.saturating_sub(self.result.bytes);
            if node.size > left {
                return Err(Error::limit(format!(
                    "a file of {} bytes exceeds the {left} bytes that may still be extracted",
                    node.size
                ))
                .hint("at /".to_owned() + &String::from_utf8_lossy(&path)));
            }
        }
        match self.create_entry(&path, node) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.record_failure(path, error);
                Ok(false)
            }
        }
    }

    fn record_failure(&mut self, path: Vec<u8>, error: Error) {
        self.result.failed += 1;
        if self.result.failures.len() < MAX_FAILURES {
            self.result.failures.push((path, error));
        }
    }

    /// Closes directories until only `depth` are open, and sets their attributes. These are set
    /// last because creating an entry changes a directory's modification time, and its permissions
    /// may forbid writing.
    fn close_directories(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some(OpenDirectory { path, directory, node }) = self.open.pop() else { return };
            let attributes = directory.set_own_attributes(&node.attributes, self.options);
            if let Err(error) = attributes {
                self.record_failure(path, Error::io("cannot set its attributes", error));
            }
        }
    }

    fn create_entry(&mut self, path: &[u8], node: Node) -> Result<()> {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        // The walk rejects `/` in names; `\` is a separator on Windows only.
        let is_separator = |&byte: &u8| std::path::is_separator(byte.into());
        if !is_usable_name(name) || name.iter().any(is_separator) {
            return Err(Error::refused("the file name contains a path separator"));
        }
        let cannot = |doing: &'static str| move |e| Error::io(doing, e);
        let parent = self.open.last().map_or(&self.root, |open| &open.directory);
        if node.is_dir() {
            let directory = parent.make_dir(name).map_err(cannot("cannot create the directory"))?;
            self.result.directories += 1;
            self.open.push(OpenDirectory { path: path.to_vec(), directory, node });
            return Ok(());
        }
        let wanted = match node.file_type {
            FileType::Symlink => self.options.symlinks,
            FileType::Regular => true,
            _ => self.options.devices,
        };
        if !wanted {
            self.result.left_out += 1;
            return Ok(());
        }
        if self.options.overwrite {
            let existing = parent.identity(name);
            if existing.is_some_and(|file| self.inputs.iter().any(|own| own.shares_data_with(file)))
            {
                return Err(Error::refused("the existing file is the image that is read"));
            }
            if existing.is_some_and(|file| self.created.contains(&file)) {
                return Err(Error::refused(
                    "another file of the image has this name on this system, which does not \
                     distinguish all names",
                ));
            }
            parent.remove_file(name).map_err(cannot("cannot remove the existing file"))?;
        }
        match node.file_type {
            FileType::Regular => {
                if self.create_hard_link(path, name, &node)? {
                    self.result.files += 1;
                    return Ok(());
                }
                self.create_file(path, name, &node)?;
            }
            FileType::Symlink => {
                let target = node.link_target.as_deref().filter(|target| !target.is_empty());
                let target =
                    target.ok_or_else(|| Error::corrupt("symbolic link", "it has no target"))?;
                parent
                    .make_symlink(name, target, &node.attributes, self.options)
                    .map_err(cannot("cannot create the symbolic link"))?;
            }
            _ => parent
                .make_special(name, &node, self.options)
                .map_err(cannot("cannot create the special file"))?,
        }
        self.result.files += 1;
        self.note_created(name);
        Ok(())
    }

    /// Remembers a file that was created, if files may be replaced: a later name in the image may be
    /// the same to a system that does not distinguish upper and lower case.
    fn note_created(&mut self, name: &[u8]) {
        if self.options.overwrite {
            let parent = self.open.last().map_or(&self.root, |open| &open.directory);
            self.created.extend(parent.identity(name));
        }
    }

    /// Creates a hard link if the file was already extracted under another name. Returns false
    /// otherwise.
    fn create_hard_link(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<bool> {
        let Some(key) = file_key(node).filter(|_| self.options.hard_links) else {
            return Ok(false);
        };
        let parent = self.open.last().map_or(&self.root, |open| &open.directory);
        match self.first_names.get(&key) {
            Some(first) => {
                let linked = self.root.link(first, parent, name);
                linked.map_err(|e| Error::io("cannot create the hard link", e)).map(|()| true)
            }
            None => {
                self.first_names.insert(key, path.to_vec());
                Ok(false)
            }
        }
    }

    fn create_file(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<()> {
        let contents = self.image.contents(node)?;
        let parent = self.open.last().map_or(&self.root, |open| &open.directory);
        let mut file =
            parent.make_file(name).map_err(|e| Error::io("cannot create the file", e))?;
        let copied = copy(&*contents, &mut file, &mut self.chunk).and_then(|()| {
            directory::set_attributes(&file, &node.attributes, self.options)
                .map_err(|e| Error::io("cannot set its attributes", e))
        });
        if let Err(error) = copied {
            // Do not leave an incomplete file behind.
            drop(file);
            let _ = parent.remove_file(name);
            if let Some(key) = file_key(node)
                && self.first_names.get(&key).is_some_and(|first| first == path)
            {
                self.first_names.remove(&key);
            }
            return Err(error);
        }
        self.result.bytes += node.size;
        Ok(())
    }
}

/// Returns the key that all names of a file share: its serial number, and what determines its
/// contents, in case different files have the same serial number. Returns `None` for a file with one
/// name.
fn file_key(node: &Node) -> Option<FileKey> {
    let several = node.attributes.links.is_some_and(|links| links > 1);
    let serial = node.attributes.serial.filter(|_| several && node.size > 0)?;
    Some((serial, node.contents_key().to_owned()))
}

/// Copies all of `contents` to `file`; extents that are not recorded become holes.
fn copy(contents: &dyn Source, file: &mut std::fs::File, chunk: &mut [u8]) -> Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    let cannot_read = |e| Error::io("cannot read the file in the image", e);
    let cannot_write = |e| Error::io("cannot write the file", e);
    let len = contents.len();
    let mut at = 0;
    while at < len {
        let segment = contents.segment_at(at).map_err(cannot_read)?;
        if segment.hole {
            at = segment.end.min(len);
            file.seek(SeekFrom::Start(at)).map_err(cannot_write)?;
            continue;
        }
        let here = to_usize((segment.end.min(len) - at).min(to_u64(chunk.len())));
        contents.read_exact_at(&mut chunk[..here], at).map_err(cannot_read)?;
        file.write_all(&chunk[..here]).map_err(cannot_write)?;
        at += to_u64(here);
    }
    file.set_len(len).map_err(cannot_write)
}
