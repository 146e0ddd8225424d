//! The parts in which the contents of digests are read.

use crate::error::Error;
use crate::model::extent::{ChainExtent, Kind};
use crate::model::extents::Extents;
use crate::model::image::{Image, WINDOW};
use crate::report::check::{DigestValue, DigestedBytes, RecordedDigest};
use std::ops::Range;

/// Bytes of a part. A compressed unit is in one part, however long it is.
const CHUNK: u64 = 512 << 10;

/// Clusters that are mapped at a time.
const CLUSTERS_PER_WINDOW: u64 = 32 << 10;

/// Digests of the same bytes.
pub(super) struct Group {
    /// At least one.
    pub(super) digests: Vec<RecordedDigest>,
}

impl Group {
    /// Groups digests of the same bytes that follow one another.
    pub(super) fn of(recorded: Vec<RecordedDigest>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for digest in recorded {
            match groups.last_mut() {
                Some(group) if *group.contents() == digest.contents => group.digests.push(digest),
                _ => groups.push(Self { digests: vec![digest] }),
            }
        }
        groups
    }

    fn contents(&self) -> &DigestedBytes {
        &self.digests[0].contents
    }

    /// Returns the number of bytes that the digests cover.
    pub(super) fn len(&self) -> u64 {
        let len = |range: &Range<u64>| range.end.saturating_sub(range.start);
        match self.contents() {
            DigestedBytes::Guest(ranges) => {
                ranges.iter().map(len).fold(0, |sum: u64, len| sum.saturating_add(len))
            }
            DigestedBytes::Host { range, .. } => len(range),
        }
    }

    /// Returns true if one of the digests is a CRC-32.
    pub(super) fn has_crc(&self) -> bool {
        self.digests.iter().any(|digest| matches!(digest.value, DigestValue::Crc32(_)))
    }
}

/// A part of the contents of a group.
pub(super) struct Task {
    /// Number of the group.
    pub(super) group: usize,
    /// Whether it is the last part of the group.
    pub(super) ends: bool,
    pub(super) part: Part,
}

pub(super) enum Part {
    /// Extents that follow one another, of which none is known to be zero.
    Guest(Vec<ChainExtent>),
    /// A range of a file.
    Host { file: usize, range: Range<u64> },
    /// A number of zeros.
    Zeros(u64),
    /// The next part cannot be mapped.
    Failed(Error),
}

impl Part {
    /// Returns the number of bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Guest(extents) => extents.iter().map(ChainExtent::len).sum(),
            Self::Host { range, .. } => range.end - range.start,
            Self::Zeros(len) => *len,
            Self::Failed(_) => 0,
        }
    }
}

/// Divides the contents of groups into parts.
pub(super) struct Plan<'a> {
    image: &'a Image,
    groups: &'a [Group],
    /// Number of the current group.
    group: usize,
    /// Number of its ranges that are mapped or being mapped.
    ranges: usize,
    /// Of its host range, bytes that are planned.
    done: u64,
    /// Of the current guest range.
    extents: Option<Extents<'a>>,
    /// What is left of the last extent that was taken.
    rest: Option<ChainExtent>,
    /// A part of the current group could not be mapped.
    failed: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(image: &'a Image, groups: &'a [Group]) -> Self {
        let (extents, rest) = (None, None);
        Self { image, groups, group: 0, ranges: 0, done: 0, extents, rest, failed: false }
    }

    /// Returns the next part. The rest of the group number `failed` is omitted.
    pub(super) fn next_task(&mut self, failed: usize) -> Option<Task> {
        let group = self.groups.get(self.group)?;
        let number = self.group;
        let part = if failed == number || self.failed { None } else { self.next_part(group) };
        let ends = part.is_none();
        if ends {
            let rest = self.group + 1;
            *self = Self { group: rest, ..Self::new(self.image, self.groups) };
        }
        Some(Task { group: number, ends, part: part.unwrap_or(Part::Zeros(0)) })
    }

    fn next_part(&mut self, group: &'a Group) -> Option<Part> {
        match group.contents() {
            DigestedBytes::Guest(ranges) => match self.next_guest_part(ranges) {
                Ok(part) => part,
                Err(error) => {
                    self.failed = true;
                    Some(Part::Failed(error))
                }
            },
            DigestedBytes::Host { file, range } => {
                let start = range.start + self.done;
                let end = range.end.min(start.saturating_add(CHUNK));
                self.done += end.saturating_sub(start);
                (start < end).then_some(Part::Host { file: *file, range: start..end })
            }
        }
    }

    fn next_guest_part(&mut self, ranges: &[Range<u64>]) -> Result<Option<Part>, Error> {
        let mut part = Vec::new();
        let mut len = 0;
        while len < CHUNK {
            let Some(extent) = self.next_extent(ranges)? else { break };
            if extent.kind.is_zero() {
                if part.is_empty() {
                    return Ok(Some(Part::Zeros(extent.len())));
                }
                self.rest = Some(extent);
                break;
            }
            let room = CHUNK - len;
            let cut = extent.guest.start.saturating_add(room);
            let is_cut = matches!(extent.kind, Kind::Data(_)) && extent.guest.end > cut;
            if is_cut {
                self.rest = Some(extent.clip(&(cut..extent.guest.end)));
                part.push(extent.clip(&(extent.guest.start..cut)));
                break;
            }
            // A long unit is a part of its own.
            if len > 0 && extent.len() > room {
                self.rest = Some(extent);
                break;
            }
            len += extent.len();
            part.push(extent);
        }
        Ok((!part.is_empty()).then_some(Part::Guest(part)))
    }

    fn next_extent(&mut self, ranges: &[Range<u64>]) -> Result<Option<ChainExtent>, Error> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        loop {
            if let Some(extent) = self.extents.as_mut().and_then(Iterator::next) {
                return extent.map(Some);
            }
            let Some(range) = ranges.get(self.ranges) else { return Ok(None) };
            self.ranges += 1;
            self.image.require_inside(range)?;
            let cluster = self.image.disk_layout().cluster_size;
            let step = cluster.saturating_mul(CLUSTERS_PER_WINDOW).clamp(CHUNK, WINDOW);
            self.extents = Some(self.image.extents_by(range.clone(), step));
        }
    }
}
