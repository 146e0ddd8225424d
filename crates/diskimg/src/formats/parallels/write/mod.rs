//! Creating a Parallels image: the magic `WithouFreSpacExt`, like qemu-img and Virtuozzo.

mod target;

use super::SECTOR;
use super::header::{CLOSED, Header, MAX_CLUSTER_SECTORS, MAX_ENTRIES, Magic, table_end};
use crate::error::{Error, Result};
use crate::model::flat::{FlatFile, Preallocation};
use crate::model::options::Options;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, Target, TargetSpec};
use crate::storage::number::to_u32;
use crate::storage::output::Output;
use target::NewImage;

/// Guest bytes of a cluster by default.
const DEFAULT_CLUSTER: u64 = 1 << 20;

/// Geometry that qemu-img records. Nothing uses it.
const HEADS: u32 = 16;
const SECTORS_PER_TRACK: u64 = 32;

/// A new image.
#[derive(Debug, Clone)]
struct ParallelsSpec {
    header: Header,
    preallocation: Preallocation,
}

/// Specifies a new image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) or [`Unsupported`](crate::ErrorKind::Unsupported) for
/// options that the format does not support, [`Limit`](crate::ErrorKind::Limit) if the disk is too
/// large.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let CreateRequest { size, options, backing, compress } = request;
    if compress {
        return Err(Error::invalid("Compression not supported for this file format"));
    }
    if backing.is_some() {
        return Err(Error::unsupported("a Parallels image cannot have a backing file")
            .hint("use another format, such as qcow2"));
    }
    let preallocation = Preallocation::parse(options.get("preallocation"), "parallels")?;
    Ok(Box::new(ParallelsSpec { header: header(size, options)?, preallocation }))
}

/// Returns the header of a new image.
fn header(size: u64, options: &Options) -> Result<Header> {
    let cluster = options.size("cluster_size")?.unwrap_or(DEFAULT_CLUSTER);
    // Like qemu-img.
    let cluster_bytes = cluster.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
    let max = u64::from(MAX_CLUSTER_SECTORS) * SECTOR;
    if cluster_bytes == 0 || cluster_bytes > max {
        return Err(Error::invalid(format!("Invalid cluster size: {cluster}"))
            .hint(format!("a cluster has {SECTOR} to {max} bytes")));
    }
    let sectors = size.div_ceil(SECTOR);
    let size = sectors.saturating_mul(SECTOR);
    let needed = size.div_ceil(cluster_bytes);
    let entries = u32::try_from(needed).ok().filter(|&entries| entries <= MAX_ENTRIES);
    let Some(entries) = entries.filter(|_| size <= i64::MAX.cast_unsigned()) else {
        return Err(Error::limit("Image size is too large for this cluster size")
            .hint("choose larger clusters with the option cluster_size"));
    };
    let data_at = table_end(entries).next_multiple_of(cluster_bytes);
    let cylinders = sectors / (u64::from(HEADS) * SECTORS_PER_TRACK);
    Ok(Header {
        magic: Magic::Clusters,
        heads: HEADS,
        cylinders: u32::try_from(cylinders).unwrap_or(u32::MAX),
        cluster_bytes,
        entries,
        size,
        in_use: CLOSED,
        // The table has less than 2 GiB, and so does a cluster.
        data_off: to_u32(data_at / SECTOR),
        flags: 0,
        extension_at: None,
    })
}

/// Returns the length of a file with this number of clusters.
fn len(header: &Header, clusters: u64) -> u64 {
    u64::from(header.data_off) * SECTOR + clusters * header.cluster_bytes
}

/// Returns the largest power of two, up to the block of file systems, that divides a cluster.
pub(super) fn quantum(cluster_bytes: u64) -> u64 {
    FlatFile::BLOCK.min(1 << cluster_bytes.trailing_zeros())
}

impl TargetSpec for ParallelsSpec {
    fn size(&self) -> u64 {
        self.header.size
    }

    fn quantum(&self) -> u64 {
        quantum(self.header.cluster_bytes)
    }

    fn alignment(&self) -> u64 {
        quantum(self.header.cluster_bytes)
    }

    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a pipe, [`Io`](crate::ErrorKind::Io) if
    /// writing fails.
    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        Ok(Box::new(NewImage::start(output.sink(), self)?))
    }
}

/// Computes the size of a new image.
///
/// # Errors
/// As [`create`], and the errors of the request's data.
pub(super) fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    let header = header(request.size, request.options)?;
    let preallocation = Preallocation::parse(request.options.get("preallocation"), "parallels")?;
    let all = len(&header, u64::from(header.entries));
    let (mut clusters, mut next) = (0, 0);
    (request.data)(&mut |range| {
        let first = (range.start / header.cluster_bytes).max(next);
        let end = range.end.div_ceil(header.cluster_bytes);
        clusters += end.saturating_sub(first);
        next = next.max(end);
    })?;
    let required = match preallocation {
        Preallocation::Off | Preallocation::Metadata => len(&header, clusters),
        Preallocation::Falloc | Preallocation::Full => all,
    };
    Ok(Measure { required, fully_allocated: all, bitmaps: None })
}
