//! Reading qcow2: guest offset → L1 → L2 → host offset.

use super::bitmaps::Bitmap;
use super::check;
use super::header::{Autoclear, Compatible, Header, Incompatible};
use super::node;
use super::snapshot::Snapshots;
use super::tables::{
    COMPRESSED, COPIED, Cluster, L2Layout, OFFSET_MASK, SUBCLUSTERS, Subclusters, TableReader,
    ZERO, read_words,
};
use crate::error::{Error, Result};
use crate::formats::distinct::SharedTables;
use crate::model::bitmap::DirtyBitmap;
use crate::model::extent::{Encoded, Extent, HostOffset, Kind, push};
use crate::model::format::Format;
use crate::model::layer::{
    DiskLayout, Layer, ParentLocator, ParentReference, entries_for, next_allocated_in_table,
};
use crate::model::options::Options;
use crate::model::sealed::Sealed;
use crate::open::OpenContext;
use crate::open::limits::Limits;
use crate::report::check::{CheckReport, Finding};
use crate::report::info::{self, Details};
use crate::storage::number::{to_u32, to_u64, to_usize};
use crate::storage::source::Source;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// A qcow2 image opened for reading.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    /// The image file, followed by the external data file if it is open.
    files: Vec<Arc<dyn Source>>,
    pub(super) header: Header,
    pub(super) layout: L2Layout,
    /// Size in bytes of the active disk or of the selected snapshot.
    size: u64,
    /// L1 table of the active disk or of the selected snapshot.
    pub(super) l1: Vec<u64>,
    l2: TableReader,
    /// The L2 tables that several entries of `l1` point to; found when guest data is first mapped.
    shared_l2: OnceLock<SharedTables>,
    /// The snapshot table, or the error from reading it.
    pub(super) snapshots: Result<Snapshots>,
    /// The bitmaps, or the error from reading their directory.
    pub(super) bitmaps: Result<Vec<Bitmap>>,
    parent: Option<ParentReference>,
    /// Limits for a later check.
    pub(super) limits: Limits,
}

impl Qcow2 {
    /// Opens an image: reads its header, L1 table, snapshot table and bitmap directory.
    ///
    /// # Errors
    /// As [`Header::read`] and [`Snapshots::read`],
    /// [`Invalid`](crate::ErrorKind::Invalid) if the selected snapshot does not exist, and
    /// [`Refused`](crate::ErrorKind::Refused) if the policy forbids the external data file.
    pub(super) fn open(file: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let limits = context.limits;
        let header = Header::read(&*file, limits, context.tolerates_damage())?;
        node::check(&header, context)?;
        let snapshots = Snapshots::read(&*file, &header, limits);
        #[cfg(not(feature = "zstd"))]
        if header.codec == crate::storage::codec::Codec::Zstd && !context.metadata_only {
            return Err(Error::unsupported(
                "the image has clusters compressed with Zstandard, which this build does not \
                 include (cargo feature zstd)",
            ));
        }
        let snapshots = match snapshots {
            // A check reports a damaged table later; an exceeded limit is an error at once, unless it
            // is repaired.
            Err(error)
                if !context.metadata_only || error.exceeded().is_some() && !context.repairing =>
            {
                return Err(error);
            }
            outcome => outcome,
        };
        let (l1, size) = match (context.snapshot, &snapshots) {
            (Some(wanted), Ok(snapshots)) => {
                let snapshot = snapshots.select(wanted)?;
                let (l1, size) = (snapshot.l1, snapshot.disk_size);
                header.validate_l1("snapshot's L1 table", l1, size, file.len(), limits)?;
                (l1, size)
            }
            _ => (header.l1, header.size),
        };
        let bitmaps = match header.extensions.bitmaps {
            Some(directory) if header.autoclear.contains(Autoclear::BITMAPS) => {
                Bitmap::read_directory(&*file, directory, header.cluster_size())
            }
            _ => Ok(Vec::new()),
        };
        let parent = header.backing.clone().map(|name| ParentReference {
            name,
            locator: ParentLocator::ByName,
            format: header.extensions.backing_format.clone(),
        });
        let l1 = read_words(&*file, "L1 table", l1.offset, l1.entries)?;
        let mut files = vec![file];
        if header.external_data() && !context.metadata_only {
            files.push(node::open_data_file(&header, context)?);
        }
        Ok(Self {
            files,
            layout: L2Layout {
                cluster_bits: header.cluster_bits,
                extended: header.extended_l2(),
                data_file: header.external_data(),
            },
            size,
            l1,
            l2: TableReader::new(header.cluster_size()),
            shared_l2: OnceLock::new(),
            snapshots,
            bitmaps,
            parent,
            limits: limits.clone(),
            header,
        })
    }

    /// Returns the same image with a disk of `size` bytes, which the L1 table must cover, without
    /// its snapshots and bitmaps.
    pub(super) fn with_size(&self, size: u64) -> Self {
        Self {
            files: self.files.clone(),
            header: self.header.clone(),
            layout: self.layout,
            size,
            l1: self.l1.clone(),
            l2: TableReader::new(self.layout.cluster_size()),
            shared_l2: OnceLock::new(),
            snapshots: Ok(Snapshots::default()),
            bitmaps: Ok(Vec::new()),
            parent: self.parent.clone(),
            limits: self.limits.clone(),
        }
    }

    /// Returns the image file.
    pub(super) fn file(&self) -> &dyn Source {
        &*self.files[0]
    }

    /// Verifies that the active L1 table is within the file, which it need not be in an image that
    /// was opened for its metadata.
    ///
    /// # Errors
    /// As [`Header::require_in_file`].
    pub(super) fn require_l1(&self) -> Result<()> {
        self.header.require_in_file("active L1 table", self.header.l1, self.file().len())
    }

    /// Verifies that the refcount table is within the file.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if it is not.
    pub(super) fn require_refcounts(&self) -> Result<()> {
        let (table, len) = (self.header.refcount_table, self.file().len());
        self.header.require_in_file("refcount table", table, len)
    }

    /// Verifies that guest bytes can be read.
    ///
    /// # Errors
    /// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the image is encrypted, and
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it has no L1 table.
    fn require_readable(&self) -> Result<()> {
        self.require_l1().map_err(|e| e.losing(0..self.size))?;
        if let Some(encryption) = self.header.encryption {
            return Err(Error::unsupported(format!(
                "the image is encrypted ({}); decryption is not supported",
                encryption.name()
            ))
            .hint("decrypt it with `qemu-img convert` first"));
        }
        if self.header.external_data() && self.files.len() < 2 {
            return Err(Error::invalid("the external data file was not opened (metadata only)"));
        }
        Ok(())
    }

    /// Verifies that only L1 entry `l1_index` points to the L2 table at host offset `table`.
    ///
    /// # Errors
    /// Returns [`Corrupt`](crate::ErrorKind::Corrupt) if another one does.
    fn require_own_l2(&self, table: u64, l1_index: u64) -> Result<()> {
        let shared = self.shared_l2.get_or_init(|| {
            let tables = self.l1.iter().map(|entry| entry & OFFSET_MASK);
            let tables = tables.map(|offset| (offset != 0).then_some(offset));
            SharedTables::find(tables, self.layout.cluster_size())
        });
        if !shared.contains(table) {
            return Ok(());
        }
        Err(shared.error("L1 table", "L2 table").losing(self.range_of_table(l1_index)))
    }

    /// Returns the guest range that L1 entry `l1_index` describes.
    fn range_of_table(&self, l1_index: u64) -> Range<u64> {
        let start = l1_index << self.layout.l1_shift();
        start..start.saturating_add(self.layout.guest_bytes_per_table()).min(self.size)
    }

    /// Maps a guest range that the L2 table at host offset `table` describes.
    fn map_table(&self, table: u64, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        let file = self.file();
        if !table.is_multiple_of(self.layout.cluster_size()) || table >= file.len() {
            let l1_index = range.start >> self.layout.l1_shift();
            let what = if table >= file.len() {
                "beyond the end of the file"
            } else {
                "to an offset that is not aligned to a cluster"
            };
            return Err(Error::corrupt("L2 table", format!("L1 entry {l1_index} points {what}"))
                .at(table)
                .losing(self.range_of_table(l1_index)));
        }
        let entry_bytes = self.layout.entry_bytes();
        let mut at = range.start;
        while at < range.end {
            let index = (at >> self.layout.cluster_bits) & (self.layout.entries() - 1);
            let entry_offset = table + index * entry_bytes;
            let first = at >> self.layout.cluster_bits;
            let chunk = self.l2.chunk(file, "L2 table", entry_offset).map_err(|e| {
                let entries = (self.l2.end_of_chunk(entry_offset) - entry_offset) / entry_bytes;
                e.losing(self.range_of_clusters(first, entries))
            })?;
            let words = &chunk.words[to_usize((entry_offset - chunk.start) / 8)..];
            let entries = to_u64(words.len()) * 8 / entry_bytes;
            let end = range.end.min((first + entries) << self.layout.cluster_bits);
            self.map_entries(words, entry_offset, at..end, out)?;
            at = end;
        }
        Ok(())
    }

    /// Maps a guest range by its L2 entries. `words` starts with the entry for the start of the
    /// range, which is at host offset `entries_offset`.
    fn map_entries(
        &self,
        words: &[u64],
        entries_offset: u64,
        range: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let bits = self.layout.cluster_bits;
        let first = range.start >> bits;
        let entry_words = to_usize(self.layout.entry_bytes()) / 8;
        let mut at = range.start;
        while at < range.end {
            let index = to_usize((at >> bits) - first) * entry_words;
            let clusters = ((range.end - 1) >> bits) - (at >> bits) + 1;
            let entry = words[index];
            let bitmap = if self.layout.extended { words[index + 1] } else { 0 };
            let clusters_in_run = if self.layout.extended {
                1
            } else {
                self.run_length(&words[index..index + to_usize(clusters)])
            };
            let end = range.end.min(((at >> bits) + clusters_in_run) << bits);
            let run = ClusterRun { start: at >> bits << bits, guest: at..end };
            self.map_run(self.layout.decode(entry, bitmap), &run, out).map_err(|e| {
                e.in_structure("L2 table")
                    .at(entries_offset + to_u64(index) * 8)
                    .losing(self.range_of_clusters(at >> bits, clusters_in_run))
            })?;
            at = end;
        }
        Ok(())
    }

    /// Returns the guest range of `count` clusters from number `first` on.
    fn range_of_clusters(&self, first: u64, count: u64) -> Range<u64> {
        let start = first << self.layout.cluster_bits;
        let bytes = count.saturating_mul(self.layout.cluster_size());
        start..start.saturating_add(bytes).min(self.size)
    }

    /// Returns how many of the entries, including the first, describe one contiguous run.
    fn run_length(&self, entries: &[u64]) -> u64 {
        let first = entries[0];
        if first & COMPRESSED != 0 {
            return 1;
        }
        let offset = first & OFFSET_MASK;
        let has_host_cluster =
            offset != 0 || (self.layout.data_file && first & COPIED != 0 && first & ZERO == 0);
        let step = if has_host_cluster { self.layout.cluster_size() } else { 0 };
        // The expected offset must not overflow into the bits above it.
        let max_step = (OFFSET_MASK - offset) >> self.layout.cluster_bits;
        let max = entries.len().min(usize::try_from(max_step).unwrap_or(usize::MAX).max(1));
        let mut expected = first;
        to_u64(
            entries[..max]
                .iter()
                .take_while(|&&entry| {
                    let continues = entry == expected;
                    expected = expected.wrapping_add(step);
                    continues
                })
                .count()
                .max(1),
        )
    }

    fn map_run(&self, cluster: Cluster, run: &ClusterRun, out: &mut Vec<Extent>) -> Result<()> {
        let guest = run.guest.clone();
        match cluster {
            Cluster::Unallocated => push(out, guest, Kind::Unallocated),
            Cluster::Data { offset } => {
                self.push_data(run, self.host_cluster(offset, run)?, guest, out)?;
            }
            Cluster::Zero { .. } if self.header.version < 3 => {
                return Err(Error::corrupt(
                    "L2 table",
                    format!(
                        "guest offset {:#x} is a zero cluster, which version 2 does not have",
                        run.start
                    ),
                ));
            }
            Cluster::Zero { offset } => {
                let host = offset.map(|offset| self.host_cluster(offset, run)).transpose()?;
                push(
                    out,
                    guest,
                    Kind::Zero(host.map(|host| self.place(run, host, run.guest.start))),
                );
            }
            Cluster::Compressed { offset, len } => self.push_compressed(offset, len, run, out)?,
            Cluster::Subclusters(subclusters) => self.map_subclusters(subclusters, run, out)?,
        }
        Ok(())
    }

    fn map_subclusters(
        &self,
        subclusters: Subclusters,
        run: &ClusterRun,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        if !subclusters.is_valid() {
            return Err(Error::corrupt(
                "L2 table",
                format!(
                    "the subcluster bitmap of guest offset {:#x} is invalid \
                     (allocated {:#010x}, zero {:#010x})",
                    run.start, subclusters.allocated, subclusters.zero
                ),
            ));
        }
        let host = subclusters.offset.map(|offset| self.host_cluster(offset, run)).transpose()?;
        let bits = self.layout.cluster_bits - SUBCLUSTERS.trailing_zeros();
        let mut at = run.guest.start;
        while at < run.guest.end {
            let index = (at - run.start) >> bits;
            let end = run.guest.end.min(run.start + ((index + 1) << bits));
            let bit = 1u32 << index;
            match host {
                Some(host) if subclusters.allocated & bit != 0 => {
                    self.push_data(run, host, at..end, out)?;
                }
                _ if subclusters.zero & bit != 0 => {
                    push(out, at..end, Kind::Zero(host.map(|host| self.place(run, host, at))));
                }
                _ => push(out, at..end, Kind::Unallocated),
            }
            at = end;
        }
        Ok(())
    }

    /// Validates the host offset of a run of uncompressed clusters.
    fn host_cluster(&self, offset: u64, run: &ClusterRun) -> Result<u64> {
        if !offset.is_multiple_of(self.layout.cluster_size()) {
            return Err(Error::corrupt(
                "L2 table",
                format!(
                    "guest offset {:#x} maps to {offset:#x}, which is not aligned to a cluster",
                    run.start
                ),
            ));
        }
        if self.layout.data_file && offset != run.start {
            return Err(Error::corrupt(
                "L2 table",
                format!(
                    "guest offset {:#x} maps to {offset:#x} in the external data file, but must \
                     map to the same offset",
                    run.start
                ),
            ));
        }
        Ok(offset)
    }

    fn place(&self, run: &ClusterRun, host: u64, at: u64) -> HostOffset {
        HostOffset { file: self.files.len() - 1, offset: host + (at - run.start) }
    }

    /// Appends an extent of data. Writers need not fill the last cluster of the file; its rest
    /// reads as zeros. A cluster entirely beyond the end of the file is an error, because the file
    /// was truncated. (QEMU reads zeros there, so that an incomplete download looks complete.)
    fn push_data(
        &self,
        run: &ClusterRun,
        host: u64,
        guest: Range<u64>,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        let data = self.place(run, host, guest.start);
        let end = self.files[data.file].len();
        let cluster = self.layout.cluster_size();
        let lost = host + end.saturating_sub(host).next_multiple_of(cluster);
        let lost_guest = run.start.saturating_add(lost - host);
        // An external data file may be shorter than its disk.
        if lost_guest < guest.end && !self.layout.data_file {
            return Err(Error::corrupt(
                "data cluster",
                format!(
                    "guest offset {lost_guest:#x} is stored here, but the file ends at {end:#x}"
                ),
            )
            .at(lost)
            .hint("the file may be truncated")
            .losing(lost_guest.max(guest.start)..guest.end));
        }
        let available = end.saturating_sub(data.offset);
        let split = guest.start + available.min(guest.end - guest.start);
        push(out, guest.start..split, Kind::Data(data));
        push(out, split..guest.end, Kind::Zero(None));
        Ok(())
    }

    fn push_compressed(
        &self,
        offset: u64,
        len: u32,
        run: &ClusterRun,
        out: &mut Vec<Extent>,
    ) -> Result<()> {
        if self.layout.data_file {
            return Err(Error::corrupt(
                "L2 table",
                format!(
                    "guest offset {:#x} maps to a compressed cluster, which an image with an \
                     external data file cannot have",
                    run.start
                ),
            ));
        }
        let available = self.file().len().saturating_sub(offset);
        if available == 0 {
            return Err(Error::corrupt(
                "L2 table",
                format!(
                    "guest offset {:#x} maps to compressed data at {offset:#x}, beyond the end of \
                     the file",
                    run.start
                ),
            )
            .hint("the file may be truncated"));
        }
        let encoded = Encoded {
            host: HostOffset { file: 0, offset },
            stored: to_u32(available.min(len.into())),
            // Lengths are stated in sectors: at most 511 bytes at the end are padding.
            least_stored: to_u32(available.min(u64::from(len.saturating_sub(511)))),
            unit: run.start..run.start + self.layout.cluster_size(),
            codec: self.header.codec,
        };
        push(out, run.guest.clone(), Kind::Encoded(encoded));
        Ok(())
    }
}

/// A run of contiguous clusters and the part of it that is mapped.
struct ClusterRun {
    /// Guest offset of the first cluster.
    start: u64,
    /// Guest range to map.
    guest: Range<u64>,
}

impl Sealed for Qcow2 {}

impl Layer for Qcow2 {
    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn disk_layout(&self) -> DiskLayout {
        DiskLayout { size: self.size, cluster_size: self.layout.cluster_size() }
    }

    fn files(&self) -> &[Arc<dyn Source>] {
        &self.files
    }

    fn map(&self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<()> {
        self.require_readable()?;
        let shift = self.layout.l1_shift();
        let mut at = range.start;
        while at < range.end {
            let l1_index = at >> shift;
            // The L1 table covers the disk, so the default is never used.
            let entry = self.l1.get(to_usize(l1_index)).copied().unwrap_or(0);
            let end = range.end.min((l1_index + 1) << shift);
            match entry & OFFSET_MASK {
                0 => push(out, at..end, Kind::Unallocated),
                table => {
                    self.require_own_l2(table, l1_index)?;
                    self.map_table(table, at..end, out)?;
                }
            }
            at = end;
        }
        Ok(())
    }

    fn next_allocated_hint(&self, range: Range<u64>) -> u64 {
        let cover = 1 << self.layout.l1_shift();
        next_allocated_in_table(&self.l1, cover, range, |entry| entry & OFFSET_MASK == 0)
    }

    fn prefetch_tables(&self, range: Range<u64>) {
        let used = entries_for(&self.l1, 1 << self.layout.l1_shift(), range);
        let tables = used.iter().map(|entry| entry & OFFSET_MASK).filter(|&offset| offset != 0);
        let len = self.layout.cluster_size();
        let ranges: Vec<_> = tables.map(|offset| offset..offset.saturating_add(len)).collect();
        self.file().prefetch(&ranges);
    }

    /// QEMU's rule: the file takes at least 10 % and at least two clusters less than its length.
    fn is_preallocated(&self) -> bool {
        let cluster = self.layout.cluster_size();
        let file = self.file();
        let Ok(Some(allocated)) = file.allocated_bytes() else { return false };
        let allocated = allocated / cluster;
        file.len().div_ceil(cluster) >= (allocated * 10 / 9).max(allocated + 2)
    }

    fn parent(&self) -> Option<&ParentReference> {
        self.parent.as_ref()
    }

    fn dirty_bitmaps(&self) -> Result<Option<Vec<info::Bitmap>>> {
        self.bitmap_list()
    }

    fn dirty_bitmap(&self, index: usize) -> Result<DirtyBitmap> {
        let entry = self.bitmap_entries()?.get(index);
        self.open_bitmap(entry.ok_or_else(|| Error::invalid("there is no such bitmap"))?)
    }

    fn details(&self) -> Details {
        let mut children = vec![("file".into(), 0)];
        if self.files.len() > 1 {
            children.push(("data-file".into(), 1));
        }
        let snapshots = self.snapshots.iter().flat_map(|s| &s.entries);
        Details {
            cluster_size: Some(self.layout.cluster_size()),
            dirty: self.header.incompatible.contains(Incompatible::DIRTY),
            encrypted: self.header.encryption.is_some(),
            snapshots: snapshots.map(|snapshot| snapshot.info.clone()).collect(),
            specific: self.specific(),
            children,
            notes: self.notes(),
            ..Details::default()
        }
    }

    fn create_options(&self) -> Options {
        let on_off = |on| if on { "on" } else { "off" };
        let header = &self.header;
        let mut options = Options::default();
        options
            .set("compat", self.compat())
            .set("cluster_size", header.cluster_size().to_string())
            .set("refcount_bits", header.refcount_bits().to_string());
        if header.version >= 3 {
            let lazy = header.compatible.contains(Compatible::LAZY_REFCOUNTS);
            options
                .set("compression_type", self.compression())
                .set("extended_l2", on_off(header.extended_l2()))
                .set("lazy_refcounts", on_off(lazy));
        }
        options
    }

    fn check(&self, report: &mut dyn FnMut(Finding)) -> Result<Option<CheckReport>> {
        self.require_l1()?;
        check::run(self, report).map(Some)
    }
}

#[cfg(test)]
mod tests;
