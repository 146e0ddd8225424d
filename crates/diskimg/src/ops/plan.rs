//! What an operation would do, without doing it.

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::storage::output::{Planned, PlannedFile};
use std::io;
use std::path::Path;

/// What [`Convert::run`](crate::Convert::run) or [`Create::run`](crate::Create::run) would do.
///
/// Whatever can be known without reading the disk's data was verified: that the source can be opened
/// and fits, that the format accepts the options, that the backing file can be opened, and that the
/// files may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Format of the output.
    pub format: Format,
    /// Size of the disk in bytes.
    pub guest_bytes: u64,
    /// About how many bytes the output takes at most, if nothing is compressed or shared: those that
    /// the source's tables do not say are zero, and the format's metadata if its size can be
    /// predicted ([`measure`](crate::measure)). Zeros that are found when data is read take less.
    pub required_bytes: u64,
    /// Bytes that are free in the output's file system, if that is known.
    pub free_bytes: Option<u64>,
    /// The name of the output's backing file, if it has one.
    pub backing: Option<String>,
    /// The files that would be written, the main one first. Empty for standard output.
    pub files: Vec<PlannedFile>,
    /// Damage in the source that would be tolerated.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Returns true if the output may not fit, unless it is smaller than
    /// [`required_bytes`](Self::required_bytes).
    pub fn may_not_fit(&self) -> bool {
        self.free_bytes.is_some_and(|free| free < self.required_bytes)
    }
}

/// Returns the free space where `files` are created, if they need any.
pub(super) fn free_bytes(files: &[PlannedFile]) -> Option<u64> {
    files.iter().find_map(PlannedFile::free_bytes)
}

/// Plans the output `path`, where `-` is standard output.
///
/// # Errors
/// As creating it, as far as that can be foreseen.
pub(super) fn output(path: &Path) -> Result<Planned> {
    let cannot = |e: io::Error| Error::io("cannot create the output", e).in_file(path);
    Planned::create(path).map_err(cannot)
}
