//! The bits of dirty bitmaps that are stored in clusters.
//!
//! ```text
//!   table          entry 0      entry 1 …            an entry for each cluster of bits:
//!                     │                              0 all clear, 1 all set, or a host offset
//!                     ▼
//!   cluster        byte 0       byte 1 …             the first bit of a byte is the least significant
//!                     │
//!                     ▼
//!   guest bytes    `granularity` bytes per bit
//! ```

use crate::error::{Error, Result};
use crate::model::bitmap::Bits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::Arc;

/// Length in bytes of the part of a cluster that is read at a time.
const PART: u64 = 64 << 10;

/// The entry of a cluster whose bits are all clear.
pub(crate) const CLEAR: u64 = 0;

/// The entry of a cluster whose bits are all set.
pub(crate) const SET: u64 = 1;

/// The bits of a stored bitmap.
#[derive(Debug)]
pub(crate) struct StoredBits {
    pub(crate) file: Arc<dyn Source>,
    /// [`CLEAR`], [`SET`] or a host offset for each cluster of bits.
    pub(crate) table: Vec<u64>,
    /// Guest bytes for each bit.
    pub(crate) granularity: u64,
    pub(crate) disk_size: u64,
    pub(crate) cluster_size: u64,
}

impl StoredBits {
    /// Verifies that all entries refer to clusters of the file, and no two to the same one: such a
    /// bitmap would have more bits than are stored. Errors are those of `structure`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if not.
    pub(crate) fn require_separate(&self, structure: &'static str) -> Result<()> {
        let is_stored = |entry: &u64| ![CLEAR, SET].contains(entry);
        let mut offsets: Vec<_> = self.table.iter().copied().filter(is_stored).collect();
        offsets.sort_unstable();
        if let Some(pair) = offsets.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("two entries refer to the same cluster {:#x}", pair[0]);
            return Err(Error::corrupt(structure, message));
        }
        if let Some(&last) = offsets.last().filter(|&&last| last >= self.file.len()) {
            let message = format!("the cluster {last:#x} is beyond the end of the file");
            return Err(Error::corrupt(structure, message));
        }
        Ok(())
    }

    /// Adds to `run` those bits of a range that are set in the cluster at a host offset, whose
    /// first bit has the number `base`.
    fn scan(&self, offset: u64, base: u64, bits: Range<u64>, run: &mut Run<'_>) -> Result<()> {
        let end = (bits.end - base).div_ceil(8);
        let mut buffer = Vec::new();
        let mut at = (bits.start - base) / 8;
        while at < end {
            let len = (end - at).min(PART);
            buffer.clear();
            buffer.resize(to_usize(len), 0);
            // The file may end within its last cluster.
            let stored = self.file.len().saturating_sub(offset + at).min(len);
            if stored > 0 {
                let part = &mut buffer[..to_usize(stored)];
                self.file.read_exact_at(part, offset + at).map_err(|e| {
                    Error::io("cannot read", e).in_structure("bitmap").at(offset + at)
                })?;
            }
            for (index, bytes) in buffer.chunks(8).enumerate() {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                let first = base + (at + to_u64(index) * 8) * 8;
                run.add_word(first, u64::from_le_bytes(word), &bits);
            }
            at += len;
        }
        Ok(())
    }
}

impl Bits for StoredBits {
    fn for_each_dirty(&self, range: Range<u64>, each: &mut dyn FnMut(Range<u64>)) -> Result<()> {
        let per_cluster = self.cluster_size * 8;
        let bits = self.disk_size.div_ceil(self.granularity);
        let mut at = range.start / self.granularity;
        let end = range.end.div_ceil(self.granularity).min(bits);
        let mut run = Run { bits: 0..0, granularity: self.granularity, guest: range, each };
        while at < end {
            let index = at / per_cluster;
            let part = at..end.min((index + 1) * per_cluster);
            at = part.end;
            let entry = self.table.get(to_usize(index)).copied().unwrap_or(0);
            match entry {
                CLEAR => {}
                SET => run.add(part),
                offset => self.scan(offset, index * per_cluster, part, &mut run)?,
            }
        }
        run.end();
        Ok(())
    }

    fn table_bytes(&self) -> u64 {
        to_u64(self.table.len()) * 8
    }
}

/// Joins bits that are set to guest ranges.
struct Run<'a> {
    /// Bits that are set and were not passed on yet.
    bits: Range<u64>,
    granularity: u64,
    /// The range that was asked for.
    guest: Range<u64>,
    each: &'a mut dyn FnMut(Range<u64>),
}

impl Run<'_> {
    fn add(&mut self, bits: Range<u64>) {
        if self.bits.end == bits.start {
            self.bits.end = bits.end;
        } else {
            self.end();
            self.bits = bits;
        }
    }

    /// Adds the bits of a word within `bits`. The first bit of the word has the number `first`.
    fn add_word(&mut self, first: u64, mut word: u64, bits: &Range<u64>) {
        let before = bits.start.saturating_sub(first);
        let count = bits.end.saturating_sub(first).min(64);
        if before >= count {
            return;
        }
        word &= mask(before..count);
        while word != 0 {
            let start = u64::from(word.trailing_zeros());
            let end = start + u64::from((word >> start).trailing_ones());
            self.add(first + start..first + end);
            word &= !mask(start..end);
        }
    }

    /// Passes on what was added.
    fn end(&mut self) {
        let bits = std::mem::take(&mut self.bits);
        let start = (bits.start * self.granularity).max(self.guest.start);
        let end = bits.end.saturating_mul(self.granularity).min(self.guest.end);
        if start < end {
            (self.each)(start..end);
        }
    }
}

/// Returns a word in which a range of bits, at least one, is set.
fn mask(bits: Range<u64>) -> u64 {
    (u64::MAX >> (64 - (bits.end - bits.start))) << bits.start
}
