//! Mapping guest ranges to grains, by their tables or by their markers.

use super::{GTE_ZEROED, GrainMarker, SparseExtent, is_zlib_header, max_compressed};
use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::formats::vmdk::scan::Scan;
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::storage::codec::Codec;
use crate::storage::number::{to_u32, to_usize};
use std::ops::Range;
use std::sync::Arc;

impl SparseExtent {
    /// Appends the extents that cover `range`, which is relative to this VMDK extent. The VMDK
    /// extent starts at offset `base` of the disk and is stored in the layer's file number `file`.
    ///
    /// # Errors
    /// As [`Layer::map`](crate::Layer::map).
    pub(in crate::formats::vmdk) fn map(
        &self,
        range: Range<u64>,
        base: u64,
        file: usize,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let cover = self.header.table_cover();
        let mut at = range.start;
        while at < range.end {
            let index = at / cover;
            let end = ((index + 1) * cover).min(range.end);
            let table = match self.directory_entry(index) {
                Ok(0) => Ok(None),
                Ok(sector) => self.table(index, sector).map(Some),
                Err(error) => Err(error),
            };
            match (table, &self.scan) {
                (table, Some(scan)) => {
                    self.map_scanned(scan, &table, at..end, base, file, out)?;
                }
                (Ok(Some(table)), None) => self.map_table(&table, at..end, base, file, out)?,
                (Ok(None), None) => push(out, base + at..base + end, Kind::Unallocated),
                (Err(error), None) => {
                    let end = ((index + 1) * cover).min(self.size());
                    return Err(error.losing(base + index * cover..base + end));
                }
            }
            at = end;
        }
        Ok(())
    }

    /// As [`map_table`](Self::map_table), with the grains that were found by their markers instead
    /// of those that the table does not locate. `table` is `Ok(None)` if the directory has none.
    fn map_scanned(
        &self,
        scan: &Scan,
        table: &Result<Option<Arc<[u32]>>>,
        range: Range<u64>,
        base: u64,
        file: usize,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let grain_bytes = self.header.grain_bytes();
        let mut at = range.start;
        while at < range.end {
            let number = at / grain_bytes;
            let grain = number * grain_bytes..((number + 1) * grain_bytes).min(self.size());
            let entry = match table {
                Ok(Some(table)) => Some(table[to_usize(number) % table.len()]),
                Ok(None) => Some(0),
                Err(_) => None,
            };
            let listed = entry.filter(|&entry| entry != 0);
            let listed = listed.map(|entry| self.grain(entry, &grain, base, file));
            let found = || {
                let sector = scan.sector(number)?;
                self.grain(sector, &grain, base, file).ok()
            };
            let lost = |error: Error| error.losing(base + grain.start..base + grain.end);
            let kind = match (listed, entry) {
                (Some(Ok(kind)), _) => kind,
                (Some(Err(error)), _) => found().ok_or_else(|| lost(error))?,
                (None, Some(_)) => found().unwrap_or(Kind::Unallocated),
                (None, None) => match (found(), scan.lost_at(number)) {
                    (Some(kind), _) => kind,
                    (None, None) => Kind::Unallocated,
                    (None, Some(missing)) => {
                        let end = (missing.end * grain_bytes).min(self.size());
                        let message =
                            "its grains may be missing: the stream is damaged or cut short";
                        let error = Error::corrupt("stream", message);
                        return Err(error.losing(base + grain.start..base + end));
                    }
                },
            };
            let end = grain.end.min(range.end);
            push(out, base + at..base + end, kind.forward(at - grain.start));
            at = end;
        }
        Ok(())
    }

    fn map_table(
        &self,
        table: &[u32],
        range: Range<u64>,
        base: u64,
        file: usize,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let grain_bytes = self.header.grain_bytes();
        let mut at = range.start;
        while at < range.end {
            let start = at / grain_bytes * grain_bytes;
            let grain = start..(start + grain_bytes).min(self.size());
            let end = grain.end.min(range.end);
            let entry = table[to_usize(start / grain_bytes) % table.len()];
            let mut kind = self
                .grain(entry, &grain, base, file)
                .map_err(|e| e.losing(base + grain.start..base + grain.end))?
                .forward(at - start);
            if let Kind::Encoded(encoded) = &mut kind
                && encoded.least_stored == 0
            {
                limit_stored(encoded, entry, table);
            }
            push(out, base + at..base + end, kind);
            at = end;
        }
        Ok(())
    }

    /// Interprets the table entry of a grain. The last grain of the extent may be short.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the entry is 1 without zeroed grains being enabled
    /// or points beyond the end of the file, or if a compressed grain's marker or size is invalid.
    pub(in crate::formats::vmdk) fn grain(
        &self,
        entry: u32,
        grain: &Range<u64>,
        base: u64,
        file: usize,
    ) -> Result<Kind> {
        match entry {
            0 => return Ok(Kind::Unallocated),
            GTE_ZEROED if self.header.zeroed_grains() => return Ok(Kind::Zero(None)),
            _ => {}
        }
        let offset = u64::from(entry) * SECTOR;
        let corrupt = |message: String| {
            let message = format!("{message} (guest offset {:#x})", base + grain.start);
            Error::corrupt("grain", message).at(offset)
        };
        if u64::from(entry) < self.header.over_head.min(2) {
            return Err(corrupt(
                "its table entry is 1, but the header does not enable zeroed grains".into(),
            ));
        }
        if self.header.compressed {
            let mut head = [0; to_usize(GrainMarker::BYTES)];
            self.source.read_exact_at(&mut head, offset).map_err(|e| {
                Error::io("cannot read its first bytes", e).in_structure("grain").at(offset)
            })?;
            let (skip, stored) = self.compressed_grain(head, offset, grain).map_err(corrupt)?;
            return Ok(Kind::Encoded(Encoded {
                host: HostOffset { file, offset: offset + skip },
                stored,
                // Without a recorded size, `stored` is the maximum.
                least_stored: if skip > 0 { stored } else { 0 },
                unit: base + grain.start..base + grain.end,
                codec: Codec::Zlib,
            }));
        }
        if offset + (grain.end - grain.start) > self.source.len() {
            let end = self.source.len();
            return Err(corrupt(format!("it extends beyond the end of the file at {end:#x}"))
                .hint("the file is probably truncated"));
        }
        Ok(Kind::Data(HostOffset { file, offset }))
    }

    /// Returns the number of bytes before the zlib stream at `offset`, and the stream's length.
    /// `head` are the bytes at `offset`.
    fn compressed_grain(
        &self,
        head: [u8; to_usize(GrainMarker::BYTES)],
        offset: u64,
        grain: &Range<u64>,
    ) -> Result<(u64, u32), String> {
        let max = max_compressed(&self.header);
        let remaining = self.source.len().saturating_sub(offset);
        let bounded = |size: u32, skip: u64| {
            let size = u64::from(size);
            if size == 0 || size > max {
                return Err(format!("a compressed size of {size} bytes; expected 1 to {max}"));
            }
            if size > remaining.saturating_sub(skip) {
                return Err(format!(
                    "its {size} compressed bytes extend beyond the end of the file; the file is \
                     probably truncated"
                ));
            }
            Ok((skip, to_u32(size)))
        };
        if self.has_markers() {
            let marker: GrainMarker = zerocopy::transmute!(head);
            let (lba, expected) = (marker.lba.get(), grain.start / SECTOR);
            if lba != expected {
                return Err(format!(
                    "its marker says sector {lba}, but the grain starts at guest sector {expected}"
                ));
            }
            return bounded(marker.size.get(), GrainMarker::BYTES);
        }
        // The specification does not cover grains without markers. VMware's own tools write the
        // size before the data, QEMU expects the data alone. Decide by the position of the zlib
        // header. (With grains of 64 KiB, bytes 4 and 5 of bare data can look like one only if the
        // data starts with an empty block that is followed by a stored block.)
        let [a, b, c, d, e, f, ..] = head;
        let sized = bounded(u32::from_le_bytes([a, b, c, d]), 4);
        match (is_zlib_header(e, f), is_zlib_header(a, b)) {
            (true, _) if sized.is_ok() => sized,
            // The decoder stops at the end of the zlib stream.
            (_, true) => Ok((0, to_u32(max.min(remaining)))),
            _ => Err("expected a zlib stream".into()),
        }
    }
}

/// Limits the stored bytes of a grain without a recorded size to those before the next grain of its
/// table. It takes all of them, except the last grain; grains do not share stored bytes.
fn limit_stored(encoded: &mut Encoded, entry: u32, table: &[u32]) {
    let (mut next, mut same) = (None::<u32>, 0);
    for &other in table {
        same += usize::from(other == entry);
        if other > entry {
            next = Some(next.map_or(other, |next| next.min(other)));
        }
    }
    let sector = to_u32(SECTOR);
    encoded.least_stored = encoded.stored.min(sector);
    if let Some(next) = next {
        encoded.stored = encoded.stored.min((next - entry).saturating_mul(sector));
    }
    if next.is_some() || same > 1 {
        encoded.least_stored = encoded.stored;
    }
}
