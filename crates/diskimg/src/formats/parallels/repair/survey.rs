//! What the table of an image refers to, and the space that nothing refers to.

use crate::error::{Error, Result};
use crate::formats::parallels::bundle::Expandable;
use crate::formats::parallels::clusters::Clusters;
use crate::formats::parallels::header::Header;
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::segments;
use crate::storage::zeros::is_zero;
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes that are read together.
const CHUNK: u64 = 1 << 20;

/// What the table of an image refers to.
pub(super) struct Survey<'a> {
    image: &'a Expandable,
    /// Where clusters of the disk start that are in the file, in ascending order.
    starts: Vec<u64>,
    /// Entries that refer to no place for a cluster, each with its index.
    invalid: Vec<(u64, u32)>,
    /// Entries with the cluster of an earlier entry: index and place.
    shared: Vec<(u64, u64)>,
    /// Ranges of the file that nothing refers to, after the start of the data area; `None` if it is
    /// not known what the format extension uses.
    unused: Option<Vec<Range<u64>>>,
    /// Clusters overlap in part.
    overlaps: bool,
}

impl<'a> Survey<'a> {
    /// Examines the table.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the format extension cannot be read.
    pub(super) fn of(image: &'a Expandable, limits: &Limits) -> Result<Self> {
        let clusters = &image.clusters;
        let cluster = clusters.header.cluster_bytes;
        let (mut invalid, mut shared, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for (index, &entry) in (0..).zip(&clusters.table) {
            let Some(start) = clusters.host_of(entry) else { continue };
            if start < clusters.header.table_end() || start >= clusters.source.len() {
                invalid.push((index, entry));
            } else if clusters.shared().contains(start) && !seen.insert(start) {
                shared.push((index, start));
            } else {
                starts.push(start);
            }
        }
        starts.sort_unstable();
        let overlaps = starts.windows(2).any(|pair| pair[1] - pair[0] < cluster);
        let mut survey = Self { image, starts, invalid, shared, unused: None, overlaps };
        survey.unused = survey.find_unused(limits)?;
        Ok(survey)
    }

    fn clusters(&self) -> &Clusters {
        &self.image.clusters
    }

    pub(super) fn header(&self) -> &Header {
        &self.clusters().header
    }

    fn find_unused(&self, limits: &Limits) -> Result<Option<Vec<Range<u64>>>> {
        let (clusters, size) = (self.clusters(), self.header().cluster_bytes);
        let mut used = self.starts.clone();
        match &self.image.extension {
            Ok(None) => {}
            Ok(Some(extension)) => match extension.clusters(clusters, limits.table_bytes / 8) {
                Err(error) if error.is_storage_failure() => return Err(error),
                Err(_) => return Ok(None),
                // What unknown features use is not known.
                Ok(_) if !extension.unknown.is_empty() => return Ok(None),
                Ok(of_extension) => used.extend(of_extension),
            },
            Err(_) => return Ok(None),
        }
        used.sort_unstable();
        let len = clusters.source.len();
        let (mut at, mut unused) = (clusters.header.data_at(len), Vec::new());
        for start in used {
            if at < start.min(len) {
                unused.push(at..start.min(len));
            }
            at = at.max(start.saturating_add(size));
        }
        if at < len {
            unused.push(at..len);
        }
        Ok(Some(unused))
    }

    /// Returns true if it is known which space nothing refers to.
    pub(super) fn knows_unused(&self) -> bool {
        self.unused.is_some()
    }

    /// Returns the end of the last cluster, if the file has only its first bytes.
    pub(super) fn end_of_last_cluster(&self) -> Option<u64> {
        let end = self.starts.last()? + self.header().cluster_bytes;
        let is_cut_off = end > self.clusters().source.len() && !self.overlaps;
        (is_cut_off && self.are_invalid_from(end)).then_some(end)
    }

    /// Returns true if invalid entries stay invalid in a file of `len` bytes.
    fn are_invalid_from(&self, len: u64) -> bool {
        let places = self.invalid.iter().filter_map(|&(_, entry)| self.clusters().host_of(entry));
        let table_end = self.header().table_end();
        places.into_iter().all(|start| start < table_end || start >= len)
    }

    /// Returns entries with the cluster of an earlier entry: index, and place of the cluster. None
    /// if there are invalid entries, which might refer to a cluster that is appended.
    pub(super) fn shared(&self) -> Vec<(u64, u64)> {
        let len = self.clusters().source.len();
        let is_whole = |&(_, start): &(u64, u64)| start + self.header().cluster_bytes <= len;
        match self.overlaps || !self.invalid.is_empty() {
            true => Vec::new(),
            false => self.shared.iter().copied().filter(is_whole).collect(),
        }
    }

    /// Returns where clusters are appended to a file of `len` bytes.
    pub(super) fn end_for_clusters(&self, len: u64) -> u64 {
        let base = self.clusters().data_base();
        base + len.saturating_sub(base).next_multiple_of(self.header().cluster_bytes)
    }

    /// Returns the entries that refer to a cluster again.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read.
    pub(super) fn restored(&self) -> Result<Vec<(u64, u32)>> {
        let Some(unused) = self.unused.as_ref().filter(|_| !self.overlaps) else {
            return Ok(Vec::new());
        };
        // A file that was cut off has entries that its earlier length explains, and more than one
        // as a rule.
        let [(index, value)] = self.invalid[..] else { return Ok(Vec::new()) };
        let clusters = self.clusters();
        let is_impossible =
            |start: u64| clusters.is_misaligned(start) || start / 4 >= clusters.source.len();
        if !clusters.host_of(value).is_some_and(is_impossible) {
            return Ok(Vec::new());
        }
        let mut candidates = Vec::new();
        for entry in (0..u32::BITS).map(|bit| value ^ 1 << bit) {
            if self.is_lost_cluster(entry, unused)? {
                candidates.push((index, entry));
            }
        }
        candidates.truncate(if candidates.len() == 1 { 1 } else { 0 });
        Ok(candidates)
    }

    /// Returns true if an entry would refer to an unused cluster with data.
    fn is_lost_cluster(&self, entry: u32, unused: &[Range<u64>]) -> Result<bool> {
        let Some(start) = self.clusters().host_of(entry) else { return Ok(false) };
        let end = start + self.header().cluster_bytes;
        let gap = unused.partition_point(|range| range.end < end);
        let is_unused = unused.get(gap).is_some_and(|gap| gap.start <= start);
        Ok(is_unused && !self.clusters().is_misaligned(start) && self.has_data(&(start..end))?)
    }

    /// Returns the entries that are removed. None if unused space has data that they may have
    /// meant.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read.
    pub(super) fn removed(&self) -> Result<Vec<(u64, u32)>> {
        let unused = self.unused.as_ref().filter(|_| !self.overlaps && !self.invalid.is_empty());
        let Some(unused) = unused else { return Ok(Vec::new()) };
        for range in unused {
            if self.has_data(range)? {
                return Ok(Vec::new());
            }
        }
        Ok(self.invalid.iter().map(|&(index, _)| (index, 0)).collect())
    }

    /// Returns true if a byte of the file in this range is not 0.
    fn has_data(&self, range: &Range<u64>) -> Result<bool> {
        let source = &*self.clusters().source;
        let mut buf = vec![0; to_usize(CHUNK.min(range.end - range.start))];
        // Holes of the file are not read.
        for (part, _) in segments(source, range.clone()).filter(|(_, is_hole)| !is_hole) {
            let mut at = part.start;
            while at < part.end {
                let bytes = &mut buf[..to_usize(CHUNK.min(part.end - at))];
                let read = source.read_exact_at(bytes, at);
                read.map_err(|e| Error::io("cannot read unused space", e).at(at))?;
                if !is_zero(bytes) {
                    return Ok(true);
                }
                at += to_u64(bytes.len());
            }
        }
        Ok(false)
    }
}
