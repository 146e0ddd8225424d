//! Extents that are added to a disk when it grows.

use super::super::SECTOR;
use super::GRAIN_SECTORS;
use super::extents::{ExtentNames, SPLIT_SECTORS};
use super::sparse_extent::{ExtentKind, SparseExtentWriter};
use super::subformat::Subformat;
use crate::error::Result;
use crate::model::flat::{FlatFile, Preallocation};
use crate::storage::sink::Sink;
use std::path::Path;
use std::sync::Arc;

/// What the files of a split disk are like.
#[derive(Debug, Clone, Copy)]
pub(in crate::formats::vmdk) struct SplitLayout {
    subformat: Subformat,
    /// Number of sectors of an extent that is not the last one.
    pub(in crate::formats::vmdk) extent_sectors: u64,
    /// Whether grains can be marked as zero.
    pub(in crate::formats::vmdk) zeroed_grains: bool,
    pub(in crate::formats::vmdk) preallocation: Preallocation,
}

impl SplitLayout {
    /// Size of a grain of new extents.
    pub(in crate::formats::vmdk) const GRAIN_BYTES: u64 = GRAIN_SECTORS * SECTOR;

    /// Returns the layout with this `createType`, or `None` if it is not one of several extents.
    pub(in crate::formats::vmdk) fn of(create_type: &str) -> Option<Self> {
        let subformat = Subformat::closest(create_type).filter(|layout| layout.is_split())?;
        Some(Self {
            subformat,
            extent_sectors: SPLIT_SECTORS,
            zeroed_grains: false,
            preallocation: Preallocation::Off,
        })
    }

    pub(in crate::formats::vmdk) fn is_flat(self) -> bool {
        self.subformat.is_flat()
    }

    /// Returns the name of the file of the extent with this index, which starts at 0.
    ///
    /// # Errors
    /// As [`ExtentNames::of`].
    pub(in crate::formats::vmdk) fn name(self, descriptor: &Path, index: usize) -> Result<String> {
        Ok(ExtentNames::of(descriptor)?.extent(self.subformat, index))
    }

    /// Returns the line of an extent.
    pub(in crate::formats::vmdk) fn line(self, sectors: u64, name: &str) -> String {
        match self.is_flat() {
            true => format!("RW {sectors} FLAT \"{name}\" 0"),
            false => format!("RW {sectors} SPARSE \"{name}\""),
        }
    }

    /// Writes an empty extent.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if it is too large, [`Io`](crate::ErrorKind::Io) if it
    /// cannot be written.
    pub(in crate::formats::vmdk) fn create(self, sink: Arc<dyn Sink>, sectors: u64) -> Result<()> {
        if !self.is_flat() {
            let zeroed_grains = self.zeroed_grains;
            let kind = ExtentKind { embedded: false, zeroed_grains, compressed: false };
            return SparseExtentWriter::start(sink, sectors, kind)?.finish();
        }
        let file = FlatFile::start(sink, sectors * SECTOR, self.preallocation)?;
        file.write_zeros(0, sectors * SECTOR)?;
        file.finish()
    }
}
