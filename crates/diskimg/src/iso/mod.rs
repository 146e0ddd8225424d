//! ISO images as file systems: read, list, extract, verify, build.
//!
//! An ISO image is no disk container: it is a file system (often two or three of
//! them over the same file contents) in raw bytes. Copying one byte for byte is
//! the matter of [`formats::iso`](crate::formats::iso); what is inside it is the
//! matter of this module.
//!
//! ```text
//!   sector   0..16   system area   MBR, GPT, boot loader: nothing of ISO 9660
//!           16..     descriptors   primary, boot record, Joliet, …, terminator; UDF's NSR
//!                    path tables, directories (one tree a descriptor), file contents
//!          256       UDF's anchor, where there is one
//! ```
//!
//! ```text
//!   read/    descriptors, directory records, SUSP and Rock Ridge, Joliet; sectors, sessions, zisofs
//!   udf/     the same of UDF
//!   boot/    El Torito; what the system area says: MBR, GPT, APM
//!   image    IsoImage: one of the name spaces, as a tree of nodes
//!   walk, extract, verify       programs over the tree
//!   write/   plan (every address) → emit (every byte, in order)
//! ```
//!
//! Everything read is hostile until checked; see [`Limits`](crate::Limits).

// Numbers that an image holds are never cut to fit in silence: `storage::number` says how they go.
#![cfg_attr(not(test), deny(clippy::as_conversions))]

pub mod boot;
mod content;
mod extract;
mod finding;
mod image;
mod info;
mod node;
mod read;
mod remaster;
mod time;
pub mod udf;
mod verify;
mod walk;
pub mod write;

pub use extract::{ExtractOptions, Extracted};
pub use finding::{Finding, FindingCode, Severity};
pub use image::{IsoImage, IsoOptions, Namespace, Session};
pub use info::IsoInfo;
pub use node::{Attributes, Entry, FileExtent, FileType, Node};
pub use read::{SessionInfo, VolumeDescriptor, VolumeKind};
pub use time::Timestamp;
pub use verify::Verified;
pub use walk::{Found, Walk};

/// Bytes of a logical sector (ECMA-119, 6.1.2). Blocks of other sizes exist on
/// paper (6.2.2) and are refused.
pub const SECTOR: u64 = 2048;
