//! The format extension: a cluster with features that older programs do not know.
//!
//! ```text
//!   0        8        24
//!   ┌────────┬────────┬─────────────────────────────────┬───┬────────────────┬─────────┐
//!   │ magic  │ MD5 of │ feature: magic, flags, length,  │ … │ end of the     │ padding │
//!   │        │ the    │ data, padding to 8 bytes        │   │ features:      │         │
//!   │        │ rest   │                                 │   │ magic 0        │         │
//!   └────────┴────────┴─────────────────────────────────┴───┴────────────────┴─────────┘
//! ```
//!
//! *Parallels Expandable Image File Format*, "Format Extension". None of the features changes what the
//! guest reads, so that an image with unknown ones can be read, but not always written.

use super::clusters::Clusters;
use super::{SECTOR, read};
use crate::error::{Error, Result};
use crate::formats::stored_bits::{CLEAR, SET, StoredBits};
use crate::model::bitmap::DirtyBitmap;
use crate::report::info;
use crate::storage::number::{to_index, to_u64, to_usize};
use crate::storage::source::Source;
use md5::{Digest, Md5};
use std::fmt;
use std::sync::Arc;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// How errors call the extension.
pub(super) const STRUCTURE: &str = "Parallels format extension";

const MAGIC: u64 = 0xab23_4cef_23dc_ea87;

/// The feature with which the list ends.
const END: u64 = 0;

/// The feature of a dirty bitmap.
const DIRTY_BITMAP: u64 = 0x2038_5fae_252c_b34a;

/// In the flags of a feature: a program that does not know it must not write to the image.
const NECESSARY: u64 = 1;

/// In the flags of a feature: a program that does not know it keeps it.
const TRANSIT: u64 = 2;

/// Maximum number of features of an image. QEMU and Virtuozzo store one for each bitmap.
const MAX_FEATURES: usize = 1024;

/// Bytes that are read together to compute a digest.
const CHUNK: u64 = 1 << 20;

/// The start of the extension on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawStart {
    magic: U64,
    digest: [u8; 16],
}

/// The start of a feature on disk.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFeature {
    magic: U64,
    flags: U64,
    len: U32,
    unused: U32,
}

/// The start of a dirty bitmap on disk. Its L1 table follows.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawBitmap {
    sectors: U64,
    id: [u8; 16],
    granularity: U32,
    l1_entries: U32,
}

/// A format extension, whose digest is not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extension {
    at: u64,
    /// Length in bytes: a cluster.
    len: u64,
    digest: [u8; 16],
    pub(super) bitmaps: Vec<Bitmap>,
    /// Features that this library does not know.
    pub(super) unknown: Vec<Unknown>,
}

/// A feature that this library does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unknown {
    magic: u64,
    flags: u64,
}

impl Unknown {
    /// Returns true if the image must not be written by programs that do not know the feature.
    pub(super) fn is_necessary(self) -> bool {
        self.flags & NECESSARY != 0
    }

    /// Returns true if the feature must be kept.
    pub(super) fn is_kept(self) -> bool {
        self.flags & (NECESSARY | TRANSIT) != 0
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.magic)
    }
}

/// A dirty bitmap: which parts of the disk changed since a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bitmap {
    /// Size of the disk when the bitmap was stored, in sectors.
    sectors: u64,
    id: [u8; 16],
    /// Sectors for each bit.
    granularity: u32,
    /// Host offset of the L1 table.
    l1_at: u64,
    l1_entries: u32,
}

impl Bitmap {
    /// Returns the bytes of the disk for each bit.
    pub(super) fn granularity_bytes(&self) -> u64 {
        u64::from(self.granularity) * SECTOR
    }

    /// Returns what is known of the bitmap.
    pub(super) fn info(&self) -> info::Bitmap {
        info::Bitmap {
            name: self.name(),
            granularity: self.granularity_bytes(),
            ..info::Bitmap::default()
        }
    }

    /// Opens the bitmap for reading. Its L1 table may have `max_bytes`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it does not describe the disk, or its clusters are
    /// not in the file, [`Limit`](crate::ErrorKind::Limit) if the table is too long,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn open(&self, clusters: &Clusters, max_bytes: u64) -> Result<DirtyBitmap> {
        let (disk_size, cluster_size) = (clusters.size(), clusters.header.cluster_bytes);
        let corrupt = |message: String| {
            let message = format!("the bitmap {} {message}", self.name());
            Err(corrupt(message, self.l1_at))
        };
        if self.sectors != disk_size / SECTOR {
            return corrupt(format!("has {} sectors, unlike the disk", self.sectors));
        }
        if !self.granularity.is_power_of_two() {
            return corrupt(format!("has {} sectors for each bit", self.granularity));
        }
        let bytes = disk_size.div_ceil(self.granularity_bytes()).div_ceil(8);
        if u64::from(self.l1_entries) != bytes.div_ceil(cluster_size) {
            return corrupt(format!("has {} L1 entries", self.l1_entries));
        }
        let len = u64::from(self.l1_entries) * 8;
        if len > max_bytes {
            let found = format!("an L1 table of {len} bytes");
            return Err(Error::over_limit("table_bytes", found, max_bytes).at(self.l1_at));
        }
        let file = Arc::clone(&clusters.source);
        let table = self.l1(&*file)?.into_iter().map(|entry| match entry {
            CLEAR | SET => entry,
            sector => sector.saturating_mul(SECTOR),
        });
        let (table, granularity) = (table.collect(), self.granularity_bytes());
        let bits = StoredBits { file, table, granularity, disk_size, cluster_size };
        bits.require_separate(STRUCTURE).map_err(|e| e.at(self.l1_at))?;
        Ok(DirtyBitmap::new(self.info(), disk_size, Arc::new(bits)))
    }

    /// Reads the L1 table. The caller must bound its length.
    fn l1(&self, source: &dyn Source) -> Result<Vec<u64>> {
        let mut entries = vec![U64::ZERO; to_index(self.l1_entries)];
        read(source, entries.as_mut_bytes(), self.l1_at, STRUCTURE)?;
        Ok(entries.into_iter().map(U64::get).collect())
    }

    /// Returns the ID as QEMU writes it: a UUID.
    pub(super) fn name(&self) -> String {
        let mut name = String::new();
        for (index, byte) in self.id.iter().enumerate() {
            name += if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            name += &format!("{byte:02x}");
        }
        name
    }
}

fn corrupt(message: impl Into<std::borrow::Cow<'static, str>>, at: u64) -> Error {
    Error::corrupt(STRUCTURE, message).at(at)
}

impl Extension {
    /// Reads the extension of an image, if it has one.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not valid,
    /// [`Limit`](crate::ErrorKind::Limit) if it has too many features,
    /// [`Io`](crate::ErrorKind::Io) if it cannot be read.
    pub(super) fn of(clusters: &Clusters) -> Result<Option<Self>> {
        let Some(at) = clusters.header.extension_at else { return Ok(None) };
        let (source, len) = (&*clusters.source, clusters.header.cluster_bytes);
        let Some(end) = at.checked_add(len).filter(|&end| end <= source.len()) else {
            return Err(corrupt("it extends beyond the end of the file", at));
        };
        let mut start = RawStart::new_zeroed();
        read(source, start.as_mut_bytes(), at, STRUCTURE)?;
        if start.magic.get() != MAGIC {
            return Err(corrupt(format!("the magic is {:#018x}", start.magic), at));
        }
        let digest = start.digest;
        let mut extension = Self { at, len, digest, bitmaps: Vec::new(), unknown: Vec::new() };
        let mut next = at + to_u64(size_of::<RawStart>());
        for _ in 0..MAX_FEATURES {
            match extension.read_feature(source, next, end)? {
                Some(after) => next = after,
                None => return Ok(Some(extension)),
            }
        }
        Err(Error::limit(format!("more than {MAX_FEATURES} features"))
            .in_structure(STRUCTURE)
            .at(at))
    }

    /// Reads the feature at host offset `at`, in an extension that ends at `end`. Returns where the
    /// next one is.
    fn read_feature(&mut self, source: &dyn Source, at: u64, end: u64) -> Result<Option<u64>> {
        let data_at = at.saturating_add(to_u64(size_of::<RawFeature>()));
        if data_at > end {
            return Err(corrupt("the list of features does not end", at));
        }
        let mut raw = RawFeature::new_zeroed();
        read(source, raw.as_mut_bytes(), at, STRUCTURE)?;
        let (magic, flags, len) = (raw.magic.get(), raw.flags.get(), u64::from(raw.len.get()));
        if data_at + len > end {
            return Err(corrupt(format!("a feature of {len} bytes extends beyond it"), at));
        }
        match magic {
            END => return Ok(None),
            DIRTY_BITMAP => self.bitmaps.push(read_bitmap(source, data_at, len)?),
            magic => self.unknown.push(Unknown { magic, flags }),
        }
        Ok(Some(data_at + len.next_multiple_of(8)))
    }

    /// Returns the first unknown feature that must not be lost, so that the image is not written.
    pub(super) fn needed(&self) -> Option<Unknown> {
        self.unknown.iter().copied().find(|feature| feature.is_kept())
    }

    /// Verifies the digest, and that the clusters of the bitmaps are in the file. Calls `report` with
    /// what is wrong. Returns the end of the last cluster that the extension uses.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read.
    pub(super) fn check(&self, clusters: &Clusters, report: &mut dyn FnMut(String)) -> Result<u64> {
        if !self.is_intact(&*clusters.source)? {
            report("the digest of the format extension is wrong".to_owned());
        }
        let mut used = self.at + self.len;
        for bitmap in &self.bitmaps {
            let name = bitmap.name();
            let disk = clusters.size() / SECTOR;
            if bitmap.sectors != disk {
                let sectors = bitmap.sectors;
                report(format!("bitmap {name} has {sectors} sectors, but the disk has {disk}"));
            }
            if !bitmap.granularity.is_power_of_two() {
                let sectors = bitmap.granularity;
                report(format!("bitmap {name}: {sectors} sectors for each bit, no power of two"));
                continue;
            }
            let bits = bitmap.sectors.div_ceil(u64::from(bitmap.granularity));
            let needed = bits.div_ceil(8).div_ceil(self.len);
            if u64::from(bitmap.l1_entries) != needed {
                let entries = bitmap.l1_entries;
                report(format!("bitmap {name} has {entries} L1 entries, but needs {needed}"));
            }
            used = used.max(self.check_l1(clusters, bitmap, report)?);
        }
        Ok(used)
    }

    /// Checks where the clusters of a bitmap are. Returns the end of the last one.
    fn check_l1(
        &self,
        clusters: &Clusters,
        bitmap: &Bitmap,
        report: &mut dyn FnMut(String),
    ) -> Result<u64> {
        let (mut used, source) = (0, &*clusters.source);
        // The table is within the extension, which may have almost 2 GiB.
        let mut left = u64::from(bitmap.l1_entries);
        let mut at = bitmap.l1_at;
        while left > 0 {
            let count = left.min(CHUNK / 8);
            let mut entries = vec![U64::ZERO; to_usize(count)];
            read(source, entries.as_mut_bytes(), at, STRUCTURE)?;
            for start in entries.iter().filter_map(|entry| cluster_of_bitmap(entry.get())) {
                let end = start.saturating_add(self.len);
                if end > source.len() || start < clusters.header.table_end() {
                    let name = bitmap.name();
                    report(format!("bitmap {name}: the cluster at {start:#x} is not in the file"));
                } else {
                    used = used.max(end);
                }
            }
            (left, at) = (left - count, at + count * 8);
        }
        Ok(used)
    }

    /// Returns where the clusters start that the extension uses, its own and those of its bitmaps.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if there are more than `max`,
    /// [`Io`](crate::ErrorKind::Io) if they cannot be read.
    pub(super) fn clusters(&self, clusters: &Clusters, max: u64) -> Result<Vec<u64>> {
        let mut starts = vec![self.at];
        for bitmap in &self.bitmaps {
            if to_u64(starts.len()) + u64::from(bitmap.l1_entries) > max {
                return Err(Error::limit("the bitmaps have too many clusters")
                    .in_structure(STRUCTURE)
                    .at(bitmap.l1_at));
            }
            starts.extend(bitmap.l1(&*clusters.source)?.into_iter().filter_map(cluster_of_bitmap));
        }
        Ok(starts)
    }

    /// Returns true if the digest is that of the extension.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be read.
    fn is_intact(&self, source: &dyn Source) -> Result<bool> {
        Ok(self.computed_digest(source)? == self.digest)
    }

    /// Verifies the digest.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is wrong, [`Io`](crate::ErrorKind::Io) if the
    /// file cannot be read.
    pub(super) fn require_intact(&self, source: &dyn Source) -> Result<()> {
        match self.is_intact(source)? {
            true => Ok(()),
            false => Err(corrupt("the digest is wrong", self.at)),
        }
    }

    fn computed_digest(&self, source: &dyn Source) -> Result<[u8; 16]> {
        let mut digest = Md5::new();
        let (mut at, end) = (self.at + to_u64(size_of::<RawStart>()), self.at + self.len);
        let mut buf = vec![0; to_usize(CHUNK.min(self.len))];
        while at < end {
            let part = &mut buf[..to_usize(CHUNK.min(end - at))];
            read(source, part, at, STRUCTURE)?;
            digest.update(&*part);
            at += to_u64(part.len());
        }
        Ok(digest.finalize().into())
    }
}

/// Returns the host offset of the cluster of an L1 entry of a bitmap. 0 stands for bits that are
/// not set, and 1 for bits that are set.
fn cluster_of_bitmap(entry: u64) -> Option<u64> {
    (![CLEAR, SET].contains(&entry)).then(|| entry.saturating_mul(SECTOR))
}

fn read_bitmap(source: &dyn Source, at: u64, len: u64) -> Result<Bitmap> {
    let start_len = to_u64(size_of::<RawBitmap>());
    if len < start_len {
        return Err(corrupt(format!("a dirty bitmap of {len} bytes"), at));
    }
    let mut raw = RawBitmap::new_zeroed();
    read(source, raw.as_mut_bytes(), at, STRUCTURE)?;
    let l1_entries = raw.l1_entries.get();
    if start_len + u64::from(l1_entries) * 8 > len {
        let message = format!("the L1 table of {l1_entries} entries extends beyond its bitmap");
        return Err(corrupt(message, at));
    }
    Ok(Bitmap {
        sectors: raw.sectors.get(),
        id: raw.id,
        granularity: raw.granularity.get(),
        l1_at: at + start_len,
        l1_entries,
    })
}
