//! Extraction: an image's files into a directory, and nowhere else.
//!
//! Every file is opened by its bare name, relative to the open directory that it belongs to, and
//! no symbolic link is followed in doing so: not one that was there, and not one that the image
//! brought. So no name of an image leads out of the directory.

mod directory;

use crate::error::{Error, ErrorKind, Result};
use crate::iso::image::IsoImage;
use crate::iso::node::{FileExtent, FileType, Node, is_usable_name};
use crate::iso::walk::{Found, Walk};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use directory::Directory;
use std::collections::HashMap;
use std::path::Path;

/// Bytes read and written at a time.
const CHUNK: usize = 1 << 20;

/// Failures that are told one by one.
const MOST_FAILURES: usize = 1000;

/// How to extract.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExtractOptions {
    /// Files that are there already are replaced. Otherwise each of them is a failure.
    pub overwrite: bool,
    /// Permissions as recorded (of the lowest nine bits). Otherwise as new files have them.
    pub modes: bool,
    /// Set-id and sticky bits, too.
    pub special_modes: bool,
    /// Times of last modification as recorded.
    pub times: bool,
    /// Owners and groups as recorded: needs root.
    pub owners: bool,
    /// Symbolic links. They are made as they are recorded, wherever they lead, and never followed.
    pub symlinks: bool,
    /// Names of one file become hard links to it.
    pub hard_links: bool,
    /// Devices, named pipes and sockets: needs root.
    pub devices: bool,
    /// Bytes that all files together may have. 256 GiB by default.
    pub most_bytes: u64,
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
            most_bytes: 256 << 30,
        }
    }
}

/// What was extracted, and what was not.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Extracted {
    /// Files, links and devices.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Entries that were left out as the options say: devices, links.
    pub left_out: u64,
    /// Entries that could not be extracted.
    pub failed: u64,
    /// The first thousand reasons, and whose: a path in the image.
    pub failures: Vec<(Vec<u8>, Error)>,
}

impl IsoImage {
    /// Extracts everything into the directory `dest`, which is made if it is not there. What
    /// cannot be extracted is told at the end, and hinders nothing else.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if `dest` cannot be used, [`Limit`](ErrorKind::Limit),
    /// [`Unsupported`](ErrorKind::Unsupported) where the system has no such calls (Windows).
    pub fn extract(&self, dest: &Path, options: &ExtractOptions) -> Result<Extracted> {
        self.extract_path(b"", dest, options, &mut |_| Ok(()))
    }

    /// Extracts what is in the directory of this path or, if it is a file, the file. `tick` is
    /// called with each path in the image before it is extracted; its error ends the work.
    ///
    /// # Errors
    /// As [`extract`](Self::extract), [`lookup`](Self::lookup), and what `tick` said.
    pub fn extract_path(
        &self,
        path: &[u8],
        dest: &Path,
        options: &ExtractOptions,
        tick: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Extracted> {
        let node = self.lookup(path)?;
        let root = Directory::create(dest)
            .map_err(|e| Error::io("cannot use it as a directory", e).in_file(dest))?;
        let mut work = Extraction {
            image: self,
            options,
            root,
            open: Vec::new(),
            linked: HashMap::new(),
            done: Extracted::default(),
            chunk: vec![0; CHUNK],
        };
        if !node.is_dir() {
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path).to_vec();
            tick(path)?;
            work.take(Found { path: name, node }, 0)?;
            return Ok(work.done);
        }
        work.all(self.walk_from(node, b""), path, tick)?;
        Ok(work.done)
    }
}

/// What tells that two names are one file.
type FileKey = (u32, Vec<FileExtent>);

struct Extraction<'a> {
    image: &'a IsoImage,
    options: &'a ExtractOptions,
    root: Directory,
    /// Directories that are being filled, the outermost first.
    open: Vec<Open>,
    /// Files that have other names, and where they were extracted.
    linked: HashMap<FileKey, Vec<u8>>,
    done: Extracted,
    chunk: Vec<u8>,
}

/// A directory that is being filled.
struct Open {
    /// Its path below the destination.
    path: Vec<u8>,
    directory: Directory,
    node: Node,
}

impl Extraction<'_> {
    fn all(
        &mut self,
        mut walk: Walk,
        above: &[u8],
        tick: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        while let Some(found) = walk.next() {
            let found = match found {
                Ok(found) => found,
                Err(error) if matches!(error.kind(), ErrorKind::Limit | ErrorKind::Io) => {
                    return Err(error);
                }
                Err(error) => {
                    self.fail(Vec::new(), error);
                    continue;
                }
            };
            let mut whole = above.to_vec();
            if !above.is_empty() {
                whole.push(b'/');
            }
            whole.extend_from_slice(&found.path);
            tick(&whole)?;
            let depth = found.path.iter().filter(|&&byte| byte == b'/').count();
            if !self.take(found, depth)? {
                walk.skip_directory();
            }
        }
        self.leave(0);
        Ok(())
    }

    /// Extracts one entry that is that deep; `false` if what is in it cannot be.
    ///
    /// # Errors
    /// [`Limit`](ErrorKind::Limit): nothing more is to be extracted.
    fn take(&mut self, found: Found, depth: usize) -> Result<bool> {
        self.leave(depth);
        let Found { path, node } = found;
        if node.file_type == FileType::Regular {
            let total = self.done.bytes.checked_add(node.size);
            if total.is_none_or(|total| total > self.options.most_bytes) {
                let most = self.options.most_bytes;
                return Err(Error::limit(format!(
                    "the files have more than {most} bytes together"
                ))
                .hint("at /".to_owned() + &String::from_utf8_lossy(&path)));
            }
        }
        match self.make(&path, node) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.fail(path, error);
                Ok(false)
            }
        }
    }

    fn fail(&mut self, path: Vec<u8>, error: Error) {
        self.done.failed += 1;
        if self.done.failures.len() < MOST_FAILURES {
            self.done.failures.push((path, error));
        }
    }

    /// Closes directories until only `depth` are open: what is written into a directory changes
    /// its time, and its permissions may forbid writing, so they come last.
    fn leave(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some(Open { path, directory, node }) = self.open.pop() else { return };
            let attributes = directory.set_own_attributes(&node.attributes, self.options);
            if let Err(error) = attributes {
                self.fail(path, Error::io("cannot set its attributes", error));
            }
        }
    }

    fn make(&mut self, path: &[u8], node: Node) -> Result<()> {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
        // The walk gives no name with a separator of ours; other systems have others.
        if !is_usable_name(name) || name.contains(&b'\\') {
            return Err(Error::refused("a name that is a path on some system"));
        }
        let cannot = |doing: &'static str| move |e| Error::io(doing, e);
        let parent = self.open.last().map_or(&self.root, |open| &open.directory);
        if node.is_dir() {
            let directory = parent.make_dir(name).map_err(cannot("cannot make the directory"))?;
            self.done.directories += 1;
            self.open.push(Open { path: path.to_vec(), directory, node });
            return Ok(());
        }
        let wanted = match node.file_type {
            FileType::Symlink => self.options.symlinks,
            FileType::Regular => true,
            _ => self.options.devices,
        };
        if !wanted {
            self.done.left_out += 1;
            return Ok(());
        }
        if self.options.overwrite {
            parent.remove_file(name).map_err(cannot("cannot replace it"))?;
        }
        match node.file_type {
            FileType::Regular => {
                if self.link(path, name, &node)? {
                    self.done.files += 1;
                    return Ok(());
                }
                self.regular(path, name, &node)?;
            }
            FileType::Symlink => {
                let target = node.link_target.as_deref().filter(|target| !target.is_empty());
                let target = target.ok_or_else(|| {
                    Error::corrupt("symbolic link", "it does not say where it leads")
                })?;
                parent
                    .make_symlink(name, target, &node.attributes, self.options)
                    .map_err(cannot("cannot make the symbolic link"))?;
            }
            _ => parent
                .make_special(name, &node, self.options)
                .map_err(cannot("cannot make the device"))?,
        }
        self.done.files += 1;
        Ok(())
    }

    /// Makes a hard link to a file that was extracted by another name.
    fn link(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<bool> {
        let Some(key) = file_key(node).filter(|_| self.options.hard_links) else {
            return Ok(false);
        };
        let parent = self.open.last().map_or(&self.root, |open| &open.directory);
        match self.linked.get(&key) {
            Some(first) => {
                let made = self.root.link(first, parent, name);
                made.map_err(|e| Error::io("cannot make the hard link", e)).map(|()| true)
            }
            None => {
                self.linked.insert(key, path.to_vec());
                Ok(false)
            }
        }
    }

    fn regular(&mut self, path: &[u8], name: &[u8], node: &Node) -> Result<()> {
        let contents = self.image.contents(node)?;
        let parent = self.open.last().map_or(&self.root, |open| &open.directory);
        let mut file = parent.make_file(name).map_err(|e| Error::io("cannot make the file", e))?;
        let copied = copy(&*contents, &mut file, &mut self.chunk).and_then(|()| {
            directory::set_attributes(&file, &node.attributes, self.options)
                .map_err(|e| Error::io("cannot set its attributes", e))
        });
        if let Err(error) = copied {
            // Better none than half of one.
            drop(file);
            let _ = parent.remove_file(name);
            if let Some(key) = file_key(node) {
                self.linked.retain(|one, first| *one != key || first != path);
            }
            return Err(error);
        }
        self.done.bytes += node.size;
        Ok(())
    }
}

/// What tells a file that has several names from all others: its serial number, and where its
/// bytes are, so that a number given twice does no harm. `None` for a file with one name.
fn file_key(node: &Node) -> Option<FileKey> {
    let several = node.attributes.links.is_some_and(|links| links > 1);
    let serial = node.attributes.serial.filter(|_| several && node.size > 0)?;
    Some((serial, node.extents().to_vec()))
}

/// Copies all of `contents`; what is recorded nowhere becomes a hole.
fn copy(contents: &dyn Source, file: &mut std::fs::File, chunk: &mut [u8]) -> Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    let reading = |e| Error::io("cannot read it in the image", e);
    let writing = |e| Error::io("cannot write it", e);
    let len = contents.len();
    let mut at = 0;
    while at < len {
        let segment = contents.segment_at(at).map_err(reading)?;
        if segment.hole {
            at = segment.end.min(len);
            file.seek(SeekFrom::Start(at)).map_err(writing)?;
            continue;
        }
        let here = to_usize((segment.end.min(len) - at).min(to_u64(chunk.len())));
        contents.read_exact_at(&mut chunk[..here], at).map_err(reading)?;
        file.write_all(&chunk[..here]).map_err(writing)?;
        at += to_u64(here);
    }
    file.set_len(len).map_err(writing)
}
