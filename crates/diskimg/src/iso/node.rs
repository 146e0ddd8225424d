//! Files and directories, whichever name space they were found in.

use crate::error::{Error, Result};
use crate::iso::finding::Findings;
use crate::iso::time::Timestamp;
use std::fmt::Debug;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileType {
    /// Bytes.
    Regular,
    /// Other files.
    Directory,
    /// A name of another file.
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

/// What a file carries besides its bytes, as far as the name space records it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attributes {
    /// Permissions, set-id and sticky bits: the low twelve bits of POSIX's mode.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Names that the file has.
    pub links: Option<u32>,
    /// What tells that two names are one file (RRIP's file serial number).
    pub serial: Option<u32>,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Last change of the content.
    pub modified: Option<Timestamp>,
    /// Last read.
    pub accessed: Option<Timestamp>,
    /// Last change of the attributes.
    pub changed: Option<Timestamp>,
    /// Creation.
    pub created: Option<Timestamp>,
}

/// A stretch of a file, and where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileExtent {
    /// Byte offset in the image; `None`: nothing is recorded, it reads as zeros.
    pub offset: Option<u64>,
    /// Bytes.
    pub len: u64,
}

/// One file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub file_type: FileType,
    /// Bytes of a regular file, as a reader sees them; of anything else, as recorded.
    pub size: u64,
    /// Owner, times, permissions.
    pub attributes: Attributes,
    /// Where a symbolic link leads.
    pub link_target: Option<Vec<u8>>,
    /// Where the bytes are (a directory's: its records).
    pub(crate) content: Content,
    /// Where its name space keeps it: tells whether two directories are the same, in bytes.
    pub(crate) location: u64,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// In these stretches of the image, one after the other.
    Extents(Vec<FileExtent>),
    /// In these stretches, packed by zisofs.
    Zisofs {
        /// The packed file.
        extents: Vec<FileExtent>,
        /// What the ZF entry says of it.
        form: ZisofsForm,
    },
    /// In a way that is not read: interleaved, on another volume.
    Unread(&'static str),
}

/// A name space: names, and the nodes that have them. Depth, loops and the number of
/// entries are the matter of who walks it.
pub(crate) trait FileTree: Send + Sync + Debug {
    /// # Errors
    /// As [`read_dir`](Self::read_dir).
    fn root(&self) -> Result<Node>;

    /// The entries of a directory, in recorded order, without itself and its parent.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if its records cannot be told apart,
    /// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
    fn read_dir(&self, dir: &Node) -> Result<Vec<Entry>>;

    /// As [`read_dir`](Self::read_dir), telling what was made up for.
    ///
    /// # Errors
    /// As [`read_dir`](Self::read_dir), and what `findings` said.
    fn read_dir_telling(&self, dir: &Node, findings: &mut Findings<'_>) -> Result<Vec<Entry>> {
        let _ = findings;
        self.read_dir(dir)
    }

    /// As [`read_dir`](Self::read_dir), and why there may be more entries than could be read.
    ///
    /// # Errors
    /// As [`read_dir`](Self::read_dir).
    fn read_dir_as_far(&self, dir: &Node) -> Result<(Vec<Entry>, Option<Error>)> {
        Ok((self.read_dir(dir)?, None))
    }
}

/// A zisofs file's parameters, as the ZF entry gives them; not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZisofsForm {
    /// 1 (`pz`) or 2 (`PZ`).
    pub(crate) version: u8,
    /// Bytes of the file's header.
    pub(crate) header_bytes: u64,
    /// log2 of the bytes in a block.
    pub(crate) block_log2: u8,
    /// Bytes of the unpacked file.
    pub(crate) size: u64,
}

/// A name in a directory, and what has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as bytes; of Joliet and UDF, as UTF-8.
    pub name: Vec<u8>,
    /// What has it.
    pub node: Node,
}

/// True for a name that can be part of a path.
pub(crate) fn is_usable_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}

impl Node {
    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Where the bytes are stored, in order: of a packed file, the packed bytes.
    pub fn extents(&self) -> &[FileExtent] {
        match &self.content {
            Content::Extents(extents) | Content::Zisofs { extents, .. } => extents,
            Content::Unread(_) => &[],
        }
    }
}
