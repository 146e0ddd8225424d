//! Reading EWF.

use super::segments::{self, Acquisition, RecordedDigests};
use super::table::{self, Chunks};
use super::text::Values;
use super::volume::{Digests, Medium, Volume, sectors_in};
use super::{SECTOR, check};
use crate::error::{Error, Result};
use crate::model::extent::{Extent, Kind, push};
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, DigestValue, DigestedBytes, Finding, RecordedDigest};
use crate::report::info::{Details, Value};
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// Maximum number of ranges of sectors that `info` lists.
const LISTED_ERRORS: usize = 100;

/// An EWF image: all its segments.
#[derive(Debug)]
pub(crate) struct Ewf {
    files: Vec<Arc<dyn Source>>,
    volume: Volume,
    values: Values,
    pub(super) chunks: Chunks,
    digests: Digests,
    recorded: Vec<RecordedDigests>,
    pub(super) digests_differ: bool,
    /// The sectors that could not be read during the acquisition.
    pub(super) errors: Vec<Range<u64>>,
    pub(super) has_unopened: bool,
    pub(super) is_incomplete: bool,
    damage: Option<String>,
    warnings: Vec<String>,
}

impl Ewf {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let acquisition = segments::read(source, context)?;
        let Acquisition { volume, tables, has_unopened, mut warnings, .. } = acquisition;
        let located = tables.last().map_or(0, table::Table::end_chunk);
        let size = volume.size().unwrap_or_else(|| {
            // Some programs do not record it.
            let chunks = if volume.chunks == 0 { located } else { volume.chunks.into() };
            chunks.saturating_mul(volume.chunk_bytes)
        });
        if size > i64::MAX.cast_unsigned() - SECTOR {
            return Err(Error::corrupt(table::STRUCTURE, "the disk has more than 8 EiB"));
        }
        if volume.size().is_none() && size > 0 {
            warnings.push(format!("the number of sectors is not recorded: {size} bytes of chunks"));
        }
        if !size.is_multiple_of(SECTOR) {
            warnings.push(format!(
                "the size of the medium is {size} bytes, not sectors of {SECTOR} bytes: zeros are \
                 added"
            ));
        }
        let chunks = Chunks::new(tables, volume.chunk_bytes, size);
        if !has_unopened && acquisition.damage.is_none() && chunks.located() < chunks.needed() {
            warnings.push(lacking(&chunks));
        }
        Ok(Self {
            files: acquisition.files,
            volume,
            values: acquisition.values,
            chunks,
            digests: acquisition.digests,
            recorded: acquisition.recorded,
            digests_differ: acquisition.digests_differ,
            errors: acquisition.errors,
            has_unopened,
            is_incomplete: acquisition.is_incomplete,
            damage: acquisition.damage,
            warnings,
        })
    }

    /// Returns the error for the chunks that no table has.
    pub(super) fn missing(&self) -> Error {
        match &self.damage {
            Some(damage) => Error::corrupt(table::STRUCTURE, damage.clone()),
            None if self.has_unopened => {
                Error::invalid("the other segments of the image were not opened")
            }
            None => Error::corrupt(table::STRUCTURE, lacking(&self.chunks))
                .hint("the acquisition was probably not finished"),
        }
    }

    /// Returns the number of chunks that the image records.
    pub(super) fn recorded_chunks(&self) -> u64 {
        self.volume.chunks.into()
    }

    /// Returns the values of `info` about the medium and the acquisition.
    fn specific(&self) -> Vec<(&'static str, Value)> {
        let medium = self.volume.medium.as_ref();
        let text = |text: String| Value::Text(text);
        let values = [
            ("subformat", Some(if medium.is_some() { "encase" } else { "smart" }.into())),
            ("media-type", medium.and_then(Medium::name).map(Value::from)),
            ("physical", medium.map(|medium| medium.is_physical.into())),
            ("compression", medium.and_then(Medium::compression).map(Value::from)),
            ("sector-size", Some(self.volume.sector_bytes.into())),
            ("set-identifier", self.volume.set().map(|set| text(set.to_string()))),
            ("md5", self.digests.md5.map(|md5| text(hex(&md5)))),
            ("sha1", self.digests.sha1.map(|sha1| text(hex(&sha1)))),
        ];
        let mut specific: Vec<_> =
            values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if !self.has_unopened {
            specific.push(("segments", to_u64(self.files.len()).into()));
        }
        specific.extend(self.values.iter().cloned());
        if !self.errors.is_empty() {
            specific.push(("unreadable-sectors", sectors_in(&self.errors).into()));
            let range = |range: &Range<u64>| {
                let count = range.end - range.start;
                Value::Map(vec![("first", range.start.into()), ("count", count.into())])
            };
            let ranges = self.errors.iter().take(LISTED_ERRORS).map(range).collect();
            specific.push(("acquisition-errors", Value::List(ranges)));
        }
        specific
    }
}

/// Says that the tables have fewer chunks than the disk.
fn lacking(chunks: &Chunks) -> String {
    let (needed, located) = (chunks.needed(), chunks.located());
    format!("the disk has {needed} chunks, but the tables have only {located}")
}

/// Returns `bytes` as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Sealed for Ewf {}

impl Layer for Ewf {
    fn format(&self) -> Format {
        Format::Ewf
    }

    fn disk_layout(&self) -> DiskLayout {
        // Chunks of sectors of 520 bytes, for example, are not a power of two.
        let cluster_size = 1 << self.chunks.chunk_bytes.trailing_zeros();
        DiskLayout { size: self.chunks.size.next_multiple_of(SECTOR), cluster_size }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let end = range.end.min(self.chunks.size);
        if range.start < end {
            self.chunks.map(&self.files, range.start..end, || self.missing(), out)?;
        }
        push(out, range.start.max(end)..range.end, Kind::Zero(None));
        Ok(())
    }

    fn details(&self) -> Details {
        let other = |index: usize| (format!("segments.{}", index + 1), index);
        let children = [("file".to_owned(), 0)].into_iter();
        Details {
            cluster_size: Some(self.chunks.chunk_bytes),
            specific: self.specific(),
            children: children.chain((1..self.files.len()).map(other)).collect(),
            notes: self.warnings.clone(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn sector_sizes(&self) -> Option<[u64; 2]> {
        let bytes = self.volume.sector_bytes;
        (bytes.is_power_of_two() && bytes >= SECTOR).then_some([bytes, bytes])
    }

    fn recorded_digests(&self) -> Result<Option<Vec<RecordedDigest>>> {
        let digests = self.recorded.iter().flat_map(|recorded| {
            let RecordedDigests { structure, at, digests } = recorded;
            let values = [digests.md5.map(DigestValue::Md5), digests.sha1.map(DigestValue::Sha1)];
            values.into_iter().flatten().map(|value| {
                // What pads the last sector is not on the medium.
                let medium = DigestedBytes::Guest(Vec::from_iter(Some(0..self.chunks.size)));
                RecordedDigest::new(structure.clone(), *at, medium, value)
            })
        });
        Ok(Some(digests.collect()))
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }
}
