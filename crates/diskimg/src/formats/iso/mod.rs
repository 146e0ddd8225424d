//! ISO images as disks: the guest's bytes are the bytes of the file.
//!
//! ```text
//!   file:   byte 0 ─ system area ─ file systems ─ appended partitions, padding ─ byte len-1
//!   guest:  byte 0 ───────────────────────────────────────────────────────────── byte len-1
//! ```
//!
//! As a container an ISO image is raw, and this format uses the raw format. It adds probing, the
//! content of the volume in `info`, verification of the file system in `check`, and the requirement
//! that only an ISO image is written as one. Access to the files in it is in [`iso`](crate::iso).
//!
//! A volume is often shorter than its file: partitions, padding or further sessions follow. All of
//! it belongs to the disk.
//!
//! A copy of a disc in raw sectors (such as the 2352 bytes of a `.bin` file) is recognized by its
//! contents. The disk is the data in its sectors, which makes it an ordinary ISO image; audio tracks
//! that follow the volume are left out.

mod facts;
#[cfg(feature = "inspect")]
mod inspect;
mod layer;

use crate::error::{Error, Result};
use crate::iso::read::sectors;
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, TargetSpec};
use crate::open::driver::{Driver, NodeKeys};
use crate::open::probe::ProbeBuffer;
use crate::storage::number::{to_u64, to_usize};
use layer::Iso;
use std::sync::Arc;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    probe_like_qemu: |_| false,
    sector: 1,
    open: |source, context| {
        context.refuse_snapshot(Format::Iso)?;
        Ok(Arc::new(Iso::open(source, context)?))
    },
    require: Some(require),
    create: Some(create),
    open_mutable: None,
    locks_further_files: false,
    repair: None,
    amend: None,
    options: &[],
    measure: Some(measure),
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

/// Sector at which the volume recognition sequence starts.
const FIRST: usize = 16;

/// Recognizes the volume descriptors of ISO 9660 (ECMA-119, 8.1.2) and UDF (ECMA-167, 2/9.1.2), also
/// in raw sectors. The latter may be preceded by one or two sectors that start the extended area.
fn probe(buffer: &ProbeBuffer<'_>) -> bool {
    if sectors::layout_of(buffer.head).is_some() {
        return true;
    }
    let standard = |sector: usize| buffer.head.get(sector * 2048 + 1..sector * 2048 + 6);
    match standard(FIRST) {
        Some(b"CD001" | b"NSR02" | b"NSR03") => true,
        // With sectors of 4096 bytes, every other sector of 2048 bytes is empty.
        Some(b"BEA01") => [1, 2]
            .into_iter()
            .any(|next| matches!(standard(FIRST + next), Some(b"NSR02" | b"NSR03" | b"CD001"))),
        _ => false,
    }
}

/// Verifies that the disk would be recognized as an ISO image.
fn require(image: &Image) -> Result<()> {
    let mut head = vec![0; to_usize(image.size().min(to_u64(ProbeBuffer::HEAD)))];
    image.read_at(&mut head, 0)?;
    if !probe(&ProbeBuffer { head: &head, tail: &[], path: None }) {
        let message =
            "the disk contains no ISO 9660 or UDF file system, so it cannot become an ISO image";
        return Err(Error::invalid(message).with_remedy(crate::Remedy::BuildIsoImage));
    }
    Ok(())
}

fn create(request: CreateRequest<'_>) -> Result<Box<dyn TargetSpec>> {
    (Format::Raw.creator()?)(request)
}

/// As for raw.
fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    Ok(Measure { required: request.size, fully_allocated: request.size, bitmaps: None })
}
