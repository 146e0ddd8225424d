//! An open UDF volume: partitions, root directory and information.

use super::allocation::Cost;
use super::integrity;
use super::partition::{BlockAddress, Partition, Partitions};
use super::raw::{self, id};
use super::recognition::{self, Anchor};
use super::sequence::{Recorded, Sequence};
use super::tag::{self, Notes};
use super::text::dstring;
use super::{UdfInfo, directory, entry, maps};
use crate::error::{Error, Result};
use crate::iso::finding::{FindingCode, Findings};
use crate::iso::node::{FileTree, FileType, Listing, Node};
use crate::open::limits::Limits;
use crate::storage::number::to_index;
use crate::storage::source::Source;
use std::collections::HashSet;
use std::sync::Arc;

/// Supported logical block sizes in bytes.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=32768;

/// Maximum number of different volume descriptor sequences that are tried. A volume has one, and a
/// copy of it.
const MAX_ANCHORS: usize = 8;

/// A UDF file system.
#[derive(Debug)]
pub(crate) struct UdfVolume {
    pub(super) source: Arc<dyn Source>,
    pub(super) limits: Limits,
    pub(crate) partitions: Partitions,
    pub(super) notes: Notes,
    info: UdfInfo,
    root: Node,
}

/// Opens the UDF file system in `source`. Returns `None` if there is none.
///
/// # Errors
/// Returns [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if there is a volume recognition
/// sequence (3/9.1) but the volume is damaged,
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) if it uses an unsupported feature,
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if reading fails.
pub(crate) fn open(source: Arc<dyn Source>, limits: &Limits) -> Result<Option<UdfVolume>> {
    let standard = recognition::standard(&*source)?;
    let mut first_error: Option<Error> = None;
    let mut anchors = recognition::anchors(&*source)?;
    let mut known = HashSet::new();
    anchors.retain(|anchor| known.insert((anchor.sector, anchor.main, anchor.reserve)));
    anchors.truncate(MAX_ANCHORS);
    for anchor in anchors {
        match UdfVolume::at(&source, anchor, standard, limits) {
            Ok(volume) => return Ok(Some(volume)),
            Err(error) => note(&mut first_error, error),
        }
    }
    // An anchor without a recognition sequence may be left from earlier contents of the medium.
    if standard.is_none() {
        return first_error.filter(Error::is_storage_failure).map_or(Ok(None), Err);
    }
    let no_anchor =
        || Error::corrupt("anchor", "the image has a UDF recognition sequence, but no anchor");
    Err(first_error.unwrap_or_else(no_anchor))
}

/// Keeps the first error, but one of the storage rather than one of damage: the copy that could not
/// be read may be intact.
pub(super) fn note(first: &mut Option<Error>, error: Error) {
    if first.as_ref().is_none_or(|known| error.is_storage_failure() && !known.is_storage_failure())
    {
        *first = Some(error);
    }
}

impl UdfVolume {
    fn at(
        source: &Arc<dyn Source>,
        anchor: Anchor,
        standard: Option<&'static str>,
        limits: &Limits,
    ) -> Result<Self> {
        let mut first_error: Option<Error> = None;
        for extent in [anchor.main, anchor.reserve] {
            let notes = Notes::default();
            let volume = Sequence::read(&**source, extent, anchor.sector, &notes)
                .and_then(|found| Self::of(source, &found, anchor, standard, limits, notes));
            match volume {
                Ok(volume) => {
                    if let Some(error) = first_error {
                        let note = format!(
                            "using the reserve volume descriptor sequence: {}",
                            error.without_remedy()
                        );
                        volume.notes.add(extent.0, note);
                    }
                    return Ok(volume);
                }
                Err(error) => note(&mut first_error, error),
            }
        }
        let nothing =
            || Error::corrupt("anchor", "no volume descriptor sequence").at(anchor.offset);
        Err(first_error.unwrap_or_else(nothing))
    }

    fn of(
        source: &Arc<dyn Source>,
        found: &Sequence,
        anchor: Anchor,
        standard: Option<&'static str>,
        limits: &Limits,
        notes: Notes,
    ) -> Result<Self> {
        let recorded = found.logical.as_ref().filter(|_| !found.partitions.is_empty());
        let recorded = recorded.ok_or_else(|| {
            let what = "it has no logical volume descriptor or no partition descriptor";
            Error::corrupt("volume descriptor sequence", what).at(anchor.main.0)
        })?;
        let (logical, map_bytes) = logical(recorded)?;
        let block_size = block_size(logical, anchor.sector).map_err(|e| e.at(recorded.offset))?;
        let maps = maps::parse(logical, map_bytes).map_err(|e| e.at(recorded.offset))?;
        let root = Node {
            file_type: FileType::Directory,
            size: 0,
            attributes: Default::default(),
            link_target: None,
            content: crate::iso::node::Content::Extents(Vec::new()),
            location: 0,
        };
        let mut volume = Self {
            source: source.clone(),
            limits: limits.clone(),
            partitions: Partitions { block_size, all: Vec::new() },
            notes,
            info: info(logical, found.primary.as_ref(), standard),
            root,
        };
        maps::build(&mut volume, &maps, found)?;
        volume.info.partitions = maps::describe(&maps, found);
        volume.info.set_counts(integrity::counts(&volume, logical)?);
        volume.root = volume.find_root(BlockAddress::from(&logical.file_set.address))?;
        Ok(volume)
    }

    /// Reads the root directory's entry, whose location is in the file set descriptor (4/8.3).
    fn find_root(&self, address: BlockAddress) -> Result<Node> {
        const NAME: &str = "file set descriptor";
        let (offset, block) = self.read_block(address, NAME)?;
        tag::check(NAME, &block, &[id::FILE_SET], offset, Some(address.block), &self.notes)?;
        let too_short = || Error::corrupt(NAME, "it is truncated").at(offset);
        let (set, _) = raw::read::<raw::FileSet>(&block).ok_or_else(too_short)?;
        let address = BlockAddress::from(&set.root.address);
        let root = entry::node(self, address, &mut Cost::default())?;
        match root.is_dir() {
            true => Ok(root),
            false => Err(Error::corrupt(NAME, "the root is not a directory").at(offset)),
        }
    }

    /// Reads a block. Returns its byte offset in the image, and its contents.
    pub(super) fn read_block(
        &self,
        address: BlockAddress,
        structure: &'static str,
    ) -> Result<(u64, Vec<u8>)> {
        let offset = self.partitions.block(address).map_err(|e| e.in_structure(structure))?;
        let mut block = vec![0; to_index(self.partitions.block_size)];
        let cannot_read = |e| Error::io("cannot read", e).in_structure(structure).at(offset);
        self.source.read_exact_at(&mut block, offset).map_err(cannot_read)?;
        Ok((offset, block))
    }

    /// Returns information about the volume.
    pub(crate) fn info(&self) -> &UdfInfo {
        &self.info
    }

    /// Replaces the partition with the index `index`.
    pub(super) fn set_partition(&mut self, index: usize, partition: Partition) {
        if let Some(slot) = self.partitions.all.get_mut(index) {
            *slot = partition;
        }
    }

    /// Returns the information, to be completed from a virtual allocation table.
    pub(super) fn info_mut(&mut self) -> &mut UdfInfo {
        &mut self.info
    }
}

impl FileTree for UdfVolume {
    fn root(&self) -> Result<Node> {
        Ok(self.root.clone())
    }

    fn read_dir_reporting(&self, dir: &Node, findings: &mut Findings<'_>) -> Result<Listing> {
        // Notes made when the volume was opened are reported with the root, and kept for the next
        // time the root is read.
        let opening = self.notes.take();
        let listing = directory::read(self, dir);
        let mut notes = self.notes.take();
        if dir.location == self.root.location {
            notes.extend(opening.iter().cloned());
        }
        self.notes.put(opening);
        for note in notes {
            findings.warn(FindingCode::Udf, note.offset, || note.text)?;
        }
        listing
    }
}

fn logical(recorded: &Recorded) -> Result<(&raw::LogicalVolume, &[u8])> {
    raw::read::<raw::LogicalVolume>(&recorded.bytes).ok_or_else(|| {
        Error::corrupt("logical volume descriptor", "it is truncated").at(recorded.offset)
    })
}

fn block_size(logical: &raw::LogicalVolume, sector: u32) -> Result<u32> {
    const NAME: &str = "logical volume descriptor";
    let size = logical.block_size.get();
    if !size.is_power_of_two() || !BLOCK_SIZES.contains(&size) {
        let what = format!(
            "the logical block size is {size} bytes; expected a power of two from {} to {}",
            BLOCK_SIZES.start(),
            BLOCK_SIZES.end()
        );
        return Err(Error::corrupt(NAME, what));
    }
    // UDF, 2.2.4.2.
    if size != sector {
        let what = format!("logical block size {size} with sector size {sector}");
        return Err(Error::unsupported(what).in_structure(NAME));
    }
    if !logical.domain.is(b"*OSTA UDF Compliant") {
        let what = "an ECMA-167 volume that is not UDF";
        return Err(Error::unsupported(what).in_structure(NAME));
    }
    Ok(size)
}

fn info(
    logical: &raw::LogicalVolume,
    primary: Option<&Recorded>,
    standard: Option<&'static str>,
) -> UdfInfo {
    let primary = primary.and_then(|recorded| raw::read::<raw::PrimaryVolume>(&recorded.bytes));
    let primary = primary.map(|(primary, _)| primary);
    let revision = logical.domain.revision();
    UdfInfo {
        label: dstring(&logical.identifier),
        volume_identifier: primary.map(|p| dstring(&p.volume_identifier)).unwrap_or_default(),
        volume_set_identifier: primary
            .map(|p| dstring(&p.volume_set_identifier))
            .unwrap_or_default(),
        revision: format!("{:x}.{:02x}", revision >> 8, revision & 0xff),
        standard,
        block_size: logical.block_size.get(),
        partitions: Vec::new(),
        files: None,
        directories: None,
        closed: None,
    }
}
