//! Raw images: the guest's bytes and nothing else.
//!
//! ```text
//!   file:   byte 0 ────────────────────────────── byte len-1
//!   guest:  byte 0 ────────────────────────────── byte len-1
//! ```
//!
//! There is no header. A length that is not a multiple of 512 is kept (qemu-img pads it). Holes of the
//! file are known zeros. A block device is a raw image too. The file can also be written compressed, or
//! as the archive that Google Compute Engine imports (`packed.rs`).

#[cfg(feature = "inspect")]
mod inspect;
mod layer;
#[cfg(feature = "compressed")]
mod packed;
mod resize;
mod subformat;
mod target;

use crate::error::{Error, Result};
use crate::model::options::{COMPRESSION_LEVEL, EXTENT_SIZE_HINT, NOCOW, OptionKind, OptionSpec};
use crate::model::target::{Measure, MeasureRequest};
use crate::open::driver::{Driver, NodeKeys};

use subformat::Subformat;

pub(crate) use layer::Raw;

pub(crate) static DRIVER: Driver = Driver {
    probe: |_| false,
    probe_like_qemu: |_| false,
    sector: 1,
    open: |source, context| {
        context.refuse_snapshot(crate::Format::Raw)?;
        let mut raw = Raw::new(source);
        if context.like_qemu {
            raw = raw.with_whole_sectors();
        }
        // If the caller names the format, this is what is wanted.
        Ok(std::sync::Arc::new(if context.probed { raw.with_name_checked() } else { raw }))
    },
    require: None,
    create: Some(target::create),
    open_mutable: Some(resize::open),
    locks_further_files: false,
    repair: None,
    amend: None,
    options: &[
        OptionSpec::new("size", OptionKind::Size, "Virtual disk size"),
        NOCOW,
        OptionSpec::new(
            "preallocation",
            OptionKind::Text,
            "Preallocation mode (allowed values: off, falloc, full)",
        ),
        EXTENT_SIZE_HINT,
        OptionSpec::new(
            "subformat",
            OptionKind::Text,
            "Form of the file, can be one of {flat (default) | gzip | zstd | gce}",
        ),
        COMPRESSION_LEVEL,
    ],
    measure: Some(measure),
    #[cfg(feature = "inspect")]
    inspect: inspect::INSPECT,
    appliance: None,
    node: NodeKeys::NONE,
};

/// A raw file has the size of its disk, holes included, as in `qemu-img measure`.
fn measure(request: &mut MeasureRequest<'_>) -> Result<Measure> {
    if Subformat::parse(request.options.get("subformat"))? != Subformat::Flat {
        return Err(Error::unsupported("the size of a compressed file cannot be predicted"));
    }
    Ok(Measure { required: request.size, fully_allocated: request.size, bitmaps: None })
}
