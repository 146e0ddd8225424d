//! Raw: the guest's bytes and nothing else.
//!
//! ```text
//!   file:   byte 0 ────────────────────────────── byte len-1
//!   guest:  byte 0 ────────────────────────────── byte len-1
//! ```
//!
//! There is no header and so nothing to get wrong but the length: a file whose
//! length is no multiple of 512 is kept as it is. (qemu-img pads it.) Holes of
//! the file are known zeros. A block device is a raw image too.

mod inspect;
mod layer;
mod target;

use crate::model::options::{OptionKind, OptionSpec};
use crate::model::target::{Measure, MeasureRequest};
use crate::open::driver::Driver;

pub(crate) use layer::Raw;

pub(crate) static DRIVER: Driver = Driver {
    probe: |_| false,
    sector: 1,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Raw)?;
        Ok(std::sync::Arc::new(Raw::new(source)))
    },
    require: None,
    create: target::create,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        OptionSpec::new(
            "preallocation",
            OptionKind::Text,
            "Preallocation mode (allowed values: off, falloc, full)",
        ),
    ],
    measure: Some(measure),
    inspect: inspect::INSPECT,
    appliance: None,
};

/// A raw file is as long as its disk, whatever is in it (qemu-img says the same).
fn measure(request: &mut MeasureRequest<'_>) -> crate::Result<Measure> {
    Ok(Measure { required: request.size, fully_allocated: request.size, bitmaps: None })
}
