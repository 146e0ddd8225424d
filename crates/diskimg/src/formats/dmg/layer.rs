//! Reading DMGs.

use super::chunks::{Chunks, codec_of};
use super::table::{Tables, chunk_type};
use super::trailer::Trailer;
use super::{check, digests, plist, resource_fork};
use crate::error::{Error, Result};
use crate::model::extent::Extent;
use crate::model::format::Format;
use crate::model::layer::{DiskLayout, Layer};
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::report::check::{CheckReport, Finding, RecordedDigest};
use crate::report::info::{Details, Value};
use crate::storage::codec::Codec;
use crate::storage::number::to_u64;
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// Number of tables whose names `info` shows.
const MAX_NAMES: usize = 128;

/// A DMG.
#[derive(Debug)]
pub(crate) struct Dmg {
    files: [Arc<dyn Source>; 1],
    trailer: Trailer,
    chunks: Chunks,
    /// Maximum length of a list of tables in bytes.
    max_list: u64,
}

impl Dmg {
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let trailer = Trailer::read(&*source)?;
        let max_list = context.limits.table_bytes;
        // Files that have both are those of newer programs, for older ones.
        let tables = match (trailer.plist.1, trailer.resource_fork.1) {
            (0, 0) => {
                let message = "neither a property list nor a resource fork is recorded";
                return Err(Error::corrupt(super::trailer::TRAILER, message).at(trailer.at));
            }
            (0, _) => resource_fork::read(&*source, &trailer, max_list)?,
            (_, _) => plist::read(&*source, &trailer, max_list)?,
        };
        let size = trailer.sectors * super::SECTOR;
        let chunks = Chunks::new(tables, size, source.len(), context.limits.unit_bytes);
        Ok(Self { files: [source], trailer, chunks, max_list })
    }

    pub(super) fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    pub(super) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Returns the tables that the resource fork of a file has whose property list is read.
    ///
    /// # Errors
    /// As [`resource_fork::read`].
    pub(super) fn other_tables(&self) -> Option<Result<Tables>> {
        let has_both = self.trailer.plist.1 != 0 && self.trailer.resource_fork.1 != 0;
        let read = || resource_fork::read(&*self.files[0], &self.trailer, self.max_list);
        has_both.then(read)
    }

    /// Returns the host offset of the list of tables.
    pub(super) fn list_at(&self) -> u64 {
        match self.trailer.plist {
            (_, 0) => self.trailer.resource_fork.0,
            (at, _) => at,
        }
    }

    /// Returns the names of the codecs in use.
    fn compression(&self) -> Vec<Value> {
        let names = [
            (Codec::Zlib, "zlib"),
            (Codec::Bzip2, "bzip2"),
            (Codec::Xz, "xz"),
            (Codec::Lzfse, "lzfse"),
            (Codec::Adc, "adc"),
        ];
        let is_used = |codec: Codec| {
            self.chunks.chunks.iter().any(|chunk| codec_of(chunk.chunk_type) == Some(codec))
        };
        let used = names.into_iter().filter(|&(codec, _)| is_used(codec));
        used.map(|(_, name)| Value::from(name)).collect()
    }
}

impl Sealed for Dmg {}

impl Layer for Dmg {
    fn format(&self) -> Format {
        Format::Dmg
    }

    fn disk_layout(&self) -> DiskLayout {
        // Chunks have any length, and start at any sector.
        DiskLayout { size: self.chunks.size, cluster_size: super::SECTOR }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.chunks.map(range, out)
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        self.chunks.next_allocated_hint(range)
    }

    fn details(&self) -> Details {
        let compressed =
            self.chunks.chunks.iter().filter(|chunk| codec_of(chunk.chunk_type).is_some());
        let longest = compressed.map(|chunk| chunk.end - chunk.start).max();
        let stored = |chunk_type: u32| !matches!(chunk_type, chunk_type::ZERO | chunk_type::IGNORE);
        let count = self.chunks.chunks.iter().filter(|chunk| stored(chunk.chunk_type)).count();
        let names = self.chunks.tables.iter().take(MAX_NAMES);
        let mut specific = vec![
            ("compression", Value::List(self.compression())),
            ("stored-chunks", Value::from(to_u64(count))),
        ];
        specific.extend(longest.map(|bytes| ("chunk-size", Value::from(bytes))));
        specific.push((
            "tables",
            Value::List(names.map(|table| Value::Text(table.name.clone())).collect()),
        ));
        Details {
            specific,
            children: vec![("file".into(), 0)],
            notes: self.warnings(),
            ..Details::default()
        }
    }

    fn warnings(&self) -> Vec<String> {
        let (recorded, size) = (self.trailer.sectors * super::SECTOR, self.chunks.size);
        if recorded == size {
            return Vec::new();
        }
        vec![format!(
            "the trailer records a disk of {recorded} bytes, but the tables have {size} bytes: \
             programs that use the trailer's size read less"
        )]
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        check::check(self, report).map(Some)
    }

    fn recorded_digests(&self) -> Result<Option<Vec<RecordedDigest>>> {
        Ok(Some(digests::recorded(&self.trailer, &self.chunks, self.list_at())))
    }
}
