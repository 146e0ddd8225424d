//! Consistency check of the volume structures. Files and directories are checked by walking the
//! tree.

use super::recognition::{self, Anchor};
use super::sequence::{Recorded, Sequence};
use super::tag::Notes;
use super::volume::UdfVolume;
use crate::error::Result;
use crate::iso::finding::{Finding, FindingCode};
use crate::report::finding::Severity;
use std::ops::Range;

/// Numbers of files found in the tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    /// Names of files that are not directories.
    pub(crate) names: u64,
    /// Files that are not directories.
    pub(crate) files: u64,
    /// Directories, including the root.
    pub(crate) directories: u64,
}

impl UdfVolume {
    /// Checks anchors, volume descriptor sequences and recorded numbers of files.
    ///
    /// # Errors
    /// Returns [`Io`](crate::ErrorKind::Io) or [`Transient`](crate::ErrorKind::Transient) if reading
    /// fails.
    pub(crate) fn check(&self, found: Found, report: &mut dyn FnMut(Finding)) -> Result<()> {
        let mut anchors = recognition::anchors(&*self.source)?;
        anchors.retain(|anchor| anchor.sector == self.partitions.block_size);
        let Some((first, others)) = anchors.split_first() else { return Ok(()) };
        // Anchors of volumes in later sessions, which have their own descriptors.
        let end = self.partitions.end();
        let is_later = |other: &&Anchor| end > 0 && other.main.0 >= end && other.reserve.0 >= end;
        if let Some(later) = others.iter().find(is_later) {
            let message = "a later session has another UDF volume; the first one is read";
            report(Finding::new(FindingCode::Udf, Severity::Note, message).at(later.offset));
        }
        let mut warn = |offset, message: String| {
            report(Finding::new(FindingCode::Udf, Severity::Warning, message).at(offset));
        };
        let is_single = others.is_empty() && !self.partitions.is_incremental();
        if is_single && !self.has_anchor_before_padding(*first)? {
            warn(first.offset, "there is only one anchor; at least two are required".into());
        }
        for other in others.iter().filter(|other| !is_later(other)) {
            if (other.main, other.reserve) != (first.main, first.reserve) {
                let message = format!("the anchors at {:#x} and here differ", first.offset);
                warn(other.offset, message);
            }
        }
        self.check_reserve(*first, &mut warn)?;
        self.check_counts(found, first.offset, &mut warn);
        Ok(())
    }

    /// Returns true if there is another anchor near the end of the partition, but not at the end of
    /// the image, which may be padded, or on a larger device.
    fn has_anchor_before_padding(&self, first: Anchor) -> Result<bool> {
        /// Number of sectors searched before and after the end of the partition. Writers pad the
        /// volume.
        const SEARCHED: u64 = 512;
        let end = self.partitions.end() / u64::from(first.sector);
        let is_second = |found: &Anchor| {
            found.offset != first.offset
                && (found.main, found.reserve) == (first.main, first.reserve)
        };
        let sectors = end.saturating_sub(SEARCHED)..end + SEARCHED;
        Ok(recognition::anchor_in(&*self.source, sectors, first.sector, is_second)?.is_some())
    }

    /// Compares the reserve volume descriptor sequence with the main one.
    fn check_reserve(&self, anchor: Anchor, warn: &mut dyn FnMut(u64, String)) -> Result<()> {
        let notes = Notes::default();
        let read = |extent| match Sequence::read(&*self.source, extent, anchor.sector, &notes) {
            Ok(sequence) => Ok(Some(sequence)),
            Err(error) if error.is_storage_failure() => Err(error),
            Err(_) => Ok(None),
        };
        let (main, reserve) = (read(anchor.main)?, read(anchor.reserve)?);
        for note in notes.take() {
            // Those of the main sequence were reported when the volume was opened.
            if (anchor.reserve.0..anchor.reserve.0 + anchor.reserve.1).contains(&note.offset) {
                warn(note.offset, note.text);
            }
        }
        let (Some(main), Some(reserve)) = (main, reserve) else {
            let message = "one of the two volume descriptor sequences is damaged";
            warn(anchor.offset, message.into());
            return Ok(());
        };
        if contents(&main) != contents(&reserve) {
            let message = "the reserve volume descriptor sequence differs from the main one";
            warn(anchor.reserve.0, message.into());
        }
        Ok(())
    }

    /// Compares the numbers of files in the integrity descriptor with those in the tree. Some
    /// writers count a file for each of its names.
    fn check_counts(&self, found: Found, offset: u64, warn: &mut dyn FnMut(u64, String)) {
        let info = self.info();
        let files = info.files.map(u64::from);
        if let Some(files) = files.filter(|files| !(found.files..=found.names).contains(files)) {
            let names = found.names;
            warn(offset, format!("the volume is recorded to have {files} files, but has {names}"));
        }
        let directories = info.directories.map(u64::from);
        if let Some(recorded) = directories.filter(|&recorded| recorded != found.directories) {
            let directories = found.directories;
            let message = format!(
                "the volume is recorded to have {recorded} directories, but has {directories}"
            );
            warn(offset, message);
        }
    }
}

/// The volume set identifier in a primary volume descriptor (ECMA-167, 3/10.1). It is unique for
/// each image; genisoimage makes it unique for each copy.
const VOLUME_SET: Range<usize> = 72..200;

/// Returns the contents of the prevailing descriptors, without their tags, which have the location.
fn contents(sequence: &Sequence) -> Vec<&[u8]> {
    let primary = sequence.primary.iter().flat_map(|Recorded { bytes, .. }| {
        [bytes.get(16..VOLUME_SET.start), bytes.get(VOLUME_SET.end..)]
    });
    let partitions = sequence.partitions.iter().map(|(_, recorded)| recorded);
    let others = sequence.logical.iter().chain(partitions);
    primary.chain(others.map(|Recorded { bytes, .. }| bytes.get(16..))).flatten().collect()
}
