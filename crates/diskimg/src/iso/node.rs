//! Files and directories, independent of the name space.

use crate::error::{Error, Result};
use crate::iso::finding::Findings;
use crate::iso::time::Timestamp;
use std::fmt::Debug;

/// Type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharacterDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Attributes of a file, as far as the name space records them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attributes {
    /// Permissions, set-user-ID, set-group-ID and sticky bits: the low twelve bits of the POSIX
    /// mode.
    pub mode: Option<u32>,
    /// User ID of the owner.
    pub uid: Option<u32>,
    /// Group ID.
    pub gid: Option<u32>,
    /// Number of hard links.
    pub links: Option<u32>,
    /// File serial number (RRIP), equal for all hard links to a file.
    pub serial: Option<u32>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Time of the last change of the contents.
    pub modified: Option<Timestamp>,
    /// Time of the last access.
    pub accessed: Option<Timestamp>,
    /// Time of the last change of the attributes.
    pub changed: Option<Timestamp>,
    /// Time of creation.
    pub created: Option<Timestamp>,
}

/// A contiguous part of a file, and its location in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FileExtent {
    /// Byte offset in the image. `None` if the extent is not recorded: it reads as zeros.
    pub offset: Option<u64>,
    /// Length in bytes.
    pub len: u64,
}

/// A file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// Type of the file.
    pub file_type: FileType,
    /// Length in bytes. For a regular file, the length after decompression; otherwise as recorded.
    pub size: u64,
    /// Owner, times, permissions.
    pub attributes: Attributes,
    /// Target of a symbolic link.
    pub link_target: Option<Vec<u8>>,
    /// Location of the contents (for a directory, of its records).
    pub(crate) content: Content,
    /// Byte offset that identifies the node within its name space. Two directories with the same
    /// location are the same directory.
    pub(crate) location: u64,
}

/// Location of a file's contents.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Content {
    /// These extents of the image, in order.
    Extents(Vec<FileExtent>),
    /// These extents, compressed with zisofs.
    Zisofs {
        /// The compressed file.
        extents: Vec<FileExtent>,
        /// Parameters from the ZF entry.
        parameters: ZisofsParameters,
    },
    /// Recorded in a way that is not supported: interleaved, or on another volume.
    Unsupported(&'static str),
}

/// What determines the contents of a file of an image; returned by [`Node::contents_key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentsKey<'a> {
    content: &'a Content,
    size: u64,
}

impl ContentsKey<'_> {
    /// Returns the key as a value of its own.
    pub(crate) fn to_owned(self) -> (Content, u64) {
        (self.content.clone(), self.size)
    }
}

/// The directory tree of a name space. The caller bounds the depth and the number of entries and
/// detects loops.
pub(crate) trait FileTree: Send + Sync + Debug {
    /// # Errors
    /// As [`read_dir`](Self::read_dir).
    fn root(&self) -> Result<Node>;

    /// Returns the entries of a directory, in recorded order, without `.` and `..`. Reports
    /// tolerated damage to `findings`.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the boundaries of its records cannot be
    /// determined, [`Limit`](crate::ErrorKind::Limit) if it exceeds one of the limits,
    /// [`Io`](crate::ErrorKind::Io) if reading fails; and the errors that `findings` returns.
    fn read_dir_reporting(&self, dir: &Node, findings: &mut Findings<'_>) -> Result<Listing>;

    /// Like [`read_dir_reporting`](Self::read_dir_reporting), without findings.
    ///
    /// # Errors
    /// As [`read_dir_reporting`](Self::read_dir_reporting), and the error of a listing that is not
    /// complete.
    fn read_dir(&self, dir: &Node) -> Result<Listing> {
        let (listing, error) = self.read_dir_partial(dir)?;
        error.map_or(Ok(listing), Err)
    }

    /// Like [`read_dir`](Self::read_dir), but returns the readable entries of a damaged directory
    /// together with the error.
    ///
    /// # Errors
    /// As [`read_dir`](Self::read_dir), if no entries can be read.
    fn read_dir_partial(&self, dir: &Node) -> Result<(Listing, Option<Error>)> {
        let mut listing = self.read_dir_reporting(dir, &mut Findings::Ignored)?;
        let error = listing.error.take();
        Ok((listing, error))
    }

    /// Returns the first bytes of a regular file, at most `max`, in which holes are zeros. `None` if
    /// this kind of tree only lists names.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if the location of the contents is damaged,
    /// and [`Io`](crate::ErrorKind::Io) if reading fails.
    fn first_bytes(&self, _file: &Node, _max: u64) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// The entries of a directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    /// Bytes that were read, and memory in bytes, beyond the directory's own records. Other
    /// directories may refer to the same bytes, so the length of the image does not bound the sum.
    pub(crate) cost: u64,
    /// Why further entries were not read.
    pub(crate) error: Option<Error>,
}

/// Parameters of a zisofs file, as recorded in the ZF entry; not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ZisofsParameters {
    /// 1 (`pz`) or 2 (`PZ`).
    pub(crate) version: u8,
    /// Length of the file's header in bytes.
    pub(crate) header_bytes: u64,
    /// log2 of the block length in bytes.
    pub(crate) block_log2: u8,
    /// Length of the uncompressed file in bytes.
    pub(crate) size: u64,
}

/// An entry of a directory: a name and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The name as bytes. Names from Joliet and UDF are converted to UTF-8.
    pub name: Vec<u8>,
    /// The file or directory.
    pub node: Node,
}

/// Returns true if `name` can be a component of a path.
pub(crate) fn is_usable_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

impl Node {
    /// Returns true for a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Returns the extents of the contents, in order. For a file compressed with zisofs, the
    /// extents of the compressed data.
    pub fn extents(&self) -> &[FileExtent] {
        match &self.content {
            Content::Extents(extents) | Content::Zisofs { extents, .. } => extents,
            Content::Unsupported(_) => &[],
        }
    }

    /// Returns what determines the contents: nodes of an image that have equal keys have the same
    /// contents. The extents alone do not determine them: a damaged or hostile image may say that
    /// the same bytes are compressed, or not, or compressed in another way.
    pub fn contents_key(&self) -> ContentsKey<'_> {
        ContentsKey { content: &self.content, size: self.size }
    }

    /// Returns true if the contents are compressed with zisofs.
    pub(crate) fn is_zisofs(&self) -> bool {
        matches!(self.content, Content::Zisofs { .. })
    }
}
