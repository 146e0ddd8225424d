//! Writing streamOptimized, with the structure that VMware's own tools write and import.
//!
//! The file is written sequentially, so that the output can be a pipe: the header, which is not
//! changed later, leaves the offset of the grain directory to the footer. A grain table follows the
//! grains that it points to.
//!
//! ```text
//!   header gd=-1 │ descriptor │ … 128: grains │ table │ grains │ table │ … │ directory │ footer │ EOS
//! ```
//!
//! Zero grains are not stored. Nothing follows the end-of-stream marker, because readers search the
//! footer at the end of the file. On a device, which may be larger than the image, the header is
//! therefore rewritten at the end with the offset of the grain directory (as vmdktool does).

use super::super::SECTOR;
use super::super::header::{Flags, GD_AT_END, Header};
use super::super::stream::{
    GrainMarker, MARKER_EOS, MARKER_FOOTER, MARKER_GD, MARKER_GT, MetaDataMarker,
};
use super::descriptor::{DESCRIPTOR_OFFSET, DESCRIPTOR_SECTORS, NewDescriptor};
use super::{GRAIN_SECTORS, GTES, cannot_write, require_readable};
use crate::error::{Error, Result};
use crate::model::extent::Encoded;
use crate::model::target::{Allocate, Slot, Target, UnitEncoder, append_filled};
use crate::storage::codec::{Codec, Encoder};
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use crate::storage::sink::Sink;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Sectors before the first grain.
const OVER_HEAD: u64 = 128;

/// A streamOptimized image being written.
#[derive(Debug)]
pub(super) struct StreamTarget {
    files: [Arc<dyn Sink>; 1],
    header: Header,
    /// Number of sectors written or placed so far.
    position: u64,
    /// Sector numbers of the grain tables.
    directory: Vec<u32>,
    /// Index of the current grain table.
    index: u64,
    /// Entries of the current grain table.
    entries: Vec<u32>,
}

impl StreamTarget {
    /// Starts an image by writing header and descriptor.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the disk is too large, [`Io`](crate::ErrorKind::Io)
    /// if writing fails.
    pub(super) fn start(sink: Arc<dyn Sink>, descriptor: NewDescriptor) -> Result<Self> {
        let header = Header {
            version: 3,
            flags: Flags::NEWLINE_TEST | Flags::COMPRESSED | Flags::MARKERS,
            capacity: descriptor.sectors(),
            grain_sectors: GRAIN_SECTORS,
            descriptor_offset: DESCRIPTOR_OFFSET,
            descriptor_sectors: DESCRIPTOR_SECTORS,
            gtes: GTES,
            rgd_offset: 0,
            gd_offset: GD_AT_END,
            over_head: OVER_HEAD,
            unclean: false,
            compressed: true,
        };
        require_readable(&header)?;
        let mut front = header.encode().to_vec();
        front.extend(descriptor.embedded(0));
        front.resize(to_usize(OVER_HEAD * SECTOR), 0);
        let mut target = Self {
            files: [sink],
            directory: vec![0; to_usize(header.tables())],
            header,
            position: 0,
            index: 0,
            entries: vec![0; to_index(GTES)],
        };
        target.append(&front, "the header")?;
        Ok(target)
    }

    /// Appends `bytes`, whole sectors, to the file.
    fn append(&mut self, bytes: &[u8], what: &'static str) -> Result<()> {
        debug_assert!(bytes.len().is_multiple_of(to_usize(SECTOR)));
        let at = self.position * SECTOR;
        self.files[0].write_all_at(bytes, at).map_err(|e| cannot_write(e, what, at))?;
        self.position += to_u64(bytes.len()) / SECTOR;
        Ok(())
    }

    /// Appends a marker and the entries of a table, and returns the sector of the entries.
    fn append_entries(&mut self, entries: &[u32], kind: u32, what: &'static str) -> Result<u64> {
        let sectors = (to_u64(entries.len()) * 4).div_ceil(SECTOR);
        let mut bytes = MetaDataMarker::sector(kind, sectors).to_vec();
        bytes.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
        bytes.resize(to_usize((1 + sectors) * SECTOR), 0);
        self.append(&bytes, what)?;
        Ok(self.position - sectors)
    }

    /// Writes the current grain table unless it is empty, and starts table `index`.
    fn switch_table(&mut self, index: u64) -> Result<()> {
        if self.entries.iter().any(|&entry| entry != 0) {
            let entries = std::mem::replace(&mut self.entries, vec![0; to_index(GTES)]);
            let sector = self.append_entries(&entries, MARKER_GT, "a grain table")?;
            self.directory[to_usize(self.index)] = table_entry(sector)?;
        }
        self.index = index;
        Ok(())
    }

    /// Allocates `len` bytes for the encoded grain at guest offset `at`.
    fn append_grain(&mut self, at: u64, len: u64) -> Result<Slot> {
        if len == 0 || !len.is_multiple_of(SECTOR) {
            return Err(Error::invalid(format!(
                "a grain of {len} bytes; expected a multiple of {SECTOR}"
            )));
        }
        let grain = at / self.header.grain_bytes();
        let index = grain / u64::from(GTES);
        if index != self.index {
            self.switch_table(index)?;
        }
        let offset = self.position * SECTOR;
        self.entries[to_usize(grain % u64::from(GTES))] = table_entry(self.position)?;
        self.position += len / SECTOR;
        Ok(Slot { file: 0, offset, len, is_zeroed: false })
    }
}

impl Target for StreamTarget {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { .. } => Ok(None),
            Allocate::Compressed { len } => self.append_grain(at, len).map(Some),
            Allocate::Backed { .. } => {
                Err(Error::invalid("streamOptimized images have no backing file"))
            }
            Allocate::Data { .. } => {
                Err(Error::invalid("streamOptimized stores compressed grains only"))
            }
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.switch_table(self.index)?;
        let directory = std::mem::take(&mut self.directory);
        let gd_offset = self.append_entries(&directory, MARKER_GD, "the grain directory")?;
        let footer = Header { gd_offset, ..self.header.clone() };
        let mut tail = MetaDataMarker::sector(MARKER_FOOTER, 1).to_vec();
        tail.extend(footer.encode());
        tail.extend(MetaDataMarker::sector(MARKER_EOS, 0));
        self.append(&tail, "the footer")?;
        let len = self.position * SECTOR;
        let [file] = &self.files;
        file.set_len(len).map_err(|e| Error::io(format!("cannot set the length to {len}"), e))?;
        if file.has_fixed_len() {
            let header = footer.encode();
            file.write_all_at(&header, 0).map_err(|e| cannot_write(e, "the header", 0))?;
        }
        Ok(())
    }
}

/// Converts a sector number to a table entry of 32 bits.
fn table_entry(sector: u64) -> Result<u32> {
    u32::try_from(sector).map_err(|_| {
        Error::limit("the file would exceed 2 TiB, the maximum that grain tables can address")
    })
}

/// Compresses grains, and adds marker and padding.
#[derive(Debug)]
pub(super) struct GrainEncoder {
    zlib: Encoder,
    /// Whether compressed grains of other images are copied as they are: no level was given.
    passes: bool,
}

impl GrainEncoder {
    /// Creates an encoder; `level` is the compression level, if it was given.
    pub(super) fn new(level: Option<u32>) -> Self {
        Self { zlib: Encoder::zlib().at_level(level), passes: level.is_none() }
    }
}

impl UnitEncoder for GrainEncoder {
    fn encode(&mut self, at: u64, unit: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let limit = max_compressed(unit.len());
        append_framed(at, out, |out| match self.zlib.encode(unit, limit, out) {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(Error::limit(format!("a grain that compresses to {limit} bytes or more")))
            }
            Err(e) => Err(Error::io("cannot compress a grain", e)),
        })?;
        Ok(true)
    }

    fn passes(&self, unit: &Encoded) -> bool {
        let size = to_usize(unit.unit.end - unit.unit.start);
        self.passes && unit.codec == Codec::Zlib && to_index(unit.stored) < max_compressed(size)
    }

    fn pass(
        &mut self,
        at: u64,
        len: usize,
        fill: &mut dyn FnMut(&mut [u8]) -> Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        append_framed(at, out, |out| append_filled(len, fill, out))
    }
}

/// Upper bound (exclusive) for the compressed size of a grain of `len` bytes. A stream cannot store
/// grains uncompressed, so incompressible data must fit: deflate's stored blocks add 5 bytes to
/// every few thousand, and the zlib format adds 6.
fn max_compressed(len: usize) -> usize {
    len + len / 64 + 1024
}

/// Appends the grain at guest offset `at`: its marker, the data that `append` appends, and padding
/// to whole sectors.
fn append_framed(
    at: u64,
    out: &mut Vec<u8>,
    append: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let start = out.len();
    let marker = GrainMarker { lba: (at / SECTOR).into(), size: 0.into() };
    out.extend_from_slice(marker.as_bytes());
    let data = out.len();
    append(out).inspect_err(|_| out.truncate(start))?;
    let size = to_u32(out.len() - data);
    out[data - size_of_val(&marker.size)..data].copy_from_slice(&size.to_le_bytes());
    let padded = (out.len() - start).next_multiple_of(to_usize(SECTOR));
    out.resize(start + padded, 0);
    Ok(())
}
