//! A picture of an image: where its bytes are stored, reduced to a bounded number of parts.
//!
//! [`Draw`](crate::Draw) computes it; [`Picture::to_html`] and [`Picture::to_svg`] draw it.

use crate::report::check::{CheckReport, Finding};
use serde::ser::SerializeTuple;
use serde::{Serialize, Serializer};

/// A summary of how a disk is stored. Its size is bounded, whatever the image is: counts are exact,
/// and the parts from which a map is drawn are merged where there are too many.
///
/// Offsets and sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Picture {
    /// Name that the image was opened with.
    pub filename: String,
    /// Name of its format.
    pub format: String,
    /// Virtual disk size.
    pub virtual_size: u64,
    /// Number of guest bytes in each state.
    pub totals: Totals,
    /// How the stored data is scattered over all files of the chain.
    pub fragmentation: Fragmentation,
    /// The backing chain, the image itself first.
    pub layers: Vec<LayerPicture>,
    /// Guest ranges and their state, in ascending order; together they cover the disk exactly.
    pub parts: Vec<Part>,
    /// Guest ranges that are shorter than this may be merged in `parts`; 1 if none are.
    pub part_size: u64,
    /// Guest ranges with a place in a host file, in ascending order of guest offsets.
    pub places: Vec<Place>,
    /// As `part_size`, for `places`.
    pub place_size: u64,
    /// The partition table, or `None` if the disk has none.
    pub partition_table: Option<PartitionTable>,
    /// Result of the consistency check, if it was requested and the format has one.
    pub check: Option<Checked>,
    /// Damage that reading tolerates, and what could not be determined.
    pub warnings: Vec<String>,
}

/// How a range of the disk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum State {
    /// Stored verbatim.
    Data,
    /// Stored compressed.
    Compressed,
    /// Allocated and known to be zeros: a zero cluster, or a hole of a raw file.
    Zero,
    /// Not allocated in any layer; reads as zeros.
    Unallocated,
}

impl State {
    /// All states.
    pub const ALL: &'static [Self] = &[Self::Data, Self::Compressed, Self::Zero, Self::Unallocated];

    /// Returns the word for the state.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Compressed => "compressed",
            Self::Zero => "zero",
            Self::Unallocated => "unallocated",
        }
    }
}

/// Number of guest bytes in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Totals {
    /// Stored verbatim.
    pub data: u64,
    /// Stored compressed, counted before compression.
    pub compressed: u64,
    /// Allocated and known to be zeros.
    pub zero: u64,
    /// Not allocated.
    pub unallocated: u64,
}

impl Totals {
    /// Adds guest bytes in a state.
    pub(crate) fn add(&mut self, state: State, bytes: u64) {
        let count = match state {
            State::Data => &mut self.data,
            State::Compressed => &mut self.compressed,
            State::Zero => &mut self.zero,
            State::Unallocated => &mut self.unallocated,
        };
        *count = count.saturating_add(bytes);
    }

    /// Returns the number of guest bytes in a state.
    pub fn get(&self, state: State) -> u64 {
        match state {
            State::Data => self.data,
            State::Compressed => self.compressed,
            State::Zero => self.zero,
            State::Unallocated => self.unallocated,
        }
    }

    /// Returns the number of guest bytes that are stored, verbatim or compressed.
    pub fn stored(&self) -> u64 {
        self.data.saturating_add(self.compressed)
    }

    /// Returns the number of guest bytes in all states.
    pub fn sum(&self) -> u64 {
        State::ALL.iter().fold(0, |sum, &state| sum.saturating_add(self.get(state)))
    }
}

/// How the stored data is scattered. The stored extents, in the order of their guest offsets, are
/// divided into runs: what a program reads without jumping to another place of a file when it reads
/// the disk from its beginning to its end. An extent continues a run if it follows the previous one
/// in the file, or if both have the same distance between guest and host offset, as in a raw file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Fragmentation {
    /// Number of runs.
    pub runs: u64,
    /// Number of runs that begin before the end of the previous one in the same file.
    pub backward: u64,
    /// Number of bytes in the files, at most: compressed data may be counted with its padding.
    pub stored: u64,
    /// Number of stored units: clusters or, in formats without clusters, blocks of 64 KiB.
    pub units: u64,
    /// Runs by their length: entry n counts those of 2^n bytes or more, but less than 2^(n+1).
    pub lengths: Vec<Lengths>,
}

/// The runs of a range of lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Lengths {
    /// Number of runs.
    pub runs: u64,
    /// Number of bytes in them.
    pub bytes: u64,
}

impl Fragmentation {
    /// Returns the mean length of a run in bytes; 0 if nothing is stored.
    pub fn mean_run(&self) -> u64 {
        self.stored.checked_div(self.runs).unwrap_or(0)
    }

    /// Returns the share of units that follow the previous one in the file, in units of 1/10000;
    /// `None` if fewer than two units are stored.
    pub fn sequential(&self) -> Option<u64> {
        let neighbors = self.units.checked_sub(1).filter(|&n| n > 0)?;
        let jumps = self.runs.saturating_sub(1).min(neighbors);
        let share = u128::from(neighbors - jumps) * 10_000 / u128::from(neighbors);
        u64::try_from(share).ok()
    }
}

/// A layer of the backing chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LayerPicture {
    /// Name that the image was opened with.
    pub filename: String,
    /// Name of its format.
    pub format: String,
    /// Virtual disk size.
    pub virtual_size: u64,
    /// Cluster size; 1 in formats without clusters.
    pub cluster_size: u64,
    /// Bytes allocated in the host's file system, if known.
    pub actual_size: Option<u64>,
    /// Guest bytes that the disk reads from this layer. Nothing is unallocated here, except beyond
    /// what any layer has allocated: that is counted where the chain ends.
    pub visible: Totals,
    /// Guest bytes that the layer has allocated, also where layers above it hide them. `None` if
    /// that could not be determined.
    pub own: Option<Totals>,
    /// How the visible data is scattered over the files of this layer.
    pub fragmentation: Fragmentation,
    /// Its files, one after the other on the host axis of the map.
    pub files: Vec<FilePicture>,
}

impl LayerPicture {
    /// Returns the number of stored guest bytes that layers above hide, if it is known.
    pub fn hidden(&self) -> Option<u64> {
        Some(self.own?.stored().saturating_sub(self.visible.stored()))
    }
}

/// A host file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct FilePicture {
    /// Path.
    pub filename: String,
    /// Position of its first byte on the host axis, on which all files of the chain follow one
    /// another.
    pub position: u64,
    /// Length.
    pub length: u64,
    /// Offset in the host file of the byte at `position`: not 0 for a disk inside an archive.
    pub start: u64,
    /// Number of files that this entry stands for: more than 1 only for the last one of a layer
    /// with very many files.
    pub count: usize,
}

/// Guest bytes in one state. Serializes as an array `[start, length, depth, state, bytes]`, where
/// the state is an index into [`State::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// First guest offset of the range.
    pub start: u64,
    /// Length of the range.
    pub length: u64,
    /// Layer that the bytes are read from.
    pub depth: usize,
    /// How they are stored.
    pub state: State,
    /// Number of bytes in this state: less than the length if parts with the same range follow or
    /// precede.
    pub bytes: u64,
}

/// Guest bytes with a place in a file. Serializes as an array `[start, length, position,
/// host-length, depth, state, bytes]`, where the state is an index into [`State::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// First guest offset of the range.
    pub start: u64,
    /// Length of the range.
    pub length: u64,
    /// First position on the host axis: see [`FilePicture::position`].
    pub position: u64,
    /// Length of the range of host positions.
    pub host_length: u64,
    /// Layer that the bytes are read from.
    pub depth: usize,
    /// How they are stored.
    pub state: State,
    /// Number of guest bytes: less than the length if several places were merged.
    pub bytes: u64,
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(5)?;
        tuple.serialize_element(&self.start)?;
        tuple.serialize_element(&self.length)?;
        tuple.serialize_element(&self.depth)?;
        tuple.serialize_element(&(self.state as u8))?;
        tuple.serialize_element(&self.bytes)?;
        tuple.end()
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(7)?;
        tuple.serialize_element(&self.start)?;
        tuple.serialize_element(&self.length)?;
        tuple.serialize_element(&self.position)?;
        tuple.serialize_element(&self.host_length)?;
        tuple.serialize_element(&self.depth)?;
        tuple.serialize_element(&(self.state as u8))?;
        tuple.serialize_element(&self.bytes)?;
        tuple.end()
    }
}

/// The partitions of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct PartitionTable {
    /// `GPT`, `MBR` or `Apple partition map`.
    pub kind: &'static str,
    /// Partitions that are within the disk, in ascending order of their offsets.
    pub partitions: Vec<Partition>,
    /// Number of further partitions that are not listed.
    pub omitted: usize,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Partition {
    /// Number in the table.
    pub number: u32,
    /// Type: a description or, if it is not known, the number or GUID.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name; empty if it has none.
    pub name: String,
    /// First guest offset.
    pub start: u64,
    /// Length, at most to the end of the disk.
    pub length: u64,
    /// Number of its bytes in each state.
    pub totals: Totals,
}

/// The result of a consistency check of the image, without its backing files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Checked {
    /// The counts.
    pub report: CheckReport,
    /// The first findings.
    pub findings: Vec<Finding>,
}
