//! Opens an image with `pread` and with `mmap` and runs the conformance checks on both.

use diskimg::{Error, Image, OpenOptions, conformance};
use std::path::Path;

/// Returns the same options with memory mapping enabled.
pub fn memory_mapped(options: &OpenOptions) -> OpenOptions {
    // SAFETY: tests open images in their own directories and do not modify an image while it is
    // open.
    #[allow(unsafe_code)]
    unsafe {
        options.clone().memory_map()
    }
}

/// Opens an image both ways, runs the conformance checks on both and compares them. Returns the one
/// that is read with `pread`.
pub fn try_open(options: &OpenOptions, path: impl AsRef<Path>) -> Result<Image, Error> {
    let image = options.open(&path)?;
    conformance::verify(&image)?;
    let mapped = memory_mapped(options).open(&path)?;
    conformance::verify(&mapped)?;
    conformance::verify_alike(&image, &mapped)?;
    Ok(image)
}

/// Does what [`try_open`] does and panics on an error.
pub fn open(options: &OpenOptions, path: impl AsRef<Path>) -> Image {
    try_open(options, path).unwrap_or_else(|e| panic!("{e}"))
}
