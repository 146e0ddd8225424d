//! ISO images as file systems: read, list, extract, verify, build.
//!
//! An ISO image is not a disk container. It is a file system (often two or three directory trees
//! over the same file contents) in raw bytes. [`formats::iso`](crate::formats::iso) copies images
//! byte for byte; this module reads and writes the file systems in them.
//!
//! ```text
//!   sector   0..16   system area   MBR, GPT, boot loader; not defined by ISO 9660
//!           16..     descriptors   primary, boot record, Joliet, …, terminator; UDF's NSR
//!                    path tables, directories (one tree per descriptor), file contents
//!          256       UDF anchor volume descriptor pointer, if the image has UDF
//! ```
//!
//! ```text
//!   read/    descriptors, directory records, SUSP, Rock Ridge, Joliet; sectors, sessions, zisofs
//!   udf/     the same for UDF
//!   boot/    El Torito; MBR, GPT and APM in the system area
//!   image    IsoImage: one of the namespaces, as a tree of nodes
//!   walk, extract, verify       operations on the tree
//!   write/   plan (assigns every address) → emit (writes every byte, in order)
//! ```
//!
//! Images are untrusted input: every value is checked before use; see [`Limits`](crate::Limits).

// Numbers from an image are never truncated silently: `storage::number` has the conversions.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

pub mod boot;
mod content;
#[cfg(feature = "inspect")]
mod differences;
mod extract;
mod finding;
mod image;
mod info;
mod node;
mod overlap;
pub(crate) mod read;
mod remaster;
mod time;
pub mod udf;
mod verify;
mod walk;
pub mod write;

pub use extract::{ExtractOptions, Extracted, create_destination};
pub use finding::{Finding, FindingCode};
pub use image::{IsoImage, IsoOptions, Namespace, Session};
pub use info::IsoInfo;
pub use node::{Attributes, ContentsKey, Entry, FileExtent, FileType, Node};
pub use read::{SessionInfo, VolumeDescriptor, VolumeKind};
pub use remaster::{Droppable, RemasterOptions};
pub use time::Timestamp;
pub use verify::Verified;
pub use walk::{Found, Walk};

// The directories of other file systems are trees like those of ISO images.
#[cfg(feature = "files")]
pub(crate) use finding::Findings;
#[cfg(feature = "files")]
pub(crate) use node::{Content, FileTree, Listing};
#[cfg(feature = "files")]
pub(crate) use walk::MAX_COST_RATIO;

/// Returns whether a shell pattern matches all of `text`: `*`, which also matches slashes, `?`,
/// `[a-z]`, `[!a-z]`, and `\\` before a literal character.
pub fn matches_pattern(pattern: &[u8], text: &[u8]) -> bool {
    write::matches_pattern(pattern, text)
}

/// Length of a logical sector in bytes (ECMA-119, 6.1.2). Logical blocks of other sizes (6.2.2) are
/// not supported.
pub const SECTOR: u64 = 2048;
