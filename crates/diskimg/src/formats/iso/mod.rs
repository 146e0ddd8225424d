//! ISO images as disks: the guest's bytes are the file's, all of them.
//!
//! ```text
//!   file:   byte 0 ─ system area ─ file systems ─ appended partitions, padding ─ byte len-1
//!   guest:  byte 0 ───────────────────────────────────────────────────────────── byte len-1
//! ```
//!
//! As a container an ISO image is raw, and this format stands on that one. What it adds: it
//! knows such an image when it sees one, `info` tells what is in it, `check` looks for what is
//! wrong with it, and nothing but an ISO image is written under that name. The files in it are the
//! matter of [`iso`](crate::iso).
//!
//! A volume is often shorter than its file: partitions follow, padding, sessions. All of it is
//! carried. A copy of a disc in sectors of 2352 bytes is none to a guest: it is raw.

mod facts;
mod inspect;
mod layer;

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::model::target::{CreateRequest, Measure, MeasureRequest, Target};
use crate::open::driver::Driver;
use crate::open::probe::ProbeBuffer;
use crate::storage::number::{to_u64, to_usize};
use layer::Iso;
use std::sync::Arc;

pub(crate) static DRIVER: Driver = Driver {
    probe,
    sector: 1,
    open: |source, context| {
        context.refuse_snapshot(Format::Iso)?;
        Ok(Arc::new(Iso::open(source, context)?))
    },
    require: Some(require),
    create,
    options: &[],
    measure: Some(measure),
    inspect: inspect::INSPECT,
    appliance: None,
};

/// The first sector of a volume recognition sequence.
const FIRST: usize = 16;

/// ISO 9660's descriptors (ECMA-119, 8.1.2) or UDF's (ECMA-167, 2/9.1.2). UDF's own may begin
/// with a sector or two that say only that an extended area begins.
fn probe(head: &ProbeBuffer<'_>) -> bool {
    let standard = |sector: usize| head.bytes.get(sector * 2048 + 1..sector * 2048 + 6);
    match standard(FIRST) {
        Some(b"CD001" | b"NSR02" | b"NSR03") => true,
        // In sectors of 4096 bytes, every other place is empty.
        Some(b"BEA01") => [1, 2]
            .into_iter()
            .any(|next| matches!(standard(FIRST + next), Some(b"NSR02" | b"NSR03" | b"CD001"))),
        _ => false,
    }
}

/// Only what would be taken for an ISO image makes one.
fn require(image: &Image) -> Result<()> {
    let mut head = vec![0; to_usize(image.size().min(to_u64(ProbeBuffer::BYTES)))];
    image.read_at(&mut head, 0)?;
    let hint = "an ISO image of files is made by: diskimg iso create";
    if !probe(&ProbeBuffer { bytes: &head, path: None }) {
        let message = "the disk holds no ISO 9660 or UDF file system, so it makes no ISO image";
        return Err(Error::invalid(message).hint(hint));
    }
    Ok(())
}

fn create(request: CreateRequest<'_>) -> Result<Box<dyn Target>> {
    (Format::Raw.driver().create)(request)
}

/// As raw, of which it is a kind.
fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    Ok(Measure { required: request.size, fully_allocated: request.size, bitmaps: None })
}
