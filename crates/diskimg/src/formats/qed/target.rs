//! Creating a QED image.

use super::SECTOR;
use super::header::{self, Features, Header, MAX_BACKING_NAME, RawHeader};
use crate::error::{Error, Result};
use crate::formats::two_level::write::TableTarget;
use crate::formats::two_level::{Layout, Location};
use crate::model::format::Format;
use crate::model::target::{CreateRequest, Target, TargetSpec};
use crate::storage::number::{to_index, to_u64};
use crate::storage::output::Output;

/// QEMU's default size of a cluster in bytes.
const DEFAULT_CLUSTER_SIZE: u64 = 64 << 10;

/// QEMU's default size of a table in clusters.
const DEFAULT_TABLE_SIZE: u64 = 4;

/// Maximum bytes of a disk that are processed at a time, unless there is a backing file, whose
/// clusters are hidden as a whole.
const MAX_QUANTUM: u64 = 2 << 20;

/// A new image.
#[derive(Debug)]
struct QedSpec {
    header: Header,
}

/// Specifies a new image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) for options that the format does not support,
/// [`Limit`](crate::ErrorKind::Limit) if the disk is too large.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let CreateRequest { size, options, backing, compress } = request;
    if compress {
        return Err(Error::invalid("Compression not supported for this file format"));
    }
    if backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("the backing_file option was given, but no backing image"));
    }
    let cluster_size = options.size("cluster_size")?.unwrap_or(DEFAULT_CLUSTER_SIZE);
    let table_size = options.size("table_size")?.unwrap_or(DEFAULT_TABLE_SIZE);
    let layout = header::layout(cluster_size, table_size)?;
    require_readable_by_qemu(layout)?;
    let rounded = size.checked_next_multiple_of(SECTOR);
    let max = header::max_size(layout);
    let size = rounded.filter(|&size| size <= max).ok_or_else(|| {
        let message = format!("a disk of {size} bytes; with this size of tables, at most {max}");
        Error::limit(message).hint("use a larger cluster_size or table_size")
    })?;
    let mut features = Features::empty();
    if let Some(backing) = &backing {
        features |= Features::BACKING_FILE;
        let format = backing.format.as_deref().map(Format::of_backing).transpose()?;
        features.set(Features::BACKING_IS_RAW, format == Some(Format::Raw));
        let max = to_index(MAX_BACKING_NAME);
        if !(1..=max).contains(&backing.name.len()) {
            let message = format!("the backing file's name must have 1 to {max} bytes");
            return Err(Error::invalid(message));
        }
        debug_assert!(to_u64(RawHeader::BYTES + max) < cluster_size);
    }
    let location = Location {
        layout,
        size,
        header_end: cluster_size,
        l1_at: cluster_size,
        l1_bytes: layout.table_bytes(),
    };
    let backing = backing.map(|backing| backing.name);
    Ok(Box::new(QedSpec { header: Header { location, features, backing } }))
}

/// Requires that QEMU can open the image. It takes the end of a table of one cluster for an overflow,
/// and multiplies the number of bytes that the tables could map in 64 bits, so that the largest
/// size of a disk is 0 if it exceeds them. (The specification allows both.)
fn require_readable_by_qemu(layout: Layout) -> Result<()> {
    if layout.table_bytes() == layout.cluster_size() {
        let message = "QEMU cannot open QED images with table_size=1";
        return Err(Error::unsupported(message).hint("use table_size=2"));
    }
    if layout.table_bits + layout.l1_shift() >= 64 {
        let message = "QEMU cannot open QED images with clusters and tables of these sizes";
        return Err(Error::unsupported(message).hint("use a smaller cluster_size or table_size"));
    }
    Ok(())
}

impl TargetSpec for QedSpec {
    fn size(&self) -> u64 {
        self.header.location.size
    }

    fn quantum(&self) -> u64 {
        let cluster = self.header.location.layout.cluster_size();
        if self.header.backing.is_some() { cluster } else { cluster.min(MAX_QUANTUM) }
    }

    fn alignment(&self) -> u64 {
        self.quantum()
    }

    fn start(&self, output: &mut Output) -> Result<Box<dyn Target>> {
        let Header { location, backing, .. } = &self.header;
        Ok(Box::new(TableTarget::start(
            output.sink(),
            location.clone(),
            self.header.encode(),
            backing.is_some(),
        )?))
    }
}
