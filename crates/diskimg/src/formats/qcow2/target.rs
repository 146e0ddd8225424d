//! Writing qcow2 images.
//!
//! ```text
//!   0        header, extensions, backing file name
//!   1        refcount table
//!   2        refcount block
//!   3 …      L1 table
//!   …        L2 table, its data clusters, next L2 table, …      (guest order)
//!   …        clusters and tables of bitmaps, bitmap directory
//!            refcount blocks, wherever the last one is full
//! ```
//!
//! Everything is allocated in guest order and written once. The layout and the length of the file
//! are those of an image that QEMU creates, because scripts depend on them. The header is written
//! last, so that an incomplete file is not an image. On a device an old header is erased first.

use super::allocator::{Allocator, TablePosition};
use super::edit::{BitmapChanges, Disk};
use super::extensions::{self, BitmapDirectory};
use super::header::{self, Autoclear, Compatible, Incompatible, RawHeader};
use super::options::{Compression, CreateOptions, Preallocation};
use super::tables;
use crate::error::{Error, Result};
use crate::formats::cluster_encoder::ClusterEncoder;
use crate::model::backing::Backing;
use crate::model::bitmap::DirtyBitmap;
use crate::model::target::{Allocate, CreateRequest, Slot, Target, TargetSpec, UnitEncoder};
use crate::storage::buffer;
use crate::storage::codec::Codec;
#[cfg(feature = "zstd")]
use crate::storage::codec::Encoder;
use crate::storage::number::{to_index, to_u32, to_u64, to_usize};
use crate::storage::output::Output;
use crate::storage::sink::Sink;
use std::path::Path;
use std::sync::Arc;

/// Second half of an extended L2 entry: all 32 subclusters are allocated.
const SUBCLUSTERS_ALLOCATED: u64 = 0x0000_0000_ffff_ffff;

/// Second half of an extended L2 entry: all 32 subclusters are read from the backing file.
const SUBCLUSTERS_UNALLOCATED: u64 = 0;

/// Second half of an extended L2 entry: all 32 subclusters read as zeros.
const SUBCLUSTERS_ZERO: u64 = 0xffff_ffff_0000_0000;

/// Length in bytes of the end marker of the header extensions.
const EXTENSIONS_END: usize = 8;

/// A new qcow2 image.
#[derive(Debug)]
struct Qcow2Spec {
    options: CreateOptions,
    size: u64,
    backing: Option<Backing>,
    compress: bool,
    /// Number of entries of the L1 table.
    l1_entries: u64,
    bitmaps: BitmapChanges,
}

/// A qcow2 image being written.
#[derive(Debug)]
struct Qcow2Target {
    /// The image file, followed by the external data file if there is one.
    files: Vec<Arc<dyn Sink>>,
    options: CreateOptions,
    size: u64,
    backing: Option<Backing>,
    allocator: Allocator,
    l1_offset: u64,
    l1: Vec<u64>,
    l2: L2,
    bitmaps: BitmapChanges,
}

/// The L2 table in memory: the one for the guest range placed last.
#[derive(Debug)]
struct L2 {
    /// Index in the L1 table; `None` before the first placement.
    index: Option<usize>,
    /// Content, with entries of 8 or 16 bytes in big-endian order.
    bytes: Vec<u8>,
}

/// Specifies a qcow2 image.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let options = CreateOptions::from_request(&request)?;
    let CreateRequest { size, backing, compress, .. } = request;
    let l1_entries = options.l1_entries(size)?;
    let bitmaps = BitmapChanges::default();
    Ok(Box::new(Qcow2Spec { options, size, backing, compress, l1_entries, bitmaps }))
}

impl TargetSpec for Qcow2Spec {
    fn size(&self) -> u64 {
        self.size
    }

    fn quantum(&self) -> u64 {
        self.options.cluster_size()
    }

    fn alignment(&self) -> u64 {
        self.options.cluster_size()
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        let level = self.options.compression_level;
        self.compress.then(|| match self.options.compression {
            Compression::Zlib => ClusterEncoder::deflate(level),
            #[cfg(feature = "zstd")]
            Compression::Zstd => ClusterEncoder::of(Codec::Zstd, Encoder::zstd(), level),
        })
    }

    fn set_bitmaps(&mut self, bitmaps: Vec<DirtyBitmap>) -> Result<bool> {
        let disk = Disk {
            version: self.options.version,
            size: self.size,
            cluster_size: self.options.cluster_size(),
        };
        self.bitmaps.add_copies(disk, bitmaps)
    }

    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let Self { options, size, .. } = self;
        let sink = output.sink();
        if sink.is_sequential() {
            return Err(Error::unsupported(
                "qcow2 cannot be written to a pipe: the header is written after the data",
            )
            .hint("write to a file, or use raw or VMDK streamOptimized"));
        }
        let mut files = vec![sink];
        if let Some(name) = &options.data_file {
            let sink = output
                .named_companion(Path::new(name))
                .map_err(|e| Error::output("cannot create the data file", e))?;
            sink.set_len(*size)
                .map_err(|e| Error::io(format!("cannot size the data file '{name}'"), e))?;
            files.push(sink);
        }
        let cluster = options.cluster_size();
        if !files[0].is_zeroed() {
            files[0]
                .write_zeros_at(0, cluster)
                .map_err(|e| Error::io("cannot erase the old header", e))?;
        }
        let mut allocator =
            Allocator::new(Arc::clone(&files[0]), options.cluster_bits, options.refcount_order);
        let l1_clusters = (self.l1_entries * 8).div_ceil(cluster);
        let l1_offset = if l1_clusters > 0 { allocator.allocate(l1_clusters)? } else { 0 };
        Ok(Box::new(Qcow2Target {
            files,
            size: *size,
            backing: self.backing.clone(),
            allocator,
            l1_offset,
            l1: vec![0; to_usize(self.l1_entries)],
            l2: L2 { index: None, bytes: buffer::zeroed(to_usize(cluster)) },
            bitmaps: self.bitmaps.clone(),
            options: options.clone(),
        }))
    }
}

impl Qcow2Target {
    fn cluster_size(&self) -> u64 {
        self.options.cluster_size()
    }

    fn layout(&self) -> tables::L2Layout {
        self.options.layout()
    }

    /// Returns the number of guest bytes that an L2 table describes.
    fn guest_bytes_per_table(&self) -> u64 {
        self.layout().guest_bytes_per_table()
    }

    /// Makes the L2 table for guest offset `at` the one in memory. Writes the previous one.
    fn select_l2_table(&mut self, at: u64) -> Result<()> {
        let index = to_usize(at / self.guest_bytes_per_table());
        if self.l2.index != Some(index) {
            self.write_l2()?;
            self.l1[index] = self.allocator.allocate(1)? | tables::COPIED;
            self.l2.index = Some(index);
            self.l2.bytes.fill(0);
        }
        Ok(())
    }

    fn write_l2(&self) -> Result<()> {
        let Some(index) = self.l2.index else { return Ok(()) };
        let offset = self.l1[index] & !tables::COPIED;
        self.files[0]
            .write_all_at(&self.l2.bytes, offset)
            .map_err(|e| Error::io("cannot write an L2 table", e).at(offset))
    }

    /// Sets the L2 entry of the cluster at guest offset `at`, in the table in memory.
    fn set_entry(&mut self, at: u64, entry: u64, subclusters: u64) {
        let width = to_usize(self.layout().entry_bytes());
        let index = to_usize(at % self.guest_bytes_per_table() / self.cluster_size());
        let slot = &mut self.l2.bytes[index * width..(index + 1) * width];
        slot[..8].copy_from_slice(&entry.to_be_bytes());
        if width == 16 {
            slot[8..].copy_from_slice(&subclusters.to_be_bytes());
        }
    }

    /// Allocates adjacent host clusters for `len` bytes from guest offset `at`, or for fewer if the
    /// range of the L2 table ends before. `subclusters` is the state of the subclusters of each.
    fn allocate_clusters(&mut self, at: u64, len: u64, subclusters: u64) -> Result<Slot> {
        self.select_l2_table(at)?;
        let cluster = self.cluster_size();
        let table_bytes = self.guest_bytes_per_table();
        let len = len.min(table_bytes - at % table_bytes);
        let clusters = len.div_ceil(cluster);
        // In an external data file every cluster is at its guest offset.
        let (file, offset) = match self.files.len() {
            1 => (0, self.allocator.allocate(clusters)?),
            _ => (1, at),
        };
        for i in 0..clusters {
            let entry = (offset + i * cluster) | tables::COPIED;
            self.set_entry(at + i * cluster, entry, subclusters);
        }
        Ok(Slot { file, offset, len, is_zeroed: false })
    }

    /// Allocates clusters for zeros, and writes the zeros if necessary. With unallocated
    /// `subclusters`, the backing file is read instead.
    fn allocate_zeros(&mut self, at: u64, len: u64, subclusters: u64) -> Result<()> {
        let end = at + len;
        let mut at = at;
        while at < end {
            let slot = self.allocate_clusters(at, end - at, subclusters)?;
            let sink = &self.files[slot.file];
            let outcome = if self.options.preallocation == Preallocation::Full {
                sink.fill_zeros_at(slot.offset, slot.len)
            } else if sink.is_zeroed() || subclusters == SUBCLUSTERS_UNALLOCATED {
                Ok(())
            } else {
                sink.write_zeros_at(slot.offset, slot.len)
            };
            outcome.map_err(|e| Error::io("cannot write zeros", e).at(slot.offset))?;
            at += slot.len;
        }
        Ok(())
    }

    /// Marks clusters as zero without allocating space.
    fn mark_zeros(&mut self, at: u64, len: u64) -> Result<()> {
        for at in (at..at + len).step_by(to_usize(self.cluster_size())) {
            self.select_l2_table(at)?;
            // Extended entries have the flag in their bitmap ("Extended L2 Entries").
            if self.options.extended_l2 {
                self.set_entry(at, 0, SUBCLUSTERS_ZERO);
            } else {
                self.set_entry(at, tables::ZERO, 0);
            }
        }
        Ok(())
    }

    fn place_zeros(&mut self, at: u64, len: u64) -> Result<()> {
        let preallocate = self.options.preallocation != Preallocation::Off;
        match (preallocate, self.backing.is_some()) {
            (true, _) => self.allocate_zeros(at, len, SUBCLUSTERS_ALLOCATED),
            (false, false) => Ok(()), // unallocated clusters read as zeros
            (false, true) if self.options.version >= 3 => self.mark_zeros(at, len),
            (false, true) => self.allocate_zeros(at, len, SUBCLUSTERS_ALLOCATED),
        }
    }

    /// Allocates space for clusters whose subclusters are read from the backing file. Without
    /// extended L2 entries there are none: an allocated cluster hides the backing file.
    fn preallocate(&mut self, at: u64, len: u64) -> Result<()> {
        if self.options.preallocation == Preallocation::Off || !self.options.extended_l2 {
            return Ok(());
        }
        self.allocate_zeros(at, len, SUBCLUSTERS_UNALLOCATED)
    }

    fn place_compressed(&mut self, at: u64, len: u64) -> Result<Slot> {
        self.select_l2_table(at)?;
        let offset = self.allocator.allocate_bytes(len)?;
        let entry = self.layout().encode_compressed(offset, len).ok_or_else(|| {
            Error::limit("the host offset is too large for a compressed cluster").at(offset)
        })?;
        self.set_entry(at, entry, 0);
        Ok(Slot { file: 0, offset, len, is_zeroed: false })
    }

    fn write_l1(&self) -> Result<()> {
        let sink = &self.files[0];
        let mut bytes = tables::to_bytes(&self.l1);
        let len = bytes.len().next_multiple_of(to_usize(self.cluster_size()));
        buffer::resize(&mut bytes, len);
        // The L1 table of a large, sparse disk is mostly zeros, which need not be written.
        for (i, part) in bytes.chunks(4096).enumerate() {
            if sink.is_zeroed() && crate::storage::zeros::is_zero(part) {
                continue;
            }
            let offset = self.l1_offset + to_u64(i) * 4096;
            sink.write_all_at(part, offset)
                .map_err(|e| Error::io("cannot write the L1 table", e).at(offset))?;
        }
        Ok(())
    }

    /// Reserves space in the file system for preallocation modes that require it.
    fn preallocate_file(&self) -> Result<()> {
        if !matches!(self.options.preallocation, Preallocation::Falloc | Preallocation::Full) {
            return Ok(());
        }
        let ends = [self.file_end(), self.size];
        for (sink, end) in self.files.iter().zip(ends) {
            match sink.preallocate(0, end) {
                // With `Full` everything is already written, except zeros inside data clusters.
                // If no space can be reserved, these stay holes.
                Err(e)
                    if e.kind() == std::io::ErrorKind::Unsupported
                        && self.options.preallocation == Preallocation::Full => {}
                outcome => outcome.map_err(|e| Error::io("cannot preallocate", e))?,
            }
        }
        Ok(())
    }

    /// Returns the length of the image file.
    fn file_end(&self) -> u64 {
        let l1_end = self.l1_offset + to_u64(self.l1.len()) * 8;
        // As in QEMU, the file of an empty image ends with the last entry of the L1 table.
        if self.allocator.end() == l1_end.next_multiple_of(self.cluster_size()) {
            l1_end
        } else {
            self.allocator.file_end()
        }
    }

    /// Writes the bitmaps, if there are any. Returns where their directory is.
    fn write_bitmaps(&mut self) -> Result<Option<BitmapDirectory>> {
        let (cluster_size, size) = (self.cluster_size(), self.size);
        let bitmaps = std::mem::take(&mut self.bitmaps);
        // The lengths of bitmaps were verified when they were added.
        bitmaps.store_all(size, cluster_size, u64::MAX, |bytes| {
            let mut bytes = bytes.to_vec();
            let len = bytes.len().next_multiple_of(to_usize(cluster_size));
            buffer::resize(&mut bytes, len);
            let offset = self.allocator.allocate(to_u64(len) / cluster_size)?;
            self.files[0]
                .write_all_at(&bytes, offset)
                .map_err(|e| Error::io("cannot write a bitmap", e).at(offset))?;
            Ok(offset)
        })
    }

    /// Returns the content of the first cluster: header, extensions, backing file name.
    fn header(
        &self,
        refcounts: TablePosition,
        bitmaps: Option<BitmapDirectory>,
    ) -> Result<Vec<u8>> {
        let mut raw = self.raw_header(refcounts);
        if bitmaps.is_some() {
            let autoclear = raw.autoclear_features.get() | Autoclear::BITMAPS.bits();
            raw.autoclear_features = autoclear.into();
        }
        let mut bytes = raw.encoded().to_vec();
        if let Some(directory) = bitmaps {
            extensions::encode(&mut bytes, extensions::BITMAPS, &directory.encode());
        }
        if let Some(format) = self.backing.as_ref().and_then(|b| b.format.as_deref()) {
            extensions::encode_backing_format(&mut bytes, format);
        }
        if let Some(name) = &self.options.data_file {
            extensions::encode_data_file(&mut bytes, name);
        }
        let name = self.backing.as_ref().map_or("", |b| b.name.as_str());
        // The feature name table is optional. It is left out if a long backing file name needs the
        // space, as in a cluster of 512 bytes.
        if self.options.version >= 3 {
            let mut with_names = bytes.clone();
            extensions::encode_feature_names(&mut with_names);
            if to_u64(with_names.len() + EXTENSIONS_END + name.len()) <= self.cluster_size() {
                bytes = with_names;
            }
        }
        extensions::encode_end(&mut bytes);
        if !name.is_empty() {
            let offset = to_u64(bytes.len()).to_be_bytes();
            bytes[8..16].copy_from_slice(&offset);
            bytes[16..20].copy_from_slice(&to_u32(name.len()).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        if to_u64(bytes.len()) > self.cluster_size()
            || name.len() > to_index(header::MAX_BACKING_NAME)
        {
            return Err(Error::invalid(format!(
                "header, backing file name and data file name need {} bytes, but the first cluster \
                 has {}",
                bytes.len(),
                self.cluster_size()
            ))
            .hint("use shorter names or a larger cluster_size"));
        }
        // Write the whole cluster: on a device, old data must not follow the header.
        buffer::resize(&mut bytes, to_usize(self.cluster_size()));
        Ok(bytes)
    }

    /// Returns the fixed part. The location of the backing file name is filled in later.
    fn raw_header(&self, refcounts: TablePosition) -> RawHeader {
        let options = &self.options;
        let zstd = options.compression != Compression::Zlib;
        let mut incompatible = Incompatible::empty();
        incompatible.set(Incompatible::DATA_FILE, options.data_file.is_some());
        incompatible.set(Incompatible::COMPRESSION, zstd);
        incompatible.set(Incompatible::EXTENDED_L2, options.extended_l2);
        let mut compatible = Compatible::empty();
        compatible.set(Compatible::LAZY_REFCOUNTS, options.lazy_refcounts);
        let mut autoclear = Autoclear::empty();
        autoclear.set(Autoclear::DATA_FILE_RAW, options.data_file_raw);
        RawHeader {
            magic: header::MAGIC,
            version: options.version.into(),
            backing_file_offset: 0.into(),
            backing_file_size: 0.into(),
            cluster_bits: options.cluster_bits.into(),
            size: self.size.into(),
            crypt_method: 0.into(),
            l1_size: to_u32(self.l1.len()).into(),
            l1_table_offset: self.l1_offset.into(),
            refcount_table_offset: refcounts.offset.into(),
            refcount_table_clusters: to_u32(refcounts.clusters).into(),
            nb_snapshots: 0.into(),
            snapshots_offset: 0.into(),
            incompatible_features: incompatible.bits().into(),
            compatible_features: compatible.bits().into(),
            autoclear_features: autoclear.bits().into(),
            refcount_order: options.refcount_order.into(),
            header_length: to_u32(RawHeader::BYTES).into(),
            compression_type: u8::from(zstd),
            padding: [0; 7],
        }
    }
}

impl Target for Qcow2Target {
    fn files(&self) -> &[Arc<dyn Sink>] {
        &self.files
    }

    fn place(&mut self, at: u64, unit: Allocate) -> Result<Option<Slot>> {
        match unit {
            Allocate::Zero { len } => self.place_zeros(at, len).map(|()| None),
            Allocate::Backed { len } => self.preallocate(at, len).map(|()| None),
            Allocate::Data { len } => {
                self.allocate_clusters(at, len, SUBCLUSTERS_ALLOCATED).map(Some)
            }
            Allocate::Compressed { len } => self.place_compressed(at, len).map(Some),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.write_l2()?;
        self.write_l1()?;
        let bitmaps = self.write_bitmaps()?;
        let refcounts = self.allocator.finish()?;
        self.files[0]
            .set_len(self.file_end())
            .map_err(|e| Error::io("cannot set the image file's length", e))?;
        self.preallocate_file()?;
        let header = self.header(refcounts, bitmaps)?;
        self.files[0].write_all_at(&header, 0).map_err(|e| Error::io("cannot write the header", e))
    }
}

/// Returns an encoder for the clusters of an existing image.
pub(super) fn cluster_encoder(codec: Codec) -> Box<dyn UnitEncoder> {
    match codec {
        #[cfg(feature = "zstd")]
        Codec::Zstd => ClusterEncoder::of(codec, Encoder::zstd(), None),
        _ => ClusterEncoder::deflate(None),
    }
}
