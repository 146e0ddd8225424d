//! Reading of UDF (ECMA-167, OSTA UDF 1.02 to 2.60).
//!
//! ```text
//!   location      structure             contents                      module
//!   byte 32768    volume recognition    presence of UDF               recognition
//!   sector 256    anchor                location of the sequence      recognition
//!   anywhere      volume descriptors    label, partitions             sequence, maps, partition
//!                 file set descriptor   location of the root          volume
//!                 file entries          attributes, extents           entry, allocation
//!                 directories           names, locations of entries   directory, text
//! ```
//!
//! References of the form "3/10.6" are to part and section of ECMA-167, 3rd edition. Named streams
//! are ignored, and so are extended attributes except the device specification.

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
mod verify;
mod virtual_table;
mod volume;

pub(super) use raw::{DEVICE_SPECIFICATION, characteristics, file_type, id};
#[cfg(feature = "inspect")]
pub(crate) use recognition::names_several_volumes;
pub(super) use tag::seal;
pub(super) use text::to_cs0;
pub(super) use verify::Found;
pub(crate) use volume::{UdfVolume, open};

use integrity::Counts;
use partition::BlockAddress;
use serde::Serialize;

/// Information about a UDF volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct UdfInfo {
    /// Logical volume identifier, which operating systems show as the label.
    pub label: String,
    /// Volume identifier from the primary volume descriptor.
    pub volume_identifier: String,
    /// Volume set identifier. The first eight characters are unique to the set (UDF, 2.2.2.5).
    pub volume_set_identifier: String,
    /// UDF revision, such as "2.01".
    pub revision: String,
    /// Standard identifier from the volume recognition sequence: "NSR02" for the 2nd edition of
    /// ECMA-167, "NSR03" for the 3rd. `None` if there is no such sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard: Option<&'static str>,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// The partitions, in the order of the partition maps.
    pub partitions: Vec<UdfPartition>,
    /// Number of files, if recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// Number of directories, if recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directories: Option<u32>,
    /// State of the logical volume: false if it was not closed after it was last written. `None` if
    /// not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<bool>,
}

/// A partition of a UDF volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct UdfPartition {
    /// Kind: "plain", "virtual", "sparable" or "metadata".
    pub kind: &'static str,
    /// Access type: "read-only", "write-once", "rewritable", "overwritable" or "unknown".
    pub access: &'static str,
    /// First sector.
    pub start_sector: u32,
    /// Length in blocks.
    pub blocks: u32,
}

impl UdfInfo {
    /// Sets the values from the integrity descriptor. Numbers of files and directories from a
    /// virtual allocation table take precedence.
    fn set_counts(&mut self, counts: Option<Counts>) {
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
