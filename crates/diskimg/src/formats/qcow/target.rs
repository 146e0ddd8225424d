//! Creating a QCOW version 1 image, with the parameters that QEMU uses.

use super::SECTOR;
use super::header::{self, Header, MAX_BACKING_NAME, RawHeader};
use crate::error::{Error, Result};
use crate::formats::cluster_encoder::ClusterEncoder;
use crate::formats::two_level::Location;
use crate::formats::two_level::write::TableTarget;
use crate::model::target::{CreateRequest, Target, TargetSpec, UnitEncoder};
use crate::storage::number::{to_index, to_u64};
use crate::storage::output::Output;

/// Maximum length in bytes of the L1 table of a new image: what is read without raising a limit.
const MAX_L1_BYTES: u64 = 32 << 20;

/// A new image.
#[derive(Debug)]
struct QcowSpec {
    header: Header,
    compress: bool,
    /// Compression level; `None` for the encoder's default.
    level: Option<u32>,
}

/// Specifies a new image.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) or [`Unsupported`](crate::ErrorKind::Unsupported) for
/// options that the format does not support, [`Limit`](crate::ErrorKind::Limit) if the disk is too
/// large.
pub(super) fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    let CreateRequest { size, options, backing, compress } = request;
    if options.switch("encryption")? == Some(true) {
        return Err(Error::unsupported("encrypted images cannot be created"));
    }
    if backing.is_none() && options.get("backing_file").is_some_and(|b| !b.is_empty()) {
        return Err(Error::invalid("the backing_file option was given, but no backing image"));
    }
    if size == 0 {
        return Err(Error::invalid("Image size is too small, cannot be zero length"));
    }
    let level = options.compression_level(9, compress)?;
    // With a backing file, QEMU uses the smallest clusters, of which little must be copied.
    let (cluster_bits, l2_bits) = if backing.is_some() { (9, 12) } else { (12, 9) };
    let layout = header::layout(cluster_bits, l2_bits);
    let max = MAX_L1_BYTES / 8 * (1 << layout.l1_shift());
    let rounded = size.checked_next_multiple_of(SECTOR).filter(|&size| size <= max);
    let size = rounded.ok_or_else(|| {
        Error::limit(format!("a disk of {size} bytes; a QCOW image has at most {max}"))
            .hint("use another format, such as qcow2")
    })?;
    let backing = backing.map(|backing| backing.name);
    let name_len = backing.as_ref().map_or(0, String::len);
    if name_len > to_index(MAX_BACKING_NAME) {
        let message = format!("the backing file's name has more than {MAX_BACKING_NAME} bytes");
        return Err(Error::invalid(message));
    }
    let header_end = to_u64(RawHeader::BYTES + name_len);
    // QEMU writes the table in whole sectors.
    let l1_bytes = (layout.l1_entries(size) * 8).next_multiple_of(SECTOR);
    let l1_at = header_end.next_multiple_of(8);
    let location = Location { layout, size, header_end, l1_at, l1_bytes };
    let header = Header { location, stored_size: size, is_encrypted: false, backing };
    Ok(Box::new(QcowSpec { header, compress, level }))
}

impl TargetSpec for QcowSpec {
    fn size(&self) -> u64 {
        self.header.location.size
    }

    fn quantum(&self) -> u64 {
        self.header.location.layout.cluster_size()
    }

    fn alignment(&self) -> u64 {
        self.quantum()
    }

    fn encoder(&self) -> Option<Box<dyn UnitEncoder>> {
        self.compress.then(|| ClusterEncoder::deflate(self.level))
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
