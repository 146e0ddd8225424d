//! Reading UDF (ECMA-167, OSTA UDF 1.02 to 2.60).
//!
//! ```text
//!   byte 32768    volume recognition    "there is UDF"              recognition
//!   sector 256    anchor                where the sequence is
//!   anywhere      volume descriptors    label, partitions           sequence, maps, partition
//!                 file set descriptor   where the root is           volume
//!                 file entries          attributes, extents         entry, allocation
//!                 directories           names, where the entry is   directory, text
//! ```
//!
//! ExternalFiles of the form "3/10.6" are to part and section of ECMA-167, 3rd edition. Named streams
//! and extended attributes other than a device's numbers are passed over.

mod allocation;
mod directory;
mod entry;
mod integrity;
mod maps;
mod partition;
mod raw;
mod recognition;
mod sequence;
mod tag;
mod text;
mod virtual_table;
mod volume;

pub(crate) use volume::{UdfVolume, open};

use integrity::Counts;
use partition::BlockAddress;
use serde::Serialize;

/// What a UDF volume says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct UdfInfo {
    /// The logical volume's identifier: what systems show as the label.
    pub label: String,
    /// The primary volume descriptor's identifier.
    pub volume_identifier: String,
    /// The volume set's; its first eight characters tell sets apart (UDF, 2.2.2.5).
    pub volume_set_identifier: String,
    /// Revision of UDF, "2.01".
    pub revision: String,
    /// The standard that the volume recognition sequence names: "NSR02" is ECMA-167's 2nd
    /// edition, "NSR03" its 3rd. Absent if there is no such sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard: Option<&'static str>,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// The partitions, in the order of the partition maps.
    pub partitions: Vec<UdfPartition>,
    /// Files, as far as it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// Directories, as far as it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directories: Option<u32>,
    /// False if the volume was not closed after it was last written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<bool>,
}

/// A partition of a UDF volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct UdfPartition {
    /// "plain", "virtual", "sparable" or "metadata".
    pub kind: &'static str,
    /// "read-only", "write-once", "rewritable", "overwritable" or "unknown".
    pub access: &'static str,
    /// First sector.
    pub start_sector: u32,
    /// Blocks.
    pub blocks: u32,
}

impl UdfInfo {
    /// Takes over what the integrity descriptor says, and a virtual allocation table does not.
    fn take_counts(&mut self, counts: Option<Counts>) {
        let Some(counts) = counts else { return };
        self.closed = Some(counts.closed);
        self.files = self.files.or(counts.files);
        self.directories = self.directories.or(counts.directories);
    }
}

impl From<&raw::Address> for BlockAddress {
    fn from(address: &raw::Address) -> Self {
        Self { partition: address.partition.get(), block: address.block.get() }
    }
}
